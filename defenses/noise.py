"""Exact integer noise for counts of records."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.charges import DiscreteLaplace
from securefd.defenses.claims import RELATIONS, Relation
from securefd.defenses.samplers import discrete_laplace
from securefd.errors import PrivacyError


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

    def __call__(self, counts: NDArray[np.int64], *, _key: bytes | None = None) -> NDArray[np.int64]:
        """Return noisy counts of the same shape, int64, at least 0. Drawn anew, and charged, at each call."""
        if counts.dtype.kind not in "iu":
            raise PrivacyError(f"counts must be whole numbers, got dtype {counts.dtype}")
        if counts.size and not counts.min() >= 0:
            raise PrivacyError(f"counts must be at least 0, got {counts.min()}")
        # Rounded up, so that there is never less noise than was charged for.
        scale = math.nextafter(1 / self.parameter, math.inf)
        noise = discrete_laplace(scale, counts.size, _key=_key).reshape(counts.shape)
        noisy: NDArray[np.int64] = np.maximum(counts + noise, 0).astype(np.int64)
        return noisy
