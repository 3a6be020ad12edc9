import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

from securefd.errors import AuditError
from securefd.evaluation.statistics import (
    Rate,
    advantage_ceiling,
    auc,
    roc,
    tpr_at_fpr,
    tpr_ceiling,
)

SCORED = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=4, max_size=40).filter(
    lambda rows: 2 <= sum(member for _, member in rows) <= len(rows) - 2
)


def arrays(rows):
    return np.array([float(score) for score, _ in rows]), np.array([member for _, member in rows])


def gaussian(mu: float, n: int, seed: int = 0):
    member = np.arange(2 * n) < n
    return mu * member + np.random.default_rng(seed).standard_normal(2 * n), member


# Rates


@settings(deadline=None)
@given(SCORED)
def test_roc_is_scikit_learns_with_many_ties(rows):
    scores, member = arrays(rows)
    curve = roc(scores, member)
    for ours, theirs in zip(curve, roc_curve(member, scores, drop_intermediate=False), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@settings(deadline=None)
@given(SCORED)
def test_the_order_of_records_changes_nothing(rows):
    for ours, theirs in zip(roc(*arrays(rows)), roc(*arrays(sorted(rows))), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert auc(*arrays(rows)).value == pytest.approx(auc(*arrays(sorted(rows))).value, abs=1e-12)


@settings(deadline=None)
@given(SCORED)
def test_auc_is_scikit_learns_and_lies_in_its_interval(rows):
    scores, member = arrays(rows)
    value, (low, high) = auc(scores, member)
    assert value == pytest.approx(roc_auc_score(member, scores), abs=1e-12)
    assert 0 <= low <= value <= high <= 1


def naive_delong_variance(scores, member):
    """The two components from the full matrix of comparisons."""
    wins = np.array(
        [[(a > b) + 0.5 * (a == b) for b in scores[~member]] for a in scores[member]], dtype=float
    )
    return wins.mean(1).var(ddof=1) / len(wins) + wins.mean(0).var(ddof=1) / wins.shape[1]


def test_delong_interval_is_the_naive_one():
    scores, member = gaussian(1.0, 40)
    scores = np.round(scores, 1)
    value, (low, high) = auc(scores, member)
    half = 1.959963984540054 * math.sqrt(naive_delong_variance(scores, member))
    assert (low, high) == pytest.approx((value - half, value + half), abs=1e-12)


@pytest.mark.parametrize(("mu", "closed_form"), [(0.5, 0.63816), (1.0, 0.76025), (2.0, 0.92135)])
def test_auc_interval_covers_the_closed_form(mu, closed_form):
    covered = 0
    for seed in range(300):
        low, high = auc(*gaussian(mu, 100, seed)).interval
        covered += low <= closed_form <= high
    # 95% nominal; DeLong is a little short near the ends. Five standard errors below 93%.
    assert covered / 300 > 0.87


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([2.0, 2.0, 1.0, 1.0], (1.0, 1.0)), ([1.0, 1.0, 2.0, 2.0], (0.0, 0.0)), ([1.0] * 4, (0.5, 0.5))],
)
def test_without_variance_the_interval_still_has_a_width(scores, expected):
    value, (low, high) = auc(np.array(scores), np.array([True, True, False, False]))
    unseen = 1 - 0.05**0.5
    assert value == expected[0]
    assert high - low == pytest.approx(unseen)
    assert low <= value <= high


def test_without_variance_the_interval_is_that_of_as_many_pairs_as_there_are():
    member = np.arange(12) < 2
    assert auc(member * 1.0, member).interval == pytest.approx((0.05**0.5, 1.0))
    assert auc(~member * 1.0, ~member).interval == pytest.approx((0.05**0.5, 1.0))


@pytest.mark.parametrize(
    ("mu", "at_1", "at_01"), [(0.5, 0.0339, 0.0048), (1.0, 0.09236, 0.0183), (2.0, 0.37208, 0.13781)]
)
def test_tpr_at_fpr_matches_the_closed_form(mu, at_1, at_01):
    scores, member = gaussian(mu, 400_000)
    assert tpr_at_fpr(scores, member, 0.01).value == pytest.approx(at_1, rel=0.03)
    assert tpr_at_fpr(scores, member, 0.001).value == pytest.approx(at_01, rel=0.12)


