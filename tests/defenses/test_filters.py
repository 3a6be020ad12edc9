"""Filters: what is chosen on the way stays within what was preset."""

import math

import numpy as np
import pytest

from securefd.defenses import filters, rdp
from securefd.defenses.charges import DiscreteGaussian, DiscreteLaplace, PoissonGaussian, RandomisedResponse
from securefd.defenses.claims import RELATIONS, Guarantee
from securefd.defenses.filters import RenyiFilter, best_order, calibrate, spent
from securefd.defenses.sensitivity import Sensitivity
from securefd.errors import PrivacyError

DELTA = 1e-5
COUNTS = DiscreteLaplace(parameter=0.2, sensitivity=1)
ONE = Sensitivity(added=1, replaced=4, added_l1=1, replaced_l1=2)


def step(noise, steps=10, rate=0.1):
    return PoissonGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps)


def made(charges, relation="add-or-remove", budget=None):
    """A filter for exactly what ``charges`` cost, or for ``budget``."""
    epsilon = spent(charges, DELTA, relation) if budget is None else budget
    order = best_order(charges, DELTA, relation, budget)
    return RenyiFilter(order=order, epsilon=epsilon, delta=DELTA, relation=relation)


def naive_epsilon(divergence, order, delta):
    """Canonne, Kamath, Steinke 2020, Proposition 12, one order."""
    return divergence + math.log(1 - 1 / order) - math.log(delta * order) / (order - 1)


@pytest.mark.parametrize("relation", RELATIONS)
def test_gaussian_noise_is_filtered_as_zero_concentrated(relation):
    """Curves linear in the order: the filter of any order is one of rho, and the sum of rho decides."""
    charges = [DiscreteGaussian(variance=variance, sensitivity=ONE) for variance in (50.0, 80.0, 1000.0)]
    rho = sum(ONE.squared(relation) / (2 * charge.variance) for charge in charges)
    for order in rdp.ORDERS[25:50:5]:
        one = RenyiFilter(order=order, epsilon=3.0, delta=DELTA, relation=relation)
        assert one.cost(charges) == pytest.approx(rho * order)
        assert one.price(charges) == pytest.approx(naive_epsilon(rho * order, order, DELTA))
        assert naive_epsilon(one.allowance(), order, DELTA) == pytest.approx(3.0)


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_best_order_is_the_one_at_which_the_charges_cost_least(relation):
    for charges in ([step(1.0)], [step(4.0, steps=200), COUNTS], [step(1.0, rate=1.0)], [COUNTS] * 5):
        order = best_order(charges, DELTA, relation)
        totals = sum(rdp.curve(charge, relation) for charge in charges)
        by_order = [naive_epsilon(t, a, DELTA) for t, a in zip(totals, rdp.ORDERS, strict=True)]
        assert order == rdp.ORDERS[int(np.argmin(by_order))]
        assert made(charges, relation).price(charges) == pytest.approx(min(by_order))


def test_a_larger_budget_takes_the_order_at_which_most_runs_fit_in():
    charges = [step(2.0), COUNTS]

    def runs(order):
        one = RenyiFilter(order=order, epsilon=8.0, delta=DELTA, relation="add-or-remove")
        return rdp.allowance(8.0, DELTA, order) / one.cost(charges)

    best = best_order(charges, DELTA, "add-or-remove", 8.0)
    assert runs(best) == max(runs(order) for order in rdp.ORDERS)
    alone = best_order(charges, DELTA, "add-or-remove")
    assert runs(best) > runs(alone)
    assert best < alone


def test_what_a_filter_was_made_for_fits_in_however_it_is_cut():
    whole = [step(1.3, steps=97), COUNTS]
    one = made(whole)
    for parts in (1, 3, 96):
        cut = [*[step(1.3, steps=1)] * parts, step(1.3, steps=97 - parts), COUNTS]
        assert one.cost(cut) <= one.allowance()
    assert one.cost([*whole, step(1.3, steps=1)]) > one.allowance()


def test_it_never_costs_less_than_the_best_composition():
    """The price of adaptivity: one order, fixed beforehand, against the best one afterwards."""
    one = made([step(1.0)], budget=6.0)
    for charges in ([step(1.0)], [step(5.0, steps=500)], [COUNTS] * 3, [step(0.7), COUNTS]):
        total = rdp.total(charges, "add-or-remove")
        assert one.price(charges) >= rdp.epsilon(total, DELTA) - 1e-12
    assert one.price([]) == 0


