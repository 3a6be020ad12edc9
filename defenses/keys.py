"""Identities and rosters as files: wholly there or not at all, and a private key is its owner's alone.

``NAME.key`` holds the private key: PKCS#8 in PEM, not encrypted, mode 0600. ``NAME.pub`` is what the others
pin: one line of a version tag, the name, the public key in hexadecimal and its fingerprint. A roster is a
TOML file of pinned public identities, in the order of their keys, so that everybody who pins the same
identities gets the same roster, however and in whatever order they came. Names are labels for people: the
protocol, and the roster's fingerprint, know only keys. No time of a file or clock decides anything.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shlex
import stat
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from securefd.defenses.identity import Identity, cohort_hash
from securefd.errors import SealingError

TAG = "securefd-ed25519-v1"
"""The first word of a public identity's line."""
LARGEST_IDENTITY = 4 << 10
LARGEST_ROSTER = 16 << 20
"""Bytes of the largest files that are read: one identity; about 100,000 pinned ones."""
OWNER_ONLY = 0o600
FOR_ALL = 0o644
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_RESTORE = "restore it, or make an identity with `securefd identity new NAME`"
_ROSTER_HEAD = """\
# Pinned identities, written by `securefd identity pin`. To unpin one, delete its table. The order here
# doesn't count: a roster is sorted by key. Compare the fingerprint that `securefd identity list --roster`
# prints with every other party, by telephone or in person.
version = 1
"""


def fingerprint(digest: bytes) -> str:
    """Return a SHA-256 digest for people to compare: 16 groups of 4 hexadecimal digits."""
    return "-".join(digest[start : start + 2].hex() for start in range(0, len(digest), 2))


@dataclass(frozen=True, kw_only=True)
class PublicIdentity:
    """What others pin: a name for people and ``key``, the 32 bytes of an Ed25519 public key."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        if not re.fullmatch(_NAME, self.name):
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


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The pinned identities, each once, sorted by key whatever the order they are given in.

    A client's position here is its number in the protocol. One identity is a roster too, to be completed;
    ``check_pinned`` refuses to seal with it.
    """

    identities: tuple[PublicIdentity, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.identities, key=lambda identity: identity.key))
        by_key: dict[bytes, str] = {}
        by_name: dict[str, PublicIdentity] = {}
        for identity in ordered:
            if identity.key in by_key:
                raise SealingError(
                    f"the key of {identity.name} is pinned as {by_key[identity.key]} too; every client needs "
                    "an identity of its own, pinned once"
                )
            # Names that differ in case alone would be one file on some systems, and one name to most readers.
            other = by_name.setdefault(identity.name.lower(), identity)
            if other is not identity:
                raise SealingError(
                    f"the name {identity.name} stands for two keys, {identity.fingerprint} and "
                    f"{other.fingerprint}; ask its owner which one is right, and remove the other"
                )
            by_key[identity.key] = identity.name
        object.__setattr__(self, "identities", ordered)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in roster order."""
        return tuple(identity.name for identity in self.identities)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Public keys in roster order: what a participant of the protocol pins."""
        return tuple(identity.key for identity in self.identities)

    @property
    def fingerprint(self) -> str:
        """``cohort_hash`` of the keys; all parties must see the same one."""
        return fingerprint(cohort_hash(self.keys))


