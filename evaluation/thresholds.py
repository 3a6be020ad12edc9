"""Bounds from scores of independent trials, and how the threshold was fixed: it must not be the best of many.

Each score ``(t,)`` is of one trial of its own: a fresh run of the mechanism, with the record in by a coin.
A trial is guessed to have had it in where its score is *above* the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from securefd.errors import AuditError
from securefd.evaluation.bounds import epsilon_lower_bound, epsilon_power, joint_beta_epsilon
from securefd.evaluation.checks import Bools, Floats, check_delta, check_share, checked_scores

Ints = NDArray[np.int64]

CLOPPER_PEARSON = "Clopper-Pearson"
JOINT_BETA = "joint beta"
RATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""False-positive rates that `bonferroni` tries unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A lower bound on epsilon at ``delta``, and what it is worth.

    ``power``: the largest value that this design could have given. ``kind``: a *confidence* bound exceeds the
    truth in at most ``alpha`` of experiments; a *credible* one has posterior probability ``alpha`` below it
    and promises nothing of the kind, so the two never share a column. ``rule``: how the threshold was fixed.
    The counts are of the trials that the bound was made on.
    """

    epsilon: float
    power: float
    kind: Literal["confidence", "credible"]
    method: str
    rule: str
    alpha: float
    delta: float
    true_positives: int
    n_in: int
    false_positives: int
    n_out: int


def fixed(scores: Floats, member: Bools, *, threshold: float, delta: float, alpha: float) -> Bound:
    """Clopper-Pearson at a threshold that was given before these scores were seen.

    Raises:
        AuditError: a NaN, shapes that differ, fewer than 2 trials with or 2 without, delta or alpha out of
            range.
    """
    scores, member = checked_scores(scores, member, least=2)
    return _at(scores, member, threshold, delta, alpha, rule="threshold given beforehand")


def split(
    scores: Floats,
    member: Bools,
    *,
    delta: float,
    alpha: float,
    rng: np.random.Generator,
    share: float = 0.5,
) -> Bound:
    """Clopper-Pearson on what is left after a random ``share`` of trials has chosen the threshold.

    The parts are drawn by ``rng`` among those with and those without the record separately, so that both have
    their share of each; given the coins, the trials are exchangeable.

    Raises:
        AuditError: as `fixed`, share out of range, or a part with fewer than 2 trials with or 2 without.
    """
    scores, member = checked_scores(scores, member, least=2)
    check_share("share", share)
    first = np.zeros(len(scores), dtype=np.bool_)
    for side in (member, ~member):
        places = np.flatnonzero(side)
        chosen = int(share * len(places))
        if not 2 <= chosen <= len(places) - 2:
            raise AuditError(
                f"share must leave at least 2 trials with and 2 without the record to either part, "
                f"got {share} of {len(places)}; have more trials"
            )
        first[rng.choice(places, chosen, replace=False)] = True
    threshold = best_threshold(scores[first], member[first], delta=delta, alpha=alpha)
    rule = f"threshold chosen on {share:.0%} of the trials, which do not count"
    return _at(scores[~first], member[~first], threshold, delta, alpha, rule=rule)


def bonferroni(
    scores: Floats, member: Bools, *, delta: float, alpha: float, rates: Sequence[float] = RATES
) -> Bound:
    """The largest of one Clopper-Pearson bound a false-positive rate, each at ``alpha / len(rates)``.

    For each of the ``rates`` in [0, 1), fixed beforehand, the threshold is the score of the trial without the
    record that has this share of its kind above it. How many these are is then fixed, not counted, and the
    probability of a false positive has the distribution of an order statistic: at most Clopper and Pearson's
    bound for that number, as often as theirs. Given the threshold the true positives are binomial as ever.
    (At thresholds that take both kinds of score into account, neither would be.) Ties only lower the bound.

    Raises:
        AuditError: as `fixed`, or rates that are none or out of range.
    """
    scores, member = checked_scores(scores, member, least=2)
    check_share("alpha", alpha)
    if not rates:
        raise AuditError("rates must name at least one false-positive rate, got none")
    for rate in rates:
        if not 0 <= rate < 1:
            raise AuditError(f"rates must be in [0, 1), got {rate}")
    each = alpha / len(rates)
    others = np.sort(scores[~member])[::-1]
    n_in, n_out = int(member.sum()), len(others)
    tried = []
    for above in sorted({int(rate * n_out + 1e-9) for rate in rates}):
        hits = int((scores[member] > others[above]).sum())
        bound = epsilon_lower_bound(hits, n_in, above, n_out, delta=delta, alpha=each)
        power = epsilon_lower_bound(n_in, n_in, above, n_out, delta=delta, alpha=each)
        tried.append((bound, power, hits, above))
    bound, _, hits, above = max(tried)
    return Bound(
        epsilon=bound,
        power=max(power for _, power, _, _ in tried),
        kind="confidence",
        method=CLOPPER_PEARSON,
        rule=f"thresholds at {len(rates)} false-positive rates fixed beforehand, the level split over all",
        alpha=alpha,
        delta=delta,
        true_positives=hits,
        n_in=n_in,
        false_positives=above,
        n_out=n_out,
    )


