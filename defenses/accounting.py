"""What a composition of mechanisms costs, and how much noise a target needs.

Wherever it can be, this is a privacy loss distribution (PLD) of ``dp-accounting``, rounded pessimistically: a
figure may be slightly too large, never too small. PLDs compose fixed schedules: all mechanisms of a
composition are assumed to be decided before the first one runs. Vectors with integer noise have Renyi curves
instead (``securefd.defenses.rdp``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import dp_accounting as dp
import numpy as np
from dp_accounting.dp_event import DiscreteLaplaceDpEvent
from dp_accounting.pld import pld_pmf
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray
from scipy.optimize import brentq

from securefd.defenses import rdp
from securefd.defenses.charges import Charge, VotesEvent
from securefd.defenses.claims import RELATIONS, Relation
from securefd.errors import PrivacyError

FINE = 5_000
"""Cells of the loss grid for each unit of the composition's rough epsilon: final figures."""
COARSE = 1_000
"""The same while searching for noise; a coarser grid overstates epsilon."""
REACH = 11
"""Deviations beyond which a discrete Gaussian is cut off; it is subgaussian, so that at most e^(-REACH^2 / 2)
of it, 5 in 10^27, lies there, and counts as lost."""
WIDEST = 5e5
"""Deviation of the widest discrete Gaussian of which a loss distribution is made: about 10^7 losses."""
HOPELESS = 1e4
"""A rough epsilon beyond this is reported as infinite, which is true as a bound and as advice."""

_NEIGHBOURS = {
    "add-or-remove": dp.NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace-one": dp.NeighboringRelation.REPLACE_ONE,
}
# Whole orders only: dp-accounting's series for fractional ones may not converge, and warns.
_ORDERS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512)


def compose(events: Iterable[dp.DpEvent]) -> dp.DpEvent:
    """Return the event that all of ``events`` happened to one data set."""
    return dp.ComposedDpEvent(list(events))


def epsilon(event: dp.DpEvent, delta: float, relation: Relation) -> float:
    """Return an upper bound on epsilon of ``event`` at ``delta``; infinite beyond about 10^4.

    A mechanism's noise is stated against what one record contributes (its norm), so replacing a record
    moves a sum twice as far as adding or removing one; each ``relation`` is computed as such. The order
    of events does not change the figure. Raises PrivacyError for a bad delta, relation or mechanism.
    """
    _check_delta(delta)
    _check_relation(relation)
    return _epsilon(_parts(event), delta, relation, FINE)


def calibrate(
    make: Callable[[float], Sequence[Charge]], epsilon: float, delta: float, relation: Relation
) -> float:
    """Return the least noise (to about 0.5%) whose charges cost at most ``epsilon`` at ``delta``.

    ``make`` turns a positive noise into charges, and more noise must cost less. The result never exceeds the
    target by this module's ``spent``. Raises PrivacyError where no noise up to 10^6 is enough.
    """
    if not 0 < epsilon < math.inf:
        raise PrivacyError(f"epsilon must be > 0 and finite, got {epsilon}")
    _check_delta(delta)
    _check_relation(relation)

    def excess(log_noise: float, cells: int) -> float:
        found = _spent(make(math.exp(log_noise)), delta, relation, cells)
        return math.log(min(max(found, 1e-12), HOPELESS) / epsilon)

    low, high = _bracket(lambda log_noise: excess(log_noise, COARSE), epsilon)
    log_noise = float(brentq(excess, low, high, args=(COARSE,), xtol=2e-4, rtol=1e-6))
    slack = excess(log_noise, FINE)
    # Long schedules of tiny losses need the fine grid in the search too.
    if slack < -5e-3:
        low = log_noise - 0.05
        while excess(low, FINE) <= 0:
            low -= 0.05
        log_noise = float(brentq(excess, low, log_noise, args=(FINE,), xtol=2e-4, rtol=1e-6))
        slack = excess(log_noise, FINE)
    while slack > 0:
        log_noise += 5e-4
        slack = excess(log_noise, FINE)
    return math.exp(log_noise)


