"""Random bits that nobody can predict: AES-256-CTR under a fresh key from the operating system."""

from __future__ import annotations

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from securefd.errors import PrivacyError

Words = NDArray[np.uint64]

_KEY, _BLOCK = 32, 16
_ZEROS = memoryview(bytes(1 << 16))
"""Encrypting zeros gives the keystream; as many at a time as a near cache holds with their ciphertext."""


class Stream:
    """Bits under one key, each handed out once. Make a new one for each draw.

    A child process can't go on with a stream of its parent's, since both would draw the same: PrivacyError.
    ``_key``: for tests only; what it gives protects nothing.
    """

    def __init__(self, *, _key: bytes | None = None) -> None:
        key = os.urandom(_KEY) if _key is None else _key
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK))).encryptor()
        self._process = os.getpid()

    def bytes(self, size: int) -> NDArray[np.uint8]:
        """``(size,)`` independent uniform integers in [0, 256)."""
        if os.getpid() != self._process:
            raise PrivacyError(
                "random bits must not be drawn on from a stream that was made before a fork; make a new one"
            )
        # The cipher wants room for a block more than it writes.
        drawn = np.empty(size + _BLOCK, dtype=np.uint8)
        room = drawn.data
        for start in range(0, size, len(_ZEROS)):
            self._encryptor.update_into(_ZEROS[: size - start], room[start:])
        return drawn[:size]

    def words(self, size: int) -> Words:
        """``(size,)`` independent uniform integers in [0, 2**64)."""
        return self.bytes(8 * size).view("<u8").astype(np.uint64, copy=False)

    def number(self, bits: int) -> int:
        """One uniform integer in [0, 2**bits); ``bits``: a multiple of 8."""
        return int.from_bytes(self.bytes(bits // 8).tobytes(), "little")


def below(bound: int, words: Words) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Turn uniform words into uniform integers in [0, ``bound``), and say which of them to keep.

    2**64 isn't a multiple of every bound, 1 to 2**63: the words beyond its last multiple would favour some
    integers and are not to be kept. Those are fewer than ``bound`` of the 2**64.
    """
    most = (1 << 64) // bound * bound
    kept = np.ones(len(words), dtype=np.bool_) if most == 1 << 64 else words < np.uint64(most)
    return (words % np.uint64(bound)).astype(np.int64), kept


def uniform(size: int) -> NDArray[np.int64]:
    """``(size,)`` independent uniform integers in [0, 2**32), under a key of their own."""
    return Stream().bytes(4 * size).view("<u4").astype(np.int64)
