"""Membership attacks as pure functions of signals: was this record trained on? Higher = more likely."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from securefd.errors import AuditError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ENOUGH_FOR_OWN_SPREAD = 32
"""From so many IN and OUT shadows of every record on, each record's own standard deviation is used."""

LEAST_SHADOWS = 2
"""A record needs so many IN and so many OUT shadows, or it has no spread at all."""


def loss_attack(confidence: Floats) -> Floats:
    """Minus the cross-entropy, from logit-scaled confidences of any shape: needs no shadows.

    Source: Yeom et al. 2018, "Privacy Risk in Machine Learning", adversary 2, as a score. With
    probabilities that sum to 1, ``p_y = 1 / (1 + exp(-phi))``.
    """
    return np.asarray(-np.logaddexp(0.0, -_finite(confidence, "confidence")), dtype=np.float64)


def lira(target: Floats, shadows: Floats, membership: Bools) -> Floats:
    """Likelihood ratio of IN against OUT, online, with a Gaussian for each record.

    ``target``: ``(n,)`` logit-scaled confidences of the attacked model, or ``(..., n)`` of several.
    ``shadows``: ``(m, n)`` those of shadow models. ``membership``: ``(m, n)`` whether shadow m trained on
    record n. Returns scores of the target's shape.

    Centres are medians. Spreads are each record's own if every record has 32 IN and 32 OUT shadows,
    otherwise pooled over records from the residuals (not from raw values, which differ between records).

    Source: Carlini et al. 2022, algorithm 1; medians and residuals as in TF-Privacy's ``compute_score_lira``.

    Raises:
        AuditError: shapes that don't fit, NaN, or records without enough IN or OUT shadows.
    """
    target, shadows = _finite(target, "target"), _finite(shadows, "shadows")
    if shadows.ndim != 2 or target.shape[-1:] != shadows.shape[1:] or membership.shape != shadows.shape:
        raise AuditError(
            f"target must be (..., n), shadows and membership (m, n), "
            f"got {target.shape}, {shadows.shape} and {membership.shape}"
        )
    if membership.dtype != np.bool_:
        raise AuditError(f"membership must be boolean, got {membership.dtype}")
    lacking = int((~attackable(membership)).sum())
    if lacking:
        raise AuditError(
            f"{lacking} of {shadows.shape[1]} records have fewer than {LEAST_SHADOWS} IN or "
            f"{LEAST_SHADOWS} OUT shadows among {len(shadows)}; run more shadows or leave these records out"
        )
    n_in, n_out = membership.sum(axis=0), (~membership).sum(axis=0)
    own_spread = bool(min(n_in.min(), n_out.min()) >= ENOUGH_FOR_OWN_SPREAD)
    return _log_density(target, shadows, membership, own_spread) - _log_density(
        target, shadows, ~membership, own_spread
    )


def attackable(membership: Bools, least: int = LEAST_SHADOWS) -> Bools:
    """Which records ``(n,)`` have ``least`` IN and ``least`` OUT shadows or more; membership ``(m, n)``."""
    n_in = membership.sum(axis=0)
    return np.asarray((n_in >= least) & (len(membership) - n_in >= least), dtype=np.bool_)


def _log_density(target: Floats, shadows: Floats, used: Bools, own_spread: bool) -> Floats:
    """Log of the Gaussian that the used shadows make of each record, at ``target``, up to a constant."""
    count = used.sum(axis=0)
    centre = _median(shadows, used, count)
    if own_spread:
        mean = np.where(used, shadows, 0.0).sum(axis=0) / count
        variance = np.where(used, (shadows - mean) ** 2, 0.0).sum(axis=0) / count
        spread = np.sqrt(variance) + 1e-30
    else:
        spread = np.full_like(centre, np.std((shadows - centre)[used]) + 1e-30)
    return np.asarray(-0.5 * ((target - centre) / spread) ** 2 - np.log(spread), dtype=np.float64)


def _median(values: Floats, used: Bools, count: NDArray[np.int64]) -> Floats:
    """Median down the first axis over the used entries."""
    ordered = np.sort(np.where(used, values, np.inf), axis=0)
    low = np.take_along_axis(ordered, ((count - 1) // 2)[None], axis=0)[0]
    high = np.take_along_axis(ordered, (count // 2)[None], axis=0)[0]
    return np.asarray((low + high) / 2, dtype=np.float64)


def _finite(values: Floats, name: str) -> Floats:
    checked = np.asarray(values, dtype=np.float64)
    if not np.isfinite(checked).all():
        raise AuditError(f"{name} must be finite; {int((~np.isfinite(checked)).sum())} values are not")
    return checked
