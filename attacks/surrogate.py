"""What an observer does who saw answers but can't query the model: it distils its view into a surrogate.

Kernel ridge regression from public inputs to log-answers. It is linear in the answers, so federations
and clients that were asked the same queries share one Cholesky factor: their answers come stacked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from securefd.errors import AuditError

MAX_LANDMARKS = 2000
"""Most queries that a surrogate learns from: bounds the factor to 32 MB and its cost to seconds."""

RIDGE = 1e-3
"""Added to a kernel with ones on its diagonal: the share of an answer that is taken for noise."""

FLOOR = 1e-5
"""Answers are raised to this before the logarithm: about the step of a 16-bit grid, which 0 is within."""

_WIDTH_SAMPLE = 500
_BLOCK = 2048

Floats = NDArray[np.float64]


def landmarks(n_queries: int) -> NDArray[np.int64]:
    """Positions of the queries that a surrogate learns from: all, or ``MAX_LANDMARKS`` evenly spaced ones.

    The others are left out, so where there are more queries a stronger attack is possible.
    """
    if n_queries <= MAX_LANDMARKS:
        return np.arange(n_queries, dtype=np.int64)
    return np.linspace(0, n_queries - 1, MAX_LANDMARKS).astype(np.int64)


def log_answers(answers: NDArray[np.floating]) -> Floats:
    """Centred log-probabilities of answers ``(..., C)``: what the surrogate regresses on and rounds average.

    Raises:
        AuditError: answers that are negative or not finite.
    """
    values = np.asarray(answers, dtype=np.float64)
    if not ((values >= 0) & np.isfinite(values)).all():
        raise AuditError(
            "answers must be finite and >= 0; the view holds others, so nothing can be distilled"
        )
    logs = np.log(np.maximum(values, FLOOR))
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Surrogate:
    """Gaussian-kernel ridge regression on fixed inputs, ready for any number of sets of answers.

    ``inputs``: ``(m, d)``. ``width``: the median distance between inputs. ``factor``: lower Cholesky
    factor ``(m, m)`` of the kernel matrix plus ``RIDGE`` on its diagonal.
    """

    inputs: Floats = field(repr=False)
    width: float
    factor: Floats = field(repr=False)

    @classmethod
    def fit(cls, inputs: NDArray[np.floating]) -> Self:
        """Prepare for answers to ``inputs`` ``(m, ...)``, at most ``MAX_LANDMARKS`` of them.

        Raises:
            AuditError: inputs that are too many, not finite, or all the same.
        """
        flat = _flat(inputs)
        if not 2 <= len(flat) <= MAX_LANDMARKS:
            raise AuditError(
                f"a surrogate needs 2 to {MAX_LANDMARKS} queries, got {len(flat)}; use landmarks()"
            )
        sample = flat[np.linspace(0, len(flat) - 1, min(len(flat), _WIDTH_SAMPLE)).astype(np.int64)]
        distances = np.sqrt(_squared_distances(sample, sample)[np.triu_indices(len(sample), 1)])
        width = float(np.median(distances))
        if not width > 0:
            raise AuditError("public queries must differ: the median distance between them is 0")
        kernel = np.exp(_squared_distances(flat, flat) / (-2 * width**2))
        kernel[np.diag_indices_from(kernel)] += RIDGE
        return cls(inputs=flat, width=width, factor=cho_factor(kernel, lower=True, overwrite_a=True)[0])

    def nearest(self, x: NDArray[np.floating], count: int) -> NDArray[np.int64]:
        """Places ``(n, count)`` of the inputs most like each of ``x`` ``(n, ...)``; or all there are."""
        flat, found = _flat(x), []
        for start in range(0, len(flat), _BLOCK):
            distances = _squared_distances(flat[start : start + _BLOCK], self.inputs)
            found.append(np.argsort(distances, axis=1, kind="stable")[:, :count])
        return np.concatenate(found).astype(np.int64)

    def predict(self, targets: Floats, x: NDArray[np.floating]) -> Floats:
        """Class probabilities ``(..., n, C)`` at ``x`` ``(n, ...)``, given log-answers ``(..., m, C)``.

        Raises:
            AuditError: shapes that don't fit the inputs, or values that aren't finite.
        """
        flat = _flat(x)
        n_inputs, n_features = self.inputs.shape
        if targets.ndim < 2 or targets.shape[-2] != n_inputs or flat.shape[1] != n_features:
            raise AuditError(
                f"log-answers must be (..., {n_inputs}, C) and x (n, {n_features} features), "
                f"got {targets.shape} and {flat.shape}"
            )
        if not np.isfinite(targets).all():
            raise AuditError("log-answers must be finite; pass answers through log_answers()")
        lead, n_classes = targets.shape[:-2], targets.shape[-1]
        stacked = np.moveaxis(targets.reshape(-1, n_inputs, n_classes), 1, 0).reshape(n_inputs, -1)
        base = stacked.mean(axis=0)
        weights = cho_solve((self.factor, True), stacked - base)
        logits = np.empty((len(flat), stacked.shape[1]))
        for start in range(0, len(flat), _BLOCK):
            block = flat[start : start + _BLOCK]
            kernel = np.exp(_squared_distances(block, self.inputs) / (-2 * self.width**2))
            logits[start : start + _BLOCK] = kernel @ weights + base
        by_model = np.moveaxis(logits.reshape(len(flat), -1, n_classes), 0, 1)
        return _softmax(by_model.reshape(*lead, len(flat), n_classes))


def probabilities_of(logs: Floats) -> Floats:
    """Class probabilities ``(..., C)`` of centred log-answers."""
    return _softmax(logs)


def _flat(x: NDArray[np.floating]) -> Floats:
    if x.ndim < 2:
        raise AuditError(f"inputs must be (n, ...) with at least one feature, got shape {x.shape}")
    flat = np.asarray(x, dtype=np.float64).reshape(len(x), int(np.prod(x.shape[1:])))
    if not np.isfinite(flat).all():
        raise AuditError("inputs must be finite; some are NaN or infinite")
    return flat


def _squared_distances(a: Floats, b: Floats) -> Floats:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * (a @ b.T)
    return np.asarray(np.maximum(squares, 0), dtype=np.float64)


def _softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float64)
