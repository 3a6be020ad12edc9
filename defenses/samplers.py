"""Integer noise, exactly: discrete Gaussian, discrete Laplace and Skellam, vectorised.

Nothing here trusts a floating-point number with a decision. Where one would do, it decides unless it is
within its own error of the other answer; those cases, one in 2^40 or fewer, are decided by integers of 256
bits and more random ones. What is left differs from the distribution by less than 2^-180 for each value.

**Discrete Gaussian and Laplace** (after Karney 2016, Sampling Exactly from the Normal Distribution, Algorithm
D). P(x) is proportional to exp(-e(|x|)) with e(i) = i^2 / (2 variance), or i / scale. Cut i >= 0 into blocks:
block k holds those with E_k <= e(i) < E_(k+1), for E_k = k^2 / 2, or k. Draw k with probability proportional
to exp(-E_k), then one of as many places as the largest block has; reject places beyond the end of block k,
accept i with probability exp(-(e(i) - E_k)), give it a sign, and reject a negative zero. Every i is in one
block, and comes with probability proportional to exp(-E_k) exp(-(e(i) - E_k)). About seven in ten are
accepted.

**Skellam**, the difference of two Poisson variables of mean variance / 2, by inversion in a table of its
distribution. P(k) is proportional to I_k(variance), modified Bessel functions, which follow from one another
by I_(k-1) = I_(k+1) + (2k / variance) I_k, downwards and stably, and are normalised by their sum, which is
P's.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from mpmath import mp, mpf
from numpy.typing import NDArray

from securefd.defenses.csprng import Stream
from securefd.errors import PrivacyError

Vector = NDArray[np.int64]
Words = NDArray[np.uint64]

LARGEST_DEVIATION = 2.0**31
"""Of discrete Gaussian and Laplace noise: squares of what is drawn stay far below 2^63 deviations."""
LARGEST_SKELLAM = 2.0**15
"""Deviation of Skellam noise: its table has 40 entries a deviation."""

_FINE = 256
"""Bits with which a probability is known where 64 don't decide."""
_MORE = _FINE - 64
_BAND = 2.0**-40
"""Relative error that is allowed for a floating-point probability: many times what it can have."""
_PART = 1 << 16
"""Values drawn at a time: intermediate results stay in the cache."""


def discrete_gaussian(variance: float, size: int, *, _key: bytes | None = None) -> Vector:
    """``(size,)`` independent draws of N_Z(0, variance): P(x) proportional to exp(-x^2 / (2 variance)).

    Canonne, Kamath, Steinke 2020, Definition 1. ``variance``: taken as the exact number that the float is.
    PrivacyError unless 0 < variance <= 2^62.
    """
    if not 0 < variance <= LARGEST_DEVIATION**2:
        raise PrivacyError(f"variance must be > 0 and at most 2^62, got {variance}; lower the noise")
    return _draw(_gaussian_blocks(variance), size, Stream(_key=_key))


def discrete_laplace(scale: float, size: int, *, _key: bytes | None = None) -> Vector:
    """``(size,)`` independent draws with P(x) proportional to exp(-|x| / scale).

    ``scale``: taken as the exact number that the float is. PrivacyError unless 0 < scale <= 2^31.
    """
    if not 0 < scale <= LARGEST_DEVIATION:
        raise PrivacyError(f"scale must be > 0 and at most 2^31, got {scale}; lower the noise")
    return _draw(_laplace_blocks(scale), size, Stream(_key=_key))


def skellam(variance: float, size: int, *, _key: bytes | None = None) -> Vector:
    """``(size,)`` independent draws of Skellam noise of this variance, symmetric about 0.

    PrivacyError unless 0 < variance <= 2^30; the discrete Gaussian has no such limit.
    """
    if not 0 < variance <= LARGEST_SKELLAM**2:
        raise PrivacyError(
            f"variance of Skellam noise must be > 0 and at most 2^30, got {variance}; lower it, or use the "
            "discrete Gaussian"
        )
    table, stream = _skellam_table(variance), Stream(_key=_key)
    parts = [_invert(table, min(_PART, size - done), stream) for done in range(0, _checked(size), _PART)]
    magnitudes = np.concatenate([np.zeros(0, np.int64), *(part for part, _ in parts)])
    negative = np.concatenate([np.zeros(0, np.bool_), *(part for _, part in parts)])
    return np.where(negative, -magnitudes, magnitudes)


