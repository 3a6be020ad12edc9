"""CSV and Parquet files: number columns, text columns, a label column and perhaps columns of owner and group.

The schema (names and types of columns) is public, as is the set of labels. Nothing else is taken
from private rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from securefd.data.labels import check_labels
from securefd.data.records import Features, Records, Table, check_finite, reason
from securefd.errors import DataError


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """A file with a header; ``label``, ``owner``, ``group`` name columns that are no features ("": none)."""

    kind: Literal["csv", "parquet"]
    path: str
    label: str
    owner: str
    group: str = ""

    def records(self) -> Records:
        """The whole file."""
        table = _read(self.kind, self.path, "data.path")
        owner = self._classes(table, "owner", self.owner, self.path) if self.owner else None
        return Records(
            features=self._features(table, self.path),
            labels=self._classes(table, "label", self.label, self.path),
            owner=owner,
            group=self._classes(table, "group", self.group, self.path) if self.group else None,
        )

    def own_test(self) -> Records | None:
        """There is none."""
        return None

    def test(self, path: str) -> Records:
        """Another file with the same features, label and group; an owner may be absent, and is ignored."""
        table = _read(self.kind, path, "data.test")
        return Records(
            features=self._features(table, path),
            labels=self._classes(table, "label", self.label, path),
            group=self._classes(table, "group", self.group, path) if self.group else None,
        )

    def public(self, path: str) -> Features:
        """Another file with the same features; label, owner and group may be absent, and are ignored."""
        return self._features(_read(self.kind, path, "data.public"), path)

    def _classes(self, table: Any, role: str, name: str, path: str) -> NDArray[Any]:
        if name not in table.column_names:
            raise DataError(
                f"data.{role} = {name!r} is not a column of {path}: "
                f"use one of {', '.join(table.column_names[:12])}"
            )
        return check_labels(_values(table, name, path), table.num_rows, f"{role} column {name!r} of {path}")

    def _features(self, table: Any, path: str) -> Table:
        names = [name for name in table.column_names if name not in (self.label, self.owner, self.group)]
        if not names:
            raise DataError(f"{path} has no feature column beside label, owner and group: add at least one")
        columns = {name: _values(table, name, path) for name in names}
        numeric = tuple(name for name in names if columns[name].dtype != object)
        text = tuple(name for name in names if columns[name].dtype == object)
        n = table.num_rows
        for name in text:
            missing = sum(value is None for value in columns[name])
            if missing:
                raise DataError(
                    f"column {name!r} of {path} has {missing} of {n} records without a value: "
                    "fill them in or leave these records out"
                )
        numbers = np.column_stack([np.empty((n, 0)), *(columns[name] for name in numeric)])
        check_finite(numbers, path, numeric)
        words = np.empty((n, len(text)), dtype=object)
        for j, name in enumerate(text):
            words[:, j] = columns[name]
        return Table(numeric=numbers, numeric_names=numeric, text=words, text_names=text)


def _read(kind: Literal["csv", "parquet"], path: str, where: str) -> Any:
    """The file as a pyarrow table."""
    import pyarrow as pa  # slow to import, and only needed here
    import pyarrow.csv
    import pyarrow.parquet

    if not Path(path).is_file():
        raise DataError(f"{where} = {path!r} is not a file: give the path of a {kind} file")
    try:
        if kind == "csv":
            table = pyarrow.csv.read_csv(path)
        else:
            with pyarrow.parquet.ParquetFile(path) as file:
                table = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path} can't be read as {kind} ({reason(error)}): correct the file or data.source"
        ) from error
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has more than one column {twice[0]!r}: rename one of them")
    if not table.num_rows:
        raise DataError(f"{path} has a header and no records: give at least one record")
    return table


def _values(table: Any, name: str, path: str) -> NDArray[Any]:
    """A column ``(n,)``: integers, float64 with NaN for missing, or objects with None for missing text."""
    import pyarrow as pa

    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=object)
    if pa.types.is_integer(kind) and not column.null_count:
        integers: NDArray[Any] = column.to_numpy()  # exact: labels and owners may be 64-bit identifiers
        return integers
    if (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    ):
        numbers: NDArray[Any] = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
        return numbers
    if pa.types.is_null(kind):
        raise DataError(f"column {name!r} of {path} has no values: leave the column out")
    raise DataError(f"column {name!r} of {path} has type {kind}, must be number or text: convert it")
