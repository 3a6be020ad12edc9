"""Integer noise, exactly: discrete Gaussian, discrete Laplace and Skellam, vectorised.

**What exact means.** Given independent uniform bits, draws are independent, and each has the probability
that its formula says for the real number that ``variance`` or ``scale`` is as a float. No table is cut off,
and no probability is rounded. (What doesn't fit into int64 raises OverflowError; that has a probability
below exp(-2^30).) The bits are those of AES-256, which nobody is known to tell from uniform ones.

**Discrete Gaussian and Laplace.** P(x) is proportional to exp(-e(|x|)) with e(i) = i^2 / (2 variance), or
i / scale. Cut i >= 0 into blocks: block k holds those with E_k <= e(i) < E_(k+1), for E_k = k^2 / 2, or k
(an idea of Karney 2016, Sampling Exactly from the Normal Distribution, Algorithm D). Draw k with
probability proportional to exp(-E_k) (`Inversion`), then one of as many places as the first block has,
which no block exceeds; reject places beyond the end of block k, accept i with probability exp(-(e(i) -
E_k)), give it a sign, and reject a negative zero. Every i >= 0 is at one place of one block, so that an
attempt gives x with probability c exp(-E_k) exp(-(e(i) - E_k)) = c exp(-e(|x|)), c the same for all. Six or
seven attempts in ten succeed, and three where almost all draws are 0. Canonne, Kamath and Steinke 2020
(Algorithms 1 to 3) draw the same distributions one value at a time.

**Floating point is a filter, not a judge.** Whether u < exp(-x) is decided by floats, and the first 63 bits
of u, only where they are more than 2^-36 exp(-x) + 2^-62 apart, which is far more than they can be wrong.
Otherwise, and in blocks from 64 on, integers decide, with as many more bits of u, and of exp(-x) by mpmath,
as it takes. In a block k < 64: i < 65 * 2^31 is exact as a float. e(i) < 2^12 is rounded twice, by 2^-52 of
itself and so by 2^-40 at most; k^2 / 2 is exact; and the difference, below 2^7, is rounded by 2^-47 at
most. In all, x is known within 2^-39, and exp(-x) within 2^-39 of itself, beside a few 2^-52 by which exp()
and u are rounded. Integers don't overflow: a place is at most 2^31, and starts of blocks come from Python's
integers, which either fit or raise.

**Skellam**, the difference of two Poisson variables of mean variance / 2, by inversion. P(k) is
proportional to I_k(variance), modified Bessel functions, whose ratios follow from one another, downwards:
I_k / I_(k-1) = 1 / (2k / variance + I_(k+1) / I_k). A ratio is in (0, 1); from that, far out, bounds below
and above come closer at each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import count
from typing import Protocol

import numpy as np
from mpmath import mp, mpf
from numpy.typing import NDArray

from securefd.defenses.csprng import Stream, Words, below
from securefd.defenses.inversion import MORE, Inversion, Weights
from securefd.errors import PrivacyError

Vector = NDArray[np.int64]
Floats = NDArray[np.float64]

LARGEST_DEVIATION = 2.0**31
"""Of discrete Gaussian and Laplace noise: squares of what is drawn stay far below 2^63 deviations."""
LARGEST_SKELLAM = 2.0**15
"""Deviation of Skellam noise: its table has about 10 entries a deviation."""

_BAND = 2.0**-36
"""Relative distance from a probability within which floats don't decide."""
_BLOCKS = 64
"""In blocks beyond, floats don't decide either; a draw is there with probability exp(-64) at most."""
_PART = 1 << 15
"""Attempts at a time: intermediate results stay in the cache."""


def discrete_gaussian(variance: float, size: int, *, _key: bytes | None = None) -> Vector:
    """``(size,)`` independent draws of N_Z(0, variance): P(x) proportional to exp(-x^2 / (2 variance)).

    Canonne, Kamath, Steinke 2020, Definition 1. ``variance``: taken as the exact number that the float is.
    PrivacyError unless 0 < variance <= 2^62.
    """
    if not 0 < variance <= LARGEST_DEVIATION**2:
        raise PrivacyError(f"variance must be > 0 and at most 2^62, got {variance}; lower the noise")
    return _draw(_gaussian(variance), _checked(size), Stream(_key=_key))


def discrete_laplace(scale: float, size: int, *, _key: bytes | None = None) -> Vector:
    """``(size,)`` independent draws with P(x) proportional to exp(-|x| / scale).

    ``scale``: taken as the exact number that the float is. PrivacyError unless 0 < scale <= 2^31.
    """
    if not 0 < scale <= LARGEST_DEVIATION:
        raise PrivacyError(f"scale must be > 0 and at most 2^31, got {scale}; lower the noise")
    return _draw(_laplace(scale), _checked(size), Stream(_key=_key))


