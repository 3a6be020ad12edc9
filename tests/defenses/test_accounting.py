"""Accounting against computations that share no code with it."""

import math

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.dp_event import DiscreteLaplaceDpEvent
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from securefd.defenses import accounting, rdp
from securefd.defenses.accounting import calibrate, check_delta, compose, epsilon, spent
from securefd.defenses.charges import DiscreteGaussian, DiscreteLaplace, PoissonGaussian, Votes
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
    for delta, units in ((0.02, 50), (1 / 49, 49), (0.1, 50), (math.nan, 50)):
        with pytest.raises(PrivacyError, match="delta must be"):
            check_delta(delta, units)


def votes_oracle(variance, shares, answers, relation, epsilon):
    """Delta of votes by brute force: all outputs of every entry that moves, of the shares' very sum."""
    x = np.arange(-60, 61)
    one = np.exp(-(x**2) / (2 * variance))
    total = one = one / one.sum()
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    moves = ([1, -1] if relation == "replace-one" else [1]) * answers
    p, q = np.ones(1), np.ones(1)
    for move in moves:
        mine, other = total, np.roll(total, move)
        p, q = np.multiply.outer(p, mine).ravel(), np.multiply.outer(q, other).ravel()
        kept = p > 1e-18
        p, q = p[kept], q[kept]
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum())


@pytest.mark.parametrize("relation", BOTH)
@pytest.mark.parametrize(
    ("variance", "shares", "answers"), [(2.0, 1, 1), (1.0, 2, 1), (4.0, 3, 1), (3.0, 1, 2)]
)
def test_votes_against_every_output(variance, shares, answers, relation):
    """Never too little, and close where shares add up to nearly one discrete Gaussian."""
    if relation == "replace-one" and answers == 2:
        answers = 1
    charge = Votes(variance=variance, shares=shares, answers=answers, classes=2)
    for delta in (1e-2, 1e-4):
        found = spent([charge], delta, relation)
        assert votes_oracle(variance, shares, answers, relation, found) <= delta * (1 + 1e-6)
        if variance >= 2:
            assert votes_oracle(variance, shares, answers, relation, 0.97 * found) > delta * 0.9


@pytest.mark.parametrize("relation", BOTH)
def test_many_votes_cost_what_a_gaussian_of_their_deviation_costs(relation):
    moved = 1800 if relation == "replace-one" else 900
    charge = Votes(variance=40.0, shares=250, answers=900, classes=10)
    exact = gaussian_epsilon(math.sqrt(moved / 10_000), DELTA)
    found = spent([charge], DELTA, relation)
    assert exact <= found <= exact * 1.002
    assert found < 0.95 * spent([charge.as_shares], DELTA, relation)
    halves = Votes(variance=40.0, shares=250, answers=450, classes=10)
    assert spent([halves, halves], DELTA, relation) == pytest.approx(found, rel=1e-6)


def test_votes_compose_with_others_and_are_counted_otherwise_when_too_many():
    charge = Votes(variance=40.0, shares=250, answers=900, classes=10)
    both = spent([charge, DiscreteLaplace(parameter=0.2, sensitivity=1)], DELTA, "replace-one")
    assert spent([charge], DELTA, "replace-one") + 0.1 < both < spent([charge], DELTA, "replace-one") + 0.4
    wide = Votes(variance=1e9, shares=250, answers=90_000, classes=10)
    assert spent([wide], DELTA, "replace-one") == spent([wide.as_shares], DELTA, "replace-one")
    weak = Votes(variance=0.02, shares=2, answers=1, classes=2)
    assert spent([weak], DELTA, "replace-one") == math.inf


@pytest.mark.parametrize("wrong", [{"shares": 0}, {"answers": 0}, {"classes": 1}, {"variance": 0.0}])
def test_votes_that_arent_are_refused(wrong):
    with pytest.raises(PrivacyError, match="must be"):
        Votes(**{"variance": 1.0, "shares": 1, "answers": 1, "classes": 2, **wrong})


@pytest.mark.parametrize("deviation", [0.3, 1.0, 4.5, 60.0, 2000.0])
@pytest.mark.parametrize("moved", [1, 7, 300])
def test_one_integer_that_moves_by_brute_force(moved, deviation):
    """Every outcome's loss and weight: never less than they come to, and hardly more."""
    interval = moved * (1 / deviation + moved / deviation**2) / 5_000
    found = accounting._moved_integer(moved, deviation, interval)
    edge = math.ceil(13 * deviation) + moved
    x = np.arange(-edge, edge + 1, dtype=np.float64)
    weight = np.exp(-(x**2) / (2 * deviation**2))
    weight /= weight.sum()
    loss = (moved**2 + 2 * moved * x) / (2 * deviation**2)
    for epsilon_at in np.array([0.0, 0.3, 1.0, 2.5, 4.0]) * moved * (1 / deviation + moved / deviation**2):
        exact = float(np.sum(weight * np.maximum(0.0, -np.expm1(np.minimum(epsilon_at - loss, 0)))))
        delta = found.get_delta_for_epsilon(epsilon_at)
        assert delta >= exact * (1 - 1e-9)
        assert delta <= exact * 1.01 + 1e-12 or exact > 0.5  # where there is next to no privacy


def test_a_delta_below_what_is_cut_off_proves_nothing():
    """A loss distribution can't tell there; the Renyi curve can."""
    charge = Votes(variance=400.0, shares=1, answers=3, classes=2)
    curve = rdp.epsilon(rdp.total([charge], "replace-one"), 1e-28)
    assert spent([charge], 1e-28, "replace-one") == curve
