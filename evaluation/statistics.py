"""What scores prove: pure functions of numbers, higher = more likely a member, a bound beside each."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainccinv, betaincinv, ndtri
from scipy.stats import rankdata

from securefd.errors import AuditError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]


class Curve(NamedTuple):
    """A receiver operating characteristic: one point a distinct score, from (0, 0) to (1, 1)."""

    fpr: Floats
    tpr: Floats
    thresholds: Floats


class Estimate(NamedTuple):
    """A value and its confidence interval."""

    value: float
    interval: Interval


class Rate(NamedTuple):
    """A true-positive rate and its interval; both None where there are too few non-members to measure it."""

    value: float | None
    interval: Interval | None


def roc(scores: Floats, member: Bools) -> Curve:
    """Every threshold's rates; records with the same score move together, whatever their order.

    Equal to scikit-learn's ``roc_curve(member, scores, drop_intermediate=False)``.

    Raises:
        AuditError: NaN, shapes that differ, or no member or no non-member.
    """
    scores, member = _checked(scores, member, least=1)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_tie = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    true_positives = np.append(0, np.cumsum(member[order])[last_of_tie])
    false_positives = np.append(0, np.cumsum(~member[order])[last_of_tie])
    return Curve(
        fpr=false_positives / (~member).sum(),
        tpr=true_positives / member.sum(),
        thresholds=np.append(np.inf, ordered[last_of_tie]),
    )


def auc(scores: Floats, member: Bools, confidence: float = 0.95) -> Estimate:
    """Probability that a member scores above a non-member (ties count half), with DeLong's interval.

    Where DeLong's variance is 0 (perfect separation, either way round, or all scores equal) the interval
    comes from ``min(n_in, n_out)`` disjoint pairs, which are independent and all came out the same.

    Source: DeLong, DeLong and Clarke-Pearson 1988; by midranks as in Sun and Xu 2014.

    Raises:
        AuditError: NaN, shapes that differ, or fewer than 2 members or 2 non-members.
    """
    scores, member = _checked(scores, member, least=2)
    _check_share("confidence", confidence)
    members, others = scores[member], scores[~member]
    ranks = rankdata(scores)
    above_others = (ranks[member] - rankdata(members)) / len(others)
    below_members = 1 - (ranks[~member] - rankdata(others)) / len(members)
    value = float(above_others.mean())
    variance = above_others.var(ddof=1) / len(members) + below_members.var(ddof=1) / len(others)
    if variance > 0:
        half = float(ndtri((1 + confidence) / 2) * math.sqrt(variance))
        return Estimate(value, (max(0.0, value - half), min(1.0, value + half)))
    unseen = 1 - (1 - confidence) ** (1 / min(len(members), len(others)))
    return Estimate(value, (value - value * unseen, value + (1 - value) * unseen))


def tpr_at_fpr(scores: Floats, member: Bools, fpr: float, confidence: float = 0.95) -> Rate:
    """Largest true-positive rate whose false-positive rate is at most ``fpr``: a step, never interpolated.

    Not measurable (None) below ``1 / n_out``: an attack is never called harmless because nobody could tell.
    The interval is Clopper and Pearson's, two-sided. The threshold comes from the non-members alone, so given
    them the count of true positives is binomial; what they say about ``fpr`` itself is not in the interval.

    Raises:
        AuditError: NaN, shapes that differ, no member or no non-member, or a rate outside (0, 1).
    """
    scores, member = _checked(scores, member, least=1)
    _check_share("fpr", fpr)
    _check_share("confidence", confidence)
    others = np.sort(scores[~member])[::-1]
    allowed = int((np.arange(len(others) + 1) / len(others) <= fpr).sum()) - 1
    if allowed < 1:
        return Rate(None, None)
    n_in = int(member.sum())
    hits = int((scores[member] > others[allowed]).sum())
    tail = (1 - confidence) / 2
    return Rate(
        hits / n_in, (clopper_pearson_lower(hits, n_in, tail), clopper_pearson_upper(hits, n_in, tail))
    )


def clopper_pearson_lower(successes: int, trials: int, alpha: float) -> float:
    """Exact one-sided lower bound on a probability: too high in at most ``alpha`` of experiments."""
    _check_counts(successes, trials)
    _check_share("alpha", alpha)
    return 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, alpha))


def clopper_pearson_upper(successes: int, trials: int, alpha: float) -> float:
    """Exact one-sided upper bound on a probability: too low in at most ``alpha`` of experiments."""
    _check_counts(successes, trials)
    _check_share("alpha", alpha)
    return 1.0 if successes == trials else float(betainccinv(successes + 1, trials - successes, alpha))


def epsilon_lower_bound(
    true_positives: int, n_in: int, false_positives: int, n_out: int, *, delta: float, alpha: float
) -> float:
    """What the mechanism's epsilon is at least; above the truth in at most ``alpha`` of experiments.

    The counts are of independent trials, with the threshold fixed before these scores were seen. One trial
    is one run of the mechanism; several records of one run are not independent and must not be given here.

    Two one-sided Clopper-Pearson bounds at ``alpha / 2``, TPR >= a and FPR <= b, hold together. From them
    both directions of (epsilon, delta) follow at no further cost, ``log((a - delta) / b)`` and, for true and
    false negatives, ``log((1 - b - delta) / (1 - a))``; the larger one counts, and 0 if both are negative.

    Source: Nasr et al. 2021, "Adversary Instantiation", section III; Jagielski et al. 2020.

    Raises:
        AuditError: counts that can't be, or delta or alpha out of range.
    """
    if not 0 <= delta < 1:
        raise AuditError(f"delta must be in [0, 1), got {delta}")
    tpr = clopper_pearson_lower(true_positives, n_in, alpha / 2)
    fpr = clopper_pearson_upper(false_positives, n_out, alpha / 2)
    ratios = [(hit - delta, miss) for hit, miss in ((tpr, fpr), (1 - fpr, 1 - tpr)) if hit > delta]
    return max([0.0, *(math.log(hit / miss) for hit, miss in ratios)])


def epsilon_power(n_in: int, n_out: int, *, delta: float, alpha: float) -> float:
    """Largest epsilon that so many trials could certify: the bound of an attack that is never wrong."""
    return epsilon_lower_bound(n_in, n_in, 0, n_out, delta=delta, alpha=alpha)


def tpr_ceiling(fpr: float, *, epsilon: float, delta: float) -> float:
    """Largest true-positive rate at ``fpr`` that (epsilon, delta)-differential privacy allows any attack.

    Source: Kairouz, Oh and Viswanath 2015, theorem 2.1.
    """
    _check_guarantee(epsilon, delta)
    if not 0 <= fpr <= 1:
        raise AuditError(f"fpr must be in [0, 1], got {fpr}")
    # Past 700 the exponential overflows, and there the ceiling is 1 to all digits.
    rising = math.exp(min(epsilon, 700.0)) * fpr + delta
    falling = 1 - math.exp(-epsilon) * (1 - fpr - delta)
    return max(0.0, min(1.0, rising, falling))


def advantage_ceiling(*, epsilon: float, delta: float) -> float:
    """Largest TPR - FPR that (epsilon, delta)-differential privacy allows any attack at any threshold."""
    _check_guarantee(epsilon, delta)
    return min(1.0, math.tanh(epsilon / 2) + 2 * delta / (1 + math.exp(min(epsilon, 700.0))))


def _checked(scores: Floats, member: Bools, least: int) -> tuple[Floats, Bools]:
    scores, member = np.asarray(scores, dtype=np.float64), np.asarray(member)
    if scores.ndim != 1 or member.shape != scores.shape:
        raise AuditError(f"scores and member must be (n,) each, got shapes {scores.shape} and {member.shape}")
    if member.dtype != np.bool_:
        raise AuditError(f"member must be boolean, got {member.dtype}")
    if np.isnan(scores).any():
        raise AuditError(f"scores must not be NaN; {int(np.isnan(scores).sum())} of {len(scores)} are")
    n_in = int(member.sum())
    if not (n_in >= least and len(member) - n_in >= least):
        raise AuditError(
            f"at least {least} members and {least} non-members are needed, "
            f"got {n_in} and {len(member) - n_in}"
        )
    return scores, member


def _check_counts(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials:
        raise AuditError(f"successes must be 0 to {trials}, the number of trials, got {successes}")


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise AuditError(f"{name} must be between 0 and 1, got {value}")


def _check_guarantee(epsilon: float, delta: float) -> None:
    if not epsilon >= 0:
        raise AuditError(f"epsilon must be >= 0, got {epsilon}")
    if not 0 <= delta <= 1:
        raise AuditError(f"delta must be in [0, 1], got {delta}")
