"""Quantile regression: is a record fitted better than nearly all non-members that look like it?

Source: Bertran et al. 2023, "Scalable Membership Inference Attacks via Quantile Regression". Instead of
shadow models it needs records that the attacked model hasn't seen, with their features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from securefd.attacks.answers import Records
from securefd.attacks.known import finite
from securefd.errors import AuditError

LEVEL = 0.9
"""Of non-members: so many are fitted no better than the regression says."""

COMPONENTS = 16
"""Most principal components of the features that it looks at, besides the label."""

RIDGE = 0.2
"""Pull of all coefficients but the intercept towards 0, for columns of unit variance."""

SMOOTHING = 0.1
"""Width, in standard deviations of confidence, over which the pinball loss's kink is rounded."""

_ITERATIONS = 300
_FLAT = 1e-9
_CONSTANT = 1e-6
"""Columns that vary less among the population, in units of its features' size, are left out."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def excess_over_quantile(target: Floats, population: Floats, records: Records) -> Floats:
    """``phi - q(x, y)``: by how much confidences exceed what ``LEVEL`` of such non-members stay below.

    ``target``: ``(t, n)`` logit-scaled confidences, ``population``: ``(t, z)``. The quantile is linear in the
    leading principal components of the population's features and in the label; one regression a target, all
    of them at once. Returns ``(t, n)``.

    Raises:
        AuditError: shapes that don't fit, NaN, or records without features or population.
    """
    target, population = finite(target, "target"), finite(population, "population")
    at_records, at_population = _columns(records)
    sizes = (len(at_records), len(at_population))
    if target.ndim != 2 or population.ndim != 2 or (target.shape[1], population.shape[1]) != sizes:
        raise AuditError(
            f"target must be (t, {sizes[0]}) and population (t, {sizes[1]}), "
            f"got {target.shape} and {population.shape}"
        )
    mean = population.mean(axis=1, keepdims=True)
    scale = population.std(axis=1, keepdims=True) + _FLAT
    coefficients = fit_quantiles(at_population, (population - mean) / scale)
    return np.asarray(target - (mean + scale * (coefficients @ at_records.T)), dtype=np.float64)


def fit_quantiles(columns: Floats, values: Floats) -> Floats:
    """Coefficients ``(t, p)`` of the ``LEVEL`` quantiles of ``values`` ``(t, z)`` on ``columns`` ``(z, p)``.

    Minimises the pinball loss with its kink rounded by a logistic of width ``SMOOTHING``, plus a ridge on
    all but the first column. Its curvature is at most ``1 / (4 SMOOTHING)``, so steps with that bound in
    place of the Hessian always descend, and one Cholesky factor serves every step and target.

    Source: Hunter and Lange 2000, "Quantile Regression via an MM Algorithm", for the majorisation.
    """
    size = len(columns)
    pull = np.full(columns.shape[1], RIDGE)
    pull[0] = 0.0
    bound = columns.T @ columns / (4 * SMOOTHING * size) + np.diag(pull + _FLAT)
    factor = cho_factor(bound)
    coefficients = np.zeros((len(values), columns.shape[1]))
    for _ in range(_ITERATIONS):
        residuals = values - coefficients @ columns.T
        # The loss's slope: LEVEL far above the line, LEVEL - 1 far below.
        slope = LEVEL - 0.5 + 0.5 * np.tanh(residuals / (2 * SMOOTHING))
        descent = slope @ columns / size - pull * coefficients
        coefficients += cho_solve(factor, descent.T).T
    return coefficients


def _columns(records: Records) -> tuple[Floats, Floats]:
    """What the quantile is linear in, of the records ``(n, p)`` and of the population ``(z, p)``."""
    if records.features is None or records.population_features is None or records.population_labels is None:
        raise AuditError("quantile regression needs features of records and population; give both")
    if not len(records.population_labels):
        raise AuditError("the population must hold at least one record, got none")
    population = _flat(records.population_features, records.population_labels)
    features = _flat(records.features, records.labels)
    if features.shape[1] != population.shape[1]:
        raise AuditError(
            f"records and population must have as many features, got {features.shape[1]} and "
            f"{population.shape[1]}"
        )
    classes = np.unique(records.population_labels)
    middle, size = population.mean(axis=0), population.std() + _FLAT
    directions = _principal((population - middle) / size)

    def described(values: Floats, labels: Ints) -> Floats:
        return np.hstack([labels[:, None] == classes, (values - middle) / size @ directions])

    fitted = described(population, records.population_labels)
    asked = described(features, records.labels)
    mean, spread = fitted.mean(axis=0), fitted.std(axis=0)
    varies = spread > _CONSTANT
    at_records, at_population = (
        np.hstack([np.ones((len(rows), 1)), ((rows - mean) / (spread + _FLAT))[:, varies]])
        for rows in (asked, fitted)
    )
    return at_records, at_population


def _flat(features: NDArray[np.floating], labels: Ints) -> Floats:
    if len(features) != len(labels):
        raise AuditError(f"there must be a label a record, got {len(labels)} labels of {len(features)}")
    return finite(features, "features").reshape(len(labels), -1)


def _principal(centred: Floats) -> Floats:
    """The leading directions ``(d, k)`` of ``(z, d)``, by the smaller of its two Gram matrices."""
    size, d = centred.shape
    kept = min(COMPONENTS, size, d)
    if d <= size:
        return np.asarray(np.linalg.eigh(centred.T @ centred)[1][:, -kept:], dtype=np.float64)
    directions = centred.T @ np.linalg.eigh(centred @ centred.T)[1][:, -kept:]
    return np.asarray(directions / (np.linalg.norm(directions, axis=0) + _FLAT), dtype=np.float64)
