"""Shadow federations on disk: written in chunks, checked by content, read one federation at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from securefd.errors import AuditError
from securefd.folder import write_arrays

PROOF = "proof"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Federations in chunks of ``size``. What is read comes through a memory map, so no chunk is ever whole
    in memory. ``shared``: first words of the names of arrays that all federations of a chunk have in common.
    """

    paths: tuple[Path, ...] = field(repr=False)
    size: int
    shared: tuple[str, ...]

    def names(self) -> list[str]:
        """Of the arrays."""
        with safe_open(self.paths[0], framework="numpy") as file:
            return sorted(name for name in file.keys() if name != PROOF)  # noqa: SIM118

    def read(self, name: str, federation: int) -> NDArray[Any]:
        """One array of one federation."""
        with safe_open(self.paths[federation // self.size], framework="numpy") as file:
            if name.startswith(self.shared):
                return np.asarray(file.get_tensor(name))
            return np.asarray(file.get_slice(name)[federation % self.size])

    def check(self, key: str) -> None:
        """Raise AuditError unless every chunk is what was stored in its place under ``key``."""
        for number, path in enumerate(self.paths):
            try:
                with safe_open(path, framework="numpy") as file:
                    names = sorted(name for name in file.keys() if name != PROOF)  # noqa: SIM118
                    digest = _begun(key, number)
                    for name in names:
                        _add(digest, name, file.get_tensor(name))
                    sound = np.array_equal(file.get_tensor(PROOF), _proof(digest))
            except (SafetensorError, OSError, ValueError):
                sound = False
            if not sound:
                raise AuditError(
                    f"{path} isn't what an audit of this run stored there; remove it, and it is played again"
                )


def store(path: Path, arrays: Arrays, key: str, number: int) -> None:
    """Write chunk ``number``, with a hash of its content, its place, and what it was made of."""
    digest = _begun(key, number)
    for name in sorted(arrays):
        _add(digest, name, arrays[name])
    write_arrays(path, {**arrays, PROOF: _proof(digest)})


def _begun(key: str, number: int) -> Any:
    return hashlib.sha256(f"{key} {number}\0".encode())


def _add(digest: Any, name: str, values: NDArray[Any]) -> None:
    array = np.ascontiguousarray(values)
    digest.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
    digest.update(array.data)


def _proof(digest: Any) -> NDArray[np.uint8]:
    return np.frombuffer(digest.digest(), dtype=np.uint8)
