"""Renyi curves against computations that share no code with them."""

import math

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from scipy.special import logsumexp
from scipy.stats import norm, skellam

from securefd.defenses import accounting, rdp
from securefd.defenses.charges import (
    ConfidentVotes,
    DiscreteGaussian,
    DiscreteLaplace,
    GaussianShares,
    PoissonGaussian,
    RandomisedResponse,
    Skellam,
    Votes,
)
from securefd.defenses.sensitivity import Sensitivity
from securefd.errors import PrivacyError

BOTH = ("add-or-remove", "replace-one")
DELTA = 1e-5


def at(order):
    """The place of the order that is nearest."""
    return int(np.argmin(np.abs(np.array(rdp.ORDERS) - order)))


def moved(*, squared, absolute):
    return Sensitivity(added=squared, replaced=squared, added_l1=absolute, replaced_l1=absolute)


def renyi(p, q, order):
    """Between two lists of probabilities."""
    kept = (p > 1e-290) & (q > 1e-290)
    return logsumexp(order * np.log(p[kept]) + (1 - order) * np.log(q[kept])) / (order - 1)


def discrete_gaussian(variance, reach):
    x = np.arange(-reach, reach + 1)
    mass = np.exp(-(x**2) / (2 * variance))
    return mass / mass.sum()


@pytest.mark.parametrize(("variance", "shift"), [(0.5, 1), (2.0, 1), (2.0, 3), (30.0, 7)])
def test_a_discrete_gaussian_has_at_most_its_curve(variance, shift):
    p = discrete_gaussian(variance, 200)
    charge = DiscreteGaussian(variance=variance, sensitivity=moved(squared=shift**2, absolute=shift))
    found = rdp.curve(charge, "replace-one")
    for index, order in enumerate(rdp.ORDERS):
        if order < 8:
            # shifts of whole numbers meet the bound exactly at whole orders
            assert renyi(p[shift:], p[:-shift], order) <= found[index] * (1 + 1e-9)
    assert renyi(p[shift:], p[:-shift], 2.0) == pytest.approx(found[at(2.0)], rel=1e-6)


@pytest.mark.parametrize("variance", [0.15, 0.3, 1.0])
@pytest.mark.parametrize("shares", [2, 3, 8])
def test_a_sum_of_discrete_gaussians_is_as_near_to_one_as_is_said(variance, shares):
    reach = 60
    total = one = discrete_gaussian(variance, reach)
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    ideal = discrete_gaussian(variance * shares, reach * shares)
    near = np.abs(np.arange(-reach * shares, reach * shares + 1)) <= 6 * math.sqrt(variance * shares)
    ratio = np.log(total[near] / ideal[near])
    assert ratio.max() - ratio.min() <= rdp.spread(variance, shares) + 1e-12
    if variance < 0.5:  # it isn't said to be much farther than it is
        assert rdp.spread(variance, shares) <= 4 * (ratio.max() - ratio.min())


@pytest.mark.parametrize(("variance", "shares", "shift"), [(0.3, 2, 1), (0.3, 6, 2), (1.0, 4, 1)])
def test_shares_have_at_most_their_curve(variance, shares, shift):
    total = one = discrete_gaussian(variance, 60)
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    charge = GaussianShares(
        variance=variance, shares=shares, entries=1, sensitivity=moved(squared=shift**2, absolute=shift)
    )
    found = rdp.curve(charge, "replace-one")
    for index, order in enumerate(rdp.ORDERS):
        if order < 6:
            assert renyi(total[shift:], total[:-shift], order) <= found[index] * (1 + 1e-9)


def test_the_sum_of_shares_is_charged_more_than_one_gaussian_of_their_variance():
    alone = DiscreteGaussian(variance=0.6, sensitivity=moved(squared=1, absolute=1))
    shared = GaussianShares(variance=0.3, shares=2, entries=5, sensitivity=moved(squared=1, absolute=1))
    assert (rdp.curve(shared, "replace-one") > rdp.curve(alone, "replace-one")).all()
    assert rdp.spread(0.3, 1) == 0
    assert rdp.spread(0.05, 2) == math.inf


