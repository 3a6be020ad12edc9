"""Labelled records of one holder, ready for a model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from securefd.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Inputs and their classes.

    ``x``: float32, images ``(n, channels, height, width)`` in [0, 1] or tables ``(n, features)``.
    ``y``: int64 ``(n,)``, indices into ``class_names``; not every class need occur.
    ``owner``: int64 ``(n,)``, indices into ``owner_names``, or None where owners aren't known.
    ``group``: the same of groups whose accuracies are told apart.

    Records stay out of ``repr``. Raises DataError for arrays that don't fit together.
    """

    x: NDArray[np.float32] = field(repr=False)
    y: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...]
    owner: NDArray[np.int64] | None = field(default=None, repr=False)
    owner_names: tuple[str, ...] = ()
    group: NDArray[np.int64] | None = field(default=None, repr=False)
    group_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.x.dtype != np.float32 or self.x.ndim < 2:
            raise DataError(
                f"x must be float32 of shape (n, ...), got {self.x.dtype} of shape {self.x.shape}: "
                "scale it and use astype(numpy.float32)"
            )
        _check_index("y", self.y, len(self.x), len(self.class_names))
        if self.owner is not None:
            _check_index("owner", self.owner, len(self.x), len(self.owner_names))
        if self.group is not None:
            _check_index("group", self.group, len(self.x), len(self.group_names))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def n_classes(self) -> int:
        """Number of classes that exist, whether or not they occur here."""
        return len(self.class_names)

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """The records at ``indices``, in that order."""
        return Dataset(
            x=self.x[indices],
            y=self.y[indices],
            class_names=self.class_names,
            owner=None if self.owner is None else self.owner[indices],
            owner_names=self.owner_names,
            group=None if self.group is None else self.group[indices],
            group_names=self.group_names,
        )


def _check_index(name: str, values: NDArray[np.int64], n: int, n_names: int) -> None:
    if values.dtype != np.int64 or values.shape != (n,):
        raise DataError(
            f"{name} must be int64 of shape ({n},) like x, got {values.dtype} of shape {values.shape}: "
            "give one index a record"
        )
    if n and not (values.min() >= 0 and values.max() < n_names):
        raise DataError(
            f"{name} must lie in 0 to {n_names - 1}, got {values.min()} to {values.max()}: "
            f"name every value of {name}"
        )
