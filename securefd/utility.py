"""What an accuracy hides: whether probabilities mean what they say, and who is served worse than others.

Privacy often costs small classes and groups most (Bagdasaryan et al. 2019, "Differential Privacy Has
Disparate Impact on Model Accuracy").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from securefd.data.dataset import Dataset
from securefd.errors import DataError
from securefd.rng import generator

BINS = 15
"""Of equal width over the confidence, as in Guo et al. 2017, section 2."""
RESAMPLES = 500
_AT_ONCE = 50
CONFIDENCE = 0.95

Floats = NDArray[np.float64]


def expected_calibration_error(probabilities: Floats, labels: NDArray[np.int64], bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over ``bins`` of equal width, in [0, 1] (Guo 2017, eq. 3).

    ``probabilities``: ``(n, n_classes)``; the confidence is the largest of a row; a bin holds (low, high].
    Noise in each bin adds to it, so it is above 0 for the best model, and by more for fewer records.

    Raises DataError for shapes that don't match, no record, or what isn't a probability.
    """
    return float(np.abs(_gaps(probabilities, labels, bins).sum(axis=0)).sum() / len(labels))


def calibration_interval(
    probabilities: Floats, labels: NDArray[np.int64], rng: np.random.Generator
) -> tuple[float, float]:
    """A 95% interval of the calibration error by the basic bootstrap over records (Davison and Hinkley 1997,
    eq. 5.6), which takes off as much bias as resampling adds; widened to hold the estimate, within [0, 1].
    """
    gaps = _gaps(probabilities, labels, BINS)
    n = len(labels)
    value = float(np.abs(gaps.sum(axis=0)).sum() / n)
    again = np.concatenate(
        [
            np.abs(rng.multinomial(n, np.full(n, 1 / n), size=_AT_ONCE) @ gaps).sum(axis=1) / n
            for _ in range(RESAMPLES // _AT_ONCE)
        ]
    )
    low, high = np.quantile(again, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return max(0.0, min(value, 2 * value - float(high))), min(1.0, max(value, 2 * value - float(low)))


def by_part(
    correct: NDArray[np.bool_], parts: NDArray[np.int64], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Accuracy and number of records of each part that has any. ``parts``: ``(n,)``, indices of ``names``."""
    records = np.bincount(parts, minlength=len(names))
    hits = np.bincount(parts, weights=correct, minlength=len(names))
    return [
        {"name": name, "records": int(count), "accuracy": float(hit / count)}
        for name, count, hit in zip(names, records, hits, strict=True)
        if count
    ]


def utility_of(logits: NDArray[np.float32], test: Dataset, grouped_by: str, seed: int) -> dict[str, Any]:
    """What a run keeps of a model with ``logits`` ``(n, n_classes)`` on its test set.

    ``grouped_by``: what the test records' groups, or else owners, are called; there may be neither.
    """
    probabilities = np.asarray(softmax(logits.astype(np.float64), axis=-1))
    correct = logits.argmax(-1) == test.y
    low, high = calibration_interval(probabilities, test.y, generator(seed, "calibration"))
    groups, names = (
        (test.group, test.group_names) if test.group is not None else (test.owner, test.owner_names)
    )
    return {
        "calibration error": expected_calibration_error(probabilities, test.y),
        "calibration error.low": low,
        "calibration error.high": high,
        "classes": by_part(correct, test.y, test.class_names),
        "groups": [] if groups is None else by_part(correct, groups, names),
        "grouped by": "" if groups is None else grouped_by,
    }


def _gaps(probabilities: Floats, labels: NDArray[np.int64], bins: int) -> Floats:
    """``(n, bins)``: correctness less confidence of each record, in the column of its bin."""
    if probabilities.ndim != 2 or labels.shape != (len(probabilities),) or not len(labels):
        raise DataError(
            f"probabilities must be (n, n_classes) with a label a row, got {probabilities.shape} and "
            f"{labels.shape}; give at least one record"
        )
    if not (probabilities >= 0).all() or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        raise DataError(
            "probabilities must be >= 0 and sum to 1 in each row; apply a softmax to logits first"
        )
    confidence = np.minimum(probabilities.max(axis=1), 1.0)
    column = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.zeros((len(labels), bins))
    gaps[np.arange(len(labels)), column] = (probabilities.argmax(axis=1) == labels) - confidence
    return gaps
