import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from securefd.errors import AuditError
from securefd.evaluation.one_run import guessed, one_run, one_run_epsilon, one_run_power

ORACLE = json.loads((Path(__file__).parent / "oracles" / "one_run.json").read_text())["one run"]


@pytest.mark.parametrize("row", ORACLE, ids=lambda row: f"{row['m']}-{row['r']}-{row['v']}-{row['delta']}")
def test_it_is_jax_privacys(row):
    found = one_run_epsilon(row["v"], row["r"], row["m"], delta=row["delta"], alpha=row["alpha"])
    assert found == pytest.approx(row["epsilon"], abs=1e-5)


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "expected"),
    [
        (1000, 1000, 600, 0.0, 0.29747),
        (1000, 1000, 600, 1e-5, 0.29723),
        (1000, 1000, 600, 1e-3, 0.26599),
        (1000, 100, 95, 1e-5, 2.16518),
        (1000, 100, 100, 1e-5, 3.46538),
        (5000, 500, 400, 1e-5, 1.19522),
        (100, 100, 100, 0.0, 3.49297),
        (1000, 1000, 510, 1e-5, 0.0),
    ],
)
def test_anchors_of_three_independent_tools(m, r, v, delta, expected):
    assert one_run_epsilon(v, r, m, delta=delta, alpha=0.05) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("guesses", [1, 10, 1000])
def test_all_right_without_delta_has_a_closed_form(guesses):
    share = 0.05 ** (1 / guesses)
    expected = max(0.0, math.log(share / (1 - share)))
    assert one_run_power(guesses, 1000, delta=0.0, alpha=0.05) == pytest.approx(expected, rel=1e-9)


def test_the_power_that_an_epsilon_takes():
    assert one_run_power(8_932, 8_932, delta=0.0, alpha=0.05) == pytest.approx(8, abs=1e-3)
    assert one_run_power(700, 700, delta=0.0, alpha=0.05) == pytest.approx(5.45, abs=0.01)


def naive_chance(correct, guesses, canaries, epsilon, delta):
    right = 1 / (1 + math.exp(-epsilon))
    chance = [math.comb(guesses, k) * right**k * (1 - right) ** (guesses - k) for k in range(guesses + 1)]
    nearly = max(sum(chance[correct - i : correct]) / i for i in range(1, correct + 1))
    return sum(chance[correct:]) + 2 * canaries * delta * nearly


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 25).flatmap(lambda r: st.tuples(st.integers(1, r), st.just(r))),
    st.integers(0, 30),
    st.sampled_from([0.0, 1e-6, 1e-4, 1e-3, 0.01]),
    st.floats(0.01, 0.4),
)
def test_it_is_the_largest_that_the_naive_sum_refutes(counts, more, delta, alpha):
    correct, guesses = counts
    terms = (correct, guesses, guesses + more)
    found = one_run_epsilon(*terms, delta=delta, alpha=alpha)
    refuted = [e for e in np.arange(0, 8, 0.02) if naive_chance(*terms, e, delta) < alpha]
    assert (max(refuted, default=0.0)) <= found + 1e-9
    assert found <= max(refuted, default=0.0) + 0.02


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("delta", [0.0, 1e-3, 0.02])
@pytest.mark.parametrize("together", [False, True])
def test_mechanisms_at_the_limit_are_overstated_with_probability_below_alpha(epsilon, delta, together):
    """No sample: the probabilities of all outcomes that overstate them are added up.

    Each coin is told with odds e^epsilon; with probability delta plainly, each on its own or all together.
    """
    canaries = guesses = 40
    alpha = 0.1
    odds = 1 / (1 + math.exp(-epsilon))
    each = odds if together else delta + (1 - delta) * odds
    all_at_once = delta if together else 0.0
    overstated = sum(
        (1 - all_at_once) * binom.pmf(v, guesses, each) + all_at_once * (v == guesses)
        for v in range(guesses + 1)
        if one_run_epsilon(v, guesses, canaries, delta=delta, alpha=alpha) > epsilon
    )
    assert overstated <= alpha
    if delta == 0:
        assert overstated > alpha / 4


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), st.floats(0, 0.01), st.floats(0.001, 0.5))
def test_no_bound_exceeds_the_power_and_more_right_is_no_less(correct, delta, alpha):
    found = one_run_epsilon(correct, 200, 300, delta=delta, alpha=alpha)
    assert 0 <= found <= one_run_power(200, 300, delta=delta, alpha=alpha) + 1e-9
    assert found <= one_run_epsilon(min(correct + 1, 200), 200, 300, delta=delta, alpha=alpha) + 1e-9


def test_no_guesses_certify_nothing():
    assert one_run_power(0, 10, delta=0.0, alpha=0.05) == 0


# From scores


def test_the_highest_are_guessed_in_and_the_lowest_out():
    scores = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    included = np.array([True, True, False, False, True])
    terms = {"delta": 0.0, "alpha": 0.4}
    high, low = guessed(scores, 2, 1, None)
    assert (high.tolist(), low.tolist()) == (
        [True, False, True, False, False],
        [False, True, False, False, False],
    )
    # Of 5 and 4 one is in; 1, guessed out, is in.
    assert one_run(scores, included, positives=2, negatives=1, **terms) == one_run_epsilon(1, 3, 5, **terms)
    assert one_run(-scores, ~included, positives=1, negatives=2, **terms) == one_run_epsilon(1, 3, 5, **terms)
    assert one_run(scores, included, positives=1, negatives=0, **terms) == one_run_epsilon(1, 1, 5, **terms)
    assert one_run(scores, included, positives=5, negatives=0, **terms) == one_run_epsilon(3, 5, 5, **terms)


