"""Rings of 8, 16, 32 and 64 bits: the narrowest in which a noisy sum of grid points doesn't wrap.

Masks need sums modulo a power of two. A sum in [0, n * (2**bits - 1)] plus noise is decoded around that
interval, widened on both sides by a tail bound of the noise. The noise itself is never truncated: a value
beyond the tail bound is decoded wrongly by a multiple of the ring, at most once in 2**40 rounds. That costs
utility, not privacy, for wrapping is post-processing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.quantise import check_bits
from securefd.errors import SealingError

BITS = (8, 16, 32, 64)
WRAP = 2.0**-40
"""Largest probability that any coordinate of a sum wraps."""


@dataclass(frozen=True, kw_only=True)
class Ring:
    """The integers modulo 2**bits, as unsigned words of the same width.

    ``values.astype(ring.dtype)`` puts int64 values, negative ones too, into the ring.
    """

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise SealingError(f"a ring must have 8, 16, 32 or 64 bits, got {self.bits}")

    @property
    def width(self) -> int:
        """Bytes of a word."""
        return self.bits // 8

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian unsigned words."""
        return np.dtype(f"<u{self.width}")

    @property
    def span(self) -> int:
        """How many consecutive integers can be told apart: 2**bits, but 2**63 at 64 bits, to fit in int64."""
        return 1 << min(self.bits, 63)

    def decode(self, total: NDArray[Any], *, low: int) -> NDArray[np.int64]:
        """Map words to the integers, equal modulo the ring, that count up from ``low``; same shape, int64.

        With ``low = -tail(deviation, size)`` and a ring from ``narrowest`` the result is the sum itself,
        unless it wrapped. An honest sum is at most ``low + span - 1``; at 64 bits others come out anywhere.
        ``SealingError`` for another dtype than the ring's, or ``low`` outside [-2**62, 0].
        """
        if total.dtype != self.dtype:
            raise SealingError(f"words of this ring must be {self.dtype}, got {total.dtype}")
        if not -(1 << 62) <= low <= 0:
            raise SealingError(f"low must be in [-2**62, 0], got {low}")
        # Unsigned arithmetic wraps as the ring does.
        above: NDArray[Any] = total - self.dtype.type(low % (1 << self.bits))
        return above.astype(np.int64) + low


def tail(deviation: float, size: int) -> int:
    """Return A such that each of ``size`` noise values is in [-A, A], all together but for 2**-40.

    With ln(2 * size * 2**40) = s, A = ceil(deviation * sqrt(2 * s) + s / 3), and 0 without noise.

    Proven for noise X with ln E exp(tX) <= deviation**2 * t**2 / (2 * (1 - |t| / 3)) for |t| < 3: then
    P(|X| > A) <= 2 * exp(-s) (Boucheron, Lugosi, Massart 2013, section 2.4: sub-gamma with scale 1/3), and a
    union bound over ``size`` values, dependent or not. Independent sums of such noise are such noise, their
    deviations adding in squares. These are covered:

    - Discrete Gaussian (Canonne, Kamath, Steinke 2020) with parameter ``deviation``, and every noise that is
      sub-Gaussian with it: ln E exp(tX) <= deviation**2 * t**2 / 2, because E exp(tX) is exp(that) times
      a sum of exp(-(x - t * deviation**2)**2 / (2 * deviation**2)) over the same sum at t = 0, and of all
      shifts none has the largest sum (Poisson summation). For these P(|X| > A) <= 2 exp(-A**2 /
      (2 * deviation**2)) holds alone, so that s / 3 is to spare.
    - Skellam of variance ``deviation**2``: ln E exp(tX) = deviation**2 * (cosh t - 1), whose k-th term
      t**(2k) / (2k)! is at most t**2 / 2 * (|t| / 3)**(2k - 2). It is not sub-Gaussian: s / 3 is needed.

    Not covered: discrete Laplace, whose tail is wider. ``SealingError`` for a deviation outside [0, 2**63),
    or size < 1.
    """
    if not 0 <= deviation < 2.0**63:
        raise SealingError(f"noise_deviation must be in [0, 2**63), got {deviation}; lower the noise")
    if not size >= 1:
        raise SealingError(f"size must be >= 1, got {size}")
    if deviation == 0:
        return 0
    s = math.log(2 * size) - math.log(WRAP)
    return math.ceil(deviation * math.sqrt(2 * s) + s / 3)


def narrowest(*, bits: int, n_clients: int, size: int = 1, noise_deviation: float = 0.0) -> Ring:
    """Return the narrowest ring for the sum of ``n_clients`` vectors of ``size`` values in [0, 2**bits).

    ``noise_deviation``: of the noise on each coordinate of the sum, all clients' shares together; see
    ``tail`` for which noise. Without noise nothing wraps; with it, any of the ``size`` coordinates wraps with
    probability <= 2**-40. ``SealingError`` for bits outside 1..32, n_clients < 1, or over 63 bits of sums.
    """
    check_bits(bits)
    if not n_clients >= 1:
        raise SealingError(f"n_clients must be >= 1, got {n_clients}")
    needed = n_clients * ((1 << bits) - 1) + 1 + 2 * tail(noise_deviation, size)
    for ring in (Ring(bits=width) for width in BITS):
        if needed <= ring.span:
            return ring
    raise SealingError(
        f"{n_clients} clients of {bits} bits with noise of deviation {noise_deviation} need {needed} "
        "ring elements, and at most 2**63 are there; lower the bits or the noise"
    )
