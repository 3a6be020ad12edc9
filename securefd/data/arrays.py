"""Arrays: npz files, and a user's own function."""

from __future__ import annotations

import importlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefd.data.dataset import Dataset
from securefd.data.labels import check_labels
from securefd.data.records import Features, Records, Table, Tensor, check_finite, reason
from securefd.errors import DataError


def array_features(x: NDArray[Any], where: str, columns: tuple[str, ...] = ()) -> Features:
    """A table for ``(n, features)``, its columns named x0, x1, ... unless given; else a tensor.

    Only floats are taken: whether integers are pixels, counts or codes is for their owner to say.
    """
    if x.dtype.kind != "f":
        raise DataError(
            f"x of {where} must be floating point, got {x.dtype}: scale it and use astype(numpy.float32)"
        )
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(
            f"x of {where} must have shape (n, ...) with n > 0, got {x.shape}: give one row a record"
        )
    if x.ndim > 2:
        check_finite(x, f"x of {where}")
        return Tensor(x=x.astype(np.float32))
    names = columns or tuple(f"x{j}" for j in range(x.shape[1]))
    if len(names) != x.shape[1]:
        raise DataError(
            f"x of {where} has {x.shape[1]} columns, the source has {len(names)}: give the same columns"
        )
    check_finite(x, where, names)
    return Table(numeric=x, numeric_names=names, text=np.empty((len(x), 0), dtype=object))


def read_npz_features(path: str, where: str, columns: tuple[str, ...] = ()) -> Features:
    """The ``x`` of an npz file; ``where`` is the key that named the file."""
    (x,) = _npz(path, where, "x")
    return array_features(x, path, columns)


def read_npz(path: str, where: str, columns: tuple[str, ...] = ()) -> Records:
    """The ``x`` and ``y`` of an npz file; ``where`` is the key that named the file."""
    x, y = _npz(path, where, "x", "y")
    return Records(features=array_features(x, path, columns), labels=check_labels(y, len(x), f"y of {path}"))


def _npz(path: str, where: str, *names: str) -> list[NDArray[Any]]:
    if not Path(path).is_file():
        raise DataError(f"{where} = {path!r} is not a file: give the path of an npz file")
    try:
        with Path(path).open("rb") as stored:  # NumPy leaves a broken file open
            loaded = np.load(stored, allow_pickle=False)  # a pickle could run code
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds one array without a name: use numpy.savez(path, x=..., y=...)")
            missing = [name for name in names if name not in loaded]
            if missing:
                raise DataError(f"{path} has no array {missing[0]!r}: use numpy.savez(path, x=..., y=...)")
            return [loaded[name] for name in names]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} can't be read as an npz file of plain arrays ({reason(error)}): "
            "write it again with numpy.savez"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Npz:
    """A file with ``x`` ``(n, ...)`` float and ``y`` ``(n,)`` integers or text."""

    path: str

    def records(self) -> Records:
        """The whole file."""
        return read_npz(self.path, "data.path")

    def own_test(self) -> Records | None:
        """There is none."""
        return None

    def test(self, path: str) -> Records:
        """Another such file."""
        return read_npz(path, "data.test")

    def public(self, path: str) -> Features:
        """Another such file; only ``x`` is read."""
        return read_npz_features(path, "data.public")


@dataclass(frozen=True, kw_only=True)
class Function:
    """``package.module:function``, called without arguments; returns ``(x, y)`` or a Dataset.

    It must return the same records every time, since an interrupted run calls it again.
    """

    name: str

    def records(self) -> Records:
        """What the function returns, under the rules of npz files."""
        try:
            returned = _imported(self.name)()
            if not isinstance(returned, Dataset):
                x, y = returned
                returned = np.asarray(x), np.asarray(y)
        except Exception as error:
            raise DataError(
                f"data.source = {self.name!r} failed with {type(error).__name__} ({reason(error)}): "
                "it must be importable, take no argument and return (x, y) or a securefd Dataset"
            ) from error
        if isinstance(returned, Dataset):
            owners = np.array(returned.owner_names, dtype=object)
            groups = np.array(returned.group_names, dtype=object)
            return Records(
                features=array_features(returned.x, self.name),
                labels=returned.y,
                class_names=returned.class_names,
                owner=None if returned.owner is None else owners[returned.owner],
                group=None if returned.group is None else groups[returned.group],
            )
        x, y = returned
        return Records(
            features=array_features(x, self.name), labels=check_labels(y, len(x), f"y of {self.name}")
        )

    def own_test(self) -> Records | None:
        """There is none."""
        return None

    def test(self, path: str) -> Records:
        """An npz file."""
        return read_npz(path, "data.test")

    def public(self, path: str) -> Features:
        """An npz file; only ``x`` is read."""
        return read_npz_features(path, "data.public")


def _imported(name: str) -> Callable[[], Any]:
    module, _, attribute = name.partition(":")
    function: Callable[[], Any] = getattr(importlib.import_module(module), attribute)
    return function
