"""Arithmetic on probability vectors: rows ``(m, C)`` in, rows ``(m, C)`` out.

Ties between classes are broken by rotation: row i prefers class h(i), then h(i) + 1 and so on (modulo
C), where h is a fixed hash of the row's position. The lowest class isn't favoured, nothing is random,
and every sealing breaks a tie the same way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Floats = NDArray[np.float64]


def sharpened(mean: Floats, temperature: float) -> Floats:
    """Return softmax(mean / temperature): entropy reduction aggregation, ERA (DS-FL, arXiv 2008.06180)."""
    return np.asarray(softmax(mean / temperature, axis=-1), dtype=np.float64)


def powered(mean: Floats, power: float) -> Floats:
    """Return mean^power, renormalised: enhanced ERA (SCARLET, arXiv 2504.19602)."""
    weights = np.maximum(mean, 0)
    # Relative to the largest entry, so that a high power can't turn a whole row into zeros.
    top = np.maximum(weights.max(axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    return normalised((weights / top) ** power)


def normalised(weights: Floats) -> Floats:
    """Return rows divided by their sum; a row without any weight is uniform."""
    total = weights.sum(axis=-1, keepdims=True)
    rows = np.full_like(weights, 1 / weights.shape[-1])
    np.divide(weights, total, out=rows, where=total > 0)
    return rows


def descending(values: Floats) -> NDArray[np.int64]:
    """Return for each row the classes in descending order, ties broken by rotation."""
    m, n_classes = values.shape
    # Knuth's multiplicative hash: neighbouring positions get unrelated first classes.
    first = (np.arange(m, dtype=np.int64) * 2654435761 % 2**32) * n_classes >> 32
    rotated = (first[:, None] + np.arange(n_classes)) % n_classes
    order = np.argsort(-np.take_along_axis(values, rotated, axis=-1), axis=-1, kind="stable")
    classes: NDArray[np.int64] = np.take_along_axis(rotated, order, axis=-1)
    return classes


def one_hot_top(values: Floats) -> Floats:
    """Return 1 at the largest entry of each row, 0 elsewhere; ties as in `descending`."""
    top = descending(values)[:, :1]
    one_hot: Floats = (np.arange(values.shape[-1]) == top).astype(np.float64)
    return one_hot


def on_simplex_grid(probabilities: Floats, bits: int) -> Floats:
    """Return the nearest vectors, in L1, whose entries are multiples of 1/(2^bits - 1) and sum to 1.

    ``(m, C)`` to ``(m, C)``. Round down, then give what is missing to the largest remainders (CFD,
    Sattler et al. 2022, eq. for Q_b). One bit is the one-hot top class.
    """
    steps = 2**bits - 1
    scaled = probabilities * steps
    levels = np.floor(scaled)
    missing = steps - levels.sum(axis=-1)
    order = descending(scaled - levels)
    rank = np.argsort(order, axis=-1)
    nearest: Floats = (levels + (rank < missing[:, None])) / steps
    return nearest