@pytest.mark.parametrize(("mean", "shift"), [(1.0, 1), (3.0, 1), (3.0, 2), (40.0, 5)])
def test_skellam_has_at_most_its_curve(mean, shift):
    x = np.arange(-400, 401)
    p, q = (skellam.pmf(x - s, mean / 2, mean / 2) for s in (shift, 0))
    charge = Skellam(variance=mean, sensitivity=moved(squared=shift**2, absolute=shift))
    found = rdp.curve(charge, "replace-one")
    checked = 0
    for index, order in enumerate(rdp.ORDERS):
        # scipy's tail is accurate to about 1e-300, which high orders of wide shifts need more than
        if order < 12 and np.max(np.minimum(p, q)[np.abs(x) > 380]) < 1e-30:
            for one, other in ((p, q), (q, p)):
                assert renyi(one, other, order) <= found[index] * (1 + 1e-6)
                checked += 1
    assert checked > 20


def test_skellam_in_two_entries_adds_up():
    x = np.arange(-200, 201)
    p, q = (skellam.pmf(x - s, 2.0, 2.0) for s in (1, 0))
    charge = Skellam(variance=4.0, sensitivity=moved(squared=2, absolute=2))
    found = rdp.curve(charge, "replace-one")
    for order in (2.0, 3.0, 5.0):
        assert 2 * renyi(p, q, order) <= found[at(order)]


def test_skellam_nears_the_gaussian_as_its_variance_grows():
    gaussian = DiscreteGaussian(variance=1e6, sensitivity=moved(squared=100, absolute=100))
    near = Skellam(variance=1e6, sensitivity=moved(squared=100, absolute=100))
    whole = [index for index, order in enumerate(rdp.ORDERS) if order == int(order) and order < 100]
    assert rdp.curve(near, "replace-one")[whole] == pytest.approx(
        rdp.curve(gaussian, "replace-one")[whole], rel=1e-3
    )


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.1, 1.2, 100), (0.02, 0.8, 500), (0.5, 4.0, 60)])
def test_subsampled_gaussians_agree_with_dp_accounting(rate, noise, steps):
    charge = PoissonGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps)
    accountant = RdpAccountant([2, 3, 5, 9, 17])
    accountant.compose(charge.event)
    found = rdp.curve(charge, "add-or-remove")
    assert [found[at(order)] for order in (2, 3, 5, 9, 17)] == pytest.approx(accountant._rdp, rel=1e-8)


@pytest.mark.parametrize(("rate", "noise"), [(0.1, 1.0), (0.4, 3.0)])
def test_a_replaced_record_costs_what_integration_of_its_mixtures_gives(rate, noise):
    x = np.linspace(-60 * noise, 60 * noise, 2_000_001)
    base = norm.pdf(x, 0, noise)
    p = (1 - rate) * base + rate * norm.pdf(x, 1, noise)
    q = (1 - rate) * base + rate * norm.pdf(x, -1, noise)
    charge = PoissonGaussian(sampling_rate=rate, noise_multiplier=noise, steps=1)
    found = rdp.curve(charge, "replace-one")
    for order in (2.0, 3.0, 5.0):
        by_sum = renyi(p, q, order) + math.log(x[1] - x[0]) / (order - 1)
        assert found[at(order)] == pytest.approx(by_sum, rel=1e-7)


@pytest.mark.parametrize("relation", BOTH)
def test_a_curve_never_promises_more_than_the_loss_distribution(relation):
    charges = [
        PoissonGaussian(sampling_rate=0.05, noise_multiplier=1.0, steps=200),
        DiscreteLaplace(parameter=0.3, sensitivity=1),
    ]
    by_loss = accounting.spent(charges, DELTA, relation)
    assert by_loss <= rdp.epsilon(rdp.total(charges, relation), DELTA) <= 1.4 * by_loss


def test_randomised_response_against_its_table():
    charge = RandomisedResponse(classes=4, noise=0.6, answers=3)
    kept, other = 0.4 + 0.15, 0.15
    p, q = np.array([kept, other, other, other]), np.array([other, kept, other, other])
    assert charge.ratio == pytest.approx(math.log(kept / other))
    for order in (2.0, 5.0, 17.0):
        assert rdp.curve(charge, "replace-one")[at(order)] == pytest.approx(3 * renyi(p, q, order))
    assert accounting.spent([charge], DELTA, "replace-one") <= 3 * charge.ratio * (1 + 1e-3)
    with pytest.raises(PrivacyError, match="replace-one only"):
        rdp.curve(charge, "add-or-remove")
    with pytest.raises(PrivacyError, match="replace-one only"):
        accounting.spent([charge], DELTA, "add-or-remove")