def spent(charges: Sequence[Charge], delta: float, relation: Relation) -> float:
    """Return an upper bound on epsilon of all ``charges``, decided before the first of them was made.

    By PLD where every charge has one, else by Renyi curves.
    """
    _check_delta(delta)
    _check_relation(relation)
    return _spent(charges, delta, relation, FINE)


def _spent(charges: Sequence[Charge], delta: float, relation: Relation, cells: int) -> float:
    events = [charge.event for charge in charges]
    if all(event is not None for event in events):
        parts = _parts(compose(event for event in events if event is not None))
        if all(_fits(leaf, count, relation) for leaf, count in parts):
            found = _epsilon(parts, delta, relation, cells)
            # Beside shares of little noise each, what was cut off a distribution of votes may be too much.
            if found < math.inf or not any(isinstance(leaf, VotesEvent) for leaf, _ in parts):
                return found
    return rdp.epsilon(rdp.total(charges, relation), delta)


def check_delta(delta: float, units: int) -> None:
    """Refuse a delta that allows publishing one of ``units`` units in the clear (delta >= 1/units)."""
    _check_delta(delta)
    if not delta < 1 / units:  # 1/49 * 49 is less than 1
        raise PrivacyError(
            f"delta must be below 1/{units} for {units} units, or it allows publishing one of them; "
            f"got {delta}: lower it"
        )


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise PrivacyError(f"delta must be > 0 and < 1, got {delta}")


def _check_relation(relation: str) -> None:
    if relation not in RELATIONS:
        raise PrivacyError(f"relation must be one of {', '.join(RELATIONS)}, got {relation!r}")


def _bracket(excess: Callable[[float], float], target: float) -> tuple[float, float]:
    """Return logs of a noise that costs too much and of one that doesn't, a factor 2 apart."""
    step = math.log(2)
    edge, top, bottom = 0.0, math.log(1e6), math.log(1e-3)
    if excess(edge) > 0:
        while excess(edge + step) > 0:
            edge += step
            if edge > top:
                raise PrivacyError(f"epsilon = {target} can't be met with any noise up to 10^6; raise it")
        return edge, edge + step
    while excess(edge - step) <= 0:
        edge -= step
        if edge < bottom:
            raise PrivacyError(f"epsilon = {target} is met without noise worth the name; lower it")
    return edge - step, edge


Parts = tuple[tuple[dp.DpEvent, int], ...]


def _parts(event: dp.DpEvent) -> Parts:
    """Return the mechanisms and how often each ran, merged and sorted: equal multisets, equal figures."""
    counts: dict[dp.DpEvent, int] = {}

    def walk(node: Any, times: int) -> None:
        if isinstance(node, dp.SelfComposedDpEvent):
            if not (isinstance(node.count, int) and node.count >= 0):
                raise PrivacyError(f"count of a repeated event must be a whole number >= 0, got {node.count}")
            walk(node.event, times * node.count)
        elif isinstance(node, dp.ComposedDpEvent):
            for child in node.events:
                walk(child, times)
        elif not isinstance(node, dp.NoOpDpEvent) and times:
            leaf = _simplified(node)
            counts[leaf] = counts.get(leaf, 0) + times

    walk(event, 1)
    return tuple(sorted(counts.items(), key=lambda part: repr(part[0])))


def _simplified(leaf: Any) -> dp.DpEvent:
    """Return the mechanism, checked; sampling everybody is no sampling."""
    if isinstance(leaf, dp.PoissonSampledDpEvent) and isinstance(leaf.event, dp.GaussianDpEvent):
        _check_noise(leaf.event.noise_multiplier)
        if not 0 < leaf.sampling_probability <= 1:
            raise PrivacyError(f"sampling_rate must be > 0 and <= 1, got {leaf.sampling_probability}")
        return leaf.event if leaf.sampling_probability == 1 else leaf
    if isinstance(leaf, dp.GaussianDpEvent):
        _check_noise(leaf.noise_multiplier)
        return leaf
    if isinstance(leaf, VotesEvent):
        return leaf  # checked where it was charged
    if isinstance(leaf, dp.RandomizedResponseDpEvent):
        if not (0 < leaf.noise_parameter <= 1 and leaf.num_buckets >= 2):
            raise PrivacyError(f"randomised response needs noise > 0 and 2 classes, got {leaf}")
        return leaf
    if isinstance(leaf, DiscreteLaplaceDpEvent):
        if not (0 < leaf.noise_parameter < math.inf and leaf.sensitivity >= 1):
            raise PrivacyError(f"discrete Laplace needs parameter > 0 and sensitivity >= 1, got {leaf}")
        return leaf
    raise PrivacyError(
        f"{leaf} can't be accounted here; use Gaussian, discrete Laplace or randomised response mechanisms"
    )


