"""Accounting against computations that share no code with it."""

import math

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.dp_event import DiscreteLaplaceDpEvent
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from securefd.defenses.accounting import calibrate, check_delta, compose, epsilon, spent
from securefd.defenses.charges import DiscreteGaussian, DiscreteLaplace, PoissonGaussian
from securefd.defenses.sensitivity import Sensitivity
from securefd.errors import PrivacyError

BOTH = ("add-or-remove", "replace-one")
DELTA = 1e-5


def subsampled(rate, noise, steps):
    return dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)), steps)


def gaussian_epsilon(mu, delta):
    """Exact epsilon of mu-Gaussian differential privacy (Balle and Wang 2018, Theorem 8)."""

    def excess(eps):
        log_second = eps + norm.logcdf(-eps / mu - mu / 2)
        return norm.cdf(-eps / mu + mu / 2) - math.exp(log_second) - delta

    return brentq(excess, 1e-9, 1e4)


def oracle_epsilon(rate, noise, steps, delta, relation, cell=2e-3):
    """Epsilon by brute force: losses on a grid of outputs, rounded to cells, convolved by FFT."""
    shift = -1.0 if relation == "replace-one" else 0.0
    x = np.linspace(-14 * noise, 14 * noise + 1, 400_001)
    centre = (x[1:] + x[:-1]) / 2

    def mass_and_density(mean):
        edges = norm.cdf(x, scale=noise), norm.cdf(x, loc=mean, scale=noise)
        densities = norm.pdf(centre, scale=noise), norm.pdf(centre, loc=mean, scale=noise)
        return [(1 - rate) * a + rate * b for a, b in (np.diff(edges, axis=1), densities)]

    pairs = [(mass_and_density(1.0), mass_and_density(shift))]
    pairs.append(pairs[0][::-1])
    worst = 0.0
    size = 2**19
    for (mass, density), (_, other) in pairs:
        cells = np.rint(np.log(density / other) / cell).astype(int) % size
        single = np.bincount(cells, weights=mass, minlength=size)
        composed = np.fft.irfft(np.fft.rfft(single) ** steps, size)
        losses = cell * np.where(np.arange(size) < size // 2, np.arange(size), np.arange(size) - size)

        def excess(eps, composed=composed, losses=losses):
            return float(np.sum(composed * -np.expm1(np.minimum(0, eps - losses)))) - delta

        worst = max(worst, brentq(excess, 0, cell * size / 4))
    return worst


@pytest.mark.parametrize("noise", [0.6, 2.0, 20.0])
@pytest.mark.parametrize(("relation", "moved"), [("add-or-remove", 1), ("replace-one", 2)])
def test_one_gaussian_is_the_closed_form(noise, relation, moved):
    exact = gaussian_epsilon(moved / noise, DELTA)
    found = epsilon(dp.GaussianDpEvent(noise), DELTA, relation)
    assert exact * (1 - 1e-9) <= found <= exact * 1.001


@pytest.mark.parametrize(("relation", "moved"), [("add-or-remove", 1), ("replace-one", 2)])
def test_sampling_everybody_is_composed_gaussians(relation, moved):
    exact = gaussian_epsilon(moved * math.sqrt(100) / 20, DELTA)
    assert exact <= epsilon(subsampled(1.0, 20.0, 100), DELTA, relation) <= exact * 1.001


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.1, 1.2, 100), (0.5, 4.0, 60), (0.02, 0.8, 500)])
@pytest.mark.parametrize("relation", BOTH)
def test_subsampled_gaussians_agree_with_brute_force(rate, noise, steps, relation):
    expected = oracle_epsilon(rate, noise, steps, DELTA, relation)
    assert epsilon(subsampled(rate, noise, steps), DELTA, relation) == pytest.approx(expected, rel=3e-3)


def test_opacus_agrees():
    rate, noise, steps = 0.1, 1.3, 200
    found = epsilon(subsampled(rate, noise, steps), DELTA, "add-or-remove")
    prv, rdp = PRVAccountant(), RDPAccountant()
    for accountant in (prv, rdp):
        accountant.history = [(noise, rate, steps)]
    assert found == pytest.approx(prv.get_epsilon(DELTA, eps_error=0.01), abs=0.03)
    assert found < rdp.get_epsilon(DELTA, alphas=list(range(2, 64))) < found * 1.2


@pytest.mark.parametrize(("relation", "moved"), [("add-or-remove", 1), ("replace-one", 2)])
def test_discrete_laplace_is_the_closed_form(relation, moved):
    # The loss is largest, moved * a, with the probability that noise is <= 0: 1 / (1 + e^-a).
    a, delta = 0.7, 1e-3
    exact = moved * a + math.log(1 - delta * (1 + math.exp(-a)))
    found = epsilon(DiscreteLaplaceDpEvent(a, 1), delta, relation)
    assert exact * (1 - 1e-9) <= found <= exact * 1.001


