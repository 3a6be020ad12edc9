"""Putting answers on the grid by chance, so that what is lost in rounding averages out.

Noise that is as coarse as the grid makes a rule "to the nearest level" show: a probability of 0.001 would
never count. Rounding up with a probability equal to the remainder keeps the mean of every value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.quantise import Block, check_bits, scaled
from securefd.errors import SealingError

Uniform = Callable[[int], NDArray[np.int64]]
"""``uniform(n)``: n independent integers in [0, 2**32), each equally likely."""
FRACTION_BITS = 32
"""Binary digits of a remainder that count: the mean of a value is kept to 2**-32 grid steps."""
MOST_BITS = 20
"""Of a value: with its remainder it stays below 2**53, where float64 holds it exactly."""


def quantise_by_chance(
    arrays: Sequence[NDArray[np.float64]], blocks: Sequence[Block], bits: int, uniform: Uniform
) -> NDArray[np.int64]:
    """Put ``arrays``, one a block, on the grid; returns them flattened and joined, ``(d,)``.

    Every value becomes one of the two levels around it, and its mean is the value. A row of a simplex block
    keeps its bound: with running sums S_j of the row, in steps of the grid, and one uniform u in [0, 1) for
    the row, level j is floor(S_j + u) - floor(S_(j-1) + u) (systematic sampling, Madow 1949). That is a
    level around the value with the right mean, and levels add up to floor(S_C + u), at most the bound,
    since it is a whole number of steps. So an integer row is in a simplex as the row itself was, and rounding
    adds nothing to its sensitivity (`securefd.defenses.sensitivity.of_client`).

    SealingError as ``quantise``, and for more than 20 bits.
    """
    check_bits(bits)
    if bits > MOST_BITS:
        raise SealingError(f"bits must be at most {MOST_BITS} where values are rounded by chance, got {bits}")
    levels = (1 << bits) - 1
    parts = [
        _rounded(unit * levels, levels, block, uniform)
        for unit, block in zip(scaled(arrays, blocks), blocks, strict=True)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _rounded(steps: NDArray[np.float64], levels: int, block: Block, uniform: Uniform) -> NDArray[np.int64]:
    if not block.simplex:
        return (_fixed(steps) + uniform(steps.size)) >> FRACTION_BITS
    rows = steps.reshape(-1, block.shape[-1])
    # A running sum passes the bound by a rounding error at most, which is cut off.
    running = _fixed(np.minimum(np.cumsum(rows, axis=-1), levels))
    ends = (running + uniform(len(rows))[:, None]) >> FRACTION_BITS
    return np.asarray(np.diff(ends, axis=-1, prepend=0).ravel(), dtype=np.int64)


def _fixed(steps: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.floor(steps * (1 << FRACTION_BITS)).astype(np.int64)
