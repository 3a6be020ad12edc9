import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from securefd.errors import AuditError
from securefd.evaluation.bounds import clopper_pearson_lower, clopper_pearson_upper, epsilon_lower_bound
from securefd.evaluation.gaussian_bounds import (
    gaussian_epsilon,
    gaussian_one_run_epsilon,
    mu_bound,
    mu_epsilon_bound,
)
from securefd.evaluation.one_run import one_run_epsilon

ORACLE = json.loads((Path(__file__).parent / "oracles" / "one_run.json").read_text())["one run"]
GAUSSIAN = {"mechanism": "gaussian"}

# The curve


@pytest.mark.parametrize(("mu", "expected"), [(0.5, 1.99309), (1.0, 4.37718), (2.0, 9.99726)])
def test_epsilon_of_mu_has_known_values(mu, expected):
    assert gaussian_epsilon(mu, delta=1e-5) == pytest.approx(expected, abs=1e-5)


@settings(deadline=None)
@given(st.floats(0.01, 20), st.floats(1e-12, 0.9))
def test_epsilon_of_mu_solves_the_closed_form(mu, delta):
    epsilon = gaussian_epsilon(mu, delta=delta)

    def spent(at):
        return norm.cdf(mu / 2 - at / mu) - math.exp(at + norm.logcdf(-mu / 2 - at / mu))

    if epsilon == 0:
        assert spent(0.0) <= delta * (1 + 1e-9)
    else:
        assert spent(epsilon) == pytest.approx(delta, rel=1e-6, abs=1e-15)


def test_a_mechanism_that_tells_nothing_has_no_epsilon():
    assert gaussian_epsilon(0.0, delta=1e-5) == 0
    assert gaussian_epsilon(1e-300, delta=1e-5) == 0


# One run


@pytest.mark.parametrize(
    "row",
    [row for row in ORACLE if row["gaussian"] is not None],
    ids=lambda row: f"{row['m']}-{row['r']}-{row['v']}-{row['delta']}",
)
def test_one_run_is_jax_privacys(row):
    found = gaussian_one_run_epsilon(
        row["v"], row["r"], row["m"], delta=row["delta"], alpha=row["alpha"], **GAUSSIAN
    )
    assert found == pytest.approx(row["gaussian"], abs=1e-5)


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "expected"),
    [
        (1000, 1000, 600, 1e-5, 0.58354),
        (1000, 1000, 600, 1e-3, 0.35781),
        (1000, 100, 95, 1e-5, 3.3233),
        (1000, 100, 100, 1e-5, 5.54903),
        (5000, 500, 400, 1e-5, 1.68316),
        (1000, 1000, 510, 1e-5, 0.0),
    ],
)
def test_one_run_anchors(m, r, v, delta, expected):
    found = gaussian_one_run_epsilon(v, r, m, delta=delta, alpha=0.05, **GAUSSIAN)
    assert found == pytest.approx(expected, abs=1e-5)


def naive_refuted(mu, correct, guesses, canaries, alpha):
    """The recursion as it is written: from all counts down to none, stopping nowhere."""
    right, wrong = alpha * correct / canaries, alpha * (guesses - correct) / canaries
    for number in range(correct - 1, -1, -1):
        least = max(wrong, norm.cdf(norm.ppf(min(right, 1.0)) - mu))
        right += number / (guesses - number) * (least - wrong)
        wrong = least
    return right + wrong > guesses / canaries


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 20).flatmap(lambda r: st.tuples(st.integers(0, r), st.just(r))),
    st.integers(0, 20),
    st.floats(0.01, 0.4),
)
def test_one_run_is_the_largest_that_the_naive_recursion_refutes(counts, more, alpha):
    correct, guesses = counts
    terms = (correct, guesses, guesses + more)
    found = gaussian_one_run_epsilon(*terms, delta=1e-3, alpha=alpha, **GAUSSIAN)
    refuted = [mu for mu in np.arange(0, 6, 0.05) if naive_refuted(mu, *terms, alpha)]
    most = max(refuted, default=0.0)
    assert gaussian_epsilon(most, delta=1e-3) <= found + 1e-9
    assert found <= gaussian_epsilon(most + 0.05, delta=1e-3)


@pytest.mark.parametrize("mu", [0.25, 1.0])
def test_one_run_is_overstated_with_probability_below_alpha_and_not_merely_zero(mu):
    """All canaries guessed, each with its own noise: the number that is right is binomial."""
    canaries, delta, alpha = 60, 1e-3, 0.1
    truth = gaussian_epsilon(mu, delta=delta)
    bounds = [
        gaussian_one_run_epsilon(v, canaries, canaries, delta=delta, alpha=alpha, **GAUSSIAN)
        for v in range(canaries + 1)
    ]
    chances = binom.pmf(np.arange(canaries + 1), canaries, norm.cdf(mu / 2))
    assert 0 < chances[np.array(bounds) > truth].sum() <= alpha
    assert max(bounds) > truth


