from __future__ import annotations

import numpy as np
import pytest

from securefd.data.encoding import CLIP, TableEncoder, fit_encoder
from securefd.data.records import Table, Tensor
from securefd.errors import DataError


def table(numbers: list[list[float]], words: list[list[str]] | None = None) -> Table:
    numeric = np.array(numbers, dtype=np.float64)
    text = np.array(words if words is not None else [[]] * len(numbers), dtype=object)
    return Table(
        numeric=numeric,
        numeric_names=tuple(f"n{j}" for j in range(numeric.shape[1])),
        text=text,
        text_names=tuple(f"t{j}" for j in range(text.shape[1])),
    )


def test_numbers_are_standardised_by_public_records_and_clipped() -> None:
    encode = fit_encoder(table([[1.0], [3.0], [5.0]]), {})
    scale = np.sqrt(8 / 3)
    private = table([[3.0], [3 + scale], [1e30], [-1e30]])
    np.testing.assert_allclose(encode(private), [[0], [1], [CLIP], [-CLIP]], rtol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 7.0, 0.1, -1e20])
def test_constant_public_column_is_not_divided_by(constant: float) -> None:
    encode = fit_encoder(table([[constant]] * 7), {})
    assert isinstance(encode, TableEncoder)
    assert encode.scale == (1.0,)
    np.testing.assert_allclose(encode(table([[constant]])), 0, atol=1e-6)
    if abs(constant) < 10:
        np.testing.assert_allclose(encode(table([[constant + 2]])), 2, rtol=1e-6)


def test_small_but_real_variation_is_scaled() -> None:
    # Seconds since 1970, an hour apart.
    encode = fit_encoder(table([[1.7e9], [1.7e9 + 3600]]), {})
    np.testing.assert_allclose(encode(table([[1.7e9], [1.7e9 + 3600]])), [[-1], [1]], rtol=1e-6)


def test_declared_bounds_replace_the_public_set() -> None:
    bounds = {"n0": (10.0, 20.0)}
    encoders = [fit_encoder(table([[value, 0.0], [value + 1, 2.0]]), bounds) for value in (0.0, 15.0)]
    private = table([[10.0, 1.0], [12.5, 1.0], [20.0, 1.0], [99.0, 1.0], [-99.0, 1.0]])
    for encode in encoders:
        np.testing.assert_allclose(encode(private)[:, 0], [0, 0.25, 1, 1, 0])
    empty = table([[1.0]]).take(np.array([], dtype=np.int64))
    np.testing.assert_allclose(fit_encoder(empty, bounds)(table([[15.0]])), [[0.5]])


def test_words_that_the_public_set_lacks_share_one_column() -> None:
    encode = fit_encoder(table([[0.0]] * 3, [["b", "x"], ["a", "x"], ["b", "x"]]), {})
    encoded = encode(table([[0.0]] * 3, [["a", "x"], ["b", "new"], ["secret", "x"]]))
    np.testing.assert_array_equal(encoded, [[0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1], [0, 0, 0, 1, 1, 0]])


def test_encoder_holds_public_values_only() -> None:
    public = table([[1.0], [2.0]], [["a"], ["b"]])
    encode = fit_encoder(public, {})
    encode(table([[777.0]], [["secret"]]))
    assert "secret" not in repr(encode)
    assert "777" not in repr(encode)


def test_many_rows_are_encoded_like_one() -> None:
    rng = np.random.default_rng(0)
    data = table(rng.normal(3, 2, (20_000, 2)).tolist())
    encode = fit_encoder(data.take(np.arange(100)), {})
    assert isinstance(encode, TableEncoder)
    expected = np.clip((data.numeric - encode.center) / encode.scale, -CLIP, CLIP)
    np.testing.assert_allclose(encode(data), expected, rtol=1e-6)


def test_images_are_scaled_by_their_type() -> None:
    bytes_ = Tensor(x=np.array([[[0, 51, 255]]], dtype=np.uint8))
    floats = Tensor(x=np.array([[[0.0, 51.0, 255.0]]], dtype=np.float32))
    np.testing.assert_allclose(fit_encoder(bytes_, {})(bytes_), [[[0, 0.2, 1]]])
    np.testing.assert_array_equal(fit_encoder(floats, {})(floats), floats.x)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"size": (0.0, 1.0)}, "names 'size', which is not a number column .*: use one of n0"),
        ({"t0": (0.0, 1.0)}, "names 't0', which is not a number column"),
        ({"n0": (1.0, 1.0)}, r"data.bounds.n0 must be \[low, high\] with low < high, got \[1.0, 1.0\]"),
        ({"n0": (float("nan"), 1.0)}, "must be"),
        ({"n0": (-1e308, 1e308)}, "must be"),
    ],
)
def test_impossible_bounds_are_refused(bounds: dict[str, tuple[float, float]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_encoder(table([[0.0], [1.0]], [["a"], ["b"]]), bounds)


def test_bounds_of_images_are_refused() -> None:
    with pytest.raises(DataError, match="names columns, the source has none"):
        fit_encoder(Tensor(x=np.zeros((1, 1, 2, 2), np.float32)), {"x": (0.0, 1.0)})


def test_table_without_public_records_is_refused() -> None:
    empty = np.array([], dtype=np.int64)
    with pytest.raises(DataError, match=r"column 'n0' has neither data.bounds nor a public record"):
        fit_encoder(table([[0.0]]).take(empty), {})
    with pytest.raises(DataError, match="column 't0' has neither"):
        fit_encoder(table([[0.0]], [["a"]]).take(empty), {"n0": (0.0, 1.0)})


def test_identifiers_are_no_category() -> None:
    words = [[f"patient {i}"] for i in range(1001)]
    with pytest.raises(DataError, match="'t0' has 1001 different values in the public set, at most 1000"):
        fit_encoder(table([[0.0]] * 1001, words), {})
    assert fit_encoder(table([[0.0]] * 1000, words[:1000]), {})(table([[0.0]], [["x"]])).shape == (1, 1002)
