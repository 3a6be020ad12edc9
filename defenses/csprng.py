"""Random bits that nobody can predict: AES-256-CTR under a fresh key from the operating system."""

from __future__ import annotations

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

_KEY, _BLOCK = 32, 16


class Stream:
    """Bits under one key, each handed out once.

    ``_key``: for tests only; what it gives protects nothing. A process that forks must not go on with a
    stream of its parent's, or both would draw the same: take a new one.
    """

    def __init__(self, *, _key: bytes | None = None) -> None:
        key = os.urandom(_KEY) if _key is None else _key
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK))).encryptor()
        self._process = os.getpid()

    def bytes(self, size: int) -> bytearray:
        """``size`` random bytes."""
        if os.getpid() != self._process:
            raise RuntimeError("a stream of random bits was taken over a fork; draw from a new one")
        drawn = bytearray(size + _BLOCK - 1)
        self._encryptor.update_into(bytes(size), drawn)
        del drawn[size:]
        return drawn

    def words(self, size: int) -> NDArray[np.uint64]:
        """``(size,)`` independent uniform integers in [0, 2**64)."""
        return np.frombuffer(self.bytes(8 * size), dtype="<u8").astype(np.uint64, copy=False)


def uniform(size: int) -> NDArray[np.int64]:
    """``(size,)`` independent uniform integers in [0, 2**32), under a key of their own."""
    return np.frombuffer(Stream().bytes(4 * size), dtype="<u4").astype(np.int64)
