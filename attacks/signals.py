"""What an attack reads off class probabilities: one number a record, in float64.

Leading axes are free everywhere, so one call serves many models: probabilities ``(..., n, C)`` and
labels ``(n,)`` give ``(..., n)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from securefd.errors import AuditError

TINY = 1e-45
"""Added before a logarithm, so that a probability of 0 stays finite (TF-Privacy's constant)."""

SUM_TOLERANCE = 1e-3
"""How far a row may be from summing to 1; wide enough for float32 and 16-bit answers."""

Floats = NDArray[np.float64]


def logit_confidence(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """``log p_y - log sum_{k != y} p_k``: how sure the model is of the true label, on a Gaussian-like scale.

    The other classes are summed rather than taken as ``1 - p_y``, which would lose all digits near 1.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", section IV-C.

    Raises:
        AuditError: values that aren't probabilities, or labels that aren't classes.
    """
    values, chosen = _of_true_label(probabilities, labels)
    others = values.copy()
    np.put_along_axis(others, np.broadcast_to(_column(labels), (*values.shape[:-1], 1)), 0.0, axis=-1)
    return np.asarray(np.log(chosen + TINY) - np.log(others.sum(axis=-1) + TINY), dtype=np.float64)


def cross_entropy(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """``-log p_y``: lower for what the model fits well.

    Raises:
        AuditError: values that aren't probabilities, or labels that aren't classes.
    """
    _, chosen = _of_true_label(probabilities, labels)
    return np.asarray(-np.log(chosen + TINY), dtype=np.float64)


def _column(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    return np.asarray(labels, dtype=np.int64)[:, None]


def _of_true_label(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[Floats, Floats]:
    """The checked probabilities ``(..., n, C)`` and those of the true labels ``(..., n)``."""
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim < 2 or values.shape[-1] < 2:
        raise AuditError(f"probabilities must be (..., n, C) with C >= 2, got shape {values.shape}")
    n_records, n_classes = values.shape[-2:]
    if np.asarray(labels).shape != (n_records,):
        raise AuditError(f"labels must be ({n_records},), one a record, got shape {np.asarray(labels).shape}")
    if not np.issubdtype(np.asarray(labels).dtype, np.integer):
        raise AuditError(f"labels must be integers, got {np.asarray(labels).dtype}")
    if n_records and not (labels.min() >= 0 and labels.max() < n_classes):
        raise AuditError(f"labels must lie in 0..{n_classes - 1}, got {labels.min()}..{labels.max()}")
    if not (values >= 0).all():
        raise AuditError("probabilities must be >= 0 and not NaN; give logits through a softmax first")
    if not (np.abs(values.sum(axis=-1) - 1) <= SUM_TOLERANCE).all():
        raise AuditError("each row of probabilities must sum to 1; give logits through a softmax first")
    index = np.broadcast_to(_column(labels), (*values.shape[:-1], 1))
    return values, np.take_along_axis(values, index, axis=-1)[..., 0]