def _check_noise(noise_multiplier: float) -> None:
    if not 0 < noise_multiplier < math.inf:
        raise PrivacyError(f"noise_multiplier must be > 0 and finite, got {noise_multiplier}")


@lru_cache(maxsize=4096)
def _epsilon(parts: Parts, delta: float, relation: Relation, cells: int) -> float:
    if not parts:
        return 0.0
    scale = _scale(parts, delta)
    if scale > HOPELESS:
        return math.inf
    interval = scale / cells
    losses = [_loss(leaf, count, relation, interval) for leaf, count in parts]
    total = losses[0]
    for loss in losses[1:]:
        total = total.compose(loss)
    beside = sum(_beside(leaf, count, relation) for leaf, count in parts)
    # What rounding may have taken off a step of a discrete loss.
    return (float(total.get_epsilon_for_delta(delta * math.exp(-beside))) + beside) * (1 + 1e-9)


def _scale(parts: Sequence[tuple[dp.DpEvent, int]], delta: float) -> float:
    """Return a rough epsilon, which sizes the loss grid: only precision and time hang on it."""
    accountant = RdpAccountant(_ORDERS)
    pure = 0.0
    for leaf, count in parts:
        if isinstance(leaf, DiscreteLaplaceDpEvent):
            pure += leaf.noise_parameter * leaf.sensitivity * count
        elif isinstance(leaf, VotesEvent):
            deviation = math.sqrt(leaf.variance * leaf.shares)
            accountant.compose(dp.GaussianDpEvent(deviation / math.sqrt(2 * leaf.answers * count)))
        elif isinstance(leaf, dp.RandomizedResponseDpEvent):
            # e-DP has at most the divergences of a Gaussian that moves by e
            accountant.compose(dp.GaussianDpEvent(1 / max(_ratio(leaf) * math.sqrt(count), 1e-6)))
        else:
            accountant.compose(leaf, count)
    return max(pure + float(accountant.get_epsilon(delta)), 1e-2)


def _fits(leaf: Any, count: int, relation: Relation) -> bool:
    """Whether a loss distribution of votes, one entry for each integer within reach, fits into memory."""
    if not isinstance(leaf, VotesEvent):
        return True
    moved = _moved(leaf, count, relation)
    return moved <= REACH * WIDEST and math.sqrt(moved * leaf.variance * leaf.shares) <= WIDEST


def _moved(leaf: VotesEvent, count: int, relation: Relation) -> int:
    if leaf.single:
        return leaf.answers * count
    return leaf.answers * count * (2 if relation == "replace-one" or leaf.turned else 1)


def _beside(leaf: Any, count: int, relation: Relation) -> float:
    """What a loss distribution leaves out, as a logarithm k of a ratio of probabilities.

    If P is at most a P', Q at least b Q', a / b <= e^k and a <= e^k, then P(A) - e^epsilon Q(A) is at most
    e^k (P'(A) - e^(epsilon - k) Q'(A)): the epsilon of P' and Q' at delta e^-k, and k more, is one of P and Q
    at delta.

    Votes. Say m entries move, each by 1, under independent noise x_j ~ N_Z(0, v), v the shares' variance. The
    loss is (m + 2 S) / (2 v) for S the sum of the m noises, each with its sign. Were S ~ N_Z(0, m v), that
    is the loss of one integer that moves by m under N_Z(0, m v): (m^2 + 2 m S) / (2 m v). Fewer entries that
    move lose less, since the others could be drawn by anyone. Two things are left out, and `rdp.spread`
    bounds both: noise on each entry is a sum of shares, and S is one of m noises.
    """
    if not isinstance(leaf, VotesEvent):
        return 0.0
    total = leaf.variance * leaf.shares
    entries = leaf.answers * leaf.classes * count
    return rdp.spread(leaf.variance, leaf.shares) * entries + rdp.spread(total, _moved(leaf, count, relation))


