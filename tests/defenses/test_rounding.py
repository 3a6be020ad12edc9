"""Rounding by chance: the right means, and no row beyond its bound."""

import numpy as np
import pytest

from securefd.defenses.quantise import Block, dequantise_sum, quantise
from securefd.defenses.rounding import quantise_by_chance
from securefd.errors import SealingError

BITS, LEVELS = 3, 7


def uniform_from(rng):
    return lambda n: rng.integers(0, 2**32, n)


def simplex(rows, classes, high=1.0):
    return Block(name="probabilities", shape=(rows, classes), low=0.0, high=high, simplex=True)


def test_means_are_kept_and_levels_are_next_to_their_values():
    rng = np.random.default_rng(1)
    values = rng.dirichlet(np.full(4, 0.5), 5)
    logits = rng.uniform(-2, 3, (2, 3))
    blocks = (simplex(5, 4), Block(name="logits", shape=(2, 3), low=-2.0, high=3.0))
    draws = np.array(
        [quantise_by_chance((values, logits), blocks, BITS, uniform_from(rng)) for _ in range(20_000)]
    )
    steps = np.concatenate([values.ravel() * LEVELS, (logits.ravel() + 2) / 5 * LEVELS])
    assert (np.abs(draws - steps) < 1).all()
    # five standard errors of a value that is one of two neighbours
    assert np.abs(draws.mean(axis=0) - steps).max() < 5 * 0.5 / np.sqrt(20_000)
    assert np.abs(dequantise_sum(draws.sum(axis=0), blocks, BITS, 20_000)[0] / 20_000 - values).max() < 0.01


@pytest.mark.parametrize("bits", [1, 2, 8, 20])
def test_no_row_leaves_its_simplex(bits):
    rng = np.random.default_rng(2)
    full = rng.dirichlet(np.full(10, 0.3), 400)
    part = full * rng.uniform(0, 1, (400, 1))
    awkward = np.array([[0.1] * 10, [1 / 3, 1 / 3, 1 / 3, *[0.0] * 7], [1.0, *[0.0] * 9], [0.0] * 10])
    for rows in (full, part, awkward):
        levels = quantise_by_chance((rows,), (simplex(len(rows), 10),), bits, uniform_from(rng))
        levels = levels.reshape(rows.shape)
        assert levels.min() >= 0
        assert levels.sum(axis=-1).max() <= 2**bits - 1
    sums = quantise_by_chance((full,), (simplex(400, 10),), bits, uniform_from(rng)).reshape(400, 10).sum(-1)
    assert sums.min() >= 2**bits - 2


def test_the_worst_uniforms_keep_the_bound():
    rows = np.array([[0.1] * 10, [0.7, 0.1, 0.1, 0.1, *[0.0] * 6]])
    for value in (0, 1, 2**31, 2**32 - 1):
        levels = quantise_by_chance((rows,), (simplex(2, 10),), 8, lambda n, v=value: np.full(n, v))
        assert levels.reshape(2, 10).sum(axis=-1).max() <= 255


def test_votes_are_left_as_they_are():
    rng = np.random.default_rng(3)
    votes = np.eye(5)[rng.integers(0, 5, 30)]
    blocks = (Block(name="votes", shape=(30, 5), low=0.0, high=1.0, simplex=True),)
    assert (quantise_by_chance((votes,), blocks, 1, uniform_from(rng)) == quantise((votes,), blocks, 1)).all()


def test_noise_may_carry_a_sum_out_of_its_range_as_far_as_is_said():
    block = (simplex(1, 2),)
    (low,) = dequantise_sum(np.array([-5, 12]), block, BITS, 1, beyond=5)
    assert low.tolist() == [[-5 / 7, 12 / 7]]
    for total in ([-6, 0], [0, 13]):
        with pytest.raises(SealingError, match=r"must be in \[-5, 12\]"):
            dequantise_sum(np.array(total), block, BITS, 1, beyond=5)


def test_what_isnt_an_answer_is_refused():
    rng = np.random.default_rng(4)
    with pytest.raises(SealingError, match="clip it before"):
        quantise_by_chance((np.array([[1.5, 0.0]]),), (simplex(1, 2),), BITS, uniform_from(rng))
    with pytest.raises(SealingError, match="clip it before"):
        quantise_by_chance((np.array([[np.nan, 0.0]]),), (simplex(1, 2),), BITS, uniform_from(rng))
    with pytest.raises(SealingError, match="at most 20"):
        quantise_by_chance((np.array([[1.0, 0.0]]),), (simplex(1, 2),), 21, uniform_from(rng))
