"""Records as they were read, before anything is fitted: tensors, tables, and what a reader gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from securefd.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Tensor:
    """Inputs that need no fitting. ``x``: ``(n, ...)``, uint8 (255 stands for 1) or float32."""

    x: NDArray[Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        """The records at ``indices``, in that order."""
        return Tensor(x=self.x[indices])

    def like(self, expected: Features, where: str) -> Tensor:
        """Itself, if its records have the form of ``expected``; otherwise DataError."""
        if not isinstance(expected, Tensor) or self.x.shape[1:] != expected.x.shape[1:]:
            raise DataError(
                f"{where} has records of shape {self.x.shape[1:]}, the source has {_form(expected)}: "
                "give both in the same form"
            )
        return self

    def keys(self) -> list[bytes]:
        """One digest a record; equal exactly where records are (to chance of 2**-128)."""
        rows = np.ascontiguousarray(self.x).reshape(len(self), -1)
        if rows.dtype == np.float32:
            rows = rows + np.float32(0)  # -0.0 and 0.0 are the same value
        return [blake2b(row.data, digest_size=16).digest() for row in rows]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Columns that need fitting: ``numeric`` ``(n, k)`` floats and ``text`` ``(n, c)`` strings."""

    numeric: NDArray[Any] = field(repr=False)
    numeric_names: tuple[str, ...]
    text: NDArray[np.object_] = field(repr=False)
    text_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, indices: NDArray[np.int64]) -> Table:
        """The records at ``indices``, in that order."""
        return Table(
            numeric=self.numeric[indices],
            numeric_names=self.numeric_names,
            text=self.text[indices],
            text_names=self.text_names,
        )

    def like(self, expected: Features, where: str) -> Table:
        """The same columns in the order of ``expected``; DataError unless names and types agree."""
        if not isinstance(expected, Table):
            raise DataError(
                f"{where} is a table, the source has {_form(expected)}: give both in the same form"
            )
        for kind, own, wanted in (
            ("number", self.numeric_names, expected.numeric_names),
            ("text", self.text_names, expected.text_names),
        ):
            different = sorted(set(own) ^ set(wanted))
            if different:
                raise DataError(
                    f"{where} and the source don't have the same {kind} columns, they differ in "
                    f"{different[0]!r} ({len(different)} in all): give both the same columns and types"
                )
        return Table(
            numeric=self.numeric[:, [self.numeric_names.index(name) for name in expected.numeric_names]],
            numeric_names=expected.numeric_names,
            text=self.text[:, [self.text_names.index(name) for name in expected.text_names]],
            text_names=expected.text_names,
        )

    def keys(self) -> list[bytes]:
        """One digest a record; equal exactly where records are, numbers to float32 precision."""
        numbers = np.ascontiguousarray(self.numeric, dtype=np.float32) + np.float32(0)
        return [
            blake2b(row.tobytes() + repr(tuple(words)).encode(), digest_size=16).digest()
            for row, words in zip(numbers, self.text, strict=True)
        ]


Features = Tensor | Table


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """Features with raw labels ``(n,)``: int64, or strings as objects.

    ``class_names``: given where labels are already indices into them. ``owner``, ``group``: ``(n,)`` like
    labels.
    """

    features: Features
    labels: NDArray[Any] = field(repr=False)
    class_names: tuple[str, ...] | None = None
    owner: NDArray[Any] | None = field(default=None, repr=False)
    group: NDArray[Any] | None = field(default=None, repr=False)


class Reader(Protocol):
    """A kind of source. Every method raises DataError for what can't be read."""

    def records(self) -> Records:
        """What is shared out among public set, test set and clients."""

    def own_test(self) -> Records | None:
        """The test set that is published with the source, if there is one."""

    def test(self, path: str) -> Records:
        """A test set in a file or folder of its own."""

    def public(self, path: str) -> Features:
        """A public set in a file or folder of its own; labels in it are ignored."""


def check_finite(values: NDArray[Any], where: str, columns: Sequence[str] = ()) -> None:
    """Refuse numbers that float32 can't hold: NaN, infinite or too large. ``values``: ``(n, ...)``."""
    good = np.abs(values) <= np.finfo(np.float32).max  # False for NaN
    if good.all():
        return
    bad = ~good.reshape(len(values), -1)
    column = ""
    if columns:
        first = int(bad.any(axis=0).argmax())
        column, bad = f"column {columns[first]!r} of ", bad[:, [first]]
    count = int(bad.any(axis=1).sum())
    raise DataError(
        f"{column}{where} has {count} of {len(values)} records with values that are missing, not finite or "
        "beyond float32: fill them in or leave these records out"
    )


def reason(error: Exception) -> str:
    """What another library says, short and on one line, to stand inside one sentence."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _form(features: Features) -> str:
    return "a table" if isinstance(features, Table) else f"records of shape {features.x.shape[1:]}"
