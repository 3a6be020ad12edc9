import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc, betaln, expit, log_expit
from scipy.stats import binom

from securefd.errors import AuditError
from securefd.evaluation.bounds import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    epsilon_lower_bound,
    epsilon_power,
    joint_beta_epsilon,
)

ORACLES = Path(__file__).parent / "oracles"
JOINT_BETA = json.loads((ORACLES / "joint_beta.json").read_text())["joint beta"]


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (7, 20), (19, 20), (10, 10)])
def test_clopper_pearson_inverts_the_binomial_test(successes, trials):
    low = clopper_pearson_lower(successes, trials, 0.025)
    high = clopper_pearson_upper(successes, trials, 0.025)
    if successes > 0:
        assert binom.sf(successes - 1, trials, low) == pytest.approx(0.025)
    if successes < trials:
        assert binom.cdf(successes, trials, high) == pytest.approx(0.025)
    assert (low == 0) == (successes == 0)
    assert (high == 1) == (successes == trials)


# Epsilon, with confidence


def test_epsilon_anchor_of_three_independent_tools():
    bound = epsilon_lower_bound(130, 669, 8, 731, delta=1e-5, alpha=0.05)
    assert bound == pytest.approx(2.040137225, abs=1e-9)


@pytest.mark.parametrize(("n", "most"), [(32, 2.10), (100, 3.28), (1000, 5.60), (5000, 7.21)])
def test_power_is_what_a_perfect_attack_certifies(n, most):
    assert epsilon_power(n, n, delta=0.0, alpha=0.05) == pytest.approx(most, abs=5e-3)


def test_both_directions_count():
    """Few false negatives certify as much as few false positives."""
    by_positives = epsilon_lower_bound(30, 100, 0, 100, delta=1e-5, alpha=0.05)
    by_negatives = epsilon_lower_bound(100, 100, 70, 100, delta=1e-5, alpha=0.05)
    assert by_positives == pytest.approx(by_negatives, rel=1e-9)
    assert by_positives > 1.5


def test_no_trials_and_no_evidence_certify_nothing():
    assert epsilon_power(0, 50, delta=0.0, alpha=0.05) == 0
    assert epsilon_power(0, 0, delta=0.0, alpha=0.05) == 0
    assert epsilon_lower_bound(50, 100, 50, 100, delta=0.0, alpha=0.05) == 0
    assert epsilon_lower_bound(0, 100, 100, 100, delta=0.0, alpha=0.05) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.floats(0, 0.5), st.floats(0.001, 0.5))
def test_no_bound_exceeds_the_power(hits, misses, delta, alpha):
    bound = epsilon_lower_bound(hits, 60, misses, 60, delta=delta, alpha=alpha)
    assert 0 <= bound <= epsilon_power(60, 60, delta=delta, alpha=alpha)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("delta", [0.0, 0.05])
def test_randomised_response_is_overstated_with_probability_below_alpha(epsilon, delta):
    """No sample: the probabilities of all outcomes that overstate it are added up.

    With probability delta the answer says which case it is, else it is right with odds e^epsilon.
    """
    n_in, n_out, alpha = 25, 20, 0.1
    right = delta + (1 - delta) / (1 + math.exp(-epsilon))
    overstated = sum(
        binom.pmf(hits, n_in, right) * binom.pmf(misses, n_out, 1 - right)
        for hits in range(n_in + 1)
        for misses in range(n_out + 1)
        if epsilon_lower_bound(hits, n_in, misses, n_out, delta=delta, alpha=alpha) > epsilon
    )
    assert 0 < overstated <= alpha


def test_the_bound_is_not_merely_zero():
    """What is calibrated must also find: randomised response at epsilon 3 is certified above 1.5."""
    hits = round(500 / (1 + math.exp(-3)))
    assert 1.5 < epsilon_lower_bound(hits, 500, 500 - hits, 500, delta=0.0, alpha=0.05) < 3


# Epsilon, credible


@pytest.mark.parametrize("row", JOINT_BETA, ids=lambda row: f"{row['true_positives']}-{row['n_in']}")
def test_joint_beta_is_microsofts(row):
    given = {name: value for name, value in row.items() if name != "epsilon"}
    # Theirs is found to 1e-4.
    assert joint_beta_epsilon(**given) == pytest.approx(row["epsilon"], abs=1e-4)


def test_joint_beta_of_their_published_example():
    found = joint_beta_epsilon(487, 487, 512, 513, delta=1e-5, alpha=0.05)
    assert found == pytest.approx(0.145, abs=2e-3)  # printed after a search to 1e-2
    assert epsilon_lower_bound(487, 487, 512, 513, delta=1e-5, alpha=0.05) == 0


