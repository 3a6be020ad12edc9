"""Robust combination against naive oracles, liars up to the number tolerated, and nonsense."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from securefd.defenses import robust
from securefd.defenses.robust import (
    RULES,
    coordinate_median,
    cronus,
    expguard,
    geometric_median,
    liars_tolerated,
    n_dropped,
    trimmed_mean,
)
from securefd.errors import ProtocolError

Floats = NDArray[np.float64]
TRIM = 0.34
ETA = 2.0


def combined(rule: str, answers: Floats) -> Floats:
    """Each rule with the same settings throughout."""
    if rule == "trimmed":
        return trimmed_mean(answers, TRIM)
    if rule == "expguard":
        return expguard(answers, np.ones(len(answers)), ETA)[1]
    return {"median": coordinate_median, "geometric": geometric_median, "cronus": cronus}[rule](answers)


def make_answers(seed: int, k: int, m: int, n_classes: int) -> Floats:
    """Random answers from nearly uniform to one-hot, some of them equal."""
    rng = np.random.default_rng([seed, k, m, n_classes])
    concentration = rng.choice([0.05, 0.5, 5.0], size=(k, m, 1))
    gammas = rng.gamma(concentration, size=(k, m, n_classes)) + 1e-12
    answers = gammas / gammas.sum(axis=-1, keepdims=True)
    answers[rng.random((k, m)) < 0.2] = np.eye(n_classes)[0]
    return answers


SEEDS = st.integers(0, 2**32 - 1)
SHAPES = given(seed=SEEDS, k=st.integers(1, 12), m=st.integers(1, 4), n_classes=st.integers(1, 6))


# --- naive oracles, one input at a time --------------------------------------------------------


def normalised(row: Floats) -> Floats:
    return row / row.sum() if row.sum() > 0 else np.full(len(row), 1 / len(row))


def naive_median(answers: Floats) -> Floats:
    return np.array(
        [
            normalised(np.array([statistics.median(column) for column in one.T]))
            for one in np.moveaxis(answers, 1, 0)
        ]
    )


def naive_trimmed(answers: Floats, dropped: int) -> Floats:
    def middle(column: Floats) -> float:
        return statistics.fmean(sorted(column)[dropped : len(column) - dropped])

    return np.array(
        [normalised(np.array([middle(column) for column in one.T])) for one in np.moveaxis(answers, 1, 0)]
    )


def naive_scores(answers: Floats) -> Floats:
    """``(k, C)`` answers on one input; the direction comes from a singular value decomposition instead."""
    centred = answers - answers.mean(axis=0)
    return np.round(np.abs(centred @ np.linalg.svd(centred)[2][0]), 12)


def naive_cronus(answers: Floats) -> Floats:
    rows = []
    for one in np.moveaxis(answers, 1, 0):
        k = len(one)
        q = 1 - (math.ceil(k / 2) - 1) / (2 * k)
        kept = [one[i] for i in sorted(range(k), key=naive_scores(one).__getitem__)][: int(q * k + 1e-9)]
        scores = naive_scores(np.array(kept))
        limit = np.quantile(scores, q)
        rows.append(np.mean([x for x, score in zip(kept, scores, strict=True) if score <= limit], axis=0))
    return np.array(rows)


def distance_sum(points: Floats, y: Floats) -> float:
    return float(np.linalg.norm(points - y, axis=-1).sum())


def naive_geometric(points: Floats) -> float:
    """The least sum of distances: the best answer, or what a general-purpose minimiser finds."""
    starts = [points.mean(axis=0), np.median(points, axis=0)]
    found = [
        minimize(
            lambda y: distance_sum(points, y),
            start,
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000},
        )
        for start in starts
    ]
    return min([distance_sum(points, p) for p in points] + [result.fun for result in found])


@SHAPES
def test_median(seed: int, k: int, m: int, n_classes: int) -> None:
    answers = make_answers(seed, k, m, n_classes)
    np.testing.assert_allclose(coordinate_median(answers), naive_median(answers), atol=1e-12)


@SHAPES
def test_trimmed_mean(seed: int, k: int, m: int, n_classes: int) -> None:
    answers = make_answers(seed, k, m, n_classes)
    for trim in (0.0, 0.1, 0.25, 0.34, 0.49):
        expected = naive_trimmed(answers, int(trim * k + 1e-9))
        np.testing.assert_allclose(trimmed_mean(answers, trim), expected, atol=1e-12)


@given(seed=SEEDS, k=st.integers(1, 12), n_classes=st.integers(2, 6))
def test_cronus(seed: int, k: int, n_classes: int) -> None:
    """Answers of which the direction is unique."""
    answers = np.random.default_rng(seed).dirichlet(np.ones(n_classes), (k, 3))
    np.testing.assert_allclose(cronus(answers), naive_cronus(answers), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, k=st.integers(1, 9), n_classes=st.integers(2, 4))
def test_geometric_median(seed: int, k: int, n_classes: int) -> None:
    """Where the sum of distances is nearly flat it is left a little too large."""
    answers = make_answers(seed, k, 2, n_classes)
    for points, found in zip(np.moveaxis(answers, 1, 0), geometric_median(answers), strict=True):
        assert distance_sum(points, found) <= naive_geometric(points) + 5e-4


def test_geometric_median_of_answers_that_are_nowhere_flat() -> None:
    answers = np.random.default_rng(0).dirichlet(np.ones(4), (9, 20))
    for points, found in zip(np.moveaxis(answers, 1, 0), geometric_median(answers), strict=True):
        pulls = (points - found) / np.linalg.norm(points - found, axis=-1, keepdims=True)
        at_an_answer = np.linalg.norm(points - found, axis=-1).min() < 1e-9
        assert at_an_answer or np.linalg.norm(pulls.sum(axis=0)) < 1e-6


@settings(deadline=None)
@SHAPES
def test_expguard(seed: int, k: int, m: int, n_classes: int) -> None:
    answers = make_answers(seed, k, m, n_classes)
    weights = np.random.default_rng(seed).dirichlet(np.ones(k))
    middle = geometric_median(answers)
    expected = []
    for own, weight in zip(answers, weights, strict=True):
        score = statistics.fmean(math.dist(p, r) for p, r in zip(own, middle, strict=True))
        expected.append(weight * math.exp(-ETA * score))
    updated, result = expguard(answers, weights, ETA)
    np.testing.assert_allclose(updated, np.array(expected) / sum(expected), atol=1e-12)
    mean = sum(w * own for w, own in zip(updated, answers, strict=True))
    np.testing.assert_allclose(result, mean / mean.sum(axis=-1, keepdims=True), atol=1e-12)


# --- geometry ----------------------------------------------------------------------------------


def test_a_start_on_an_answer_that_is_not_the_median_is_left() -> None:
    """Weiszfeld's own step divides by zero there. The coordinate median of these three is the first of them,
    and the other two are seen from it under 91 degrees; it would be the median from 120 degrees on.
    """
    a, b = np.array([1.0, -1.0, -0.01, 0.01]), np.array([-0.01, 0.01, 1.0, -1.0])
    points = 0.25 + 0.1 * np.array([np.zeros(4), a, b])
    assert np.array_equal(np.median(points, axis=0), points[0])
    found = geometric_median(points[:, None])[0]
    assert np.linalg.norm(found - points[0]) > 0.01
    # every answer pulls with a unit vector, and the pulls cancel: each two are 120 degrees apart
    pulls = (points - found) / np.linalg.norm(points - found, axis=-1, keepdims=True)
    np.testing.assert_allclose(pulls @ pulls.T, 1.5 * np.eye(3) - 0.5, atol=1e-6)


def test_an_answer_that_is_the_median_is_kept() -> None:
    """Seen from the first answer the others are 180 degrees apart."""
    points = np.array([[0.4, 0.3, 0.3], [0.2, 0.4, 0.4], [0.9, 0.05, 0.05]])
    np.testing.assert_allclose(geometric_median(points[:, None])[0], points[0], atol=1e-9)


def test_an_answer_that_is_barely_the_median_is_found_at_once() -> None:
    """Two clients agree, and two others pull by nearly two unit vectors: steps there get ever shorter."""
    vertex = [1.0, 0.0, 0.0, 0.0]
    points = np.array(
        [[0.29339583, 0.35569012, 0.15074978, 0.20016427], [0.14720437, 0.42573253, 0.22520869, 0.20185441]]
        + [vertex] * 2
    )
    pulls = (points[:2] - vertex) / np.linalg.norm(points[:2] - vertex, axis=-1, keepdims=True)
    assert 1.9 < np.linalg.norm(pulls.sum(axis=0)) < 2
    np.testing.assert_allclose(geometric_median(points[:, None])[0], vertex, atol=1e-12)


def test_inputs_stop_on_their_own() -> None:
    """One input that needs many steps beside one that needs none: both are what they are alone."""
    answers = make_answers(1, 8, 5, 4)
    answers[:, 2] = answers[0, 2]
    together = geometric_median(answers)
    alone = np.concatenate([geometric_median(answers[:, i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_steps_are_limited() -> None:
    answers = np.random.default_rng(0).dirichlet(np.ones(5), (7, 3))
    one, all_ = geometric_median(answers, most_steps=1), geometric_median(answers)
    assert np.abs(one - all_).max() > 1e-4
    coarse = geometric_median(answers, tolerance=0.5)
    np.testing.assert_array_equal(coarse, one)


@pytest.mark.parametrize("rule", ["cronus", "geometric"])
def test_inputs_by_parts_are_the_same(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = make_answers(3, 9, 50, 4)
    whole = combined(rule, answers)
    monkeypatch.setattr(robust, "MATRICES", 200)
    np.testing.assert_allclose(combined(rule, answers), whole, atol=1e-12)


def test_one_hot_votes_have_a_direction() -> None:
    """(1, ..., 1) is orthogonal to every difference of votes: power iteration from there finds nothing."""
    votes = np.eye(10)[[3] * 7 + [5] * 2]
    assert np.linalg.norm(np.cov(votes.T) @ np.ones(10)) < 1e-12
    np.testing.assert_allclose(cronus(votes[:, None])[0], np.eye(10)[3], atol=1e-12)


# --- what every rule promises ------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40, deadline=None)
@SHAPES
def test_a_result_is_a_distribution(rule: str, seed: int, k: int, m: int, n_classes: int) -> None:
    result = combined(rule, make_answers(seed, k, m, n_classes))
    assert result.shape == (m, n_classes)
    assert result.dtype == np.float64
    assert (result >= 0).all()
    np.testing.assert_allclose(result.sum(axis=-1), 1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_those_who_agree_get_what_they_agree_on(rule: str, k: int) -> None:
    """Identical answers vary in no direction: their covariance is zero."""
    answers = np.repeat(make_answers(5, 1, 6, 4), k, axis=0)
    np.testing.assert_allclose(combined(rule, answers), answers[0], atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_two_answers_have_their_mean(rule: str) -> None:
    answers = np.array([[[0.7, 0.2, 0.1]], [[0.1, 0.4, 0.5]]])
    np.testing.assert_allclose(combined(rule, answers), [[0.4, 0.3, 0.3]], atol=1e-12)


def test_three_answers() -> None:
    """Worked by hand. The third answer strays."""
    answers = np.array([[[0.7, 0.2, 0.1]], [[0.5, 0.3, 0.2]], [[0.0, 0.0, 1.0]]])
    # medians .5, .2, .2 over .9; with one of three dropped at each end the trimmed mean is the median
    np.testing.assert_allclose(coordinate_median(answers), [[5 / 9, 2 / 9, 2 / 9]])
    np.testing.assert_allclose(trimmed_mean(answers, TRIM), [[5 / 9, 2 / 9, 2 / 9]])
    np.testing.assert_allclose(trimmed_mean(answers, 0.1), [[0.4, 0.5 / 3, 1.3 / 3]])
    # seen from the second, the others are more than 120 degrees apart
    np.testing.assert_allclose(geometric_median(answers), [[0.5, 0.3, 0.2]], atol=1e-9)
    # f = 1: the first pass keeps 2 of 3, the second both of those
    np.testing.assert_allclose(cronus(answers), [[0.6, 0.25, 0.15]])


@pytest.mark.parametrize("rule", ["median", "trimmed"])
def test_nobody_supports_anything_is_uniform(rule: str) -> None:
    np.testing.assert_allclose(combined(rule, np.eye(5)[:, None]), [[0.2] * 5])


def test_equal_scores_leave_the_earlier_answers() -> None:
    """Two against two at the same distance from their mean: f = 1, and the last one is dropped."""
    answers = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])[:, None]
    first = cronus(answers)
    np.testing.assert_allclose(first, [[1.0, 0.0]])
    np.testing.assert_array_equal(first, cronus(answers))


# --- liars -------------------------------------------------------------------------------------


def test_how_many_liars_are_tolerated() -> None:
    figures = {
        rule: [liars_tolerated(rule, k, trim=TRIM) for k in (1, 2, 3, 4, 5, 9, 10, 100)] for rule in RULES
    }
    half = [0, 0, 1, 1, 2, 4, 4, 49]
    assert figures == {
        "median": half,
        "geometric": half,
        "expguard": half,
        "trimmed": [0, 0, 1, 1, 1, 3, 3, 34],
        "cronus": [0, 0, 1, 1, 2, 2, 2, 2],
    }


@pytest.mark.parametrize(
    ("k", "trim", "dropped"), [(100, 0.29, 29), (3, 1 / 3, 1), (10, 0.3, 3), (10, 0.29, 2)]
)
def test_a_share_of_answers_is_what_it_says(k: int, trim: float, dropped: int) -> None:
    """0.29 * 100 is 28.999999999999996."""
    assert n_dropped(k, trim) == liars_tolerated("trimmed", k, trim=trim) == dropped


EXACT = ("median", "trimmed", "geometric", "cronus")
"""Rules from which liars up to the number tolerated disappear where the others agree."""


def liars_beside(truth: Floats, seed: int, number: int) -> Floats:
    """Anything: the vertex opposite to the truth for all of them, other vertices, random, near the truth."""
    rng = np.random.default_rng(seed)
    m, n_classes = truth.shape
    opposite = np.repeat(np.eye(n_classes)[truth.argmin(axis=-1)][None], number, axis=0)
    vertices = np.eye(n_classes)[rng.integers(0, n_classes, (number, m))]
    wild = rng.dirichlet(np.full(n_classes, 0.3), (number, m))
    which = rng.integers(0, 3, m)
    lies = np.choose(which[None, :, None], [opposite, vertices, wild])
    near = 10 ** rng.uniform(-6, 0, (number, m, 1)) * (rng.random((1, m, 1)) < 0.5)
    return np.where(near > 0, truth + near * (lies - truth), lies)


@pytest.mark.parametrize("rule", EXACT)
@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, k=st.integers(3, 15), first=st.booleans())
def test_liars_disappear_where_the_others_agree(rule: str, seed: int, k: int, first: bool) -> None:
    liars = liars_tolerated(rule, k, trim=TRIM)
    assert liars >= 1
    truth = make_answers(seed, 1, 200, 5)[0]
    parts = [liars_beside(truth, seed, liars), np.repeat(truth[None], k - liars, axis=0)]
    np.testing.assert_allclose(
        combined(rule, np.concatenate(parts if first else parts[::-1])), truth, atol=1e-9
    )


@pytest.mark.parametrize(("rule", "k"), [("median", 9), ("geometric", 9), ("trimmed", 9), ("cronus", 9)])
def test_one_liar_more_is_not_tolerated(rule: str, k: int) -> None:
    """The numbers aren't understated: with one more, some lies get through."""
    liars = liars_tolerated(rule, k, trim=TRIM) + 1
    truth = make_answers(0, 1, 2000, 5)[0]
    answers = np.concatenate([liars_beside(truth, 0, liars), np.repeat(truth[None], k - liars, axis=0)])
    assert np.abs(combined(rule, answers) - truth).max() > 0.01


