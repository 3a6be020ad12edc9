"""Real vectors rounded to integers: means, distances by trying all, and what mixtures of noise diverge by."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from securefd.defenses.rounded import apart, by_chance, likely_norm
from securefd.errors import PrivacyError

KEY = bytes(range(32))
TINY = [-1e-20, 1e-20, -5e-324, 0.0, -0.0]


def test_values_become_one_of_the_integers_around_them_and_keep_their_means() -> None:
    values = np.array([0.0, 3.0, -2.0, 0.25, -0.25, 0.999, -1.001, 7.5, -7.5, 1e6 + 1 / 3, 2.0**40 + 0.125])
    drawn = by_chance(np.tile(values, (100_000, 1)), _key=KEY)
    assert drawn.dtype == np.int64
    assert (np.abs(drawn - values) < 1).all()
    for value, column in zip(values, drawn.T, strict=True):
        up = int((column > math.floor(value)).sum())
        assert stats.binomtest(up, len(column), float(Fraction(value) - math.floor(value))).pvalue > 1e-5
    assert abs(np.corrcoef(drawn[:, 3], drawn[:, 4])[0, 1]) < 4.5 / math.sqrt(100_000)


def test_integers_and_what_is_next_to_nothing_stay_where_they_are() -> None:
    whole = np.array([2.0**52, -(2.0**52), 2.0**52 - 1, 0, 1, -1])
    assert np.array_equal(by_chance(np.tile(whole, 100)), np.tile(whole, 100).astype(np.int64))
    assert not by_chance(np.tile(TINY, 1_000)).any()


def test_every_call_rounds_anew() -> None:
    halves = np.full((10, 30), 0.5)
    assert not np.array_equal(by_chance(halves), by_chance(halves))
    assert by_chance(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0**53])
def test_what_cant_be_rounded_is_refused(bad: float) -> None:
    with pytest.raises(PrivacyError, match="2\\^52"):
        by_chance(np.array([1.0, bad]))


@pytest.mark.parametrize("distance", [0.0, 0.1, 0.5, 1.0, 1.4, 2.3])
@pytest.mark.parametrize("entries", [1, 2, 3])
def test_no_two_vectors_are_rounded_further_apart(distance: float, entries: int) -> None:
    """All directions and all rounding numbers on a grid; and some come as far as they can."""
    squared, absolute = apart(distance, entries)
    furthest = 0
    directions = [each for each in itertools.product(range(-3, 4), repeat=entries) if any(each)]
    starts = np.array(list(itertools.product((0.0, 0.25, 0.5, 0.75, 0.99), repeat=entries)))
    for direction in directions:
        moved = np.array(direction) / np.linalg.norm(direction) * distance
        for u in (0.0, 0.3, 0.5, 0.999):
            m = np.floor(starts + moved + u) - np.floor(starts + u)
            assert (m**2).sum(axis=1).max() <= squared
            assert np.abs(m).sum(axis=1).max() <= absolute
            furthest = max(furthest, (m**2).sum(axis=1).max())
    equal = math.ceil(distance / math.sqrt(entries))
    assert furthest >= entries * equal**2


@pytest.mark.parametrize(("distance", "entries"), [(3.0, 16), (0.0, 9), (1e6, 4), (100.5, 7), (1e-9, 10**8)])
def test_bounds_are_on_the_safe_side_and_near(distance: float, entries: int) -> None:
    squared, absolute = apart(distance, entries)
    exact = (distance + math.sqrt(entries)) ** 2
    assert exact * (1 - 1e-12) - 1 <= squared <= exact * (1 + 1e-9)
    assert absolute == min(math.isqrt(squared * entries), squared)


def mixture(value: float, deviation: float, grid: np.ndarray) -> np.ndarray:
    """Probabilities of a value rounded by chance, with discrete Gaussian noise."""
    low = math.floor(value)
    noise = [np.exp(-((grid - low - k) ** 2) / (2 * deviation**2)) for k in (0, 1)]
    share = value - low
    return (1 - share) * noise[0] / noise[0].sum() + share * noise[1] / noise[1].sum()


@pytest.mark.parametrize("deviation", [0.6, 2.0, 10.0])
@pytest.mark.parametrize("order", [1.5, 2.0, 8.0, 64.0])
def test_mixtures_diverge_by_no_more_than_their_bound(deviation: float, order: float) -> None:
    """Two values rounded each by itself: Renyi divergence at most order * apart / (2 variance)."""
    grid = np.arange(-300, 301)
    for distance in (0.01, 0.5, 1.0, 1.7, 3.2):
        bound = order * apart(distance, 1)[0] / (2 * deviation**2)
        for start in (0.0, 0.2, 0.5, 0.9):
            p, q = (mixture(value, deviation, grid) for value in (start, start + distance))
            kept = (p > 1e-280) & (q > 1e-280)
            logs = order * np.log(p[kept]) + (1 - order) * np.log(q[kept])
            divergence = (logs.max() + np.log(np.exp(logs - logs.max()).sum())) / (order - 1)
            assert divergence <= bound * (1 + 1e-9)


@pytest.mark.parametrize("entries", [10, 1_000])
@pytest.mark.parametrize("norm", [0.5, 30.0])
@pytest.mark.parametrize("beta", [0.05, math.exp(-0.5)])
def test_norms_are_seldom_beyond_what_is_likely(entries: int, norm: float, beta: float) -> None:
    direction = np.random.default_rng(5).normal(size=entries)
    vector = direction / np.linalg.norm(direction) * norm
    norms = np.linalg.norm(by_chance(np.tile(vector, (2_000, 1)), _key=KEY), axis=1)
    bound = likely_norm(norm, entries, beta)
    assert (norms > bound).mean() < beta
    assert bound <= norm + math.sqrt(entries)
    # As Kairouz, Liu and Steinke 2021 print it, for steps of 1.
    square = norm**2 + entries / 4 + math.sqrt(2 * math.log(1 / beta)) * (norm + math.sqrt(entries) / 2)
    assert bound == pytest.approx(min(norm + math.sqrt(entries), math.sqrt(square)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_a_distance_is_a_number(bad: float) -> None:
    with pytest.raises(PrivacyError, match="distance"):
        apart(bad, 3)
    with pytest.raises(PrivacyError, match="norm"):
        likely_norm(bad, 3, 0.5)


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(PrivacyError, match="entries"):
        apart(1.0, 0)
    for beta in (0.0, 1.0, math.nan):
        with pytest.raises(PrivacyError, match="beta"):
            likely_norm(1.0, 3, beta)