def test_orders_are_dense_enough():
    """A finer search for the best order gains next to nothing, from the best to the worst privacy."""
    for rho in (1e-4, 1e-2, 0.1, 1.0, 30.0):
        alphas = 1 + np.geomspace(1e-3, 1e4, 100_000)
        best = np.min(
            rho * alphas + np.log((alphas - 1) / alphas) - (math.log(DELTA) + np.log(alphas)) / (alphas - 1)
        )
        assert best <= rdp.epsilon(rho * np.array(rdp.ORDERS), DELTA) <= best * 1.005


def test_an_allowance_is_what_converts_to_the_budget():
    for order in (rdp.ORDERS[10], rdp.ORDERS[30]):
        allowed = rdp.allowance(2.0, DELTA, order)
        divergences = np.full(len(rdp.ORDERS), np.inf)
        divergences[rdp.ORDERS.index(order)] = allowed
        assert rdp.epsilon(divergences, DELTA) == pytest.approx(2.0)
    with pytest.raises(PrivacyError, match="order"):
        rdp.allowance(2.0, DELTA, 3.14)


def test_a_mix_of_mechanisms_is_charged_by_curves_where_one_has_no_loss_distribution():
    gaussian = DiscreteGaussian(variance=50.0, sensitivity=moved(squared=1, absolute=1))
    exact = accounting.epsilon(dp.GaussianDpEvent(math.sqrt(50)), DELTA, "add-or-remove")
    found = accounting.spent([gaussian], DELTA, "add-or-remove")
    assert exact <= found <= exact * 1.15
    assert accounting.spent([gaussian, gaussian], DELTA, "add-or-remove") > found


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_a_bad_delta_is_refused(delta):
    with pytest.raises(PrivacyError, match="delta"):
        rdp.epsilon(np.zeros(len(rdp.ORDERS)), delta)
    with pytest.raises(PrivacyError, match="delta"):
        accounting.spent(
            [DiscreteGaussian(variance=1.0, sensitivity=moved(squared=1, absolute=1))], delta, "replace-one"
        )


def test_a_missing_relation_is_refused():
    with pytest.raises(PrivacyError, match="relation"):
        rdp.curve(DiscreteLaplace(parameter=1.0, sensitivity=1), "")


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf])
def test_noise_needs_a_variance(variance):
    some = moved(squared=1, absolute=1)
    for make in (
        lambda: DiscreteGaussian(variance=variance, sensitivity=some),
        lambda: GaussianShares(variance=variance, shares=2, entries=1, sensitivity=some),
        lambda: Skellam(variance=variance, sensitivity=some),
    ):
        with pytest.raises(PrivacyError, match="variance"):
            make()


# --- zero-concentrated differential privacy ---------------------------------------------------------

ZCDP = [
    DiscreteGaussian(variance=9.0, sensitivity=moved(squared=4, absolute=2)),
    DiscreteLaplace(parameter=0.3, sensitivity=1),
    PoissonGaussian(sampling_rate=1.0, noise_multiplier=2.0, steps=3),
    Votes(variance=50.0, shares=1, answers=4, classes=3),
    Votes(variance=50.0, shares=1, answers=4, classes=3, turned=True),
    ConfidentVotes(check_variance=30.0, answer_variance=20.0, queries=5, classes=3),
]


@pytest.mark.parametrize("relation", BOTH)
@pytest.mark.parametrize("charge", ZCDP, ids=str)
def test_rho_bounds_every_divergence_and_not_by_more_than_the_curve_does(charge, relation):
    rho = rdp.zcdp([charge], relation)
    ratios = rdp.curve(charge, relation) / np.array(rdp.ORDERS)
    assert ratios.max() <= rho * (1 + 1e-12)
    assert ratios.max() >= rho * (1 - 1e-9)


def test_rhos_add_up_and_some_mechanisms_have_none():
    first, second = ZCDP[0], ZCDP[5]
    both = rdp.zcdp([first, second], "replace-one")
    assert both == pytest.approx(sum(rdp.zcdp([each], "replace-one") for each in (first, second)))
    assert rdp.zcdp([], "replace-one") == 0
    sampled = PoissonGaussian(sampling_rate=0.5, noise_multiplier=2.0, steps=3)
    shared = Votes(variance=50.0, shares=2, answers=4, classes=3)
    for charge in (sampled, shared):
        assert rdp.zcdp([first, charge], "replace-one") is None