def honest_answers(seed: int, k: int, m: int = 100, n_classes: int = 5) -> Floats:
    """Clients that differ a little about inputs of which they are fairly sure."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(1, m, n_classes)) * 2 + rng.normal(size=(k, m, n_classes)) * 0.2
    weights = np.exp(scores)
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("k", [3, 5, 9, 20])
def test_colluders_hardly_move_it_and_move_a_mean_far(rule: str, k: int) -> None:
    """All liars claim the class that the honest find least likely."""
    liars = liars_tolerated(rule, k, trim=TRIM)
    honest = honest_answers(k, k - liars)
    truth = honest.mean(axis=0)
    lies = np.repeat(np.eye(5)[truth.argmin(axis=-1)][None], liars, axis=0)
    answers = np.concatenate([lies, honest])
    # the L1 distance of a mean to the honest mean is the share of liars times nearly 2
    far = np.abs(answers.mean(axis=0) - truth).sum(axis=-1).mean()
    assert far > 1.8 * liars / k
    near = np.abs(combined(rule, answers) - truth).sum(axis=-1).mean()
    assert near < (0.45 if rule == "expguard" else 0.7) * far


@pytest.mark.parametrize("rule", ["median", "geometric", "cronus"])
def test_what_is_left_of_nearly_half_colluders(rule: str) -> None:
    """Four of nine lie alike, and the honest majority is still found."""
    honest = honest_answers(0, 5)
    truth = honest.mean(axis=0)
    lies = np.repeat(np.eye(5)[truth.argmin(axis=-1)][None], 4, axis=0)
    result = combined(rule, np.concatenate([lies, honest]))
    assert (result.argmax(axis=-1) == truth.argmax(axis=-1)).mean() > 0.9


@given(seed=SEEDS, k=st.integers(3, 11))
def test_the_bound_of_the_median(seed: int, k: int) -> None:
    """Before it is renormalised each coordinate is in the honest range, so the result is in this one."""
    liars = liars_tolerated("median", k)
    honest = honest_answers(seed, k - liars, m=20)
    answers = np.concatenate([liars_beside(honest[0], seed, liars), honest])
    low, high = honest.min(axis=0), honest.max(axis=0)
    for result in (coordinate_median(answers), trimmed_mean(answers, (liars + 0.01) / k)):
        assert (result >= low / high.sum(axis=-1, keepdims=True) - 1e-12).all()
        assert (result <= high / low.sum(axis=-1, keepdims=True) + 1e-12).all()


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, k=st.integers(3, 11))
def test_the_bound_of_the_geometric_median(seed: int, k: int) -> None:
    liars = liars_tolerated("geometric", k)
    honest = honest_answers(seed, k - liars, m=20)
    centre = honest.mean(axis=0)
    answers = np.concatenate([liars_beside(centre, seed, liars), honest])
    radius = np.linalg.norm(honest - centre, axis=-1).max(axis=0)
    strayed = np.linalg.norm(geometric_median(answers) - centre, axis=-1)
    assert (strayed <= 2 * radius * (k - liars) / (k - 2 * liars) + 1e-9).all()


@pytest.mark.parametrize("k", [5, 9, 20])
def test_cronus_strays_by_a_multiple_of_the_honest_spread(k: int) -> None:
    """However far away two liars are: a mean strays by many times the spread."""
    honest = honest_answers(k, k - 2, m=5000)
    centre = honest.mean(axis=0)
    answers = np.concatenate([liars_beside(centre, k, 2), honest])
    spread = np.linalg.norm(honest - centre, axis=-1).max(axis=0)
    assert (np.linalg.norm(cronus(answers) - centre, axis=-1) < 3 * spread).all()


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, k=st.integers(3, 11), eta=st.floats(0.1, 20))
def test_the_bound_of_expguard(seed: int, k: int, eta: float) -> None:
    """On average over inputs, round after round, where the others agree; see `liars_tolerated`."""
    liars = liars_tolerated("expguard", k)
    truth = make_answers(seed, 1, 20, 5)[0]
    weights = np.full(k, 1 / k)
    for number in range(3):
        lies = liars_beside(truth, seed + number, liars)
        answers = np.concatenate([lies, np.repeat(truth[None], k - liars, axis=0)])
        weights, result = expguard(answers, weights, eta)
        strayed = np.linalg.norm(result - truth, axis=-1).mean()
        assert strayed <= liars / ((k - liars) * math.e * eta) + 1e-9


def test_expguard_forgets_liars_over_rounds() -> None:
    honest = honest_answers(1, 5)
    truth = honest.mean(axis=0)
    answers = np.concatenate([np.repeat(np.eye(5)[truth.argmin(axis=-1)][None], 4, axis=0), honest])
    weights, strayed = np.full(9, 1 / 9), []
    for _ in range(6):
        weights, result = expguard(answers, weights, ETA)
        strayed.append(np.abs(result - truth).sum(axis=-1).mean())
    assert strayed[0] > 0.1
    assert strayed[-1] < 0.05
    assert weights[:4].sum() < 1e-3


def test_expguard_over_thousands_of_rounds() -> None:
    """Weights that vanish stay zero, and the largest never does."""
    answers = np.concatenate([np.eye(3)[[1]][:, None], np.tile([0.8, 0.1, 0.1], (4, 1, 1))])
    weights = np.full(5, 0.2)
    for _ in range(2000):
        weights, result = expguard(answers, weights, 100.0)
    np.testing.assert_allclose(weights, [0, 0.25, 0.25, 0.25, 0.25])
    np.testing.assert_allclose(result, [[0.8, 0.1, 0.1]])


def test_expguard_where_all_stray_far() -> None:
    """Weights that would all vanish are taken relative to the largest."""
    weights, result = expguard(np.eye(3)[:, None], np.ones(3), 2000.0)
    np.testing.assert_allclose(weights, 1 / 3, atol=1e-5)
    np.testing.assert_allclose(result, [[1 / 3] * 3], atol=1e-5)


def test_a_lie_about_one_input_passes_expguard() -> None:
    """What isn't promised: the score is a mean over inputs."""
    answers = np.repeat(honest_answers(2, 1), 9, axis=0)
    answers[0, 0] = np.eye(5)[answers[0, 0].argmin()]
    _, result = expguard(answers, np.full(9, 1 / 9), ETA)
    lied = np.linalg.norm(result[0] - answers[1, 0])
    assert lied == pytest.approx(np.linalg.norm(answers.mean(axis=0)[0] - answers[1, 0]), rel=0.05)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(rule: str, bad: float) -> None:
    answers = make_answers(0, 4, 3, 3)
    answers[2, 1, 0] = bad
    with pytest.raises(ProtocolError, match=rf"answers must be finite, got {bad} in answer 2; leave"):
        combined(rule, answers)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5), (2, 0, 3), (2, 3, 0), (0, 3, 3)])
