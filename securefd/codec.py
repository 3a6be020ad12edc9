"""The wire form of answers on a simplex grid: packed, delta-coded, compressed (CFD, arXiv 2012.00632).

An answer of ``cfd`` or ``fedct`` is, for each query, C levels that sum to 2^bits - 1. One bit needs only
the top class, in ceil(log2 C) bits; more bits need all levels but the last, which the sum gives away.
Only queries whose levels changed since the previous message are sent: one bit a query says which.

For plain sealing, and for the broadcast down: which positions changed is itself information about a
client's model, so a sealed round must not use it.

Body before zlib: ``[mask, ceil(m/8) bytes, only with a previous vector] [values, bit-packed]``; most
significant bit first, padding bits zero.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securefd.errors import MessageError, SealingError

Levels = NDArray[np.int64]
Bits = NDArray[np.uint8]

_COMPRESSION = 9  # zlib's strongest: bodies are small, and upload is what is scarce


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Encodes flat vectors of levels, ``(m * n_classes,)`` in query order.

    ``previous`` is what the same receiver last got for the same queries, in the same order, or None. A
    query that it never got before has -1 at its levels there, which differs from every level.
    """

    n_classes: int
    bits: int

    def __post_init__(self) -> None:
        if not self.n_classes >= 2:
            raise SealingError(
                f"n_classes must be >= 2, got {self.n_classes}; a codec needs classes to tell apart"
            )
        if not 1 <= self.bits <= 8:
            raise SealingError(f"bits must be 1 to 8, got {self.bits}; choose method.bits in that range")

    @property
    def steps(self) -> int:
        """The sum of one query's levels."""
        return int(2**self.bits - 1)

    def encode(self, vector: Levels, previous: Levels | None = None) -> bytes:
        """Run by the sender. Raises SealingError for levels that aren't on the grid."""
        rows = vector.reshape(-1, self.n_classes)
        if ((rows < 0) | (rows > self.steps)).any() or (rows.sum(axis=1) != self.steps).any():
            raise SealingError(
                f"levels of a query must be 0 to {self.steps} and sum to {self.steps}, and these don't; "
                "encode only answers of a method that has grid_bits"
            )
        if previous is None:
            return zlib.compress(_packed(self._symbols(rows), self._width), _COMPRESSION)
        changed = (rows != self._aligned(previous, vector.size)).any(axis=1)
        body = np.packbits(changed).tobytes() + _packed(self._symbols(rows[changed]), self._width)
        return zlib.compress(body, _COMPRESSION)

    def decode(self, message: bytes, previous: Levels | None, size: int) -> Levels:
        """Run by the receiver: ``(size,)`` levels, size = m * n_classes.

        Raises MessageError for anything that `encode` can't have made, before memory beyond the size of an
        honest message is used.
        """
        if not (size >= 0 and size % self.n_classes == 0):
            raise MessageError(
                f"size must be a multiple of {self.n_classes} classes, got {size}; check the queries"
            )
        m = size // self.n_classes
        if previous is None:
            body = _inflated(message, self._value_bytes(m))
            return self._rows(body, m).ravel()
        rows = self._aligned(previous, size).copy()
        mask_bytes = -(-m // 8)
        body = _inflated(message, mask_bytes + self._value_bytes(m))
        if len(body) < mask_bytes:
            raise _malformed(f"{len(body)} bytes can't hold the mask of {m} queries")
        changed = _bits(body[:mask_bytes], m).astype(bool)
        rows[changed] = self._rows(body[mask_bytes:], int(changed.sum()))
        if (rows < 0).any():
            raise _malformed("a query that was never sent before is missing")
        return rows.ravel()

    def most_bytes(self, m: int) -> int:
        """What an encoding of ``m`` queries never exceeds: all changed, and nothing compresses."""
        body = -(-m // 8) + self._value_bytes(m)
        return body + (body >> 12) + (body >> 14) + (body >> 25) + 13  # zlib's own compressBound

    @property
    def _width(self) -> int:
        """Bits of one symbol: a class index, or one level."""
        return (self.n_classes - 1).bit_length() if self.bits == 1 else self.bits

    @property
    def _per_query(self) -> int:
        return 1 if self.bits == 1 else self.n_classes - 1

    def _value_bytes(self, m: int) -> int:
        return -(-m * self._per_query * self._width // 8)

    def _symbols(self, rows: Levels) -> Levels:
        return rows.argmax(axis=1) if self.bits == 1 else rows[:, :-1].ravel()

    def _rows(self, body: bytes, m: int) -> Levels:
        if len(body) != self._value_bytes(m):
            raise _malformed(f"{m} queries take {self._value_bytes(m)} bytes of values, got {len(body)}")
        symbols = _unpacked(body, m * self._per_query, self._width)
        if self.bits == 1:
            if (symbols >= self.n_classes).any():
                raise _malformed(f"a class index is {symbols.max()}, with {self.n_classes} classes")
            one_hot: Levels = (symbols[:, None] == np.arange(self.n_classes)).astype(np.int64)
            return one_hot
        heads = symbols.reshape(m, self.n_classes - 1)
        last = self.steps - heads.sum(axis=1)
        if (last < 0).any():
            raise _malformed(f"levels of a query sum to more than {self.steps}")
        return np.column_stack([heads, last])

    def _aligned(self, previous: Levels, size: int) -> Levels:
        if previous.size != size:
            raise MessageError(
                f"previous must have {size} levels, got {previous.size}; "
                "give the previous levels of the same queries, -1 where there are none"
            )
        return previous.reshape(-1, self.n_classes)


def _inflated(message: bytes, limit: int) -> bytes:
    # One byte above the limit is asked for, so that a bomb stops there and is seen.
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(message, limit + 1)
    except zlib.error as error:
        raise _malformed(str(error)) from error
    if len(body) > limit:
        raise _malformed(f"more than the {limit} bytes that these queries can take")
    if not inflater.eof or inflater.unused_data:
        raise _malformed("the compressed stream is cut short, or followed by other bytes")
    return body


def _packed(symbols: Levels, width: int) -> bytes:
    shifts = np.arange(width - 1, -1, -1)
    return np.packbits((symbols[:, None] >> shifts & 1).astype(np.uint8)).tobytes()


def _unpacked(body: bytes, count: int, width: int) -> Levels:
    weights = 1 << np.arange(width - 1, -1, -1, dtype=np.int64)
    symbols: Levels = _bits(body, count * width).reshape(count, width).astype(np.int64) @ weights
    return symbols


def _bits(body: bytes, count: int) -> Bits:
    bits = np.unpackbits(np.frombuffer(body, dtype=np.uint8))
    if bits[count:].any():
        raise _malformed("padding bits aren't zero")
    return bits[:count]


def _malformed(what: str) -> MessageError:
    return MessageError(f"coded answers are malformed: {what}; ask the sender to send its answers again")
