"""Masks modulo a prime, for values that are masked and then encrypted.

Plaintexts of BFV are added modulo a prime, so masks must be uniform modulo that prime to cancel there and to
hide what they are added to. A word of keystream that isn't below the prime is passed over: reducing it would
make small masks likelier than large ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from securefd.errors import SealingError

CHUNK = 4096
"""Words of keystream made at a time: with what they are added to, they stay in a core's cache."""
MOST = 1 << 62
"""Of a modulus: twice as much still fits a signed word."""
_BLOCK = 16
_WORD = np.dtype("<u8")


def expand(key: bytes, size: int, modulus: int) -> NDArray[np.int64]:
    """``(size,)`` values in [0, modulus), each equally likely: the mask that stands for ``key``.

    The keystream of AES-256-CTR from counter zero, in little-endian words of 8 bytes, each cut to the bits of
    ``modulus - 1``; of these the first ``size`` that are below ``modulus``. A key serves one mask only.
    """
    mask = np.zeros(size, dtype=np.int64)
    apply(mask, [key], [], modulus)
    return mask


def apply(
    values: NDArray[np.int64], added: Sequence[bytes], subtracted: Sequence[bytes], modulus: int
) -> None:
    """Add and subtract, in place and modulo ``modulus``, the mask of each key; see ``expand``.

    ``values``: int64 of any shape, contiguous, each in [0, modulus). ``SealingError`` otherwise.
    """
    _check(values, (*added, *subtracted), modulus)
    words = values.reshape(-1).view(np.uint64)
    spare = np.empty(min(CHUNK, words.size), dtype=np.uint64)
    for key in added:
        for part, mask in _aligned(words, key, modulus):
            _add(part, mask, np.uint64(modulus), spare[: part.size])
    for key in subtracted:
        for part, mask in _aligned(words, key, modulus):
            _subtract(part, mask, np.uint64(modulus), spare[: part.size])


def _check(values: NDArray[np.int64], keys: Sequence[bytes], modulus: int) -> None:
    if not 2 <= modulus <= MOST:
        raise SealingError(f"a modulus must be in 2..2**62, got {modulus}")
    if any(len(key) != 32 for key in keys):
        raise SealingError("the key of a mask must have 32 bytes; derive it by HKDF-SHA256")
    if values.dtype != np.int64 or not values.size or not values.flags.c_contiguous:
        raise SealingError("values to mask must be int64, contiguous and not empty; pack them first")
    if values.min() < 0 or values.max() >= modulus:
        raise SealingError(
            f"values to mask must be in [0, {modulus}), got {values.min()}..{values.max()}; reduce them first"
        )


def _aligned(
    words: NDArray[np.uint64], key: bytes, modulus: int
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
    """Parts of ``words``, each with its part of the mask, which lasts until the next is asked for."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK))).encryptor()
    low_bits = np.uint64((1 << (modulus - 1).bit_length()) - 1)
    step = min(CHUNK, words.size)
    zeros = memoryview(bytes(step * _WORD.itemsize))
    keystream = bytearray(len(zeros) + _BLOCK - 1)
    drawn = np.frombuffer(keystream, dtype=_WORD, count=step)
    mask = np.empty(step, dtype=np.uint64)
    start = 0
    while start < words.size:
        stream.update_into(zeros, keystream)
        np.bitwise_and(drawn, low_bits, out=mask)
        fitting = mask if int(mask.max()) < modulus else mask[mask < np.uint64(modulus)]
        part = words[start : start + fitting.size]
        yield part, fitting[: part.size]
        start += part.size
    keystream[:] = bytes(len(keystream))
    mask[:] = 0


def _add(
    part: NDArray[np.uint64], mask: NDArray[np.uint64], modulus: np.uint64, spare: NDArray[np.uint64]
) -> None:
    """Of the sum and the sum less the modulus, the latter wraps to a huge word where it would be negative."""
    np.add(part, mask, out=part)
    np.subtract(part, modulus, out=spare)
    np.minimum(part, spare, out=part)


def _subtract(
    part: NDArray[np.uint64], mask: NDArray[np.uint64], modulus: np.uint64, spare: NDArray[np.uint64]
) -> None:
    """Of the difference and the difference plus the modulus, the former is huge where it is negative."""
    np.subtract(part, mask, out=part)
    np.add(part, modulus, out=spare)
    np.minimum(part, spare, out=part)
