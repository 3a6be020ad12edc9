"""A file of lines to which lines are only added: each is on stable storage before ``append`` returns.

A last line without its line feed is the trace of a crash inside ``append``; its owner decides whether it
counts. One process at a time has a journal open, whatever path or link it came by.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from securefd.errors import LedgerError


class Journal:
    """An open journal: ``lines`` and ``tail`` are what it held when it was opened, from byte ``start`` on."""

    def __init__(self, path: Path, what: str, descriptor: int) -> None:
        """Use ``Journal.open``."""
        self.path = path
        self.start = 0
        self.lines: list[bytes] = []
        self.tail = b""
        self._name = f"{what} {path}"
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path, what: str, *, wait: bool = False, start: int = 0) -> Journal:
        """Open or create ``path``, lock it and read it, from byte ``start`` if it is at least as long.

        ``what`` is what errors call it. Raises LedgerError for anything but a regular file, and where
        another process has it open and won't be waited for.
        """
        # No link is followed: it could be made to lead elsewhere while this is open.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            if path.is_symlink():
                raise LedgerError(f"{what} {path} is a link; name the file that it leads to")
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise LedgerError(
                f"{what} {path} can't be opened: {error.strerror}; correct its path or rights"
            ) from error
        journal = cls(path, what, descriptor)
        try:
            journal._lock(wait)
            journal._check_place()
            journal._read(start)
        except OSError as error:
            journal.close()
            raise LedgerError(f"{what} {path} can't be read: {error.strerror}; mend the disk") from error
        except BaseException:
            journal.close()
            raise
        return journal

    @property
    def is_open(self) -> bool:
        """Whether lines can be added."""
        return self._descriptor >= 0

    @property
    def size(self) -> int:
        """Bytes that it holds now."""
        return os.fstat(self._descriptor).st_size

    def settle(self, is_line: Callable[[bytes], bool]) -> None:
        """Give ``tail`` its line feed where it is a whole line, else remove it."""
        if not self.tail:
            return
        if is_line(self.tail):
            self._write(b"\n", self.size)
            self.lines.append(self.tail)
        else:
            try:
                os.ftruncate(self._descriptor, self.size - len(self.tail))
                self._sync()
            except OSError as error:
                raise self._failed(error) from error
        self.tail = b""

    def append(self, line: bytes) -> None:
        """Add a line and wait for the disk. Raises LedgerError, and closes, where it can't be done.

        After that nobody knows what the file holds: nothing may be released until it was opened again.
        """
        if not self.is_open:
            raise LedgerError(f"{self._name} is closed; open it again")
        self._write(line + b"\n", self.size)
        try:
            self._check_place()
        except LedgerError:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock. Closing twice does nothing."""
        if self.is_open:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self, wait: bool) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise LedgerError(f"{self._name} is in use by another process; wait until it ends") from error

    def _check_place(self) -> None:
        """Refuse a file that isn't at its path any more: what is written to it would be lost."""
        held = os.fstat(self._descriptor)
        if not stat.S_ISREG(held.st_mode):
            raise LedgerError(f"{self._name} isn't a regular file; name another one")
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino):
            raise LedgerError(
                f"{self._name} was moved or replaced while it was in use; nothing may be released; put it "
                "back"
            )

    def _read(self, start: int) -> None:
        size = self.size
        self.start = start if start <= size else 0
        chunks, offset = [], self.start
        while offset < size:
            chunk = os.pread(self._descriptor, size - offset, offset)
            if not chunk:
                break
            chunks.append(chunk)
            offset += len(chunk)
        *self.lines, self.tail = b"".join(chunks).split(b"\n")

    def _write(self, content: bytes, offset: int) -> None:
        try:
            while content:
                written = os.pwrite(self._descriptor, content, offset)
                content, offset = content[written:], offset + written
            self._sync()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> LedgerError:
        self.close()
        return LedgerError(
            f"{self._name} can't be written: {error.strerror}; nothing may be released; mend the disk and "
            "open it again"
        )

    def _sync(self) -> None:
        flush(self._descriptor)
        # Its name must be on the disk too.
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def flush(descriptor: int) -> None:
    """Have what was written survive a power cut."""
    # macOS keeps fsynced data in the drive's cache; this call empties that too.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, full)
