"""Attacks that rank a model's confidence in a record: among the population's, or among other models'."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.known import check_references, finite, knowable, some, within_steps
from securefd.errors import AuditError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def population_rank(target: Floats, population: Floats) -> Floats:
    """Attack-P: the share of non-members that the same model fits worse than the record.

    ``target``: ``(t, n)`` logit-scaled confidences, ``population``: ``(t, z)``. Returns ``(t, n)`` in (0, 1);
    ties count half, and between two population records the confidence itself decides. The population isn't
    split by class: within a model this ranks as the loss does, but a threshold means the same for every
    model. What is hard for its class or features is what ``excess_over_quantile`` allows for.

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks"; Attack P.

    Raises:
        AuditError: shapes that don't fit, NaN, or an empty population.
    """
    target, population = finite(target, "target"), finite(population, "population")
    if target.ndim != 2 or population.ndim != 2 or len(target) != len(population) or not population.shape[1]:
        raise AuditError(
            f"target must be (t, n) and population (t, z) with z >= 1, "
            f"got {target.shape} and {population.shape}"
        )
    scores = np.empty(target.shape)
    for row, (own, others) in enumerate(zip(target, np.sort(population, axis=1), strict=True)):
        below = np.searchsorted(others, own, side="left")
        not_above = np.searchsorted(others, own, side="right")
        scores[row] = within_steps((below + not_above) / 2, others.size, own)
    return scores


def reference_rank(target: Floats, shadows: Floats, membership: Bools) -> Floats:
    """Attack-R: the share of models that didn't train on the record and are less confident in it.

    ``target``: ``(t, n)`` logit-scaled confidences, ``shadows`` and ``membership``: ``(m, n)``. Returns
    ``(t, n)`` in (0, 1), NaN for records without 2 OUT shadows; ties count half. A share of so few models
    has few values, so within a step the distance from their mean decides.

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks"; Attack R.

    Raises:
        AuditError: shapes that don't fit, NaN, membership all one value, or no record that can be scored.
    """
    target, shadows = check_references(target, shadows, membership)
    kept = some(knowable(membership), len(shadows), online=False)
    shadows, outside = shadows[:, kept], ~membership[:, kept]
    count = outside.sum(axis=0)
    mean = np.where(outside, shadows, 0.0).sum(axis=0) / count
    spread = float(np.sqrt(np.mean(((shadows - mean)[outside]) ** 2))) + 1e-30
    scores = np.full(target.shape, np.nan)
    for row, own in enumerate(target[:, kept]):
        below = ((shadows < own) & outside).sum(axis=0)
        ties = ((shadows == own) & outside).sum(axis=0)
        scores[row, kept] = within_steps(below + ties / 2, count, (own - mean) / spread)
    return scores
