"""Identities as files: wholly there or not at all, and a private key is its owner's alone.

``NAME.key`` holds the private key: PKCS#8 in PEM, not encrypted, mode 0600. ``NAME.pub`` is what the others
pin: one line of a version tag, the name, the public key in hexadecimal and its fingerprint. Names are labels
for people: the protocol knows only keys. No time of a file or clock decides anything.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from securefd.defenses.files import FOR_ALL, OWNER_ONLY, make_folder, new_file, opened, read_file
from securefd.defenses.identity import Identity
from securefd.errors import SealingError

TAG = "securefd-ed25519-v1"
"""The first word of a public identity's line."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What a name must match."""
LARGEST_IDENTITY = 4 << 10
"""Bytes of the largest file that is read."""
_RESTORE = "restore it, or make an identity with `securefd identity new NAME`"


def fingerprint(digest: bytes) -> str:
    """Return a SHA-256 digest for people to compare: 16 groups of 4 hexadecimal digits."""
    return "-".join(digest[start : start + 2].hex() for start in range(0, len(digest), 2))


@dataclass(frozen=True, kw_only=True)
class PublicIdentity:
    """What others pin: a name for people and ``key``, the 32 bytes of an Ed25519 public key."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise SealingError(
                "a name must be 1 to 64 of the letters A to Z, a to z, digits, '.', '_' and '-', and start "
                f"with a letter or digit, got {self.name[:80]!r}"
            )
        if len(self.key) != 32:
            raise SealingError(f"the key of {self.name} must have 32 bytes, got {len(self.key)}")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key."""
        return fingerprint(hashlib.sha256(self.key).digest())

    @property
    def line(self) -> str:
        """What ``NAME.pub`` holds, without its line feed."""
        return f"{TAG} {self.name} {self.key.hex()} {self.fingerprint}"


def create_identity(folder: Path, name: str) -> PublicIdentity:
    """Draw an identity and write ``folder/NAME.key`` and ``folder/NAME.pub``; the folder is made if needed.

    Nothing is ever overwritten. A full disk or any other failure is a ``SealingError`` and leaves neither
    file; a process that is killed leaves no ``NAME.key`` or a whole one (and perhaps a hidden
    ``.*.partial``, mode 0600, of a key that nobody knows).
    """
    identity = Identity.generate()
    public = PublicIdentity(name=name, key=identity.public)
    pem = _pem(identity.private)
    try:
        make_folder(folder)
        with (
            opened(folder) as place,
            new_file(place, pem, OWNER_ONLY) as key,
            new_file(place, f"{public.line}\n".encode(), FOR_ALL) as pub,
            ExitStack() as undo,
        ):
            # The key first: a public identity whose private key doesn't exist must never be given to anybody.
            for partial, target in ((key, f"{name}.key"), (pub, f"{name}.pub")):
                try:
                    os.link(partial, target, src_dir_fd=place, dst_dir_fd=place)
                except FileExistsError:
                    raise SealingError(
                        f"{folder / target} exists already and is kept; choose another name, or move it away"
                    ) from None
                undo.callback(os.unlink, target, dir_fd=place)
            os.fsync(place)
            undo.pop_all()
    except OSError as error:
        raise SealingError(
            f"identity {name} can't be written to {folder}: {error.strerror}; no file was left; "
            "free space, or choose a folder of your own, where permissions and hard links are kept"
        ) from error
    return public


def read_identity(path: Path) -> Identity:
    """Return the identity whose private key ``path`` holds.

    ``SealingError`` unless it is a regular file that its owner alone may use and holds exactly one Ed25519
    private key in PEM, not encrypted. The owner must be the current user; root may use any user's file, but
    follows no link to one.
    """
    link = os.path.islink(path)
    content = read_file(
        path, LARGEST_IDENTITY, "private key", lambda status: _check_owner(path, status, link)
    )
    # The libraries' reasons aren't passed on: nothing of a private key's content belongs into a message.
    try:
        private = load_pem_private_key(content, password=None)
    except TypeError:
        raise SealingError(f"private key {path} is encrypted; give it without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm, InternalError):  # the last: X448 by name, of another size
        raise SealingError(f"private key {path} is damaged, or isn't one in PEM; {_RESTORE}") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise SealingError(f"private key {path} isn't an Ed25519 key; {_RESTORE}")
    if content != _pem(private):
        raise SealingError(f"private key {path} isn't one key in PEM and nothing else; {_RESTORE}")
    return Identity(private=private)


def read_public(path: Path) -> PublicIdentity:
    """Return the public identity in ``path``; ``SealingError`` unless its key fits its fingerprint.

    White space between and after the four words doesn't count: mail programs wrap lines.
    """
    text = read_file(path, LARGEST_IDENTITY, "public identity").decode("ascii", errors="replace")
    words = text.split()
    if not re.fullmatch(rf"{TAG} {NAME} [0-9a-f]{{64}} [0-9a-f-]+", " ".join(words)):
        raise SealingError(
            f"{path} isn't a public identity; give a .pub file that `securefd identity new NAME` wrote"
        )
    public = PublicIdentity(name=words[1], key=bytes.fromhex(words[2]))
    if public.fingerprint != words[3]:
        raise SealingError(f"the key in {path} doesn't have the fingerprint beside it; get the file again")
    return public


def _check_owner(path: Path, status: os.stat_result, link: bool) -> None:
    user = os.geteuid()
    if status.st_uid != user and (link or user != 0):
        raise SealingError(
            f"private key {path} belongs to user {status.st_uid}, and this is user {user}; use your own"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise SealingError(
            f"private key {path} has mode {mode:04o}, so that group or others may use it; run chmod 600 "
            f"{shlex.quote(str(path))}, or make a new identity if anybody may have read it"
        )


def _pem(private: Ed25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
