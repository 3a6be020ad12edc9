"""LiRA on several confidences a record at once: those of all rounds, or those at public inputs nearby.

The record itself need never be asked: what a model learnt from it also shows at inputs like it, and how
that changed from round to round tells more than where it ended.

Sources: Jagielski et al. 2023, "Students Parrot Their Teachers", for indirect queries; Liu et al. 2022,
"Membership Inference Attacks by Exploiting Loss Trajectory", for rounds as one signal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from securefd.attacks.known import attackable, check_membership, finite, some
from securefd.errors import AuditError

RIDGE = 1e-6
"""Of the mean variance, added to every variance: rounds that hardly differ leave a singular matrix."""

_TINY_VARIANCE = 1e-60

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def vector_lira(target: Floats, shadows: Floats, membership: Bools) -> Floats:
    """Log-likelihood ratio of IN against OUT between two k-dimensional Gaussians a record.

    ``target``: ``(t, n, k)`` signals of the attacked models, ``shadows``: ``(m, n, k)`` of shadow models,
    ``membership``: ``(m, n)``. Returns ``(t, n)``, NaN for records without 2 IN and 2 OUT shadows.

    Centres are means; the two covariances are pooled over records from residuals, and shrunk, since no
    record has shadows enough for k (k + 1) / 2 entries of its own.

    Raises:
        AuditError: shapes that don't fit, NaN, membership all one value, or no record that can be scored.
    """
    target, shadows = finite(target, "target"), finite(shadows, "shadows")
    if target.ndim != 3 or shadows.ndim != 3 or target.shape[1:] != shadows.shape[1:]:
        raise AuditError(
            f"target must be (t, n, k) and shadows (m, n, k), got {target.shape} and {shadows.shape}"
        )
    if membership.shape != shadows.shape[:2]:
        raise AuditError(f"membership must be {shadows.shape[:2]}, got {membership.shape}")
    check_membership(membership)
    kept = np.flatnonzero(some(attackable(membership), len(shadows), online=True))
    scores = np.full(target.shape[:2], np.nan)
    inside = _Gaussians.fit(shadows[:, kept], membership[:, kept])
    outside = _Gaussians.fit(shadows[:, kept], ~membership[:, kept])
    scores[:, kept] = inside.log_density(target[:, kept]) - outside.log_density(target[:, kept])
    return scores


@dataclass(frozen=True, kw_only=True, eq=False)
class _Gaussians:
    """``centres`` ``(n, k)`` of each record, and the lower Cholesky factor ``(k, k)`` of one covariance."""

    centres: Floats = field(repr=False)
    factor: Floats = field(repr=False)

    @classmethod
    def fit(cls, values: Floats, used: Bools) -> _Gaussians:
        """To ``values`` ``(m, n, k)`` where ``used``, which is twice or more for each record."""
        count = used.sum(axis=0)
        centres = np.einsum("mn,mnk->nk", used.astype(np.float64), values) / count[:, None]
        # A residual from the mean of c values has (c - 1) / c of their variance.
        stretch = np.sqrt(count / (count - 1))
        residuals = ((values - centres) * stretch[:, None])[used]
        return cls(centres=centres, factor=cholesky(shrunk_covariance(residuals), lower=True))

    def log_density(self, target: Floats) -> Floats:
        """``(t, n)`` at ``target`` ``(t, n, k)``, up to a constant."""
        deviations = (target - self.centres).reshape(-1, target.shape[2])
        white = solve_triangular(self.factor, deviations.T, lower=True)
        squares = (white**2).sum(axis=0).reshape(target.shape[:2])
        return np.asarray(-0.5 * squares - np.log(np.diag(self.factor)).sum(), dtype=np.float64)


def shrunk_covariance(residuals: Floats) -> Floats:
    """``(k, k)`` of centred residuals ``(N, k)``, drawn towards a multiple of the identity, plus a ridge.

    Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices".
    """
    size, k = residuals.shape
    covariance = residuals.T @ residuals / size
    mean = float(np.trace(covariance)) / k
    distance = float(((covariance - mean * np.eye(k)) ** 2).sum())
    fourth = float(((residuals**2).sum(axis=1) ** 2).sum()) / size
    noise = max(fourth - float((covariance**2).sum()), 0.0) / size
    shrinkage = min(noise / distance, 1.0) if distance > 0 else 0.0
    shrunk = (1 - shrinkage) * covariance + shrinkage * mean * np.eye(k)
    return np.asarray(shrunk + (RIDGE * mean + _TINY_VARIANCE) * np.eye(k), dtype=np.float64)
