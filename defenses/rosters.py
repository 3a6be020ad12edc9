"""Rosters as files: the identities that a party has pinned, and which of them a folder holds.

A roster is a TOML file of pinned public identities, in the order of their keys, so that everybody who pins
the same identities gets the same roster, however and in whatever order they came. Its fingerprint knows only
keys, as the protocol does. No time of a file or clock decides anything.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from securefd.defenses.files import FOR_ALL, new_file, opened, read_file
from securefd.defenses.identity import cohort_hash
from securefd.defenses.keys import NAME, PublicIdentity, fingerprint, read_identity, read_public
from securefd.errors import SealingError

LARGEST_ROSTER = 16 << 20
"""Bytes of the largest file that is read: about 100,000 pinned identities."""
_ROSTER_HEAD = """\
# Pinned identities, written by `securefd identity pin`. To unpin one, delete its table. The order here
# doesn't count: a roster is sorted by key. Compare the fingerprint that `securefd identity list --roster`
# prints with every other party, by telephone or in person.
version = 1
"""


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


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    key: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: Literal[1]
    identity: Annotated[list[_Table], msgspec.Meta(min_length=1)]


def load_roster(path: Path) -> Roster:
    """Return the roster in ``path``; ``SealingError`` for anything but a roster of different identities."""
    content = read_file(path, LARGEST_ROSTER, "roster")
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
        with opened(path.parent) as place:
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
                with new_file(place, _roster_text(roster).encode(), mode) as partial:
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
        names = {path.stem for path in folder.iterdir() if re.fullmatch(rf"{NAME}\.(key|pub)", path.name)}
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
