import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from securefd.errors import AuditError
from securefd.evaluation.bounds import epsilon_lower_bound, epsilon_power, joint_beta_epsilon
from securefd.evaluation.thresholds import (
    best_threshold,
    bonferroni,
    credible,
    epsilon_lower_bounds,
    fixed,
    split,
)

ORACLE = json.loads((Path(__file__).parent / "oracles" / "one_run.json").read_text())
TERMS = {"delta": 1e-5, "alpha": 0.05}


def gaussian(mu: float, n: int, seed: int = 0):
    member = np.arange(2 * n) < n
    return mu * member + np.random.default_rng(seed).standard_normal(2 * n), member


@pytest.mark.parametrize(
    "row", ORACLE["clopper-pearson"], ids=lambda row: f"{row['threshold']}-{row['delta']}"
)
def test_a_given_threshold_is_jax_privacys(row):
    scores = np.array(ORACLE["members"] + ORACLE["others"])
    member = np.arange(len(scores)) < len(ORACLE["members"])
    found = fixed(scores, member, threshold=row["threshold"], delta=row["delta"], alpha=row["alpha"])
    assert found.epsilon == pytest.approx(row["epsilon"], abs=1e-9)


def test_a_bound_says_what_it_was_made_of():
    scores, member = np.array([3.0, 2.0, 2.0, 1.0, 0.0]), np.array([True, True, False, True, False])
    found = fixed(scores, member, threshold=2.0, delta=0.0, alpha=0.1)
    assert (found.true_positives, found.n_in, found.false_positives, found.n_out) == (1, 3, 0, 2)
    assert (found.kind, found.delta, found.alpha) == ("confidence", 0.0, 0.1)
    assert found.power == epsilon_power(3, 2, delta=0.0, alpha=0.1)
    assert "beforehand" in found.rule


def test_a_credible_bound_is_marked_so():
    scores, member = gaussian(1.0, 50)
    found = credible(scores, member, threshold=0.5, **TERMS)
    counts = (found.true_positives, found.n_in, found.false_positives, found.n_out)
    assert found.kind == "credible"
    assert found.epsilon == joint_beta_epsilon(*counts, **TERMS)
    assert found.power == joint_beta_epsilon(50, 50, 0, 50, **TERMS)
    assert fixed(scores, member, threshold=0.5, **TERMS).kind == "confidence"


SCORED = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=4, max_size=40).filter(
    lambda rows: 2 <= sum(member for _, member in rows) <= len(rows) - 2
)


@settings(max_examples=50, deadline=None)
@given(SCORED)
def test_the_best_threshold_is_the_naive_one(rows):
    scores, member = np.array([s for s, _ in rows], float), np.array([m for _, m in rows])
    n_in, n_out = int(member.sum()), int((~member).sum())

    def merit(threshold):
        hits, misses = int((scores[member] > threshold).sum()), int((scores[~member] > threshold).sum())
        bound = epsilon_lower_bound(hits, n_in, misses, n_out, delta=0.0, alpha=0.2)
        return round(bound, 9), round(hits / n_in - misses / n_out, 9)

    thresholds = [value + 0.5 for value in sorted(set(scores))]
    found = best_threshold(scores, member, delta=0.0, alpha=0.2)
    assert merit(found) == max(map(merit, thresholds))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7)), min_size=1), st.sampled_from([0.0, 0.1]))
def test_many_bounds_at_once_are_each_the_one(counts, delta):
    hits, misses = np.array(counts).T
    found = epsilon_lower_bounds(hits, 9, misses, 7, delta=delta, alpha=0.2)
    for bound, hit, miss in zip(found, hits, misses, strict=True):
        one = epsilon_lower_bound(int(hit), 9, int(miss), 7, delta=delta, alpha=0.2)
        assert bound == pytest.approx(one, abs=1e-9)


def test_infinite_scores_have_a_threshold():
    scores = np.array([math.inf, math.inf, 1.0, -math.inf, -math.inf])
    member = np.array([True, True, True, False, False])
    assert -math.inf <= best_threshold(scores, member, **TERMS) < 1.0


def test_the_trials_that_chose_do_not_count():
    scores, member = gaussian(2.0, 200)
    found = split(scores, member, rng=np.random.default_rng(0), share=0.25, **TERMS)
    assert (found.n_in, found.n_out) == (150, 150)
    assert "25%" in found.rule
    assert found.epsilon > 1
    assert found.power == epsilon_power(150, 150, **TERMS)


def test_split_is_the_naive_one():
    scores, member = gaussian(1.5, 40)
    found = split(scores, member, rng=np.random.default_rng(3), share=0.3, **TERMS)
    rng, first = np.random.default_rng(3), np.zeros(80, dtype=bool)
    first[rng.choice(np.arange(40), 12, replace=False)] = True
    first[rng.choice(np.arange(40, 80), 12, replace=False)] = True
    threshold = best_threshold(scores[first], member[first], **TERMS)
    assert threshold != best_threshold(scores, member, **TERMS)
    assert found.true_positives == (scores[~first & member] > threshold).sum()
    assert found.false_positives == (scores[~first & ~member] > threshold).sum()


