"""RMIA: is a record better fitted, for its difficulty, than records that nobody trained on?

Source: Zarifzadeh et al. 2024, "Low-Cost High-Power Membership Inference Attacks". The ratio
``p(x | target) / p(x)`` of a record is compared with that of each record z of a population, and the score is
the share of z that it exceeds ``GAMMA`` times. Only reserved non-members serve as z. Such a share ties many
records, so within a step records are ordered by the ratio itself, which the share grows with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.known import attackable, check_references, finite, knowable, some, within_steps
from securefd.attacks.signals import TINY, log_probability_of, probability_of
from securefd.errors import AuditError

GAMMA = 1.0
"""By how much a record's ratio must exceed a population record's. Within one model any value ranks alike."""

OFFLINE_A = 0.6
"""``p_in`` is taken for ``a p_out + (1 - a)``. Fixed beforehand: tuning it would need members of the target.

At 1 training a model on a record changes nothing, at 0 it makes the model certain of the record's label.
"""

_BLOCK = 1 << 19

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def rmia(
    target: Floats, population: Floats, shadows: Floats, shadows_population: Floats, membership: Bools
) -> Floats:
    """Online: ``p(x)`` is the mean of the IN and the OUT shadows' means.

    Logit-scaled confidences: ``target`` ``(t, n)`` and ``population`` ``(t, z)`` of the attacked models,
    ``shadows`` ``(m, n)`` and ``shadows_population`` ``(m, z)`` of shadow models, none of which trained on
    the population. Returns ``(t, n)`` in (0, 1), NaN for records without 2 IN and 2 OUT shadows.

    Raises:
        AuditError: shapes that don't fit, NaN, membership all one value, or no record that can be scored.
    """
    target, shadows = check_references(target, shadows, membership)
    scored = some(attackable(membership), len(shadows), online=True)
    inside, outside = _means(shadows, membership)
    _, usual = _means(shadows_population, np.zeros(shadows_population.shape, dtype=np.bool_))
    return _shares(target, population, (inside + outside) / 2, usual, scored)


def rmia_offline(
    target: Floats, population: Floats, shadows: Floats, shadows_population: Floats, membership: Bools
) -> Floats:
    """Offline: ``p(x) = ((1 + a) mean_out + (1 - a)) / 2`` from OUT shadows alone, with ``OFFLINE_A``.

    Shapes and errors as for ``rmia``; NaN for records without 2 OUT shadows.
    """
    target, shadows = check_references(target, shadows, membership)
    scored = some(knowable(membership), len(shadows), online=False)
    _, outside = _means(shadows, membership)
    _, usual = _means(shadows_population, np.zeros(shadows_population.shape, dtype=np.bool_))
    return _shares(target, population, _with_guess(outside), _with_guess(usual), scored)


def _with_guess(outside: Floats) -> Floats:
    return np.asarray(((1 + OFFLINE_A) * outside + (1 - OFFLINE_A)) / 2, dtype=np.float64)


def _means(confidence: Floats, membership: Bools) -> tuple[Floats, Floats]:
    """Mean probabilities ``(n,)`` of the IN and of the OUT models among ``(m, n)``; 0 of none."""
    inside, outside = np.zeros(confidence.shape[1]), np.zeros(confidence.shape[1])
    size = max(1, _BLOCK // len(confidence))
    for start in range(0, confidence.shape[1], size):
        block = slice(start, start + size)
        values, member = probability_of(confidence[:, block]), membership[:, block]
        n_in = member.sum(axis=0)
        inside[block] = (values * member).sum(axis=0) / np.maximum(n_in, 1)
        outside[block] = (values * ~member).sum(axis=0) / np.maximum(len(values) - n_in, 1)
    return inside, outside


def _shares(target: Floats, population: Floats, usual_x: Floats, usual_z: Floats, scored: Bools) -> Floats:
    population = finite(population, "population")
    if population.ndim != 2 or target.ndim != 2 or population.shape != (len(target), len(usual_z)):
        raise AuditError(
            f"target must be (t, n), population (t, z) and the shadows' (m, z), "
            f"got {target.shape}, {population.shape} and z = {len(usual_z)}"
        )
    if not len(usual_z):
        raise AuditError("the population must hold at least one record, got none")
    ratios = log_probability_of(target) - np.log(usual_x + TINY)
    others = np.sort(log_probability_of(population) - np.log(usual_z + TINY), axis=1)
    scores = np.full(target.shape, np.nan)
    for row, (ratio, other) in enumerate(zip(ratios, others, strict=True)):
        exceeded = np.searchsorted(other, ratio[scored] - np.log(GAMMA), side="right")
        scores[row, scored] = within_steps(exceeded, other.size, ratio[scored])
    return scores
