"""From federations to scores, and from scores to independent trials.

Two designs, never mixed. *Turns*: each federation is the target once and all others are its shadows; good
for AUC and TPR, but the turns share shadows, so they prove no epsilon. *Trials*: the first half of the
federations are references; they fix the attack, the one record it is about and the threshold. Each other
federation is then one trial. Given the references the trials are independent, because each is a fresh run
with its own coins, and nothing about the test was chosen by looking at any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.membership import LEAST_SHADOWS, attackable, lira, loss_attack
from securefd.errors import AuditError
from securefd.evaluation.statistics import epsilon_lower_bound

Attack = Literal["loss", "lira"]
ATTACKS: tuple[Attack, ...] = ("loss", "lira")
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

THRESHOLD_RULE = (
    "record and threshold fixed on the first half of the federations; "
    "each of the others is one independent trial"
)


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Counts of independent trials of one attack on one record, with a threshold fixed beforehand."""

    true_positives: int = 0
    n_in: int = 0
    false_positives: int = 0
    n_out: int = 0


def score(attack: Attack, targets: Floats, shadows: Floats, membership: Bools) -> Floats:
    """Scores of confidences ``(t, n)``; NaN where there are too few IN or OUT shadows ``(m, n)``."""
    if attack == "loss":
        return loss_attack(targets)
    usable = attackable(membership)
    scores = np.full(targets.shape, np.nan)
    if usable.any():
        scores[:, usable] = lira(targets[:, usable], shadows[:, usable], membership[:, usable])
    return scores


def turns(attack: Attack, confidence: Floats, membership: Bools) -> Floats:
    """Scores ``(F, n)`` with each federation attacked in its turn, all the others being its shadows."""
    if attack == "loss":
        return loss_attack(confidence)
    scores = np.empty(confidence.shape)
    for turn in range(len(confidence)):
        others = np.arange(len(confidence)) != turn
        scores[turn] = score(attack, confidence[[turn]], confidence[others], membership[others])[0]
    return scores


def scored(scores: Floats, membership: Bools) -> list[tuple[Floats, Bools]]:
    """The scores and members of each federation ``(F, n)``, without records that have no score (NaN).

    Federations with fewer than two members or two non-members among them can't be measured and are left out.

    Raises:
        AuditError: none is left.
    """
    kept = [
        (row[~np.isnan(row)], member[~np.isnan(row)]) for row, member in zip(scores, membership, strict=True)
    ]
    measurable = [(row, member) for row, member in kept if 2 <= member.sum() <= len(member) - 2]
    if not measurable:
        raise AuditError(
            f"none of {len(scores)} federations has 2 members and 2 non-members that can be scored; "
            "give more candidates or more federations"
        )
    return measurable


def references(n_federations: int) -> int:
    """How many federations, the first ones, are references rather than trials."""
    return n_federations // 2


def one_record(
    attack: Attack, confidence: Floats, membership: Bools, *, delta: float, alpha: float
) -> Trials:
    """Independent trials of the record that looks most exposed among the references.

    ``confidence``, ``membership``: ``(F, n)``. ``delta`` and ``alpha`` are those of the bound to come: the
    threshold is the one that would have certified most on the references. With too few references to
    single out a record there are no trials, so nothing is certified.
    """
    half = references(len(confidence))
    known, known_membership = confidence[:half], membership[:half]
    # One more than the attack needs: each reference is scored by the others.
    eligible = attackable(known_membership, LEAST_SHADOWS + 1)
    if not eligible.any():
        return Trials()
    separation = np.where(eligible, _separation(known, known_membership), -np.inf)
    record = int(np.argmax(separation))
    seen = turns(attack, known, known_membership)[:, record]
    threshold = _threshold(seen, known_membership[:, record], delta=delta, alpha=alpha)
    guessed = score(attack, confidence[half:], known, known_membership)[:, record] > threshold
    member = membership[half:, record]
    return Trials(
        true_positives=int((guessed & member).sum()),
        n_in=int(member.sum()),
        false_positives=int((guessed & ~member).sum()),
        n_out=int((~member).sum()),
    )


def _separation(confidence: Floats, membership: Bools) -> Floats:
    """How many standard deviations ``(n,)`` lie between a record's IN and OUT confidences.

    The variance is half the record's own and half everyone's, lest a few values that agree by chance win.
    """
    n_in = np.maximum(membership.sum(axis=0), 1)
    n_out = np.maximum((~membership).sum(axis=0), 1)
    mean_in = np.where(membership, confidence, 0.0).sum(axis=0) / n_in
    mean_out = np.where(membership, 0.0, confidence).sum(axis=0) / n_out
    variance = ((confidence - np.where(membership, mean_in, mean_out)) ** 2).mean(axis=0)
    return np.asarray(
        (mean_in - mean_out) / np.sqrt((variance + variance.mean()) / 2 + 1e-30), dtype=np.float64
    )


def _threshold(scores: Floats, member: Bools, *, delta: float, alpha: float) -> float:
    """What would have certified most here; on a tie the larger TPR - FPR, then 0 if it is one of them."""
    distinct = np.unique(scores)
    thresholds = np.append(0.0, (distinct[1:] + distinct[:-1]) / 2)
    hits = (scores[member] > thresholds[:, None]).sum(axis=1)
    misses = (scores[~member] > thresholds[:, None]).sum(axis=1)
    n_in, n_out = int(member.sum()), int((~member).sum())
    merit = [
        (
            epsilon_lower_bound(int(hit), n_in, int(miss), n_out, delta=delta, alpha=alpha),
            hit / n_in - miss / n_out,
        )
        for hit, miss in zip(hits, misses, strict=True)
    ]
    return float(thresholds[max(range(len(merit)), key=merit.__getitem__)])
