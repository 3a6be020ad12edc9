"""From columns to model inputs, fitted on the public set or declared bounds: never on private data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securefd.data.records import Features, Table, Tensor
from securefd.errors import DataError

CLIP = 10.0
"""Standardised values are clipped to this many deviations: what the public set never saw stays bounded."""
MAX_CATEGORIES = 1000
"""A text column with more values in the public set is an identifier or prose, not a category."""
_BLOCK = 8192


@dataclass(frozen=True, kw_only=True)
class TensorEncoder:
    """Bytes become [0, 1]; floats are left as they are."""

    def __call__(self, features: Features) -> NDArray[np.float32]:
        """``(n, ...)`` float32."""
        assert isinstance(features, Tensor)
        if features.x.dtype == np.uint8:
            scaled: NDArray[np.float32] = features.x.astype(np.float32)
            scaled /= np.float32(255)
            return scaled
        return features.x


@dataclass(frozen=True, kw_only=True)
class TableEncoder:
    """``clip((value - center) / scale, low, high)`` for numbers; one-hot with an `unseen` column for text.

    Numbers come first, then text columns in order, each with its vocabulary and then `unseen`. Every
    field is publishable, being a function of public data and declared bounds.
    """

    numeric_names: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    text_names: tuple[str, ...]
    vocabularies: tuple[tuple[str, ...], ...]

    def __call__(self, features: Features) -> NDArray[np.float32]:
        """``(n, features)`` float32."""
        assert isinstance(features, Table)
        n, k = features.numeric.shape
        encoded = np.zeros((n, k + sum(len(words) + 1 for words in self.vocabularies)), dtype=np.float32)
        center, scale = np.array(self.center), np.array(self.scale)
        low, high = np.array(self.low), np.array(self.high)
        for start in range(0, n, _BLOCK):  # float64 for precision, in blocks for memory
            block = features.numeric[start : start + _BLOCK]
            encoded[start : start + _BLOCK, :k] = np.clip((block - center) / scale, low, high)
        offset = k
        for column, words in zip(features.text.T, self.vocabularies, strict=True):
            index = {word: i for i, word in enumerate(words)}
            hot = [index.get(value, len(words)) for value in column]
            encoded[np.arange(n), offset + np.array(hot, dtype=np.int64)] = 1
            offset += len(words) + 1
        return encoded


Encoder = TensorEncoder | TableEncoder


def fit_encoder(public: Features, bounds: Mapping[str, tuple[float, float]]) -> Encoder:
    """The encoder of a source, from its public records and ``bounds`` (column to (low, high))."""
    if isinstance(public, Tensor):
        if bounds:
            raise DataError("data.bounds names columns, the source has none: leave data.bounds out")
        return TensorEncoder()
    for name, (low, high) in bounds.items():
        if name not in public.numeric_names:
            raise DataError(
                f"data.bounds names {name!r}, which is not a number column of the source: "
                f"use one of {', '.join(public.numeric_names[:8]) or 'none'}"
            )
        if not (low < high and np.isfinite(high - low)):
            raise DataError(f"data.bounds.{name} must be [low, high] with low < high, got [{low}, {high}]")
    unbounded = [name for name in (*public.numeric_names, *public.text_names) if name not in bounds]
    if not len(public) and unbounded:
        raise DataError(
            f"column {unbounded[0]!r} has neither data.bounds nor a public record to be scaled by: "
            "raise data.public"
        )
    center, scale = _standard(public.numeric)
    columns = [
        (bounds[name][0], bounds[name][1] - bounds[name][0], 0.0, 1.0)
        if name in bounds
        else (float(center[j]), float(scale[j]), -CLIP, CLIP)
        for j, name in enumerate(public.numeric_names)
    ]
    return TableEncoder(
        numeric_names=public.numeric_names,
        center=tuple(column[0] for column in columns),
        scale=tuple(column[1] for column in columns),
        low=tuple(column[2] for column in columns),
        high=tuple(column[3] for column in columns),
        text_names=public.text_names,
        vocabularies=tuple(
            _vocabulary(name, column) for name, column in zip(public.text_names, public.text.T, strict=True)
        ),
    )


def _standard(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation ``(k,)`` of ``(m, k)``; a constant column gets scale 1."""
    if not len(values):
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    center = values.mean(axis=0, dtype=np.float64)
    scale = values.std(axis=0, dtype=np.float64)
    # A constant that isn't a binary fraction has a tiny deviation by rounding: it must not be divided by.
    constant = scale <= 1e-9 * np.abs(values).max(axis=0)
    return center, np.where(constant, 1.0, scale)


def _vocabulary(name: str, column: NDArray[np.object_]) -> tuple[str, ...]:
    words = tuple(sorted(set(column)))
    if len(words) > MAX_CATEGORIES:
        raise DataError(
            f"text column {name!r} has {len(words)} different values in the public set, at most "
            f"{MAX_CATEGORIES} make a category: leave the column out or group its values"
        )
    return words
