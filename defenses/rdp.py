"""Renyi differential privacy: curves of single charges, and what sums of them come to.

A curve is the Renyi divergence of order alpha between the outputs on two neighbouring data sets, at each of
`ORDERS`, both ways round, at most. Curves of mechanisms that ran one after the other add up, whoever chose
the later ones by looking at the earlier ones' outputs, as long as their costs were fixed beforehand (Mironov
2017, Proposition 1; for costs that weren't, see ``securefd.defenses.filters``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache, singledispatch

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from securefd.defenses.charges import (
    Charge,
    ConfidentVotes,
    DiscreteGaussian,
    DiscreteLaplace,
    GaussianShares,
    PoissonGaussian,
    RandomisedResponse,
    Skellam,
    Votes,
)
from securefd.defenses.claims import RELATIONS, Relation
from securefd.errors import PrivacyError

ORDERS: tuple[float, ...] = tuple(1 + 2.0 ** (k / 4) for k in range(-16, 45))
"""From 1.06 to 2049; between two of them an epsilon is at most about 0.1% too large."""
Curve = NDArray[np.float64]
_ALPHA = np.array(ORDERS)


def curve(charge: Charge, relation: Relation) -> Curve:
    """The Renyi divergences of one charge at `ORDERS`; infinite where nothing is proven.

    Raises PrivacyError for a relation under which the mechanism isn't defined.
    """
    if relation not in RELATIONS:
        raise PrivacyError(f"relation must be one of {', '.join(RELATIONS)}, got {relation!r}")
    return _computed(charge, relation).copy()


def total(charges: Iterable[Charge], relation: Relation) -> Curve:
    """The curve of all ``charges`` together."""
    found = np.zeros(len(ORDERS))
    for charge, times in Counter(charges).items():
        found += times * curve(charge, relation)
    return found


def epsilon(divergences: Curve, delta: float) -> float:
    """The least epsilon that a curve proves at ``delta``; infinite where it proves none.

    Canonne, Kamath, Steinke 2020, Proposition 12: for each order alpha, epsilon = divergence +
    ln((alpha - 1) / alpha) - (ln delta + ln alpha) / (alpha - 1).
    """
    return max(0.0, float(np.min(divergences + _conversion(delta))))


def allowance(epsilon: float, delta: float, order: float) -> float:
    """The largest divergence of order ``order`` that is (epsilon, delta)-DP; negative where there is none."""
    if order not in ORDERS:
        raise PrivacyError(f"order must be one of rdp.ORDERS, got {order}")
    return epsilon - float(_conversion(delta)[ORDERS.index(order)])


def zcdp(charges: Iterable[Charge], relation: Relation) -> float | None:
    """The least rho for which ``charges`` together are rho-zCDP: every divergence is at most rho alpha.

    Bun, Steinke 2016, Definition 1.1 and Lemma 1.7: rhos add up. None where a mechanism has no such bound
    here, since it would have to hold at every order: DP-SGD's sampled steps, Skellam noise, and sums of
    shares, which are a little more than zero apart from a discrete Gaussian at every order.
    """
    found = 0.0
    for charge in charges:
        if isinstance(charge, DiscreteGaussian):
            found += charge.sensitivity.squared(relation) / (2 * charge.variance)
        elif isinstance(charge, ConfidentVotes):
            found += charge.squared(relation) / 2
        elif isinstance(charge, Votes) and charge.shares == 1:
            found += charge.as_shares.sensitivity.squared(relation) / (2 * charge.variance)
        elif isinstance(charge, DiscreteLaplace):
            pure = charge.parameter * charge.sensitivity * (2 if relation == "replace-one" else 1)
            found += pure**2 / 2  # Proposition 1.4
        elif isinstance(charge, PoissonGaussian) and charge.sampling_rate == 1:
            moved = 2 if relation == "replace-one" else 1
            found += charge.steps * moved**2 / (2 * charge.noise_multiplier**2)
        else:
            return None
    return found


def _conversion(delta: float) -> Curve:
    if not 0 < delta < 1:
        raise PrivacyError(f"delta must be > 0 and < 1, got {delta}")
    return np.asarray(
        np.log((_ALPHA - 1) / _ALPHA) - (math.log(delta) + np.log(_ALPHA)) / (_ALPHA - 1), dtype=np.float64
    )


@lru_cache(maxsize=4096)
def _computed(charge: Charge, relation: Relation) -> Curve:
    return _curve(charge, relation)


@singledispatch
def _curve(charge: Charge, relation: Relation) -> Curve:
    raise PrivacyError(f"{charge} has no Renyi curve here; use one of {Charge}")


@_curve.register
def _(charge: DiscreteGaussian, relation: Relation) -> Curve:
    """Alpha Delta^2 / (2 variance): Canonne, Kamath, Steinke 2020, Proposition 5, entry by entry."""
    return _ALPHA * charge.sensitivity.squared(relation) / (2 * charge.variance)


@_curve.register
def _(charge: GaussianShares, relation: Relation) -> Curve:
    """That of one discrete Gaussian of the variances' sum, and what the sum of the shares differs from it.

    `spread` gives k such that on every entry the probabilities of the shares' sum are those of the discrete
    Gaussian times a factor whose largest and smallest values have a ratio of at most e^k. In the integral of
    P^alpha Q^(1 - alpha) over d entries, P's factor enters with alpha, Q's with 1 - alpha, and the
    normalisation with -1, which is at most e^(k d alpha): the divergence grows by k d alpha / (alpha - 1).
    """
    ideal = _ALPHA * charge.sensitivity.squared(relation) / (2 * charge.variance * charge.shares)
    beside = spread(charge.variance, charge.shares) * charge.entries
    return np.asarray(ideal + beside * _ALPHA / (_ALPHA - 1), dtype=np.float64)


@_curve.register
def _(charge: Votes, relation: Relation) -> Curve:
    """That of vectors that move as far, whichever way."""
    return _curve(charge.as_shares, relation)


@_curve.register
def _(charge: ConfidentVotes, relation: Relation) -> Curve:
    """That of the noisy largest counts, and of all noisy counts: classes are computed from these alone."""
    return np.asarray(_ALPHA * charge.squared(relation) / 2, dtype=np.float64)


@lru_cache(maxsize=4096)
def spread(variance: float, shares: int) -> float:
    """How far, as a logarithm, a sum of ``shares`` independent N_Z(0, variance) is from N_Z(0, their sum).

    Let X ~ N_Z(0, a), Y ~ N_Z(0, b). P(X + Y = z) is proportional to exp(-z^2 / (2 (a + b))) times f(z) = sum
    over x of exp(-(x - z a / (a + b))^2 / (2 c)), c = a b / (a + b). By Poisson summation f(z) is a constant
    times 1 + 2 sum over j >= 1 of exp(-2 pi^2 c j^2) cos(2 pi j z a / (a + b)), thus within 1 +- 2 q of it, q
    = sum of exp(-2 pi^2 c j^2) over j >= 1. Adding one share after the other has c = variance i / (i + 1) at
    the i-th; convolving keeps such bounds, so that they multiply: the result is the sum over i of ln((1 + 2
    q_i) / (1 - 2 q_i)). (Kairouz, Liu, Steinke 2021 bound the same by 10 sum of exp(-2 pi^2 c_i).)
    Infinite for shares too small for it.
    """
    found = 0.0
    for i in range(1, shares):
        c = variance * i / (i + 1)
        # geometric, since j^2 >= j
        q = math.exp(-2 * math.pi**2 * c) / -math.expm1(-2 * math.pi**2 * c)
        if not 2 * q < 1:
            return math.inf
        found += math.log1p(2 * q) - math.log1p(-2 * q)
    return found


@_curve.register
def _(charge: Skellam, relation: Relation) -> Curve:
    """Agarwal, Kairouz, Liu 2021, Theorem 3.5, for whole orders.

    With mu the variance: alpha Delta_2^2 / (2 mu) + min(((2 alpha - 1) Delta_2^2 + 6 Delta_1) / (4 mu^2), 3
    Delta_1 / (2 mu)). Between whole orders: (alpha - 1) times the divergence is convex in alpha, so that
    the chord is a bound; below 2, the divergence of order 2 is.
    """
    square, absolute = charge.sensitivity.squared(relation), charge.sensitivity.absolute(relation)
    mu = charge.variance

    def whole(alpha: Curve) -> Curve:
        near = ((2 * alpha - 1) * square + 6 * absolute) / (4 * mu**2)
        return np.asarray(alpha * square / (2 * mu) + np.minimum(near, 3 * absolute / (2 * mu)))

    low = np.maximum(np.floor(_ALPHA), 2)
    high = np.maximum(np.ceil(_ALPHA), 2)
    part = np.where(high > low, _ALPHA - low, 0.0)
    chord = (1 - part) * (low - 1) * whole(low) + part * (high - 1) * whole(high)
    return np.asarray(chord / (np.maximum(_ALPHA, 2) - 1), dtype=np.float64)


@_curve.register
def _(charge: DiscreteLaplace, relation: Relation) -> Curve:
    """Of a mechanism that is e-DP: min(alpha e^2 / 2, e) (Bun, Steinke 2016, Proposition 3.3)."""
    pure = charge.parameter * charge.sensitivity * (2 if relation == "replace-one" else 1)
    return np.asarray(np.minimum(_ALPHA * pure**2 / 2, pure), dtype=np.float64)


@_curve.register
def _(charge: RandomisedResponse, relation: Relation) -> Curve:
    """Of two neighbouring labels, exactly; one answer's curve times their number."""
    if relation != "replace-one":
        raise PrivacyError(
            f"randomised response is accounted for relation replace-one only, got {relation!r}: an answer "
            "that isn't given shows"
        )
    other = charge.noise / charge.classes
    kept = 1 - charge.noise + other
    rest = (charge.classes - 2) * other
    terms = [
        _ALPHA * math.log(kept) + (1 - _ALPHA) * math.log(other),
        _ALPHA * math.log(other) + (1 - _ALPHA) * math.log(kept),
    ]
    if rest > 0:
        terms.append(np.full(len(ORDERS), math.log(rest)))
    return np.asarray(charge.answers * logsumexp(terms, axis=0) / (_ALPHA - 1), dtype=np.float64)