def test_knowing_the_curve_finds_more():
    theirs = gaussian_one_run_epsilon(95, 100, 1000, delta=1e-5, alpha=0.05, **GAUSSIAN)
    assert theirs > one_run_epsilon(95, 100, 1000, delta=1e-5, alpha=0.05) + 1


# Independent trials


def test_mu_is_that_of_both_rates():
    low, high = clopper_pearson_lower(130, 669, 0.025), clopper_pearson_upper(8, 731, 0.025)
    found = mu_bound(130, 669, 8, 731, alpha=0.05, **GAUSSIAN)
    assert found == pytest.approx(norm.isf(high) - norm.ppf(1 - low), abs=1e-9)
    as_epsilon = mu_epsilon_bound(130, 669, 8, 731, delta=1e-5, alpha=0.05, **GAUSSIAN)
    assert as_epsilon == gaussian_epsilon(found, delta=1e-5)
    assert as_epsilon > epsilon_lower_bound(130, 669, 8, 731, delta=1e-5, alpha=0.05)


@pytest.mark.parametrize(
    "counts", [(50, 100, 50, 100), (0, 100, 0, 100), (100, 100, 100, 100), (10, 99, 90, 99)]
)
def test_without_evidence_mu_is_zero(counts):
    assert mu_bound(*counts, alpha=0.05, **GAUSSIAN) == 0
    assert mu_epsilon_bound(*counts, delta=1e-5, alpha=0.05, **GAUSSIAN) == 0


@pytest.mark.parametrize("mu", [0.5, 2.0])
@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_mu_is_overstated_with_probability_below_alpha(mu, threshold):
    n_in, n_out, alpha = 25, 20, 0.1
    overstated = sum(
        binom.pmf(hits, n_in, norm.cdf(mu - threshold)) * binom.pmf(misses, n_out, norm.cdf(-threshold))
        for hits in range(n_in + 1)
        for misses in range(n_out + 1)
        if mu_bound(hits, n_in, misses, n_out, alpha=alpha, **GAUSSIAN) > mu
    )
    assert 0 < overstated <= alpha


# Other mechanisms, and bad input

CALLS = {
    "mu": lambda **given: mu_bound(
        *given.get("counts", (3, 4, 1, 4)), **{k: v for k, v in given.items() if k not in ("counts", "delta")}
    ),
    "mu as epsilon": lambda **given: mu_epsilon_bound(
        *given.get("counts", (3, 4, 1, 4)), **{k: v for k, v in given.items() if k != "counts"}
    ),
    "one run": lambda **given: gaussian_one_run_epsilon(
        *given.get("counts", (3, 4, 5)), **{k: v for k, v in given.items() if k != "counts"}
    ),
}
TERMS = {"delta": 1e-5, "alpha": 0.05, "mechanism": "gaussian"}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "mechanism", ["laplace", "discrete-laplace", "randomised-response", "dpsgd", "Gaussian", "", "skellam"]
)
def test_all_but_a_gaussian_are_refused(name, mechanism):
    with pytest.raises(AuditError) as raised:
        CALLS[name](**TERMS | {"mechanism": mechanism})
    assert repr(mechanism) in str(raised.value)
    assert "must be 'gaussian'" in str(raised.value)
    assert "use Clopper-Pearson or the one-run bound" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "terms", "match"),
    [
        ("mu", {"counts": (5, 4, 1, 4)}, "successes"),
        ("mu", {"counts": (3, 4, -1, 4)}, "successes"),
        ("mu", {"alpha": math.nan}, "alpha"),
        ("mu", {"alpha": 1.5}, "alpha must be between 0 and 1, got 1.5"),
        ("mu as epsilon", {"delta": 0.0}, "delta must be > 0"),
        ("mu as epsilon", {"delta": math.nan}, "delta"),
        ("one run", {"counts": (5, 4, 5)}, "correct"),
        ("one run", {"counts": (3, 6, 5)}, "guesses"),
        ("one run", {"delta": 0.0}, "delta must be > 0"),
        ("one run", {"delta": 1.0}, "delta"),
        ("one run", {"alpha": math.nan}, "alpha"),
    ],
)
def test_what_cannot_be_is_refused(name, terms, match):
    with pytest.raises(AuditError, match=match):
        CALLS[name](**TERMS | terms)


@pytest.mark.parametrize("mu", [-1e-9, math.inf, math.nan])
def test_a_mu_that_cannot_be_is_refused(mu):
    with pytest.raises(AuditError, match="mu must be"):
        gaussian_epsilon(mu, delta=1e-5)