def test_a_perfect_attack_reaches_the_power():
    included = np.random.default_rng(0).random(500) < 0.5
    found = one_run(included + 0.0, included, positives=0, negatives=0, delta=1e-5, alpha=0.05)
    assert found == 0
    scores = included + np.random.default_rng(1).random(500) / 2
    found = one_run(scores, included, positives=100, negatives=100, delta=1e-5, alpha=0.05)
    assert found == one_run_power(200, 500, delta=1e-5, alpha=0.05)
    assert found > 3


TIED = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=4, max_size=40)


@settings(max_examples=60, deadline=None)
@given(TIED, st.integers(0, 2), st.integers(0, 2), st.randoms(use_true_random=False))
def test_without_randomness_the_order_of_records_changes_nothing(rows, positives, negatives, random):
    found = set()
    for _ in range(3):
        scores, included = np.array([s for s, _ in rows], float), np.array([i for _, i in rows])
        terms = {"positives": positives, "negatives": negatives}
        found.add(one_run(scores, included, delta=0.0, alpha=0.4, **terms))
        random.shuffle(rows)
    assert len(found) == 1


@settings(max_examples=60, deadline=None)
@given(TIED, st.integers(0, 2), st.integers(0, 2))
def test_ties_are_left_out_or_drawn(rows, positives, negatives):
    scores = np.array([s for s, _ in rows], float)
    high, low = guessed(scores, positives, negatives, None)
    drawn_high, drawn_low = guessed(scores, positives, negatives, np.random.default_rng(0))
    assert (drawn_high.sum(), drawn_low.sum()) == (positives, negatives)
    assert not (drawn_high & drawn_low).any()
    assert not (high & ~drawn_high).any()
    assert not (low & ~drawn_low).any()
    # What was left out is a group of equals that the cut goes through.
    assert len(set(scores[drawn_high & ~high])) <= 1
    assert len(set(scores[drawn_low & ~low])) <= 1


def test_what_is_left_out_counts_as_wrong():
    """Were the number of guesses to depend on the scores, it wouldn't be fixed beforehand."""
    scores, included = np.array([5.0, 4.0, 3.0, 3.0, 1.0]), np.array([True, True, True, True, False])
    found = one_run(scores, included, positives=3, negatives=1, delta=0.0, alpha=0.4)
    assert found == one_run_epsilon(3, 4, 5, delta=0.0, alpha=0.4) > 0
    assert found < one_run_epsilon(3, 3, 5, delta=0.0, alpha=0.4)


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("members_first", [False, True])
def test_a_file_in_order_of_membership_proves_nothing_by_its_ties(members_first, drawn):
    """All scores alike: whoever took the first, or the last, for the highest could be right every time."""
    positive = 0
    for seed in range(300):
        included = np.sort(np.random.default_rng(seed).random(200) < 0.5)
        included = included[::-1] if members_first else included
        rng = np.random.default_rng([seed, 1]) if drawn else None
        terms = {"positives": 50, "negatives": 50, "rng": rng}
        positive += one_run(np.zeros(200), included, delta=0.0, alpha=0.05, **terms) > 0
    assert positive / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_drawn_ties_still_find_what_is_there():
    """Randomised response at epsilon 3 has two scores only."""
    rng = np.random.default_rng(0)
    included = rng.random(1000) < 0.5
    scores = np.where(rng.random(1000) < 1 / (1 + math.exp(-3)), included, ~included).astype(float)
    terms = {"delta": 0.0, "alpha": 0.05, "positives": 100, "negatives": 100}
    assert 2 < one_run(scores, included, rng=rng, **terms) < 3
    assert one_run(scores, included, **terms) == 0


# Bad input

SCORES, INCLUDED = np.arange(4.0), np.array([True, False, True, False])


@pytest.mark.parametrize(
    ("scores", "included", "terms", "match"),
    [
        (np.array([1.0, math.nan, 2.0, 3.0]), INCLUDED, {}, "1 of 4"),
        (np.ones(3), INCLUDED, {}, "shapes"),
        (np.ones((2, 2)), INCLUDED.reshape(2, 2), {}, "shapes"),
        (SCORES, INCLUDED.astype(int), {}, "boolean"),
        (np.ones(1), np.array([True]), {"positives": 0, "negatives": 0}, "at least 2"),
        (SCORES, INCLUDED, {"positives": 5}, "positives"),
        (SCORES, INCLUDED, {"positives": -1}, "positives"),
        (SCORES, INCLUDED, {"positives": 2, "negatives": 3}, "negatives"),
        (SCORES, INCLUDED, {"delta": 1.0}, "delta"),
        (SCORES, INCLUDED, {"delta": math.nan}, "delta"),
        (SCORES, INCLUDED, {"alpha": 0.0}, "alpha"),
        (SCORES, INCLUDED, {"alpha": math.nan}, "alpha"),
    ],
)
def test_scores_that_prove_nothing_are_refused(scores, included, terms, match):
    with pytest.raises(AuditError, match=match):
        one_run(scores, included, **{"delta": 0.0, "alpha": 0.05, "positives": 1, "negatives": 1} | terms)


@pytest.mark.parametrize(
    ("counts", "match"),
    [((3, 2, 5), "correct"), ((1, 6, 5), "guesses"), ((-1, 2, 5), "correct"), ((1, math.nan, 5), "guesses")],
)
def test_counts_that_cannot_be_are_refused(counts, match):
    with pytest.raises(AuditError, match=match):
        one_run_epsilon(*counts, delta=0.0, alpha=0.05)