def _moved_integer(moved: int, deviation: float, interval: float) -> Any:
    """The privacy loss distribution of one integer that moves by ``moved`` under N_Z(0, deviation^2).

    Connected dots (Doroshenko et al. 2022, Algorithm 1) at multiples of ``interval``, from delta(epsilon) =
    P(X > t - moved) - e^epsilon P(X > t), t = epsilon deviation^2 / moved + moved / 2 (Canonne, Kamath,
    Steinke 2020, Theorem 7). `pld.from_discrete_gaussian_mechanism` gives the same, but goes through all
    integers, of which there can be millions, one by one.
    """
    edge = math.ceil(REACH * deviation) + moved
    weights = np.exp(-(np.arange(-edge, edge + 1.0) ** 2) / (2 * deviation**2))
    above = np.append(np.cumsum(weights[::-1])[::-1], 0.0) / weights.sum()  # P(X >= -edge + k)

    def beyond(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = above[np.clip(np.floor(bounds) + 1 + edge, 0, 2 * edge + 1).astype(int)]
        return found

    largest = (moved / 2 + REACH * deviation) * moved / deviation**2
    steps = math.ceil(largest / interval)
    epsilons = interval * np.arange(-steps, steps + 1)
    bounds = epsilons * deviation**2 / moved + moved / 2
    without = beyond(bounds)
    with np.errstate(divide="ignore"):  # e^epsilon alone may be too large for a float
        charged = np.exp(epsilons + np.log(without))
    deltas = np.clip(beyond(bounds - moved) - charged + math.exp(-(REACH**2) / 2), 0.0, 1.0)
    deltas = np.maximum.accumulate(deltas[::-1])[::-1]  # they don't rise, but for the last bits
    return pld.PrivacyLossDistribution(
        pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, -steps, steps, deltas)
    )


def _ratio(leaf: Any) -> float:
    """Natural logarithm of the largest likelihood ratio of one randomised response."""
    return math.log1p(leaf.num_buckets * (1 - leaf.noise_parameter) / leaf.noise_parameter)


def _loss(leaf: Any, count: int, relation: Relation, interval: float) -> Any:
    """Return the privacy loss distribution of ``count`` runs of one mechanism."""
    if isinstance(leaf, DiscreteLaplaceDpEvent):
        moved = leaf.sensitivity * (2 if relation == "replace-one" else 1)
        return pld.from_discrete_laplace_mechanism(
            leaf.noise_parameter, moved, value_discretization_interval=interval
        ).self_compose(count)
    if isinstance(leaf, VotesEvent):
        moved = _moved(leaf, count, relation)
        return _moved_integer(moved, math.sqrt(moved * leaf.variance * leaf.shares), interval)
    if isinstance(leaf, dp.RandomizedResponseDpEvent):
        if relation != "replace-one":
            raise PrivacyError(
                f"randomised response is accounted for relation replace-one only, got {relation!r}: an "
                "answer that isn't given shows"
            )
        return pld.from_randomized_response(
            leaf.noise_parameter, leaf.num_buckets, value_discretization_interval=interval
        ).self_compose(count)
    if isinstance(leaf, dp.GaussianDpEvent):
        # Gaussians compose exactly into one of sqrt(count) times the sensitivity.
        return pld.from_gaussian_mechanism(
            leaf.noise_multiplier / math.sqrt(count),
            value_discretization_interval=interval,
            neighboring_relation=_NEIGHBOURS[relation],
        )
    return pld.from_gaussian_mechanism(
        leaf.event.noise_multiplier,
        value_discretization_interval=interval,
        sampling_prob=leaf.sampling_probability,
        neighboring_relation=_NEIGHBOURS[relation],
    ).self_compose(count)
