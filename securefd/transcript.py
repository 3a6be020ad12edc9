"""What server, key holder and one client received in a round, message by message, byte for byte.

``views/round-NNN.safetensors`` holds what was made of it; this file holds what came. One record a message, a
MessagePack array of receiver, client, stage and bytes, in the order of arrival. A round that is interrupted
leaves no file, and is played again under new masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from securefd.defenses.sealing import Receiver
from securefd.errors import RunError
from securefd.folder import read_bytes

PEER = 0
"""The client whose messages are kept: the one that plays the curious peer."""


class Received(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One message. ``client``: who sent it to the server, or got it; -1 where it wasn't a client."""

    receiver: Receiver
    client: int
    stage: str
    message: bytes


class Transcript:
    """Written as a round is played; the file is there once the round is over, whole, and mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")

    def __enter__(self) -> Transcript:
        try:
            descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unwritten(error) from error
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        return self

    def keep(self, receiver: Receiver, client: int, stage: str, message: bytes) -> None:
        """Write one message, if it is one that an observer keeps."""
        if receiver == "client" and client != PEER:
            return
        record = msgspec.msgpack.encode(Received(receiver, client, stage, message))
        try:
            self._file.write(len(record).to_bytes(4, "big") + record)
        except OSError as error:
            raise self._unwritten(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)
            return
        try:
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
            os.replace(self._partial, self._path)
        except OSError as failure:
            raise self._unwritten(failure) from failure

    def _unwritten(self, error: OSError) -> RunError:
        return RunError(f"{self._path} can't be written: {error.strerror}; free space or correct its rights")


def transcript_path(folder: Path, number: int) -> Path:
    """Where the messages of round ``number`` (from 0) are kept."""
    return folder / "views" / f"round-{number + 1:03d}.messages"


def read_transcript(path: Path) -> Iterator[Received]:
    """Yield the messages of a round. RunError for a file that isn't one, or isn't whole."""
    content = read_bytes(path)
    offset = 0
    while offset < len(content):
        end = offset + 4 + int.from_bytes(content[offset : offset + 4], "big")
        try:
            if end > len(content):
                raise msgspec.DecodeError("it is cut off")
            yield msgspec.msgpack.decode(content[offset + 4 : end], type=Received)
        except msgspec.DecodeError as error:
            raise RunError(
                f"{path} isn't the file that a run writes ({error}); restore it or start a new run"
            ) from error
        offset = end