# --- identities ------------------------------------------------------------------------------------


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
        _make(folder)
        with (
            _opened(folder) as place,
            _partial(place, pem, OWNER_ONLY) as key,
            _partial(place, f"{public.line}\n".encode(), FOR_ALL) as pub,
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
    content = _read(path, LARGEST_IDENTITY, "private key", lambda status: _check_owner(path, status, link))
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
    text = _read(path, LARGEST_IDENTITY, "public identity").decode("ascii", errors="replace")
    words = text.split()
    if not re.fullmatch(rf"{TAG} {_NAME} [0-9a-f]{{64}} [0-9a-f-]+", " ".join(words)):
        raise SealingError(
            f"{path} isn't a public identity; give a .pub file that `securefd identity new NAME` wrote"
        )
    public = PublicIdentity(name=words[1], key=bytes.fromhex(words[2]))
    if public.fingerprint != words[3]:
        raise SealingError(f"the key in {path} doesn't have the fingerprint beside it; get the file again")
    return public


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One identity of a folder or roster, and whether its private key is in the folder.

    ``key``, the public one, is None where no file says it, ``position`` where the roster doesn't have it.
    ``problem`` says what must be mended.
    """

    name: str
    key: bytes | None
    private: Literal["usable", "absent", "refused"]
    problem: str | None = None
    position: int | None = None

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the public key."""
        return None if self.key is None else fingerprint(hashlib.sha256(self.key).digest())


def list_identities(folder: Path, roster: Roster | None = None) -> tuple[Listed, ...]:
    """Return what the roster pins, in its order, then everything else in the folder, by name.

    Every private key is read, and refused as it would be when used; a bad file hides no other.
    With a roster the folder may be absent. ``SealingError`` if it can't be read.
    """
    pinned = roster.identities if roster else ()
    positions = {identity.key: position for position, identity in enumerate(pinned)}
    try:
        names = {path.stem for path in folder.iterdir() if re.fullmatch(rf"{_NAME}\.(key|pub)", path.name)}
    except OSError as error:
        if not (roster and isinstance(error, FileNotFoundError)):
            raise SealingError(
                f"folder {folder} can't be listed: {error.strerror}; `securefd identity new NAME` makes an "
                "identity, and --dir names another folder"
            ) from error
        names = set()
    here = [_look(folder, name) for name in sorted(names)]
    here = [replace(one, position=positions.get(one.key)) if one.key else one for one in here]
    found = {one.position for one in here}
    elsewhere = [
        Listed(name=identity.name, key=identity.key, private="absent", position=position)
        for position, identity in enumerate(pinned)
        if position not in found
    ]
    return tuple(sorted([*here, *elsewhere], key=lambda one: (one.position is None, one.position or 0)))


def _look(folder: Path, name: str) -> Listed:
    key, pub = folder / f"{name}.key", folder / f"{name}.pub"
    public, problems = None, []
    if os.path.lexists(pub):
        try:
            public = read_public(pub)
        except SealingError as error:
            problems.append(str(error))
    private: Literal["usable", "absent", "refused"] = "absent"
    if os.path.lexists(key):
        private = "refused"
        try:
            own = PublicIdentity(name=name, key=read_identity(key).public)
            if public and public.key != own.key:
                raise SealingError(f"{key} isn't the private key of {pub}; move one of them away")
            private = "usable"
            if not os.path.lexists(pub):
                problems.append(f"{pub} is missing; it must hold this line: {own.line}")
            public = public or own
        except SealingError as error:
            problems.append(str(error))
    return Listed(
        name=public.name if public else name,
        key=public.key if public else None,
        private=private,
        problem="; ".join(problems) or None,
    )


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


# --- rosters ---------------------------------------------------------------------------------------


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    key: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: Literal[1]
    identity: Annotated[list[_Table], msgspec.Meta(min_length=1)]


def load_roster(path: Path) -> Roster:
    """Return the roster in ``path``; ``SealingError`` for anything but a roster of different identities."""
    content = _read(path, LARGEST_ROSTER, "roster")
    try:
        tables = msgspec.convert(tomllib.loads(content.decode()), _File)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        # Escaped, since it may quote the file, and that must not reach a terminal's control sequences.
        reason = str(error).encode("unicode_escape").decode()
        raise SealingError(
            f"{path} isn't a roster ({reason}); write it with `securefd identity pin {path} PUB`"
        ) from None
    try:
        return Roster(
            identities=tuple(
                PublicIdentity(name=table.name, key=bytes.fromhex(table.key)) for table in tables.identity
            )
        )
    except SealingError as error:
        raise SealingError(f"roster {path}: {error}") from None


def pin(path: Path, identities: Sequence[PublicIdentity]) -> tuple[Roster, tuple[PublicIdentity, ...]]:
    """Add identities to the roster in ``path``, made if needed; return it, and those that weren't in it.

    All or nothing: the file is replaced in one step, after every check. An identity that is pinned already,
    by the same name and key, is left alone. ``SealingError`` for a key under two names, a name with two keys,
    a file that isn't a roster, or one that can't be written.
    """
    try:
        with _opened(path.parent) as place:
            # Two at once would lose one's identities. Some network file systems lock no folders.
            with suppress(OSError):
                fcntl.flock(place, fcntl.LOCK_EX)
            if os.path.islink(path):
                raise SealingError(f"roster {path} is a link; name the file that it points to")
            there = path.exists()
            known = dict.fromkeys(load_roster(path).identities if there else ())
            added = tuple(identity for identity in dict.fromkeys(identities) if identity not in known)
            roster = Roster(identities=(*known, *added))
            if added:
                mode = stat.S_IMODE(path.stat().st_mode) if there else FOR_ALL
                with _partial(place, _roster_text(roster).encode(), mode) as partial:
                    os.replace(partial, path.name, src_dir_fd=place, dst_dir_fd=place)
                    os.fsync(place)
    except OSError as error:
        raise SealingError(
            f"roster {path} can't be written: {error.strerror}; free space, or choose another folder"
        ) from error
    return roster, added


def _roster_text(roster: Roster) -> str:
    # A name has no letter that TOML would have to escape.
    tables = (
        f'\n[[identity]]\nname = "{identity.name}"\nkey = "{identity.key.hex()}"\n'
        for identity in roster.identities
    )
    return _ROSTER_HEAD + "".join(tables)


# --- files -----------------------------------------------------------------------------------------


def _make(folder: Path) -> None:
    """Make the folder, for its owner alone whatever the umask, if it isn't there."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    folder.chmod(0o700)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder, so that every step is in the same one, even if its path is moved."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _partial(folder: int, content: bytes, mode: int) -> Iterator[str]:
    """The name of a new file in the folder, whole and on the disk; the name is gone when the block ends."""
    name = f".{secrets.token_hex(16)}.partial"
    # O_EXCL follows no link. The mode is the owner's alone until the file is whole, whatever the umask.
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY, dir_fd=folder)
    try:
        try:
            os.fchmod(descriptor, OWNER_ONLY)
            # Some mounts (FAT, Windows drives under WSL) accept a mode and keep another.
            if mode == OWNER_ONLY and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
                raise OSError(errno.ENOTSUP, "the file system keeps no permissions")
            while content:
                content = content[os.write(descriptor, content) :]
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield name
    finally:
        with suppress(OSError):  # it was renamed into its place, or the disk fails: then it stays, unused
            os.unlink(name, dir_fd=folder)


def _read(
    path: Path, limit: int, what: str, check: Callable[[os.stat_result], None] = lambda status: None
) -> bytes:
    """Return what the regular file ``path`` holds, at most ``limit`` bytes, once ``check`` let it pass."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # else a pipe keeps us waiting for somebody to write

    try:
        with open(path, "rb", opener=opener) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SealingError(f"{what} {path} isn't a regular file; give the file itself")
            check(status)
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = getattr(error, "strerror", None) or error
        raise SealingError(f"{what} {path} can't be read ({reason}); check path and permissions") from None
    if len(content) > limit:
        raise SealingError(f"{what} {path} is larger than {limit:,} bytes; give another file")
    return content
