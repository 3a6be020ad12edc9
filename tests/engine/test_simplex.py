"""Arithmetic on probability vectors, against published numbers and a search over the whole grid."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefd.simplex import descending, normalised, on_simplex_grid, one_hot_top, powered, sharpened


def test_era_anchor() -> None:
    # Exponents 4, 3, 2, 1; e^0, e^-1, e^-2, e^-3 over their sum 1.552990.
    expected = [[0.643914, 0.236883, 0.087144, 0.032059]]
    np.testing.assert_allclose(sharpened(np.array([[0.4, 0.3, 0.2, 0.1]]), 0.1), expected, atol=1e-6)


def test_era_keeps_a_uniform_mean_and_nearly_a_one_hot_one() -> None:
    np.testing.assert_allclose(sharpened(np.full((1, 4), 0.25), 0.1), 0.25)
    # 1 / (1 + 3 e^-10)
    assert sharpened(np.array([[1.0, 0, 0, 0]]), 0.1)[0, 0] == pytest.approx(0.9998638)


def test_powers_are_renormalised() -> None:
    # .25, .09, .04 over .38; what noise made negative has no weight.
    np.testing.assert_allclose(powered(np.array([[0.5, 0.3, 0.2]]), 2.0), [[25 / 38, 9 / 38, 4 / 38]])
    np.testing.assert_allclose(powered(np.array([[0.5, -0.3, 0.5]]), 2.0), [[0.5, 0, 0.5]])
    np.testing.assert_allclose(powered(np.array([[0.4, 0.3, 0.3]]), 5000.0), [[1, 0, 0]], atol=1e-12)


def test_a_row_without_weight_is_uniform() -> None:
    np.testing.assert_allclose(normalised(np.array([[0.0, 0.0], [3.0, 1.0]])), [[0.5, 0.5], [0.75, 0.25]])


def test_order_is_descending_and_ties_rotate() -> None:
    # frac(i * 0.618...) * 3 is 0, 1.85, .71: rows start at classes 0, 1, 0.
    assert descending(np.array([[1.0, 3, 2]] * 3)).tolist() == [[1, 2, 0]] * 3
    assert descending(np.ones((3, 3))).tolist() == [[0, 1, 2], [1, 2, 0], [0, 1, 2]]
    assert one_hot_top(np.array([[0.0, 0, 0], [5.0, 7, 7]])).tolist() == [[1, 0, 0], [0, 1, 0]]


@given(bits=st.integers(1, 3), seed=st.integers(0, 2**32), spread=st.sampled_from([0.1, 1.0, 10.0]))
def test_no_vector_on_the_grid_is_nearer(bits: int, seed: int, spread: float) -> None:
    p = np.random.default_rng(seed).dirichlet(np.full(4, spread), 1)
    steps = 2**bits - 1
    grid = np.array([v for v in product(range(steps + 1), repeat=4) if sum(v) == steps]) / steps
    ours = on_simplex_grid(p, bits)
    assert (ours * steps == np.rint(ours * steps)).all()
    assert ours.sum() == pytest.approx(1)
    assert np.abs(ours - p).sum() == pytest.approx(np.abs(grid - p).sum(axis=1).min())


def test_vectors_on_the_grid_stay_and_ties_do_not_favour_a_class() -> None:
    exact = np.array([[0, 1 / 3, 2 / 3], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(on_simplex_grid(exact, 2), exact)
    shares = on_simplex_grid(np.full((3000, 3), 1 / 3), 1).mean(axis=0)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.01)