def credible(scores: Floats, member: Bools, *, threshold: float, delta: float, alpha: float) -> Bound:
    """The joint-beta bound at a threshold given beforehand: credible, so no test of a claim.

    Raises:
        AuditError: as `fixed`.
    """
    scores, member = checked_scores(scores, member, least=2)
    hits, n_in, misses, n_out = _counts(scores, member, threshold)
    return Bound(
        epsilon=joint_beta_epsilon(hits, n_in, misses, n_out, delta=delta, alpha=alpha),
        power=joint_beta_epsilon(n_in, n_in, 0, n_out, delta=delta, alpha=alpha),
        kind="credible",
        method=JOINT_BETA,
        rule="threshold given beforehand",
        alpha=alpha,
        delta=delta,
        true_positives=hits,
        n_in=n_in,
        false_positives=misses,
        n_out=n_out,
    )


def best_threshold(scores: Floats, member: Bools, *, delta: float, alpha: float) -> float:
    """Where Clopper-Pearson's bound is largest on these scores; among equals, where TPR - FPR is.

    For other trials than these: a bound at the best of all thresholds, on the same scores, isn't one.
    """
    scores, member = checked_scores(scores, member, least=1)
    distinct = np.unique(scores)
    with np.errstate(invalid="ignore"):
        between = distinct[:-1] / 2 + distinct[1:] / 2
    thresholds = np.append(np.where(np.isfinite(between), between, distinct[:-1]), distinct[-1])
    hits, misses = (_above(scores[side], thresholds) for side in (member, ~member))
    n_in, n_out = int(member.sum()), int((~member).sum())
    bounds = epsilon_lower_bounds(hits, n_in, misses, n_out, delta=delta, alpha=alpha)
    return float(thresholds[np.lexsort((hits / n_in - misses / n_out, bounds))[-1]])


def epsilon_lower_bounds(
    true_positives: Ints, n_in: int, false_positives: Ints, n_out: int, *, delta: float, alpha: float
) -> Floats:
    """`epsilon_lower_bound` of many counts ``(k,)`` at once: each is a bound, their maximum isn't."""
    check_delta(delta)
    check_share("alpha", alpha)
    fn, tn = n_in - true_positives, n_out - false_positives
    with np.errstate(divide="ignore", invalid="ignore"):
        tpr = np.where(true_positives == 0, 0.0, betaincinv(true_positives, fn + 1, alpha / 2))
        # 1 - FPR's bound, which is the lower bound of the true negatives.
        tnr = np.where(tn == 0, 0.0, betaincinv(tn, false_positives + 1, alpha / 2))
        either = np.maximum((tpr - delta) / (1 - tnr), (tnr - delta) / (1 - tpr))
        return np.asarray(np.log(np.maximum(either, 1.0)), dtype=np.float64)


def _at(scores: Floats, member: Bools, threshold: float, delta: float, alpha: float, *, rule: str) -> Bound:
    hits, n_in, misses, n_out = _counts(scores, member, threshold)
    return Bound(
        epsilon=epsilon_lower_bound(hits, n_in, misses, n_out, delta=delta, alpha=alpha),
        power=epsilon_power(n_in, n_out, delta=delta, alpha=alpha),
        kind="confidence",
        method=CLOPPER_PEARSON,
        rule=rule,
        alpha=alpha,
        delta=delta,
        true_positives=hits,
        n_in=n_in,
        false_positives=misses,
        n_out=n_out,
    )


def _counts(scores: Floats, member: Bools, threshold: float) -> tuple[int, int, int, int]:
    if np.isnan(threshold):
        raise AuditError(f"threshold must be a number, got {threshold}")
    guessed = scores > threshold
    hits, misses = int((guessed & member).sum()), int((guessed & ~member).sum())
    return hits, int(member.sum()), misses, int((~member).sum())


def _above(scores: Floats, thresholds: Floats) -> Ints:
    return np.asarray(
        len(scores) - np.searchsorted(np.sort(scores), thresholds, side="right"), dtype=np.int64
    )