def test_counts_and_training_compose_to_less_than_their_sum_and_more_than_either():
    training, counts = subsampled(0.2, 2.0, 50), DiscreteLaplaceDpEvent(0.5, 1)
    for relation in BOTH:
        first, second = (epsilon(e, DELTA, relation) for e in (training, counts))
        both = epsilon(compose([training, counts]), DELTA, relation)
        assert max(first, second) < both < first + second


def test_equal_multisets_of_events_cost_exactly_the_same():
    counts = DiscreteLaplaceDpEvent(0.5, 1)
    whole = compose([subsampled(0.2, 2.0, 50), counts])
    pieces = compose(
        [subsampled(0.2, 2.0, 20), dp.NoOpDpEvent(), counts, compose([subsampled(0.2, 2.0, 30)])]
    )
    assert epsilon(whole, DELTA, "replace-one") == epsilon(pieces, DELTA, "replace-one")


def test_nothing_costs_nothing_and_next_to_no_noise_costs_infinity():
    assert epsilon(compose([]), DELTA, "replace-one") == 0
    assert epsilon(subsampled(0.1, 2.0, 0), DELTA, "replace-one") == 0
    assert epsilon(subsampled(1.0, 0.01, 1000), DELTA, "add-or-remove") == math.inf


@pytest.mark.parametrize("relation", BOTH)
@pytest.mark.parametrize(
    ("rate", "steps", "target"),
    [(1.0, 60, 8.0), (0.5, 100, 8.0), (0.1, 300, 1.0), (0.01, 3000, 3.0), (0.25, 10, 50.0), (1.0, 1, 0.05)],
)
def test_calibration_meets_the_target_closely_and_never_exceeds_it(rate, steps, target, relation):
    def make(noise):
        return [PoissonGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps)]

    noise = calibrate(make, target, DELTA, relation)
    assert 0.99 * target <= spent(make(noise), DELTA, relation) <= target


@pytest.mark.parametrize("target", [0.1, 1.0, 8.0, 40.0])
def test_calibration_of_integer_noise_meets_the_target_too(target):
    some = Sensitivity(added=100, replaced=200, added_l1=100, replaced_l1=200)

    def make(noise):
        return [DiscreteGaussian(variance=noise**2 * 200, sensitivity=some)] * 3

    noise = calibrate(make, target, DELTA, "replace-one")
    assert 0.995 * target <= spent(make(noise), DELTA, "replace-one") <= target


def test_calibration_takes_what_is_already_spent_into_account():
    before = DiscreteLaplace(parameter=0.5, sensitivity=1)

    def training(noise):
        return PoissonGaussian(sampling_rate=0.5, noise_multiplier=noise, steps=60)

    alone = calibrate(lambda noise: [training(noise)], 8.0, DELTA, "replace-one")
    beside = calibrate(lambda noise: [training(noise), before], 8.0, DELTA, "replace-one")
    assert beside > alone


def gaussian(noise):
    return PoissonGaussian(sampling_rate=1.0, noise_multiplier=noise, steps=1)


def test_a_target_that_no_noise_can_meet_is_refused():
    with pytest.raises(PrivacyError, match="can't be met"):
        calibrate(lambda noise: [gaussian(noise), gaussian(1.0)], 1.0, DELTA, BOTH[0])
    with pytest.raises(PrivacyError, match="without noise"):
        calibrate(lambda noise: [gaussian(1e3)], 1.0, DELTA, BOTH[0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_bad_targets_and_noises_are_refused(bad):
    with pytest.raises(PrivacyError, match="epsilon must be"):
        calibrate(lambda noise: [gaussian(noise)], bad, DELTA, "replace-one")
    with pytest.raises(PrivacyError, match="delta must be"):
        epsilon(dp.GaussianDpEvent(1.0), bad, "replace-one")
    with pytest.raises(PrivacyError, match="noise_multiplier must be"):
        epsilon(dp.GaussianDpEvent(bad), DELTA, "replace-one")
    with pytest.raises(PrivacyError, match="sampling_rate must be"):
        epsilon(subsampled(bad, 1.0, 1), DELTA, "replace-one")
    with pytest.raises(PrivacyError, match="discrete Laplace"):
        epsilon(DiscreteLaplaceDpEvent(bad, 1), DELTA, "replace-one")


def test_unknown_relations_and_mechanisms_are_refused():
    with pytest.raises(PrivacyError, match="swap"):
        epsilon(dp.GaussianDpEvent(1.0), DELTA, "swap")
    for event in (dp.LaplaceDpEvent(1.0), dp.NonPrivateDpEvent(), dp.UnsupportedDpEvent()):
        with pytest.raises(PrivacyError, match="can't be accounted"):
            epsilon(event, DELTA, "replace-one")
    with pytest.raises(PrivacyError, match="whole number"):
        epsilon(dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.0), -1), DELTA, "replace-one")


def test_delta_must_be_below_one_unit():
    check_delta(1e-5, 50_000)
    for delta, units in ((0.02, 50), (0.1, 50), (math.nan, 50)):
        with pytest.raises(PrivacyError, match="delta must be"):
            check_delta(delta, units)
