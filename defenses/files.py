"""Files that are wholly there or not at all, in folders that stay the same while they are used."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from securefd.errors import SealingError

OWNER_ONLY = 0o600
FOR_ALL = 0o644


def make_folder(folder: Path) -> None:
    """Make the folder, for its owner alone whatever the umask, if it isn't there."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    folder.chmod(0o700)


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder, so that every step is in the same one, even if its path is moved."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def new_file(folder: int, content: bytes, mode: int) -> Iterator[str]:
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


def read_file(
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