# --- inversion ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """A distribution on 0, 1, 2, ... : ``fine[k]`` / 2^256 is P(at most k); ``coarse``: the first 64 bits."""

    fine: tuple[int, ...]
    coarse: Words

    @classmethod
    def of(cls, weights: list[int]) -> _Table:
        """From weights, integers of many bits; what isn't listed must be less than 2^-200 of them all."""
        total, below, fine = sum(weights), 0, []
        for weight in weights:
            below += weight
            fine.append((below << _FINE) // total)
        fine[-1] = 1 << _FINE
        return cls(fine=tuple(fine), coarse=np.array([each >> _MORE for each in fine[:-1]], dtype=np.uint64))

    def look_up(self, words: Words, stream: Stream) -> Vector:
        """The smallest k with P(at most k) above a uniform number, of which the first 64 bits are given."""
        found = np.searchsorted(self.coarse, words, side="right").astype(np.int64)
        # A word that equals an entry is on neither side of it yet.
        if len(self.coarse):
            for index in np.flatnonzero(self.coarse[np.maximum(found - 1, 0)] == words):
                found[index] = self.look_closer(int(words[index]), stream)
        return found

    def look_closer(self, word: int, stream: Stream) -> int:
        """The same with 192 bits more."""
        return bisect_right(self.fine, word << _MORE | _more(stream))


def _more(stream: Stream) -> int:
    return int.from_bytes(stream.bytes(_MORE // 8), "little")


def _invert(table: _Table, size: int, stream: Stream) -> tuple[Vector, NDArray[np.bool_]]:
    """Magnitudes and signs; the table's entry 0 is P(0), and its others are twice P(k)."""
    magnitudes = table.look_up(stream.words(size), stream)
    signs = np.unpackbits(np.frombuffer(stream.bytes(-(-size // 8)), np.uint8), count=size)
    return magnitudes, signs.astype(bool)


@lru_cache(maxsize=8)
def _skellam_table(variance: float) -> _Table:
    # Chernoff: ln P(at least k) <= -(k asinh(k / m) - sqrt(k^2 + m^2) + m), m the variance.
    last = 1
    while last * math.asinh(last / variance) - math.hypot(last, variance) + variance < 150:
        last = last * 9 // 8 + 1
    exact = Fraction(variance)
    scale, divisor = 2 * exact.denominator, exact.numerator
    after, value = 0, 1 << 600
    values = [value]
    for k in range(last, 0, -1):
        after, value = value, after + value * (scale * k) // divisor
        values.append(value)
    values.reverse()
    return _Table.of([values[0], *(2 * each for each in values[1:])])


# --- blocks ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Blocks:
    """``choice``: of k. ``starts[k]``: the first i of block k, and ``ends[k]`` the first beyond it.

    ``excess(i, k)``: e(i) - E_k as a float, within 2^-43; ``exactly(i, k)``: as a fraction.
    """

    choice: _Table
    starts: Vector
    ends: Vector
    excess: Callable[[Vector, Vector], NDArray[np.float64]]
    exactly: Callable[[int, int], Fraction]

    @property
    def longest(self) -> int:
        """Length of the largest block."""
        return max(1, int((self.ends - self.starts).max()))


def _draw(blocks: _Blocks, size: int, stream: Stream) -> Vector:
    found, missing = [np.zeros(0, dtype=np.int64)], _checked(size)
    while missing > 0:
        drawn = _accepted(blocks, min(_PART, missing * 3 // 2 + 32), stream)[:missing]
        found.append(drawn)
        missing -= len(drawn)
    return np.concatenate(found)


def _accepted(blocks: _Blocks, tries: int, stream: Stream) -> Vector:
    """As many of ``tries`` as are accepted."""
    words = stream.words(3 * tries)
    k = blocks.choice.look_up(words[:tries], stream)
    places, kept = _below(blocks.longest, words[tries : 2 * tries])
    i = blocks.starts[k] + places
    left = np.flatnonzero(kept & (i < blocks.ends[k]))
    i, k, words = i[left], k[left], words[2 * tries :][left]
    # One bit of the last word is the sign, the others decide.
    negative = (words & np.uint64(1)).astype(bool)
    taken = _bernoulli(blocks, i, k, words >> np.uint64(1), stream) & ~(negative & (i == 0))
    drawn: Vector = np.where(negative, -i, i)[taken]
    return drawn


def _below(bound: int, words: Words) -> tuple[Vector, NDArray[np.bool_]]:
    """Uniform integers below ``bound``, and which of them count: words that would favour some don't."""
    most = (1 << 64) // bound * bound
    kept = np.ones(len(words), dtype=bool) if most == 1 << 64 else words < np.uint64(most)
    return (words % np.uint64(bound)).astype(np.int64), kept


def _bernoulli(blocks: _Blocks, i: Vector, k: Vector, words: Words, stream: Stream) -> NDArray[np.bool_]:
    """True with probability exp(-(e(i) - E_k)); ``words``: 63 uniform bits each."""
    uniform = words.astype(np.float64) * 2.0**-63
    likely = np.exp(-blocks.excess(i, k))
    taken: NDArray[np.bool_] = uniform < likely
    for index in np.flatnonzero(np.abs(uniform - likely) <= _BAND * likely + 2.0**-62):
        exponent = blocks.exactly(int(i[index]), int(k[index]))
        taken[index] = (int(words[index]) << _MORE | _more(stream)) < _exp(exponent, _FINE - 1)
    return taken


def _exp(exponent: Fraction, bits: int) -> int:
    """floor(2^bits exp(-exponent)), up to 1."""
    with mp.workprec(bits + 64):
        return int(mp.floor(mp.ldexp(mp.exp(-mpf(exponent.numerator) / exponent.denominator), bits)))


@lru_cache(maxsize=64)
def _gaussian_blocks(variance: float) -> _Blocks:
    exact = Fraction(variance)

    def start(k: int) -> int:
        # the least i with i^2 >= k^2 variance
        return math.isqrt(math.ceil(k * k * exact) - 1) + 1 if k else 0

    def excess(i: Vector, k: Vector) -> NDArray[np.float64]:
        square = i.astype(np.float64) ** 2
        return np.asarray(np.maximum(square / (2 * variance) - 0.5 * k.astype(np.float64) ** 2, 0))

    return _blocks(
        lambda k: Fraction(k * k, 2), start, excess, lambda i, k: i * i / (2 * exact) - Fraction(k * k, 2)
    )


@lru_cache(maxsize=64)
def _laplace_blocks(scale: float) -> _Blocks:
    exact = Fraction(scale)

    def excess(i: Vector, k: Vector) -> NDArray[np.float64]:
        return np.asarray(np.maximum(i / scale - k, 0))

    return _blocks(Fraction, lambda k: math.ceil(k * exact), excess, lambda i, k: i / exact - k)


def _blocks(
    edge: Callable[[int], Fraction],
    start: Callable[[int], int],
    excess: Callable[[Vector, Vector], NDArray[np.float64]],
    exactly: Callable[[int, int], Fraction],
) -> _Blocks:
    # Blocks beyond exp(-160) < 2^-200 are left out.
    count = next(k for k in range(1000) if edge(k) > 160)
    starts = [start(k) for k in range(count + 1)]
    return _Blocks(
        choice=_Table.of([_exp(edge(k), 600) for k in range(count)]),
        starts=np.array(starts[:-1], dtype=np.int64),
        ends=np.array(starts[1:], dtype=np.int64),
        excess=excess,
        exactly=exactly,
    )


def _checked(size: int) -> int:
    if not (isinstance(size, int) and size >= 0):
        raise PrivacyError(f"size must be a whole number of at least 0, got {size}")
    return size
