"""What counts of independent trials prove about a mechanism's epsilon.

One trial is one run of the mechanism with one record either in or out. Several records of one run are not
independent trials; ``one_run`` is for them. The threshold that the counts belong to must not have been chosen
by looking at them; ``thresholds`` has the ways to keep to that.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, betainccinv, betaincinv

from securefd.evaluation.checks import Floats, check_count, check_delta, check_share


def clopper_pearson_lower(successes: int, trials: int, alpha: float) -> float:
    """Exact one-sided lower bound on a probability: too high in at most ``alpha`` of experiments."""
    _check_trials("successes", successes, trials)
    check_share("alpha", alpha)
    return 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, alpha))


def clopper_pearson_upper(successes: int, trials: int, alpha: float) -> float:
    """Exact one-sided upper bound on a probability: too low in at most ``alpha`` of experiments."""
    _check_trials("successes", successes, trials)
    check_share("alpha", alpha)
    return 1.0 if successes == trials else float(betainccinv(successes + 1, trials - successes, alpha))


def epsilon_lower_bound(
    true_positives: int, n_in: int, false_positives: int, n_out: int, *, delta: float, alpha: float
) -> float:
    """What the mechanism's epsilon is at least; above the truth in at most ``alpha`` of experiments.

    The counts are of independent trials, with the threshold fixed before these scores were seen.

    Two one-sided Clopper-Pearson bounds at ``alpha / 2``, TPR >= a and FPR <= b, hold together. From them
    both directions of (epsilon, delta) follow at no further cost, ``log((a - delta) / b)`` and, for true and
    false negatives, ``log((1 - b - delta) / (1 - a))``; the larger one counts, and 0 if both are negative.

    Source: Nasr et al. 2021, "Adversary Instantiation", section III; Jagielski et al. 2020.

    Raises:
        AuditError: counts that can't be, or delta or alpha out of range.
    """
    check_delta(delta)
    check_share("alpha", alpha)
    tpr = clopper_pearson_lower(true_positives, n_in, alpha / 2)
    fpr = clopper_pearson_upper(false_positives, n_out, alpha / 2)
    ratios = [(hit - delta, miss) for hit, miss in ((tpr, fpr), (1 - fpr, 1 - tpr)) if hit > delta]
    return max([0.0, *(math.log(hit / miss) for hit, miss in ratios)])


def epsilon_power(n_in: int, n_out: int, *, delta: float, alpha: float) -> float:
    """Largest epsilon that so many trials could certify: the bound of an attack that is never wrong."""
    return epsilon_lower_bound(n_in, n_in, 0, n_out, delta=delta, alpha=alpha)


def joint_beta_epsilon(
    true_positives: int, n_in: int, false_positives: int, n_out: int, *, delta: float, alpha: float
) -> float:
    """Lower end of a *credible* interval for epsilon: the posterior gives ``alpha`` to what is below.

    Jeffreys' prior on both error rates gives independent posteriors FNR ~ Beta(1/2 + FN, 1/2 + TP) and
    FPR ~ Beta(1/2 + FP, 1/2 + TN). The result is the smallest epsilon whose region of error rates,

        FPR + e^epsilon FNR >= 1 - delta,  FNR + e^epsilon FPR >= 1 - delta,  and both for 1 - FPR, 1 - FNR,

    has posterior mass ``alpha``. At delta = 0 the region of epsilon = 0 is a line, of mass 0: the result is
    above 0 for any counts, so it is no test and must not be judged or tabulated as a confidence bound.

    Source: Zanella-Béguelin et al. 2023, "Bayesian Estimation of Differential Privacy", section 4.

    Raises:
        AuditError: counts that can't be, or delta or alpha out of range.
    """
    check_delta(delta)
    check_share("alpha", alpha)
    _check_trials("true_positives", true_positives, n_in)
    _check_trials("false_positives", false_positives, n_out)
    fpr = (0.5 + false_positives, 0.5 + n_out - false_positives)
    fnr = (0.5 + n_in - true_positives, 0.5 + true_positives)

    def excess(epsilon: float) -> float:
        return _mass(fpr, fnr, epsilon, delta) - alpha

    if excess(0.0) >= 0:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-9))


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_STEP = (1 + _NODES) / 2
# u = 3 s^2 - 2 s^3 makes the square roots at either end of a piece smooth.
_PLACES, _SHARES = _STEP**2 * (3 - 2 * _STEP), _WEIGHTS / 2 * 6 * _STEP * (1 - _STEP)
_TAIL = np.array([1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 0.01, 0.05, 0.3])
_LEVELS = np.append(_TAIL, 1 - _TAIL)
"""Quantiles between which a posterior changes gently."""


def _mass(fpr: tuple[float, float], fnr: tuple[float, float], epsilon: float, delta: float) -> float:
    """Posterior mass of the region of (epsilon, delta), for Beta posteriors given by both parameters.

    One integral over u, FPR's own distribution function, of the mass of FNR between the region's edges: cut
    where an edge has a corner or crosses a quantile of FNR, by Gauss and Legendre's rule on each piece.
    """
    growth = math.exp(min(epsilon, 700.0))
    levels = betaincinv(*fnr, _LEVELS)
    lowest = np.concatenate(
        [
            [0.0, 1 - delta, (1 - delta) / (1 + growth)],
            (1 - delta - levels) / growth,
            1 - delta - growth * levels,
        ]
    )
    mirrored = np.concatenate(
        [[1.0, delta, 1 - lowest[2]], delta + growth * (1 - levels), 1 - (1 - levels - delta) / growth]
    )
    cuts = np.concatenate([lowest, mirrored, betaincinv(*fpr, _LEVELS)])
    ends = np.unique(np.append(betainc(*fpr, cuts[(cuts > 0) & (cuts < 1)]), [0.0, 1.0]))
    width = np.diff(ends)[:, None]
    rate = betaincinv(*fpr, ends[:-1, None] + width * _PLACES)
    inside = betainc(*fnr, 1 - _lower_edge(1 - rate, growth, delta)) - betainc(
        *fnr, _lower_edge(rate, growth, delta)
    )
    return float((width * _SHARES * inside).sum())


def _lower_edge(rate: Floats, growth: float, delta: float) -> Floats:
    """Smallest false-negative rate that the region allows beside a false-positive one."""
    least = np.maximum(1 - delta - growth * rate, (1 - delta - rate) / growth)
    return np.asarray(np.clip(least, 0.0, 1.0), dtype=np.float64)


def _check_trials(name: str, successes: int, trials: int) -> None:
    check_count(name, successes, trials, "the number of trials")
