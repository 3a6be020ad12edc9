"""Spending that is decided on the way, by looking at what was released before.

Let every access be chosen by whoever saw all earlier outputs, and let its Renyi divergence of one order
alpha, given those outputs, be known before it is made. If an access is refused whenever the sum of these
divergences would exceed B, everything that was released is (alpha, B)-Renyi-DP, however many accesses that
turns out to be (Feldman, Zrnic 2021, Individual Privacy Accounting via a Renyi Filter; Lecuyer 2021,
Practical Privacy Filters and Odometers with Renyi Differential Privacy). Two things must be kept in mind:

- alpha and B are chosen before the first access. Taking the order that turns out best when everything is over
  isn't covered.
- What is proven is B as a whole, not the sum so far: who stops because of what was released doesn't earn
  less than B (an odometer would tell, at a price).

A filter for zero-concentrated DP is the case of curves linear in alpha (Gaussian noise without sampling):
there the divergence of one order says all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import msgspec
import numpy as np
from scipy.optimize import brentq

from securefd.defenses import rdp
from securefd.defenses.charges import Charge
from securefd.defenses.claims import Guarantee, Relation
from securefd.errors import PrivacyError

ROUNDING = 1e-9
"""Relative; far above the error of a sum of divergences in floating point."""


class RenyiFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A budget for accesses that are chosen adaptively: an order, and the (epsilon, delta) that it is for."""

    order: float
    epsilon: float
    delta: float
    relation: Relation

    def __post_init__(self) -> None:
        if not 1 < self.order < math.inf:
            raise PrivacyError(f"order of a filter must be > 1 and finite, got {self.order}")
        if not 0 < self.epsilon < math.inf or not 0 < self.delta < 1:
            raise PrivacyError(
                f"a filter must be for epsilon > 0 and 0 < delta < 1, got {self.epsilon} and {self.delta}"
            )

    def allowance(self) -> float:
        """B: the divergences that all accesses may add up to.

        Raises PrivacyError where the order says nothing about this epsilon and delta.
        """
        allowed = rdp.allowance(self.epsilon, self.delta, self.order)
        if not allowed > 0:
            raise PrivacyError(
                f"a filter of order {self.order:.4g} must be for a larger epsilon at delta = "
                f"{self.delta:.2g}, got {self.epsilon:.4g}; take another order, or raise epsilon or delta"
            )
        return allowed

    def cost(self, charges: Iterable[Charge]) -> float:
        """The sum of the divergences of ``charges``."""
        return math.fsum(_divergence(charge, self.relation, self.order) for charge in charges)

    def price(self, charges: Iterable[Charge]) -> float:
        """The least epsilon of a filter of this order that would have allowed ``charges``; 0 for none.

        It says how full the filter is. It is proven where ``charges`` were fixed beforehand.
        """
        cost = self.cost(charges)
        return max(0.0, cost - rdp.allowance(0.0, self.delta, self.order)) if cost > 0 else 0.0

    def limit(self, budget: Guarantee) -> float:
        """The divergences that may add up where a smaller ``budget`` stops earlier than the filter."""
        return min(self.allowance(), rdp.allowance(budget.epsilon, budget.delta, self.order))


def best_order(
    charges: Sequence[Charge], delta: float, relation: Relation, budget: float | None = None
) -> float:
    """The order at which ``charges`` cost least, to be fixed before the first of them is made.

    ``budget``: the epsilon of the whole filter, where it is to hold more than ``charges``: then the order
    at which such charges fit in most often. Raises PrivacyError where no order proves anything.
    """
    total = rdp.total(charges, relation)
    # epsilon of a divergence of 0, order by order
    beside = np.array([-rdp.allowance(0.0, delta, order) for order in rdp.ORDERS])
    whole = float(np.min(total + beside)) if budget is None else budget
    with np.errstate(divide="ignore"):
        shares = np.divide(whole - beside, total, out=np.full(len(total), -math.inf), where=total > 0)
    best = int(np.argmax(shares))
    if not shares[best] > 0:
        raise PrivacyError(
            f"no order of a Renyi filter has room for {', '.join(str(charge) for charge in charges)} at "
            f"delta = {delta:.2g} and epsilon = {whole:.4g}; raise them, or use more noise"
        )
    return rdp.ORDERS[best]


def spent(charges: Sequence[Charge], delta: float, relation: Relation) -> float:
    """Epsilon of ``charges`` in a filter that was made for them; 0 for none.

    Rounded up, so that the same charges cut into parts fit in too.
    """
    if not charges:
        return 0.0
    return rdp.epsilon(rdp.total(charges, relation) * (1 + ROUNDING), delta) * (1 + ROUNDING)


def calibrate(
    make: Callable[[float], Sequence[Charge]], epsilon: float, delta: float, relation: Relation
) -> float:
    """The least noise (to about 0.1%) whose charges fit in a filter of ``epsilon`` that was made for them.

    ``make`` turns a positive noise into charges, and more noise must cost less. Raises PrivacyError where no
    noise between 10^-3 and 10^6 does it.
    """
    if not 0 < epsilon < math.inf:
        raise PrivacyError(f"epsilon must be > 0 and finite, got {epsilon}")

    def excess(log_noise: float) -> float:
        found = spent(make(math.exp(log_noise)), delta, relation)
        return math.log(min(max(found, 1e-12), 1e12) / epsilon)

    low, high = -1.0, 1.0
    while excess(high) > 0:
        low, high = high, high + 1
        if high > math.log(1e6):
            raise PrivacyError(f"epsilon = {epsilon} can't be met with any noise up to 10^6; raise it")
    while excess(low) <= 0:
        low, high = low - 1, low
        if low < math.log(1e-3):
            raise PrivacyError(f"epsilon = {epsilon} is met without noise worth the name; lower it")
    log_noise = float(brentq(excess, low, high, xtol=2e-4, rtol=1e-6))
    while excess(log_noise) > 0:
        log_noise += 2e-4
    return math.exp(log_noise)


@lru_cache(maxsize=4096)
def _divergence(charge: Charge, relation: Relation, order: float) -> float:
    if order not in rdp.ORDERS:
        raise PrivacyError(f"order must be one of rdp.ORDERS, got {order}")
    return float(rdp.curve(charge, relation)[rdp.ORDERS.index(order)])