def test_other_shapes(rule: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match=r"answers must be \(k, m, C\), with at least one of each, got"):
        combined(rule, np.zeros(shape))


@pytest.mark.parametrize("trim", [-0.1, 0.5, 1.0, math.nan])
def test_a_trim_that_leaves_nothing(trim: float) -> None:
    with pytest.raises(ProtocolError, match=rf"trim must be at least 0 and below 0\.5, .* got {trim}"):
        trimmed_mean(make_answers(0, 4, 3, 3), trim)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([0.5, 0.5], r"weights must be one for each of 3 answers, got \(2,\)"),
        ([0.5, -0.5, 1.0], "weights must be finite, at least 0 and not all 0, got"),
        ([math.nan, 0.5, 0.5], "weights must be finite"),
        ([math.inf, 0.5, 0.5], "weights must be finite"),
        ([0.0, 0.0, 0.0], "not all 0"),
    ],
)
def test_weights_that_are_none(weights: list[float], sentence: str) -> None:
    with pytest.raises(ProtocolError, match=sentence):
        expguard(make_answers(0, 3, 2, 3), np.array(weights), ETA)


@pytest.mark.parametrize("eta", [0.0, -1.0, math.nan, math.inf])
def test_eta(eta: float) -> None:
    with pytest.raises(ProtocolError, match=f"eta must be positive and finite, got {eta}"):
        expguard(make_answers(0, 3, 2, 3), np.ones(3), eta)


@pytest.mark.parametrize(("tolerance", "steps"), [(0.0, 10), (math.nan, 10), (math.inf, 10), (1e-9, 0)])
def test_steps_that_end_nowhere(tolerance: float, steps: int) -> None:
    with pytest.raises(ProtocolError, match="tolerance must be positive and most_steps at least 1, got"):
        geometric_median(make_answers(0, 3, 2, 3), tolerance=tolerance, most_steps=steps)


def test_unknown_numbers_of_liars() -> None:
    with pytest.raises(ProtocolError, match=r"rule must be one of median, .* got 'mean'"):
        liars_tolerated("mean", 5)
    with pytest.raises(ProtocolError, match="n_answers must be at least 1, got 0"):
        liars_tolerated("median", 0)
    with pytest.raises(ProtocolError, match="trim must be given for rule trimmed"):
        liars_tolerated("trimmed", 5)