@pytest.mark.parametrize(
    ("counts", "delta"),
    [
        ((487, 487, 512, 513), 1e-5),
        ((130, 669, 8, 731), 1e-5),
        ((40, 40, 0, 40), 0.0),
        ((3, 40, 20, 33), 0.1),
        ((0, 0, 0, 0), 0.01),
        ((50_000, 50_000, 0, 50_000), 1e-6),
    ],
)
def test_so_much_of_the_posterior_lies_below_the_joint_beta(counts, delta):
    """By drawing from the posterior; four standard errors."""
    hits, n_in, misses, n_out = counts
    draws, alpha = 400_000, 0.05
    growth = math.exp(joint_beta_epsilon(*counts, delta=delta, alpha=alpha))
    rng = np.random.default_rng(0)
    fpr = rng.beta(0.5 + misses, 0.5 + n_out - misses, draws)
    fnr = rng.beta(0.5 + n_in - hits, 0.5 + hits, draws)
    inside = (
        (fpr + growth * fnr >= 1 - delta)
        & (fnr + growth * fpr >= 1 - delta)
        & ((1 - fpr) + growth * (1 - fnr) >= 1 - delta)
        & ((1 - fnr) + growth * (1 - fpr) >= 1 - delta)
    )
    assert inside.mean() == pytest.approx(alpha, abs=4 * math.sqrt(alpha * (1 - alpha) / draws))


@pytest.mark.parametrize(
    ("counts", "delta", "alpha"),
    [
        ((415_913, 499_790, 605_200, 605_200), 0.0, 1e-4),
        ((286_037, 361_390, 414, 414), 1e-6, 0.01),
        ((389_264, 640_959, 129_989, 129_989), 1e-6, 0.3),
        ((3, 3, 242_684, 337_751), 1e-6, 0.05),
        ((3, 5, 0, 1_000_000), 1e-3, 1e-4),
        ((9_213, 66_383, 130, 130), 0.5, 0.01),
    ],
)
def test_joint_beta_is_exact_where_posteriors_are_narrow_or_far_apart(counts, delta, alpha):
    """Against a sum over a fine grid of the log odds of FPR, in which its density is smooth."""
    hits, n_in, misses, n_out = counts
    growth = math.exp(joint_beta_epsilon(*counts, delta=delta, alpha=alpha))
    grid, step = np.linspace(-60, 60, 3_000_001, retstep=True)
    a, b = 0.5 + misses, 0.5 + n_out - misses
    rate, rest = expit(grid), expit(-grid)
    density = np.exp(a * log_expit(grid) + b * log_expit(-grid) - betaln(a, b))
    low, high = (
        np.clip(np.maximum(1 - delta - growth * left, (right - delta) / growth), 0, 1)
        for left, right in ((rate, rest), (rest, rate))
    )
    fnr = (0.5 + n_in - hits, 0.5 + hits)
    mass = ((betainc(*fnr, 1 - high) - betainc(*fnr, low)) * density).sum() * step
    assert mass == pytest.approx(alpha, rel=2e-4)


def test_joint_beta_is_positive_without_evidence():
    """Why it is no test: a confidence bound would be 0 here nineteen times in twenty."""
    assert joint_beta_epsilon(50, 100, 50, 100, delta=0.0, alpha=0.05) > 0


def test_joint_beta_is_zero_where_delta_explains_everything():
    assert joint_beta_epsilon(50, 100, 50, 100, delta=0.9, alpha=0.05) == 0


# Bad input


@pytest.mark.parametrize("bound", [epsilon_lower_bound, joint_beta_epsilon])
@pytest.mark.parametrize(
    ("counts", "terms", "match"),
    [
        ((3, 2, 1, 2), {}, "true_positives|successes"),
        ((1, 2, -1, 2), {}, "false_positives|successes"),
        ((1, 2, math.nan, 2), {}, "nan"),
        ((1, 2, 0.5, 2), {}, "0.5"),
        ((1, 2, 1, -2), {}, "-2"),
        ((1, 2.5, 1, 2), {}, "2.5"),
        ((1, 2, 1, math.inf), {}, "inf"),
        ((1, 2, 1, 2), {"delta": math.nan}, "delta"),
        ((1, 2, 1, 2), {"delta": 1.0}, "delta"),
        ((1, 2, 1, 2), {"delta": -1e-9}, "delta"),
        ((1, 2, 1, 2), {"alpha": 0.0}, "alpha"),
        ((1, 2, 1, 2), {"alpha": 1.5}, "alpha must be between 0 and 1, got 1.5"),
        ((1, 2, 1, 2), {"alpha": math.nan}, "alpha"),
    ],
)
def test_what_cannot_be_is_refused(bound, counts, terms, match):
    with pytest.raises(AuditError, match=match):
        bound(*counts, **{"delta": 0.0, "alpha": 0.05} | terms)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: clopper_pearson_lower(3, 2, 0.05), "successes"),
        (lambda: clopper_pearson_upper(-1, 2, 0.05), "successes"),
        (lambda: clopper_pearson_upper(1, 2, math.nan), "alpha"),
    ],
)
def test_rates_that_cannot_be_are_refused(call, match):
    with pytest.raises(AuditError, match=match):
        call()
