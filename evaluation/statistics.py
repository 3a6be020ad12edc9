"""What scores prove: pure functions of numbers, higher = more likely a member, a bound beside each."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from securefd.errors import AuditError
from securefd.evaluation.bounds import clopper_pearson_lower, clopper_pearson_upper
from securefd.evaluation.checks import Bools, Floats, check_share, checked_scores

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
    scores, member = checked_scores(scores, member, least=1)
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

    Source: DeLong, DeLong and Clarke-Pearson 1988; by placements as in Sun and Xu 2014.

    Raises:
        AuditError: NaN, shapes that differ, or fewer than 2 members or 2 non-members.
    """
    scores, member = checked_scores(scores, member, least=2)
    check_share("confidence", confidence)
    members, others = scores[member], scores[~member]
    above_others = _share_below(members, others)
    below_members = 1 - _share_below(others, members)
    value = float(above_others.mean())
    variance = above_others.var(ddof=1) / len(members) + below_members.var(ddof=1) / len(others)
    if variance > 0:
        half = float(ndtri((1 + confidence) / 2) * math.sqrt(variance))
        return Estimate(value, (max(0.0, value - half), min(1.0, value + half)))
    unseen = 1 - (1 - confidence) ** (1 / min(len(members), len(others)))
    return Estimate(value, (value - value * unseen, value + (1 - value) * unseen))


def _share_below(values: Floats, others: Floats) -> Floats:
    """Of each value, the share of others below it; equal ones count half."""
    ordered = np.sort(others)
    below, upto = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.asarray((below + upto) / (2 * len(others)), dtype=np.float64)


def tpr_at_fpr(scores: Floats, member: Bools, fpr: float, confidence: float = 0.95) -> Rate:
    """Largest true-positive rate whose false-positive rate is at most ``fpr``: a step, never interpolated.

    Not measurable (None) below ``1 / n_out``: an attack is never called harmless because nobody could tell.
    The interval is Clopper and Pearson's, two-sided. The threshold comes from the non-members alone, so given
    them the count of true positives is binomial; what they say about ``fpr`` itself is not in the interval.

    Raises:
        AuditError: NaN, shapes that differ, no member or no non-member, or a rate outside (0, 1).
    """
    scores, member = checked_scores(scores, member, least=1)
    check_share("fpr", fpr)
    check_share("confidence", confidence)
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


def _check_guarantee(epsilon: float, delta: float) -> None:
    if not epsilon >= 0:
        raise AuditError(f"epsilon must be >= 0, got {epsilon}")
    if not 0 <= delta <= 1:
        raise AuditError(f"delta must be in [0, 1], got {delta}")
