"""Exact integer noise for counts: discrete Laplace from rational arithmetic, nothing rounded.

Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy (2020), Algorithms 1 and 2.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.charges import DiscreteLaplace
from securefd.defenses.claims import RELATIONS, Relation
from securefd.errors import PrivacyError

Below = Callable[[int], int]
"""``below(n)``: a uniform integer in [0, n)."""


@dataclass(frozen=True, kw_only=True)
class CountNoise:
    """Add discrete Laplace noise to a histogram of records, once; then clamp it at 0.

    Unit of privacy: one record, which adds 1 to exactly one count. Under ``add-or-remove`` the histogram
    moves by 1 in L1, under ``replace-one`` by 2; either way the noisy histogram is ``epsilon``-DP with
    delta 0. Clamping is post-processing.
    """

    epsilon: float
    relation: Relation

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise PrivacyError(f"epsilon of the counts must be > 0 and finite, got {self.epsilon}")
        if self.relation not in RELATIONS:
            raise PrivacyError(f"relation must be one of {', '.join(RELATIONS)}, got {self.relation!r}")

    @property
    def parameter(self) -> float:
        """P(noise = x) is proportional to exp(-parameter * |x|)."""
        return self.epsilon / 2 if self.relation == "replace-one" else self.epsilon

    @property
    def charge(self) -> DiscreteLaplace:
        """What one noisy histogram costs; the accounting doubles the sensitivity for ``replace-one``."""
        return DiscreteLaplace(parameter=self.parameter, sensitivity=1)

    def __call__(self, counts: NDArray[np.int64], *, _below: Below = secrets.randbelow) -> NDArray[np.int64]:
        """Return noisy counts of the same shape, int64, at least 0. Drawn anew, and charged, at each call."""
        if counts.dtype.kind not in "iu":
            raise PrivacyError(f"counts must be whole numbers, got dtype {counts.dtype}")
        if counts.size and not counts.min() >= 0:
            raise PrivacyError(f"counts must be at least 0, got {counts.min()}")
        parameter = Fraction(self.parameter)
        noisy = [max(0, int(count) + discrete_laplace(parameter, _below)) for count in counts.ravel()]
        return np.array(noisy, dtype=np.int64).reshape(counts.shape)


def noisy_counts(counts: NDArray[np.int64], epsilon: float, relation: Relation) -> NDArray[np.int64]:
    """Return ``counts`` with the noise of ``CountNoise``, whose ``charge`` must have been paid before."""
    return CountNoise(epsilon=epsilon, relation=relation)(counts)


def discrete_laplace(parameter: Fraction, below: Below = secrets.randbelow) -> int:
    """Draw x with P(x) = tanh(a/2) exp(-a |x|) for a = ``parameter`` > 0, exactly (Algorithm 2)."""
    # a = s/t: the magnitude is floor((u + t v) / s), u uniform below t kept with exp(-u/t), v geometric.
    s, t = parameter.numerator, parameter.denominator
    while True:
        u = below(t)
        if not _bernoulli_exp_below_one(u, t, below):
            continue
        v = 0
        while _bernoulli_exp_below_one(1, 1, below):
            v += 1
        magnitude = (u + t * v) // s
        negative = below(2) == 1
        if not (negative and magnitude == 0):
            return -magnitude if negative else magnitude


def _bernoulli_exp_below_one(numerator: int, denominator: int, below: Below) -> bool:
    """Return True with probability exp(-numerator/denominator), for a quotient in [0, 1] (Algorithm 1)."""
    k = 1
    while below(denominator * k) < numerator:
        k += 1
    return k % 2 == 1