@pytest.mark.parametrize("seed", range(6))
def test_every_adaptive_strategy_stays_within_the_filter(seed):
    """One bit is asked again and again by randomised response, the noise chosen by the answers so far.

    All leaves of the tree of answers, exactly: their Renyi divergence of the filter's order is within its
    allowance, and so is the epsilon that it converts to. Strategies waste little, so that it is close.
    """
    rng = np.random.default_rng(seed)
    order = rdp.ORDERS[24 + 2 * seed]
    conversion = -rdp.allowance(0.0, DELTA, order)
    one = RenyiFilter(order=order, epsilon=4.0 + conversion, delta=DELTA, relation="replace-one")
    leaves = []

    def ask(charges, p, q, depth):
        """Probabilities of the answers so far, if the bit is 0 and if it is 1."""
        noise = float(rng.uniform(0.3, 0.9))
        charge = RandomisedResponse(classes=2, noise=noise, answers=1)
        if depth == 9 or one.cost([*charges, charge]) > one.allowance():
            leaves.append((p, q))
            return
        for bit in (0, 1):
            as_is, turned = 1 - noise / 2, noise / 2
            zero, other = (as_is, turned) if bit == 0 else (turned, as_is)
            ask([*charges, charge], p * zero, q * other, depth + 1)

    ask([], 1.0, 1.0, 0)
    p, q = np.array(leaves).T
    assert p.sum() == pytest.approx(1)
    assert len(p) > 10
    for a, b in ((p, q), (q, p)):
        divergence = float(np.log(np.sum(a**order * b ** (1 - order))) / (order - 1))
        assert 0.5 * one.allowance() < divergence <= one.allowance()
        assert np.sum(np.maximum(a - math.exp(one.epsilon) * b, 0)) <= DELTA


def test_random_choices_fill_a_filter_and_no_more():
    rng = np.random.default_rng(0)
    menu = [step(float(noise), steps=int(steps)) for noise, steps in rng.uniform(1, 40, size=(20, 2))]
    for order in (rdp.ORDERS[24], rdp.ORDERS[30]):
        one = RenyiFilter(order=order, epsilon=4.0, delta=DELTA, relation="replace-one")
        taken = []
        for number in rng.integers(len(menu), size=400):
            if one.cost([*taken, menu[number]]) <= one.allowance():
                taken.append(menu[number])
        at = rdp.ORDERS.index(order)
        divergence = sum(rdp.curve(charge, "replace-one")[at] for charge in taken)
        assert naive_epsilon(divergence, order, DELTA) <= 4.0
        assert one.cost(taken) > 0.9 * one.allowance()


def test_a_smaller_budget_stops_earlier_and_a_larger_one_no_later():
    one = made([step(1.0)], budget=6.0)
    limits = [
        one.limit(Guarantee(epsilon=epsilon, delta=delta, unit="record", relation="add-or-remove"))
        for epsilon, delta in ((3.0, DELTA), (6.0, 1e-7), (6.0, DELTA), (9.0, DELTA), (6.0, 0.1))
    ]
    assert limits[0] < limits[2]
    assert limits[1] < limits[2]
    assert limits[2] == limits[3] == limits[4] == one.allowance()


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_calibrated_noise_fits_and_hardly_less_noise_would(relation, epsilon):
    def charges(noise):
        return [step(noise, steps=40), COUNTS]

    noise = calibrate(charges, epsilon, DELTA, relation)
    one = made(charges(noise), relation, epsilon)
    assert one.cost(charges(noise)) <= one.allowance()
    assert spent(charges(noise), DELTA, relation) <= epsilon < spent(charges(noise * 0.998), DELTA, relation)


def test_what_cannot_be_is_refused():
    with pytest.raises(PrivacyError, match=r"can't be met with any noise"):
        calibrate(lambda noise: [DiscreteLaplace(parameter=1.0, sensitivity=9)], 0.5, DELTA, "replace-one")
    with pytest.raises(PrivacyError, match="without noise worth the name"):
        calibrate(lambda noise: [COUNTS], 5.0, DELTA, "add-or-remove")
    for epsilon in (0.0, math.inf, math.nan):
        with pytest.raises(PrivacyError, match="epsilon must be > 0 and finite"):
            calibrate(lambda noise: [COUNTS], epsilon, DELTA, "add-or-remove")
    with pytest.raises(PrivacyError, match="no order of a Renyi filter has room"):
        best_order([COUNTS], DELTA, "add-or-remove", 0.001)
    good = {"order": 9.0, "epsilon": 1.0, "delta": DELTA, "relation": "add-or-remove"}
    for bad in (
        *({"order": order} for order in (1.0, math.inf, math.nan)),
        *({"epsilon": epsilon} for epsilon in (0.0, math.inf, math.nan)),
        *({"delta": delta} for delta in (0.0, 1.0, math.nan)),
    ):
        with pytest.raises(PrivacyError, match="filter must be"):
            RenyiFilter(**good | bad)
    with pytest.raises(PrivacyError, match=r"one of rdp\.ORDERS"):
        RenyiFilter(**good | {"order": 9.5}).cost([COUNTS])
    with pytest.raises(PrivacyError, match="larger epsilon"):
        RenyiFilter(**good | {"order": rdp.ORDERS[0]}).allowance()
    assert filters.spent([], DELTA, "add-or-remove") == 0