@_curve.register
def _(charge: PoissonGaussian, relation: Relation) -> Curve:
    """Of the two mixtures that dominate a subsampled Gaussian (Zhu, Dong, Wang 2022), by integration.

    A record is in a step with probability q. Sums with and without it: (1 - q) N(0) + q N(1) and N(0);
    with another one in its place: (1 - q) N(0) + q N(1) and (1 - q) N(0) + q N(-1).
    """
    if charge.sampling_rate == 1:
        moved = 2 if relation == "replace-one" else 1
        return charge.steps * _ALPHA * moved**2 / (2 * charge.noise_multiplier**2)
    return charge.steps * _subsampled(charge.sampling_rate, charge.noise_multiplier, relation)


@lru_cache(maxsize=256)
def _subsampled(rate: float, noise: float, relation: Relation) -> Curve:
    # ln (P / Q) has its poles at a distance of pi noise^2 from the real axis, and the normal density has a
    # width of noise: steps this small make the trapezoidal rule exact to rounding.
    step = min(noise / 10, noise**2 / 3)

    def divergence(alpha: float) -> float:
        # N(1)^alpha N(-1)^(1 - alpha) is centred at 2 alpha - 1; e^-800 lies beyond 40 deviations
        reach = 2 * alpha + 40 * noise
        x = np.arange(-reach, reach, step)

        def mixture(mean: float) -> Curve:
            shifted = math.log(rate) + (2 * mean * x - mean**2) / (2 * noise**2)
            return np.asarray(np.logaddexp(math.log1p(-rate), shifted))

        # Densities by that of N(0): sampled with rate and a record's contribution of +1 or -1, or without it.
        base = -(x**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi)) + math.log(step)
        one, other = mixture(1.0), mixture(-1.0) if relation == "replace-one" else np.zeros(len(x))
        both = ((one, other), (other, one))
        return float(max(logsumexp(base + alpha * p + (1 - alpha) * q) / (alpha - 1) for p, q in both))

    return np.array([divergence(alpha) for alpha in ORDERS])