def test_a_rate_that_floats_would_round_down_is_reached():
    scores, member = gaussian(1.0, 100)
    assert 0.29 * 100 < 29
    assert bonferroni(scores, member, rates=(0.29,), **TERMS).false_positives == 29


def test_bonferroni_is_the_best_of_its_rates_at_their_level():
    scores, member = gaussian(2.0, 200)
    found = bonferroni(scores, member, rates=(0.0, 0.1, 0.5), delta=0.0, alpha=0.06)
    others = np.sort(scores[~member])
    naive = []
    for above in (0, 20, 100):
        threshold = others[199 - above]
        assert (scores[~member] > threshold).sum() == above
        hits = int((scores[member] > threshold).sum())
        naive.append(epsilon_lower_bound(hits, 200, above, 200, delta=0.0, alpha=0.02))
    assert found.epsilon == max(naive) > 1
    assert found.alpha == 0.06
    assert found.power == epsilon_power(200, 200, delta=0.0, alpha=0.02)


def test_the_power_of_rates_that_allow_false_positives_is_less():
    scores, member = gaussian(9.0, 200)
    found = bonferroni(scores, member, rates=(0.1,), **TERMS)
    assert found.epsilon == found.power < epsilon_power(200, 200, **TERMS)


@pytest.mark.parametrize("above", [0, 2, 7])
def test_the_threshold_of_a_rate_is_overstated_with_probability_below_alpha(above):
    """A rate alone, integrated over what the order statistic can be; scores alike with and without."""
    n_in, n_out, alpha = 15, 12, 0.2
    places = (np.arange(20_000) + 0.5) / 20_000
    # The (above + 1)-th highest of n_out uniforms exceeds its place from above with a Beta density.
    density = (above + 1) * math.comb(n_out, above + 1) * places**above * (1 - places) ** (n_out - above - 1)
    overstated = sum(
        (density * binom.pmf(hits, n_in, places)).mean()
        for hits in range(n_in + 1)
        if epsilon_lower_bound(hits, n_in, above, n_out, delta=0.0, alpha=alpha) > 0
    )
    assert 0 < overstated <= alpha


@pytest.mark.parametrize("bound", ["fixed", "split", "bonferroni", "credible"])
def test_the_order_of_tied_records_changes_no_count(bound):
    scores = np.repeat([0.0, 1.0, 2.0], 20)
    member = np.tile([True, False], 30)
    functions = {
        "fixed": lambda s, m: fixed(s, m, threshold=1.0, **TERMS),
        "split": lambda s, m: split(s, m, rng=np.random.default_rng(0), **TERMS).n_in,
        "bonferroni": lambda s, m: bonferroni(s, m, **TERMS),
        "credible": lambda s, m: credible(s, m, threshold=1.0, **TERMS),
    }
    order = np.argsort(~member, kind="stable")
    assert functions[bound](scores, member) == functions[bound](scores[order], member[order])


# Bad input

RNG = np.random.default_rng(0)
CALLS = {
    "fixed": lambda s, m, **terms: fixed(s, m, **{"threshold": 0.5} | TERMS | terms),
    "split": lambda s, m, **terms: split(s, m, **{"rng": RNG} | TERMS | terms),
    "bonferroni": lambda s, m, **terms: bonferroni(s, m, **TERMS | terms),
    "credible": lambda s, m, **terms: credible(s, m, **{"threshold": 0.5} | TERMS | terms),
}
SCORES, MEMBER = np.arange(8.0), np.arange(8) % 2 == 0


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("scores", "member", "terms", "match"),
    [
        (np.append(SCORES[:-1], math.nan), MEMBER, {}, "1 of 8"),
        (SCORES[:-1], MEMBER, {}, "shapes"),
        (SCORES, MEMBER.astype(int), {}, "boolean"),
        (SCORES, np.arange(8) < 1, {}, "got 1 and 7"),
        (SCORES, np.arange(8) < 7, {}, "got 7 and 1"),
        (SCORES, MEMBER, {"alpha": 1.5}, "alpha must be between 0 and 1, got 1.5"),
        (SCORES, MEMBER, {"alpha": math.nan}, "alpha"),
        (SCORES, MEMBER, {"delta": 1.0}, "delta"),
        (SCORES, MEMBER, {"delta": math.nan}, "delta"),
    ],
)
def test_scores_that_prove_nothing_are_refused(name, scores, member, terms, match):
    with pytest.raises(AuditError, match=match):
        CALLS[name](scores, member, **terms)


@pytest.mark.parametrize(
    ("name", "terms", "match"),
    [
        ("fixed", {"threshold": math.nan}, "threshold"),
        ("credible", {"threshold": math.nan}, "threshold"),
        ("split", {"share": 0.0}, "share"),
        ("split", {"share": math.nan}, "share"),
        ("split", {"share": 0.9}, "more trials"),
        ("split", {"share": 0.3}, "more trials"),
        ("bonferroni", {"rates": ()}, "rates"),
        ("bonferroni", {"rates": (0.1, 1.0)}, "1.0"),
        ("bonferroni", {"rates": (math.nan,)}, "nan"),
    ],
)
def test_rules_that_cannot_be_are_refused(name, terms, match):
    with pytest.raises(AuditError, match=match):
        CALLS[name](SCORES, MEMBER, **terms)
