"""Sensitivities against the worst pair that exists, found by trying all of them."""

import itertools
import math

import numpy as np
import pytest

from securefd.defenses.quantise import Block
from securefd.defenses.sensitivity import Sensitivity, composed, of_client
from securefd.errors import PrivacyError, SealingError
from securefd.methods import METHODS, Options

PROBABILITIES = Block(name="probabilities", shape=(2, 3), low=0.0, high=1.0, simplex=True)
COUNTS = Block(name="counts", shape=(2,), low=0.0, high=5.0)


def rows_of(levels, classes):
    """Every row of integers that is non-negative and adds up to at most ``levels``."""
    return [row for row in itertools.product(range(levels + 1), repeat=classes) if sum(row) <= levels]


def every_answer(bits):
    """All answers of one query in a simplex block and one count."""
    levels = 2**bits - 1
    return [np.array([*row, count]) for row in rows_of(levels, 3) for count in range(levels + 1)]


@pytest.mark.parametrize("bits", [1, 2])
def test_no_pair_of_answers_is_further_apart_and_some_pair_is_as_far(bits):
    blocks = (
        Block(name="probabilities", shape=(1, 3), low=0.0, high=1.0, simplex=True),
        Block(name="counts", shape=(1,), low=0.0, high=5.0),
    )
    found, answers = of_client(blocks, bits), every_answer(bits)
    pairs = [a - b for a, b in itertools.product(answers, answers)]
    assert found.replaced == max(int((d**2).sum()) for d in pairs)
    assert found.replaced_l1 == max(int(np.abs(d).sum()) for d in pairs)
    assert found.added == max(int((a**2).sum()) for a in answers)
    assert found.added_l1 == max(int(a.sum()) for a in answers)


def test_queries_answered_with_probabilities_move_by_sqrt_2m():
    found = of_client((PROBABILITIES,), 8)
    assert math.sqrt(found.replaced) == pytest.approx(255 * math.sqrt(2 * 2))
    assert found.replaced_l1 == 2 * 255 * 2


def test_balanced_moves_by_its_bound_times_sqrt_2m_plus_c():
    queries, classes, bits = 7, 10, 6
    blocks = METHODS["balanced"].blocks(queries, classes, Options())
    found = of_client(blocks, bits)
    assert math.sqrt(found.replaced) == pytest.approx((2**bits - 1) * math.sqrt(2 * queries + classes))
    assert found.replaced_l1 == (2**bits - 1) * (2 * queries + classes)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_method_answers_with_more_than_its_blocks_allow(name):
    """Rows that are said to be of a simplex are."""
    row, rng = METHODS[name], np.random.default_rng(1)
    from securefd.methods import Own

    own = Own(
        logits=rng.normal(size=(50, 4)) * 20,
        counts=rng.integers(0, 5000, 4).astype(float),
        classwise=rng.normal(size=(4, 4)) * 20,
    )
    arrays = row.answer(own, row.options)
    for array, block in zip(arrays, row.blocks(50, 4, row.options), strict=True):
        if block.simplex:
            assert array.min() >= 0
            assert array.sum(axis=-1).max() <= block.high * (1 + 1e-12)


def test_releases_add_up_as_one_long_vector():
    one = of_client((PROBABILITIES, COUNTS), 3)
    assert composed(one, 4) == of_client(
        (
            Block(name="probabilities", shape=(8, 3), low=0.0, high=1.0, simplex=True),
            Block(name="counts", shape=(8,), low=0.0, high=5.0),
        ),
        3,
    )


@pytest.mark.parametrize("wrong", [0, -1])
def test_nothing_moves_by_nothing(wrong):
    with pytest.raises(PrivacyError, match="at least 1"):
        Sensitivity(added=wrong, replaced=1, added_l1=1, replaced_l1=1)
    with pytest.raises(PrivacyError, match="at least 1"):
        composed(of_client((COUNTS,), 1), wrong)


def test_a_simplex_starts_from_zero():
    with pytest.raises(SealingError, match="start from 0"):
        Block(name="logits", shape=(2, 3), low=-1.0, high=1.0, simplex=True)
