"""Real data that comes with scikit-learn: nothing to download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from securefd.data.arrays import read_npz, read_npz_features
from securefd.data.records import Features, Records, Table, Tensor


@dataclass(frozen=True, kw_only=True)
class Digits:
    """1,797 handwritten digits, 8 x 8 pixels of 17 grey levels, 10 classes (UCI, Alpaydin and Kaynak)."""

    def records(self) -> Records:
        """``(1797, 1, 8, 8)`` in [0, 1]."""
        from sklearn.datasets import load_digits  # slow to import, and only needed here

        digits = load_digits()
        pixels = (digits.images[:, None] / 16).astype(np.float32)
        return Records(features=Tensor(x=pixels), labels=digits.target.astype(np.int64))

    def own_test(self) -> Records | None:
        """There is none."""
        return None

    def test(self, path: str) -> Records:
        """An npz file with ``x`` ``(n, 1, 8, 8)`` in [0, 1] and ``y``, 0 to 9."""
        return read_npz(path, "data.test")

    def public(self, path: str) -> Features:
        """An npz file with ``x`` ``(n, 1, 8, 8)`` in [0, 1]."""
        return read_npz_features(path, "data.public")


@dataclass(frozen=True, kw_only=True)
class BreastCancer:
    """569 breast masses, 30 measurements of cell nuclei, benign or malignant (UCI, Wisconsin)."""

    def records(self) -> Records:
        """``(569, 30)``, unscaled; labels by name."""
        from sklearn.datasets import load_breast_cancer  # slow to import, and only needed here

        cancer = load_breast_cancer()
        features = Table(
            numeric=cancer.data,
            numeric_names=_columns(),
            text=np.empty((len(cancer.data), 0), dtype=object),
        )
        return Records(features=features, labels=cancer.target_names[cancer.target].astype(object))

    def own_test(self) -> Records | None:
        """There is none."""
        return None

    def test(self, path: str) -> Records:
        """An npz file with ``x`` ``(n, 30)``, unscaled, and ``y``, "malignant" or "benign"."""
        return read_npz(path, "data.test", columns=_columns())

    def public(self, path: str) -> Features:
        """An npz file with ``x`` ``(n, 30)``, unscaled."""
        return read_npz_features(path, "data.public", columns=_columns())


def _columns() -> tuple[str, ...]:
    from sklearn.datasets import load_breast_cancer  # slow to import, and only needed here

    return tuple(str(name) for name in load_breast_cancer().feature_names)
