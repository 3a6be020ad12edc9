"""Answers on an integer grid: what every sealing adds up, so that all sealings give the same sums.

A value v of a block with public bounds [low, high] becomes the grid point
round((v - low) / (high - low) * (2**bits - 1)), ties to even. Quantising gives no privacy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from securefd.errors import SealingError

TOLERANCE = 1e-9
"""Share of a block's range by which a value may miss its bounds (rounding); it is then clipped."""
MAX_BITS = 32
"""Grid points stay far below 2**53, so that float64 holds them exactly."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of an answer: its name, shape and public bounds, the same for all clients.

    ``simplex``: each row, along the last axis, is non-negative and adds up to at most ``high``; low is 0.
    """

    name: str
    shape: tuple[int, ...]
    low: float
    high: float
    simplex: bool = False

    def __post_init__(self) -> None:
        width = self.high - self.low
        if not (math.isfinite(self.low) and math.isfinite(self.high) and math.isfinite(width) and width > 0):
            raise SealingError(
                f"{self.name}: bounds must be finite and low < high, got {self.low}, {self.high}"
            )
        if any(length < 0 for length in self.shape):
            raise SealingError(f"{self.name}: lengths must be >= 0, got shape {self.shape}")
        if self.simplex and not (self.low == 0 and self.shape):
            raise SealingError(f"{self.name}: rows of a simplex must start from 0, got low = {self.low}")

    @property
    def size(self) -> int:
        """How many values the block holds."""
        return math.prod(self.shape)


def check_bits(bits: int) -> None:
    """``SealingError`` unless ``bits`` is a number of bits that a grid can have."""
    if not 1 <= bits <= MAX_BITS:
        raise SealingError(f"bits must be in 1..{MAX_BITS}, got {bits}")


def check_grid(vector: NDArray[np.int64], bits: int, size: int | None = None) -> None:
    """``SealingError`` unless ``vector`` is ``(size,)`` int64 with every value in [0, 2**bits)."""
    check_bits(bits)
    if not isinstance(vector, np.ndarray) or vector.dtype != np.int64 or vector.ndim != 1 or not vector.size:
        raise SealingError("a vector to seal must be a non-empty row of int64; quantise the answers first")
    if size is not None and vector.size != size:
        raise SealingError(f"a vector to seal must hold {size} values as the others do, got {vector.size}")
    if vector.min() < 0 or vector.max() >= 1 << bits:
        raise SealingError(f"values to seal must be in [0, 2**{bits}), got {vector.min()}..{vector.max()}")


def quantise(arrays: Sequence[NDArray[np.float64]], blocks: Sequence[Block], bits: int) -> NDArray[np.int64]:
    """Put ``arrays``, one a block, on the grid; returns them flattened and joined, ``(d,)``.

    ``SealingError`` for a wrong number or shape of arrays, NaN, or a value out of its block's bounds.
    """
    check_bits(bits)
    parts = [np.rint(unit * ((1 << bits) - 1)).astype(np.int64) for unit in scaled(arrays, blocks)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def scaled(arrays: Sequence[NDArray[np.float64]], blocks: Sequence[Block]) -> list[NDArray[np.float64]]:
    """Map each block's values to [0, 1], flattened. ``SealingError`` as in `quantise`."""
    if len(arrays) != len(blocks):
        raise SealingError(f"{len(blocks)} blocks need as many arrays, got {len(arrays)}")
    return [_unit(array, block) for array, block in zip(arrays, blocks, strict=True)]


def _unit(array: NDArray[np.float64], block: Block) -> NDArray[np.float64]:
    if array.shape != block.shape:
        raise SealingError(f"{block.name} must have shape {block.shape}, got {array.shape}")
    values = np.asarray(array, dtype=np.float64).ravel()
    width = block.high - block.low
    slack = TOLERANCE * width
    inside = (values >= block.low - slack) & (values <= block.high + slack)
    if not inside.all():
        wrong = values[~inside][0]
        raise SealingError(
            f"{block.name} must be in [{block.low}, {block.high}], got {wrong}; clip it before"
        )
    unit: NDArray[np.float64] = (np.clip(values, block.low, block.high) - block.low) / width
    return unit


def dequantise_sum(
    total: NDArray[np.int64], blocks: Sequence[Block], bits: int, n_clients: int, beyond: int = 0
) -> tuple[NDArray[np.float64], ...]:
    """Turn the sum of ``n_clients`` quantised vectors, ``(d,)``, back into the sum of their arrays.

    ``beyond``: how far noise may carry a sum out of its range, in grid steps. Without noise each value is
    within ``n_clients * (high - low) / (2**bits - 1) / 2`` of the sum of the real values.
    ``SealingError`` where ``total`` can't be such a sum.
    """
    check_bits(bits)
    levels = (1 << bits) - 1
    size = sum(block.size for block in blocks)
    if not n_clients >= 1:
        raise SealingError(f"n_clients must be >= 1, got {n_clients}")
    if total.dtype != np.int64 or total.shape != (size,):
        raise SealingError(f"the sum must be int64 of shape ({size},), got {total.dtype} of {total.shape}")
    if size and (total.min() < -beyond or total.max() > n_clients * levels + beyond):
        raise SealingError(
            f"the sum of {n_clients} vectors of {bits} bits must be in [{-beyond}, "
            f"{n_clients * levels + beyond}], got {total.min()}..{total.max()}"
        )
    ends = np.cumsum([0, *(block.size for block in blocks)])
    return tuple(
        (total[start:end] / levels * (block.high - block.low) + n_clients * block.low).reshape(block.shape)
        for block, (start, end) in zip(blocks, pairwise(ends), strict=True)
    )
