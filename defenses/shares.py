"""Integer noise on vectors of answers, one share a party, and what it costs towards whoever knows some of it.

Shares are added before anything is sealed, as integers on the answers' grid, and never cut off. What an
observer doesn't know of the noise protects from it: all shares but its own and those of its colluders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.charges import (
    Charge,
    DiscreteGaussian,
    GaussianShares,
    RandomisedResponse,
    Skellam,
    Votes,
)
from securefd.defenses.rounding import Uniform
from securefd.defenses.samplers import LARGEST_DEVIATION, LARGEST_SKELLAM, discrete_gaussian, skellam
from securefd.defenses.sensitivity import Sensitivity
from securefd.errors import PrivacyError

Kind = Literal["discrete-gaussian", "skellam"]
Vector = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class NoiseShare:
    """One party's noise on every entry of a vector, of this ``variance`` in grid steps, squared.

    Unit of privacy and relation: those of the sensitivity that it is charged with.
    """

    kind: Kind
    variance: float

    def __post_init__(self) -> None:
        largest = (LARGEST_DEVIATION if self.kind == "discrete-gaussian" else LARGEST_SKELLAM) ** 2
        if not 0 < self.variance <= largest:
            raise PrivacyError(
                f"variance of a share of {self.kind} noise must be > 0 and at most {largest:g} grid steps, "
                f"squared, got {self.variance:g}; use fewer bits for each value, or a larger epsilon"
            )

    def draw(self, size: int) -> Vector:
        """Run by one party, after it has paid: ``(size,)`` fresh noise, from the operating system's keys."""
        sampler = discrete_gaussian if self.kind == "discrete-gaussian" else skellam
        return sampler(self.variance, size)

    def charge(
        self, sensitivity: Sensitivity, *, entries: int, unknown: int, votes: tuple[int, int] | None = None
    ) -> Charge:
        """What one sum of ``entries`` values costs towards whoever doesn't know ``unknown`` shares.

        ``votes``: how many answers there are, and how many classes, where each is one vote, whole.
        """
        if not unknown >= 1:
            raise PrivacyError(f"at least 1 share must be unknown to an observer, got {unknown}")
        if self.kind == "skellam":
            return Skellam(variance=self.variance * unknown, sensitivity=sensitivity)
        if votes is not None:
            return Votes(variance=self.variance, shares=unknown, answers=votes[0], classes=votes[1])
        if unknown == 1:
            return DiscreteGaussian(variance=self.variance, sensitivity=sensitivity)
        return GaussianShares(
            variance=self.variance, shares=unknown, entries=entries, sensitivity=sensitivity
        )


def respond(votes: Vector, charge: RandomisedResponse, uniform: Uniform) -> Vector:
    """Run by one client, after it has paid: each of its top classes, kept or drawn anew.

    ``votes``: ``(answers * classes,)`` 0 and 1, one 1 for each answer. Warner 1965, for many classes; the
    probability of drawing anew is exact, since it is a multiple of 2**-32 (`response_noise`).
    """
    rows = votes.reshape(charge.answers, charge.classes)
    if not (rows.sum(axis=-1) == 1).all() or rows.min() < 0:
        raise PrivacyError("randomised response takes one class for each answer; answer with top classes")
    anew = uniform(charge.answers) < round(charge.noise * 2**32)
    drawn = _below(charge.classes, charge.answers, uniform)
    labels = np.where(anew, drawn, rows.argmax(axis=-1))
    sent: Vector = (np.arange(charge.classes) == labels[:, None]).astype(np.int64).ravel()
    return sent


def response_noise(classes: int, epsilon: float) -> float:
    """Probability of drawing a class anew with which each answer by itself is ``epsilon``-DP.

    C / (e^epsilon - 1 + C) for C classes, rounded up to a multiple of 2**-32. Relation: replace-one.
    """
    if not epsilon > 0:
        raise PrivacyError(f"epsilon of an answer must be > 0, got {epsilon}")
    noise = classes / (math.expm1(min(epsilon, 700)) + classes)
    return min(1.0, math.ceil(noise * 2**32) / 2**32)


def debiased(mean: NDArray[np.float64], noise: float, classes: int) -> NDArray[np.float64]:
    """Turn the mean of randomised votes, ``(m, C)``, into an unbiased estimate of the mean of true ones."""
    return np.asarray((mean - noise / classes) / (1 - noise), dtype=np.float64)


def _below(bound: int, size: int, uniform: Uniform) -> Vector:
    """``(size,)`` integers in [0, bound), each equally likely: draws that would favour some are dropped."""
    found = np.empty(0, dtype=np.int64)
    most = 2**32 - 2**32 % bound
    while found.size < size:
        drawn = uniform(size - found.size + 16)
        found = np.concatenate([found, drawn[drawn < most] % bound])
    return found[:size]
