"""Labels to class indices. The set of labels is public: it is every label of the source and test set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefd.errors import DataError


def check_labels(labels: NDArray[Any], n: int, where: str) -> NDArray[Any]:
    """Labels as int64, or as strings in an object array; DataError for anything that isn't a class."""
    if labels.shape != (n,):
        raise DataError(
            f"{where} must have shape ({n},), one label a record, got {labels.shape}: give as many"
        )
    if labels.dtype.kind in "biu":
        return labels.astype(np.int64)
    if labels.dtype.kind == "f":
        missing = int((~np.isfinite(labels)).sum())
        if missing:
            raise DataError(
                f"{where} has {missing} of {n} labels missing: fill them in or leave these records out"
            )
        if (labels != np.rint(labels)).any() or (np.abs(labels) > 2**53).any():
            raise DataError(
                f"{where} has values other than whole numbers below 2**53: use integers or text for classes"
            )
        return labels.astype(np.int64)
    values = labels.astype(object)
    missing = sum(not isinstance(value, str) for value in values)
    if missing:
        raise DataError(
            f"{where} has {missing} of {n} labels that are neither integers nor text: fill in or convert them"
        )
    return values


def encode_labels(parts: list[NDArray[Any]]) -> tuple[list[NDArray[np.int64]], tuple[str, ...]]:
    """Map every part's labels to 0, 1, ... in sorted order over all parts; also the class names."""
    if any(part.dtype == object for part in parts):
        parts = [np.array([str(label) for label in part], dtype=object) for part in parts]
    names, indices = np.unique(np.concatenate(parts), return_inverse=True)
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return [part.astype(np.int64) for part in np.split(indices, ends)], tuple(str(name) for name in names)
