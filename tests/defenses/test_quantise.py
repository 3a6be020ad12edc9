from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from securefd.defenses.quantise import MAX_BITS, Block, check_grid, dequantise_sum, quantise
from securefd.errors import SealingError

UNIT = Block(name="probabilities", shape=(2, 3), low=0.0, high=1.0)
LOGITS = Block(name="logits", shape=(4,), low=-5.0, high=3.0)
blocks = st.sampled_from([UNIT, LOGITS, Block(name="counts", shape=(1, 2, 1), low=1e-3, high=1e6)])
bits = st.integers(1, MAX_BITS)


def naive(value: float, block: Block, n_bits: int) -> int:
    """The formula in exact fractions; ``round`` on a Fraction goes half to even."""
    unit = (Fraction(value) - Fraction(block.low)) / (Fraction(block.high) - Fraction(block.low))
    point: int = round(unit * (2**n_bits - 1))
    return point


@given(blocks, st.integers(1, 24), st.data())
def test_against_exact_fractions(block: Block, n_bits: int, data: st.DataObject) -> None:
    values = data.draw(arrays(np.float64, block.shape, elements=st.floats(block.low, block.high)))
    got = quantise([values], [block], n_bits)
    exact = np.array([naive(value, block, n_bits) for value in values.ravel()])
    assert got.dtype == np.int64
    # A value within rounding error of a tie may fall to the other side of it, and no value further.
    scaled = (values.ravel() - block.low) / (block.high - block.low) * (2**n_bits - 1)
    ties = np.abs(scaled - np.floor(scaled) - 0.5) < 1e-6
    assert (got == exact)[~ties].all()
    assert (np.abs(got - exact) <= 1).all()


@given(blocks, bits, st.integers(1, 7), st.data())
def test_error_of_a_sum(block: Block, n_bits: int, n_clients: int, data: st.DataObject) -> None:
    values = data.draw(
        arrays(np.float64, (n_clients, *block.shape), elements=st.floats(block.low, block.high))
    )
    total = sum(quantise([client], [block], n_bits) for client in values)
    assert isinstance(total, np.ndarray)
    (got,) = dequantise_sum(total, [block], n_bits, n_clients)
    width = block.high - block.low
    step = width / (2**n_bits - 1)
    slack = 1e-12 * n_clients * max(abs(block.low), abs(block.high))
    assert (np.abs(got - values.sum(axis=0)) <= n_clients * step / 2 + slack).all()


@given(blocks, bits, st.data())
def test_grid_points_are_exact(block: Block, n_bits: int, data: st.DataObject) -> None:
    points = data.draw(arrays(np.int64, block.size, elements=st.integers(0, 2**n_bits - 1)))
    (values,) = dequantise_sum(points, [block], n_bits, 1)
    assert (quantise([values], [block], n_bits) == points).all()


def test_by_hand() -> None:
    values = np.array([-5.0, 3.0, -1.0, -4.0])
    # Two bits: steps of 8/3 from -5; -1 lies half-way between 1 and 2 and goes to the even one.
    assert quantise([values], [LOGITS], 2).tolist() == [0, 3, 2, 0]
    (back,) = dequantise_sum(np.array([0, 3, 2, 0]), [LOGITS], 2, 1)
    np.testing.assert_allclose(back, [-5, 3, 1 / 3, -5])
    (back,) = dequantise_sum(np.array([0, 6, 3, 1]), [LOGITS], 2, 2)
    np.testing.assert_allclose(back, [-10, 6, -2, -10 + 8 / 3])


def test_ties_go_to_even() -> None:
    block = Block(name="b", shape=(4,), low=0.0, high=3.0)
    assert quantise([np.array([0.5, 1.5, 2.5, 2.4])], [block], 2).tolist() == [0, 2, 2, 2]


def test_blocks_are_joined_in_order() -> None:
    joined = quantise([np.ones((2, 3)), np.full(4, -5.0)], [UNIT, LOGITS], 8)
    assert joined.tolist() == [255] * 6 + [0] * 4
    first, second = dequantise_sum(joined, [UNIT, LOGITS], 8, 1)
    assert first.shape == (2, 3)
    assert second.shape == (4,)
    assert (first == 1).all()
    assert (second == -5).all()


def test_rounding_errors_at_the_bounds_are_clipped() -> None:
    values = np.array([1 + 5e-10, -5e-10, 0, 1, 0, 1]).reshape(2, 3)
    assert quantise([values], [UNIT], 8).tolist() == [255, 0, 0, 255, 0, 255]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1 + 1e-8, -1e-8, 7.0])
def test_out_of_bounds(wrong: float) -> None:
    values = np.zeros((2, 3))
    values[1, 1] = wrong
    with pytest.raises(SealingError, match=r"probabilities must be in \[0.0, 1.0\]"):
        quantise([values], [UNIT], 8)


@pytest.mark.parametrize("wrong", [np.zeros((3, 2)), np.zeros(6), np.zeros((2, 3, 1)), np.zeros((2, 2))])
def test_wrong_shapes(wrong: NDArray[np.float64]) -> None:
    with pytest.raises(SealingError, match="shape"):
        quantise([wrong], [UNIT], 8)


def test_wrong_number_of_arrays() -> None:
    with pytest.raises(SealingError, match="1 blocks need as many arrays, got 2"):
        quantise([np.zeros((2, 3))] * 2, [UNIT], 8)


@pytest.mark.parametrize("n_bits", [0, -1, MAX_BITS + 1])
def test_wrong_bits(n_bits: int) -> None:
    with pytest.raises(SealingError, match="bits"):
        quantise([np.zeros((2, 3))], [UNIT], n_bits)
    with pytest.raises(SealingError, match="bits"):
        dequantise_sum(np.zeros(6, np.int64), [UNIT], n_bits, 1)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0), (1.0, 0.0), (np.nan, 1.0), (0.0, np.nan), (0.0, np.inf), (-1e308, 1e308)]
)
def test_wrong_bounds(low: float, high: float) -> None:
    with pytest.raises(SealingError, match="low < high"):
        Block(name="b", shape=(1,), low=low, high=high)


def test_negative_lengths() -> None:
    with pytest.raises(SealingError, match="lengths"):
        Block(name="b", shape=(2, -1), low=0.0, high=1.0)


@pytest.mark.parametrize(
    ("total", "n_clients"),
    [
        (np.full(6, 511), 2),
        (np.full(6, -1), 2),
        (np.zeros(5, np.int64), 2),
        (np.zeros((2, 3), np.int64), 2),
        (np.zeros(6), 2),
        (np.zeros(6, np.int64), 0),
    ],
)
def test_impossible_sums(total: NDArray[np.int64], n_clients: int) -> None:
    with pytest.raises(SealingError):
        dequantise_sum(total, [UNIT], 8, n_clients)


@pytest.mark.parametrize(
    "vector",
    [
        np.array([0, 256]),
        np.array([-1, 0]),
        np.array([0.0]),
        np.array([0], np.int32),
        np.zeros((1, 1), np.int64),
        np.zeros(0, np.int64),
        [0],
    ],
    ids=repr,
)
def test_vectors_off_the_grid(vector: NDArray[np.int64]) -> None:
    with pytest.raises(SealingError):
        check_grid(vector, 8)


def test_vectors_on_the_grid() -> None:
    check_grid(np.array([0, 255]), 8, size=2)
    with pytest.raises(SealingError, match="3 values"):
        check_grid(np.array([0, 255]), 8, size=3)
