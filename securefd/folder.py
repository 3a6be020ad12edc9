"""A run's folder on disk: private, locked while it is worked on, and never half-written.

Every file is written beside its place, flushed to the disk and then renamed into it, so that a reader, or a
resumed run, finds the old content or the new and nothing between.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from securefd.defenses.journal import flush
from securefd.errors import RunError, RunLocked

LOCK = "run.lock"
"""The first file in a run's folder; it stays there."""


def write_bytes(path: Path, content: bytes) -> None:
    """Put ``content`` in place of what ``path`` holds, wholly or not at all; mode 0600."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            flush(file.fileno())
        os.replace(partial, path)
        _sync(path.parent)
    except OSError as error:
        raise RunError(
            f"{path} can't be written: {error.strerror}; free space or correct its rights"
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys; NaN is refused."""
    write_bytes(path, (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as safetensors: the same arrays give the same bytes."""
    write_bytes(path, save({name: np.require(arrays[name], requirements="C") for name in sorted(arrays)}))


def read_bytes(path: Path) -> bytes:
    """Return what ``path`` holds, or raise RunError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(
            f"{path} can't be read: {error.strerror}; is this the folder of a finished run?"
        ) from error


def read_json(path: Path) -> Any:
    """Return the JSON that ``path`` holds, or raise RunError."""
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise _not_ours(path, error) from error


def read_lines(path: Path) -> list[Any]:
    """Return what each line of JSON in ``path`` holds, or raise RunError."""
    try:
        return [json.loads(line) for line in read_bytes(path).splitlines()]
    except ValueError as error:
        raise _not_ours(path, error) from error


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays that ``path`` holds, or raise RunError."""
    content = read_bytes(path)
    try:
        return load(content)
    except SafetensorError as error:
        raise _not_ours(path, error) from error


def make(path: Path) -> None:
    """Create a folder that only its owner may enter, if it isn't there."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise RunError(f"folder {path} can't be made: {error.strerror}; choose another place") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however it ends.

    Raises RunLocked if another process has it, RunError if it can't be written to.
    """
    try:
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunError(
            f"run folder {path} can't be locked: {error.strerror}; choose another place or correct its rights"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunLocked(
                f"run folder {path} is in use by another process; wait for it, or choose another folder"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _not_ours(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} isn't the file that a run writes ({error}); restore it or start a new run")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
