"""Noise on counts against closed forms."""

import math

import numpy as np
import pytest

from securefd.defenses.accounting import epsilon
from securefd.defenses.noise import CountNoise
from securefd.errors import PrivacyError


def probability(x, a):
    return math.tanh(a / 2) * math.exp(-a * abs(x))


def noisy_counts(counts, epsilon, relation):
    return CountNoise(epsilon=epsilon, relation=relation)(counts)


@pytest.mark.parametrize(("relation", "moved"), [("add-or-remove", 1), ("replace-one", 2)])
def test_epsilon_is_what_the_charge_costs_and_what_neighbours_differ_by(relation, moved):
    noise = CountNoise(epsilon=0.8, relation=relation)
    a = noise.parameter
    # Neighbouring histograms are `moved` apart in L1: the worst log-ratio of any outcome is moved * a.
    worst = max(math.log(probability(x, a) / probability(x - moved, a)) for x in range(-50, 50))
    assert worst == pytest.approx(0.8)
    assert epsilon(noise.charge.event, 1e-9, relation) == pytest.approx(0.8, rel=1e-3)


@pytest.mark.parametrize("relation", ["add-or-remove", "replace-one"])
def test_counts_get_independent_unbiased_noise_of_the_right_spread(relation):
    noise = CountNoise(epsilon=1.0, relation=relation)
    counts = np.full((4000, 2), 1000)
    added = noise(counts, _key=bytes(range(32))) - counts
    assert added.dtype == np.int64
    a = noise.parameter
    variance = 2 * math.exp(-a) / (1 - math.exp(-a)) ** 2
    assert abs(added.mean()) <= 4 * math.sqrt(variance / added.size)
    assert added.var() == pytest.approx(variance, rel=0.15)
    assert abs(np.corrcoef(added.T)[0, 1]) < 4 / math.sqrt(4000)


def test_noisy_counts_are_never_negative_and_differ_from_call_to_call():
    zeros = np.zeros(200, dtype=np.int64)
    first, second = noisy_counts(zeros, 0.1, "replace-one"), noisy_counts(zeros, 0.1, "replace-one")
    assert first.min() == 0
    assert first.max() > 0
    assert not np.array_equal(first, second)
    assert zeros.max() == 0


def test_no_counts_give_no_counts():
    assert noisy_counts(np.zeros(0, dtype=np.int64), 1.0, "replace-one").shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_bad_epsilons_are_refused(bad):
    with pytest.raises(PrivacyError, match="epsilon of the counts"):
        CountNoise(epsilon=bad, relation="replace-one")


def test_other_bad_input_is_refused():
    with pytest.raises(PrivacyError, match="swap"):
        CountNoise(epsilon=1.0, relation="swap")
    with pytest.raises(PrivacyError, match="whole numbers"):
        noisy_counts(np.array([1.5]), 1.0, "replace-one")
    with pytest.raises(PrivacyError, match="at least 0"):
        noisy_counts(np.array([-1]), 1.0, "replace-one")