def skellam(variance: float, size: int, *, _key: bytes | None = None) -> Vector:
    """``(size,)`` independent draws of Skellam noise of this variance, symmetric about 0.

    ``variance``: taken as the exact number that the float is. PrivacyError unless 0 < variance <= 2^30; the
    discrete Gaussian may have more.
    """
    if not 0 < variance <= LARGEST_SKELLAM**2:
        raise PrivacyError(
            f"variance of Skellam noise must be > 0 and at most 2^30, got {variance}; lower it, or use the "
            "discrete Gaussian"
        )
    magnitudes, stream = _skellam(variance), Stream(_key=_key)
    drawn = np.empty(_checked(size), dtype=np.int64)
    for start in range(0, size, _PART):
        part = drawn[start : start + _PART]
        part[:] = magnitudes.draw(stream.words(len(part)), stream)
        negative = np.unpackbits(stream.bytes(-(-len(part) // 8)), count=len(part)).view(np.bool_)
        np.negative(part, out=part, where=negative)
    return drawn


def _checked(size: int) -> int:
    if not (isinstance(size, int) and size >= 0):
        raise PrivacyError(f"size must be a whole number of at least 0, got {size}")
    return size


class _Shape(Protocol):
    """The logarithm of a distribution, and its blocks."""

    def edge(self, k: int) -> Fraction:
        """E_k."""
        ...

    def start(self, k: int) -> int:
        """The least i >= 0 with e(i) >= E_k."""
        ...

    def excess(self, i: Vector, k: Vector) -> Floats:
        """e(i) - E_k, at least 0, within 2^-39 for i in block k < 64."""
        ...

    def exactly(self, i: int, k: int) -> Fraction:
        """The same, exactly."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Gaussian:
    variance: float

    def edge(self, k: int) -> Fraction:
        return Fraction(k * k, 2)

    def start(self, k: int) -> int:
        # The least i with i^2 >= k^2 variance.
        return math.isqrt(math.ceil(k * k * Fraction(self.variance)) - 1) + 1 if k else 0

    def excess(self, i: Vector, k: Vector) -> Floats:
        distance: Floats = np.square(i.astype(np.float64))
        distance /= 2 * self.variance
        distance -= 0.5 * np.square(k.astype(np.float64))
        return np.maximum(distance, 0, out=distance)

    def exactly(self, i: int, k: int) -> Fraction:
        return i * i / (2 * Fraction(self.variance)) - self.edge(k)


@dataclass(frozen=True, kw_only=True)
class _Laplace:
    scale: float

    def edge(self, k: int) -> Fraction:
        return Fraction(k)

    def start(self, k: int) -> int:
        return math.ceil(k * Fraction(self.scale))

    def excess(self, i: Vector, k: Vector) -> Floats:
        distance: Floats = i / self.scale
        distance -= k
        return np.maximum(distance, 0, out=distance)

    def exactly(self, i: int, k: int) -> Fraction:
        return i / Fraction(self.scale) - k


@dataclass(frozen=True, kw_only=True, eq=False)
class _Blocks:
    """``choice``: of k; ``starts[k]``: the first i of block k, for all blocks but those that hardly occur."""

    shape: _Shape
    choice: Inversion
    starts: Vector

    @classmethod
    def of(cls, shape: _Shape) -> _Blocks:
        return cls(
            shape=shape, choice=Inversion.of(_falling(shape)), starts=_starts(shape, np.arange(_BLOCKS + 1))
        )

    def places(self, k: Vector) -> tuple[Vector, Vector]:
        """The first i of blocks ``k``, and the first i beyond them."""
        if k.max(initial=0) < _BLOCKS:
            return self.starts[k], self.starts[k + 1]
        return _starts(self.shape, k), _starts(self.shape, k + 1)


def _starts(shape: _Shape, blocks: Vector) -> Vector:
    return np.array([shape.start(k) for k in blocks.tolist()], dtype=np.int64)


@lru_cache(maxsize=64)
def _gaussian(variance: float) -> _Blocks:
    return _Blocks.of(_Gaussian(variance=variance))


@lru_cache(maxsize=64)
def _laplace(scale: float) -> _Blocks:
    return _Blocks.of(_Laplace(scale=scale))


def _draw(blocks: _Blocks, size: int, stream: Stream) -> Vector:
    drawn, done = np.empty(size, dtype=np.int64), 0
    while done < size:
        part = _accepted(blocks, min(_PART, (size - done) * 2 + 32), stream)[: size - done]
        drawn[done : done + len(part)] = part
        done += len(part)
    return drawn


def _accepted(blocks: _Blocks, attempts: int, stream: Stream) -> Vector:
    """What as many ``attempts`` give, in their order; they don't depend on one another."""
    words = stream.words(3 * attempts).reshape(3, attempts)
    k = blocks.choice.draw(words[0], stream)
    # The first block is the longest: ceil(a + b) - ceil(a) <= ceil(b).
    i, kept = below(int(blocks.starts[1]), words[1])
    first, end = blocks.places(k)
    i += first
    kept &= i < end
    chosen = np.flatnonzero(kept)
    i, k, last = i[chosen], k[chosen], words[2][chosen]
    # One bit of the last word is the sign, the others decide.
    negative = (last & np.uint64(1)).astype(np.bool_)
    taken = _bernoulli(blocks.shape, i, k, last >> np.uint64(1), stream)
    taken &= ~(negative & (i == 0))
    np.negative(i, out=i, where=negative)
    return i[taken]


def _bernoulli(shape: _Shape, i: Vector, k: Vector, words: Words, stream: Stream) -> NDArray[np.bool_]:
    """True with probability exp(-(e(i) - E_k)); ``words``: 63 uniform bits each."""
    uniform = words.astype(np.float64) * 2.0**-63
    likely = np.exp(-shape.excess(i, k))
    taken: NDArray[np.bool_] = uniform < likely
    doubtful = np.abs(uniform - likely) <= _BAND * likely + 2.0**-62
    doubtful |= k >= _BLOCKS
    for index in np.flatnonzero(doubtful):
        exponent = shape.exactly(int(i[index]), int(k[index]))
        taken[index] = _decide(int(words[index]), exponent, stream)
    return taken


def _decide(word: int, exponent: Fraction, stream: Stream) -> bool:
    """Whether u < exp(-exponent), for a uniform u that ``word`` has the first 63 bits of."""
    bits = 63
    while True:
        word, bits = word << MORE | stream.number(MORE), bits + MORE
        likely = _exp(exponent, bits)
        if word + 2 <= likely:
            return True
        if word >= likely + 2:
            return False


def _exp(exponent: Fraction, bits: int) -> int:
    """2^bits exp(-exponent) within (-1, 2): at least 1 less than what this returns, at most 2 more."""
    with mp.workprec(bits + 64):
        return int(mp.floor(mp.ldexp(mp.exp(-mpf(exponent.numerator) / exponent.denominator), bits)))


def _falling(shape: _Shape) -> Weights:
    """exp(-E_k); from k = 1 on, each is less than half the one before."""

    def weights(bits: int) -> tuple[list[int], list[int]]:
        # Those from K >= 1 on add up to less than 2 exp(-E_K); ln 2 < 0.6932.
        listed = next(k for k in count(1) if shape.edge(k) > (bits + 1) * Fraction("0.6932"))
        values = [_exp(shape.edge(k), bits + 16) for k in range(listed)]
        return [max(0, value - 1) for value in values], [value + 2 for value in values]

    return weights


# --- Skellam -----------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _skellam(variance: float) -> Inversion:
    """Of magnitudes: P(0), and twice P(k) for the others."""
    return Inversion.of(lambda bits: _bessel(variance, bits))


def _bessel(variance: float, bits: int) -> tuple[list[int], list[int]]:
    """Weights I_0(variance), 2 I_1(variance), 2 I_2(variance), ... in units of 2^-precision I_0."""
    precision, exact = bits + 32, Fraction(variance)
    # 2^precision I_k / I_(k-1), from below and from above. The first are loose, where hardly anything is.
    least, most, ratios = 0, 1 << precision, []
    numerator, step = exact.numerator << 2 * precision, 2 * exact.denominator << precision
    for k in range(_beyond(variance, 0.7 * bits + 8), 0, -1):
        least, most = (
            numerator // (step * k + exact.numerator * most),
            min(-(-numerator // (step * k + exact.numerator * least)), 1 << precision),
        )
        ratios.append((least, most))
    low = high = 1 << precision
    smallest, largest = [low], [high]
    for least, most in reversed(ratios):
        low, high = low * least >> precision, -(-high * most >> precision)
        smallest.append(2 * low)
        largest.append(2 * high)
    return smallest, largest


def _beyond(variance: float, nats: float) -> int:
    """A k with P(|X| > k) <= 2 exp(-nats).

    Chernoff: ln P(X >= k) <= -(k asinh(k / m) - sqrt(k^2 + m^2) + m), m the variance; floats are off by 2^-20
    at most, and 1 is to spare.
    """
    k = 1
    while not k * math.asinh(k / variance) - math.hypot(k, variance) + variance > nats + 1:
        k += 1 + k // 16
    return k