@settings(deadline=None)
@given(SCORED, st.floats(0.01, 0.99))
def test_tpr_at_fpr_is_a_step_of_the_curve(rows, fpr):
    scores, member = arrays(rows)
    rate = tpr_at_fpr(scores, member, fpr)
    if fpr * (~member).sum() < 1:
        assert rate == Rate(None, None)
    else:
        curve = roc(scores, member)
        assert rate.value == curve.tpr[curve.fpr <= fpr].max()
        low, high = rate.interval
        assert 0 <= low <= rate.value <= high <= 1


def test_the_interval_of_a_rate_is_clopper_and_pearsons():
    scores, member = gaussian(1.0, 200)
    rate = tpr_at_fpr(scores, member, 0.05)
    exact = binomtest(round(rate.value * 200), 200).proportion_ci(0.95, method="exact")
    assert rate.interval == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_a_rate_that_cannot_be_measured_is_not_zero():
    scores, member = gaussian(1.0, 99)
    assert tpr_at_fpr(scores, member, 0.01) == Rate(None, None)
    assert tpr_at_fpr(*gaussian(1.0, 100), 0.01).value is not None


def test_a_rate_that_floats_would_round_down_is_reached():
    member = np.arange(110) < 10
    scores = np.where(member, 71.5, np.arange(110.0) - 10)
    assert 0.29 * 100 < 29
    assert tpr_at_fpr(scores, member, 0.29).value == 1.0  # 28 of 100 non-members are above
    assert tpr_at_fpr(scores - 1.0 * member, member, 0.29).value == 1.0  # 29 are
    assert tpr_at_fpr(scores - 2.0 * member, member, 0.29).value == 0.0  # 30 are


# Ceilings


def test_ceilings_of_pure_privacy():
    assert tpr_ceiling(0.01, epsilon=1.0, delta=0.0) == pytest.approx(0.02718, abs=5e-6)
    assert advantage_ceiling(epsilon=1.0, delta=0.0) == pytest.approx(0.46212, abs=5e-6)


@settings(deadline=None)
@given(st.floats(0, 20), st.floats(0, 0.9))
def test_the_ceilings_agree(epsilon, delta):
    rates = np.linspace(0, 1, 2001)
    gap = max(tpr_ceiling(float(rate), epsilon=epsilon, delta=delta) - rate for rate in rates)
    ceiling = advantage_ceiling(epsilon=epsilon, delta=delta)
    assert gap <= ceiling + 1e-9
    corner = (1 - delta) / (1 + math.exp(epsilon))  # where both of the theorem's lines meet
    assert tpr_ceiling(corner, epsilon=epsilon, delta=delta) - corner == pytest.approx(ceiling, abs=1e-9)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1000))
def test_ceilings_are_rates(fpr, epsilon):
    assert fpr - 1e-12 <= tpr_ceiling(fpr, epsilon=epsilon, delta=1e-5) <= 1
    assert 0 <= advantage_ceiling(epsilon=epsilon, delta=1e-5) <= 1


# Bad input

MEMBER = np.array([True, True, False, False])
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("scores", "member", "match"),
    [
        (np.array([1.0, np.nan, 2.0, 3.0]), MEMBER, "1 of 4"),
        (np.ones(3), MEMBER, "shapes"),
        (np.ones((2, 2)), MEMBER.reshape(2, 2), "shapes"),
        (np.ones(4), MEMBER.astype(int), "boolean"),
        (np.ones(4), np.ones(4, dtype=bool), "got 4 and 0"),
        (np.ones(4), np.zeros(4, dtype=bool), "got 0 and 4"),
    ],
)
def test_scores_that_prove_nothing_are_refused(scores, member, match):
    for function in (
        roc,
        auc,
        lambda s, m: tpr_at_fpr(s, m, 0.1),
    ):
        with pytest.raises(AuditError, match=match):
            function(scores, member)


def test_auc_of_one_member_is_refused():
    with pytest.raises(AuditError, match="at least 2"):
        auc(np.ones(4), np.array([True, False, False, False]))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: tpr_at_fpr(np.ones(4), MEMBER, 0.0), "fpr"),
        (lambda: tpr_at_fpr(np.ones(4), MEMBER, math.nan), "fpr"),
        (lambda: auc(np.ones(4), MEMBER, 1.0), "confidence"),
        (lambda: tpr_ceiling(1.5, epsilon=1.0, delta=0.0), "fpr"),
        (lambda: tpr_ceiling(0.5, epsilon=math.nan, delta=0.0), "epsilon"),
        (lambda: advantage_ceiling(epsilon=1.0, delta=2.0), "delta"),
    ],
)
def test_numbers_out_of_range_are_refused(call, match):
    with pytest.raises(AuditError, match=match):
        call()
