"""What an attack reads off class probabilities: one number a record, in float64.

Leading axes are free everywhere, so one call serves many models: probabilities ``(..., n, C)`` and
labels ``(n,)`` give ``(..., n)``. They are read block by block, so that arrays of any size may stay
memory-mapped, in whatever precision they were kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit

from securefd.errors import AuditError

TINY = 1e-45
"""Added before a logarithm, so that a probability of 0 stays finite (TF-Privacy's constant)."""

SUM_TOLERANCE = 1e-3
"""How far a row may be from summing to 1; wide enough for float32 and 16-bit answers."""

_BLOCK = 1 << 18
"""Values that are held in float64 at a time, 2 MB, which stays in a processor's cache."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Read = Callable[[Floats, Ints], Floats]
"""From probabilities ``(b, C)``, which it may overwrite, and labels ``(b,)`` to ``(b,)`` numbers."""


def logit_confidence(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """``log p_y - log sum_{k != y} p_k``: how sure the model is of the true label, on a Gaussian-like scale.

    The other classes are summed rather than taken as ``1 - p_y``, which would lose all digits near 1.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", section IV-C.

    Raises:
        AuditError: values that aren't probabilities, or labels that aren't classes.
    """
    return _by_blocks(probabilities, labels, _log_odds)


def cross_entropy(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """``-log p_y``: lower for what the model fits well.

    Raises:
        AuditError: values that aren't probabilities, or labels that aren't classes.
    """

    def read(values: Floats, of: Ints) -> Floats:
        return np.asarray(-np.log(_chosen(values, of) + TINY), dtype=np.float64)

    return _by_blocks(probabilities, labels, read)


def entropy(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """``-sum_k p_k log p_k``: how undecided the model is, whatever the label.

    Raises:
        AuditError: values that aren't probabilities, or labels that aren't classes.
    """
    return _by_blocks(probabilities, labels, lambda values, _: _sums(entr(values)))


def modified_entropy(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """``-(1 - p_y) log p_y - sum_{k != y} p_k log(1 - p_k)``: small where the model is sure and right.

    Source: Song and Mittal 2021, "Systematic Evaluation of Privacy Risks of Machine Learning Models".

    Raises:
        AuditError: values that aren't probabilities, or labels that aren't classes.
    """

    def read(values: Floats, of: Ints) -> Floats:
        chosen = _chosen(values, of)
        values[np.arange(len(values)), of] = 0
        others = _sums(values)
        rest = _sums(values * np.log(np.maximum(1 - values, TINY)))
        return np.asarray(-others * np.log(chosen + TINY) - rest, dtype=np.float64)

    return _by_blocks(probabilities, labels, read)


def is_right(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """1 where the likeliest class is the label, else 0; the first of several that are as likely counts.

    Raises:
        AuditError: values that aren't probabilities, or labels that aren't classes.
    """

    def read(values: Floats, of: Ints) -> Floats:
        return np.asarray(values.argmax(axis=1) == of, dtype=np.float64)

    return _by_blocks(probabilities, labels, read)


def probability_of(confidence: Floats) -> Floats:
    """``p_y`` of logit-scaled confidences: ``1 / (1 + exp(-phi))``."""
    return np.asarray(expit(confidence), dtype=np.float64)


def log_probability_of(confidence: Floats) -> Floats:
    """``log p_y`` of logit-scaled confidences, which keeps its digits at either end."""
    return np.asarray(-np.logaddexp(0.0, -confidence), dtype=np.float64)


def _by_blocks(values: NDArray[np.floating], labels: NDArray[np.integer], read: Read) -> Floats:
    """``read`` of each row ``(C,)`` of probabilities and its label, some rows at a time."""
    values, labels = np.asanyarray(values), np.asarray(labels)
    _check_shapes(values, labels)
    found = np.empty(values.shape[:-1])
    if not found.size:
        return found
    rows, flat = values.reshape(-1, values.shape[-1]), found.reshape(-1)
    size = max(1, _BLOCK // values.shape[-1])
    for start in range(0, len(flat), size):
        stop = min(start + size, len(flat))
        of = labels[np.arange(start, stop) % len(labels)]
        flat[start:stop] = read(_checked(np.array(rows[start:stop], dtype=np.float64)), of)
    return found


def _check_shapes(values: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    if values.ndim < 2 or values.shape[-1] < 2:
        raise AuditError(f"probabilities must be (..., n, C) with C >= 2, got shape {values.shape}")
    n_records, n_classes = values.shape[-2:]
    if labels.shape != (n_records,):
        raise AuditError(f"labels must be ({n_records},), one a record, got shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise AuditError(f"labels must be integers, got {labels.dtype}")
    if n_records and not (labels.min() >= 0 and labels.max() < n_classes):
        raise AuditError(f"labels must lie in 0..{n_classes - 1}, got {labels.min()}..{labels.max()}")


def _checked(values: Floats) -> Floats:
    if not values.min() >= 0:
        raise AuditError("probabilities must be >= 0 and not NaN; give logits through a softmax first")
    if not (np.abs(_sums(values) - 1) <= SUM_TOLERANCE).all():
        raise AuditError("each row of probabilities must sum to 1; give logits through a softmax first")
    return values


def _log_odds(values: Floats, of: Ints) -> Floats:
    chosen = _chosen(values, of)
    values[np.arange(len(values)), of] = 0
    return np.asarray(np.log(chosen + TINY) - np.log(_sums(values) + TINY), dtype=np.float64)


def _chosen(values: Floats, of: Ints) -> Floats:
    return np.asarray(values[np.arange(len(values)), of], dtype=np.float64)


def _sums(values: Floats) -> Floats:
    # A product with ones: several times faster than a sum along so short an axis.
    return np.asarray(values @ np.ones(values.shape[1]), dtype=np.float64)
