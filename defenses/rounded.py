"""Real vectors rounded to integers by chance, and how much further apart that takes two of them.

For vectors with a bound on their distance and none on their entries: weights, gradients. Answers whose
entries have bounds are rounded by ``securefd.defenses.rounding``, where rounding costs nothing.

**What rounding adds.** x and x' are vectors of neighbouring data sets, in steps of the grid, d entries.
Each is rounded with uniform numbers of its own: entry j becomes floor(x_j + u_j), which is x_j on average.
Noise follows. What is released is a mixture, over all u, of noise around floor(x + u), and for x' of noise
around floor(x' + u). The divergence of two mixtures is at most the largest between their parts for the same
u, in every measure that matters here (hockey-stick, hence epsilon and delta; Renyi of all orders: van Erven
and Harremoes 2014, Theorem 13). So the two may be taken as if they were rounded with one u, although they
aren't. Then m = floor(x + u) - floor(x' + u) has |m_j| < |x_j - x'_j| + 1, and

    ||m||_2 < ||x - x'||_2 + sqrt(d),    ||m||_1 < ||x - x'||_1 + d,

by the triangle inequality. Where only the distance of x and x' has a bound, this is nearly attained: with
all |x_j - x'_j| alike, there is a u for which every |m_j| is that, rounded up. Rounding to the nearest
integer has the same bounds, with u = 1/2 for both, and no tighter ones.

**Where a tighter bound holds.** If the norm of each vector alone is at most c, and a vector is rounded
again and again until its norm, as integers, is at most B, then B is the sensitivity to adding or removing
it, and 2 B to replacing it. With B^2 = c^2 + d / 4 + sqrt(2 ln(1 / beta)) (c + sqrt(d) / 2), one try is
enough with probability 1 - beta (`likely_norm`; Kairouz, Liu and Steinke 2021, The Distributed Discrete
Gaussian Mechanism for Federated Learning with Secure Aggregation, Theorem 1). That is for norms, not for
distances, and rounding again biases what is rounded a little.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.csprng import Stream
from securefd.errors import PrivacyError

LARGEST = 2.0**52
"""Of values to round: beyond it, floats are whole numbers and nothing else."""


def by_chance(steps: NDArray[np.float64], *, _key: bytes | None = None) -> NDArray[np.int64]:
    """Round each value, in steps of the grid, to one of the two integers around it; same shape, int64.

    The mean of each is the value, within 2^-53; integers stay as they are. Values are rounded independently,
    with 63 random bits each, under a key of their own. What is above its integer, x - floor(x), is exact in
    floats but for x in (-1/2, 0), where it is within 2^-54; cut off after 63 bits, it is the probability of
    rounding up.

    PrivacyError for NaN, and for values that aren't within 2^52.
    """
    if not np.all(np.abs(steps) <= LARGEST):
        raise PrivacyError("values to round must be within 2^52 grid steps, and none of them NaN; clip them")
    floor = np.floor(steps)
    up = ((steps - floor) * 2.0**63).astype(np.uint64)
    words = Stream(_key=_key).words(steps.size).reshape(steps.shape) >> np.uint64(1)
    return floor.astype(np.int64) + (words < up)


def apart(distance: float, entries: int) -> tuple[int, int]:
    """Squared L2 distance and L1 distance, at most, of two vectors rounded by chance, as integers.

    ``distance``: their L2 distance before, in grid steps. Derived above, and rounded to the safe side. The L1
    distance is at most sqrt(entries) times the L2 distance, and at most its square, since whole numbers are
    at most their squares. PrivacyError for a distance that isn't finite and at least 0, or entries < 1.
    """
    _check("distance", distance, entries)
    before = Fraction(distance) ** 2
    # (D + sqrt(d))^2 = D^2 + d + 2 sqrt(D^2 d)
    squared = math.floor(before + entries + _root_above(4 * before * entries))
    return squared, min(math.isqrt(entries * squared), squared)


def likely_norm(norm: float, entries: int, beta: float) -> float:
    """B: the norm of a vector of this ``norm``, rounded by chance, is beyond it with probability < ``beta``.

    In grid steps. Use it only if what is beyond is rounded anew, and for the norm of one vector; see above.
    """
    _check("norm", norm, entries)
    if not 0 < beta < 1:
        raise PrivacyError(f"beta must be between 0 and 1, got {beta}; exp(-1/2) is usual")
    root = math.sqrt(entries)
    likely = norm**2 + entries / 4 + math.sqrt(-2 * math.log(beta)) * (norm + root / 2)
    return min(norm + root, math.sqrt(likely))


def _check(name: str, value: float, entries: int) -> None:
    if not 0 <= value < math.inf:
        raise PrivacyError(f"{name} must be at least 0 and finite, got {value}; clip the vectors")
    if not entries >= 1:
        raise PrivacyError(f"entries must be at least 1, got {entries}")


def _root_above(square: Fraction) -> Fraction:
    """At least the root, and above it by 2^-29 at most."""
    return Fraction(math.isqrt(math.ceil(square * 2**60)) + 1, 2**30)
