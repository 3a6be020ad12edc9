"""The audit: what each observer's evidence gives away about membership, and whether that contradicts a claim.

From arrays alone; the federations themselves are run elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.membership import loss_attack
from securefd.defenses.claims import Guarantee, Relation, Unit
from securefd.errors import AuditError, PrivacyError
from securefd.evaluation.controls import controls
from securefd.evaluation.evidence import Evidence
from securefd.evaluation.findings import Audit, Finding, Judgement, Outcome, Skipped, Subject
from securefd.evaluation.statistics import (
    Estimate,
    Rate,
    auc,
    epsilon_lower_bound,
    epsilon_power,
    tpr_at_fpr,
)
from securefd.evaluation.trials import ATTACKS, THRESHOLD_RULE, Attack, one_record, scored, turns

ERROR_LEVEL = 0.05
"""Chance that any of an audit's epsilon bounds is above the truth."""

FPRS = (0.1, 0.01, 0.001)
"""False-positive rates at which true-positive rates are stated."""

DELTA = 1e-5
"""Of a bound for which there is no claim to take delta from."""

LEAST_FEDERATIONS = 4

_STEPS: dict[tuple[Unit, Relation], dict[Relation, int]] = {
    ("record", "add-or-remove"): {"add-or-remove": 1, "replace-one": 2},
    ("record", "replace-one"): {"replace-one": 1},
    ("client", "add-or-remove"): {"add-or-remove": 2, "replace-one": 2},
    ("client", "replace-one"): {"add-or-remove": 1, "replace-one": 1},
}
"""How many neighbouring steps of a claim one move of the game on a record takes; absent: none suffice."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def audit_recipe(
    evidence: Sequence[Evidence | Skipped],
    membership: Bools,
    *,
    claims: Mapping[str, Guarantee | None],
    relation: Relation,
    rng: np.random.Generator,
    delta: float = DELTA,
    error_level: float = ERROR_LEVEL,
) -> Audit:
    """Audit the recipe from many federations, each run afresh with its own coin flips.

    ``membership``: ``(F, n)`` whether candidate n took part in federation F. ``claims``: what each observer
    is promised about records. ``relation``: the game that the coins played with a record. ``rng``: for the
    controls only. The error level is shared out evenly over every attack on every piece of evidence.

    AUC and TPR are means over turns, and so are the ends of their 95% intervals: a mean varies no more than
    its terms do on average, however much the turns depend on one another, so this errs on the wide side.

    Raises:
        AuditError: membership that isn't one, or an error level or delta out of range. An attack that fails
            is an outcome.
    """
    _check_design(membership, error_level, delta)
    n_tests = len(ATTACKS) * sum(isinstance(piece, Evidence) for piece in evidence)
    alpha = error_level / max(1, n_tests)

    def attacked(piece: Evidence, attack: Attack) -> Finding:
        promise = claims.get(piece.observer)
        return _of_recipe(piece, attack, membership, promise, relation, delta, alpha)

    outcomes = _outcomes(evidence, ATTACKS, "the recipe", attacked)
    checks = controls(membership, delta=delta, alpha=alpha, rng=rng)
    failed = [check for check in checks if not check.passed]
    if failed:
        doubt = f"the {failed[0].kind} control of {failed[0].attack} failed: {failed[0].measured}"
        outcomes = tuple(
            replace(each, judgement="INCONCLUSIVE", reason=doubt) if isinstance(each, Finding) else each
            for each in outcomes
        )
    return Audit(outcomes=outcomes, controls=checks, error_level=error_level, federations=len(membership))


def audit_this_run(evidence: Sequence[Evidence | Skipped], member: Bools) -> tuple[Outcome, ...]:
    """What the loss attack finds in one run: known members against reserved non-members, ``member`` ``(n,)``.

    No epsilon: the records share models and a consensus, so they aren't independent trials, and they weren't
    put in by coin flips. For the same reason the intervals say how the result varies with the choice of
    records, not from run to run. Nothing here is held against a claim.
    """

    def attacked(piece: Evidence, attack: Attack) -> Finding:
        if member.ndim != 1 or member.dtype != np.bool_:
            raise AuditError(f"member must be (n,) and boolean, got shape {member.shape} of {member.dtype}")
        _check_evidence(piece, (1, len(member)))
        measured = _measure(loss_attack(piece.confidence), member[None, piece.candidates])
        return Finding(
            subject="this run",
            observer=piece.observer,
            attack=f"{attack} on {piece.signal}",
            n_in=measured.n_in,
            n_out=measured.n_out,
            auc=measured.auc.value,
            auc_interval=measured.auc.interval,
            tpr=measured.tpr,
            delta=DELTA,
            judgement="INCONCLUSIVE",
            reason="records of one run share its models: they aren't independent trials and bound no epsilon",
        )

    return _outcomes(evidence, ("loss",), "this run", attacked)


def _outcomes(
    evidence: Sequence[Evidence | Skipped],
    attacks: Sequence[Attack],
    subject: Subject,
    attacked: Callable[[Evidence, Attack], Finding],
) -> tuple[Outcome, ...]:
    """One outcome for each attack on each piece of evidence; an attack that fails is an outcome too."""
    outcomes: list[Outcome] = []
    for piece in evidence:
        if isinstance(piece, Skipped):
            outcomes.append(piece)
            continue
        for attack in attacks:
            try:
                outcomes.append(attacked(piece, attack))
            except AuditError as error:
                name = f"{attack} on {piece.signal}"
                outcomes.append(
                    Skipped(subject=subject, observer=piece.observer, attack=name, reason=str(error))
                )
    return tuple(outcomes)


def _of_recipe(
    piece: Evidence,
    attack: Attack,
    membership: Bools,
    promise: Guarantee | None,
    relation: Relation,
    delta: float,
    alpha: float,
) -> Finding:
    _check_evidence(piece, membership.shape)
    chosen = membership[:, piece.candidates]
    measured = _measure(turns(attack, piece.confidence, chosen), chosen)
    held = None if promise is None else in_terms_of_game(promise, relation)
    delta = delta if held is None else held.delta
    trials = one_record(attack, piece.confidence, chosen, delta=delta, alpha=alpha)
    bound = epsilon_lower_bound(
        trials.true_positives, trials.n_in, trials.false_positives, trials.n_out, delta=delta, alpha=alpha
    )
    power = epsilon_power(trials.n_in, trials.n_out, delta=delta, alpha=alpha)
    judgement, reason = _judge(promise, held, relation, bound, power)
    claimed = held or promise
    return Finding(
        subject="the recipe",
        observer=piece.observer,
        attack=f"{attack} on {piece.signal}",
        n_in=measured.n_in,
        n_out=measured.n_out,
        auc=measured.auc.value,
        auc_interval=measured.auc.interval,
        tpr=measured.tpr,
        trials_in=trials.n_in,
        trials_out=trials.n_out,
        epsilon_bound=bound,
        epsilon_power=power,
        confidence=1 - alpha,
        threshold_rule=THRESHOLD_RULE,
        claim_epsilon=None if claimed is None else claimed.epsilon,
        delta=delta,
        judgement=judgement,
        reason=reason,
    )


def in_terms_of_game(promise: Guarantee, relation: Relation) -> Guarantee | None:
    """What a promise says about one move of a game on one record; None where it says nothing.

    A promise about clients covers their records; swapping a record is a removal and an addition.
    """
    steps = _STEPS[promise.unit, promise.relation].get(relation)
    if steps is None:
        return None
    try:
        return promise.group(steps)
    except PrivacyError:
        return None


def _judge(
    promise: Guarantee | None, held: Guarantee | None, relation: Relation, bound: float, power: float
) -> tuple[Judgement, str]:
    """What the bound says about the claim, and why."""
    if promise is None:
        return "INCONCLUSIVE", "no claim to hold it against"
    if held is None:
        return "INCONCLUSIVE", (
            f"the claim is about {promise.relation} of one {promise.unit}; "
            f"it says nothing about {relation} of a record"
        )
    if bound > held.epsilon:
        return "VIOLATED", f"at least {bound:.2f} leaks, and at most {held.epsilon:.2f} was claimed"
    if not power > held.epsilon:
        return "INCONCLUSIVE", (
            f"these trials could have certified {power:.2f} at most, so a claim of {held.epsilon:.2f} "
            "can't be tested; run more federations"
        )
    return "CONSISTENT", (
        f"at least {bound:.2f} leaks, which is within the claim of {held.epsilon:.2f}; "
        f"up to {power:.2f} could have been certified"
    )


@dataclass(frozen=True, kw_only=True)
class _Measured:
    auc: Estimate
    tpr: dict[float, Rate]
    n_in: int
    n_out: int


def _measure(scores: Floats, membership: Bools) -> _Measured:
    """AUC and TPR averaged over federations ``(F, n)``, as far as they can be measured."""
    kept = scored(scores, membership)
    aucs = [auc(*federation) for federation in kept]
    return _Measured(
        auc=Estimate(
            float(np.mean([each.value for each in aucs])), _mean_interval([e.interval for e in aucs])
        ),
        tpr={fpr: _mean_rate([tpr_at_fpr(*federation, fpr) for federation in kept]) for fpr in FPRS},
        n_in=min(int(member.sum()) for _, member in kept),
        n_out=min(int((~member).sum()) for _, member in kept),
    )


def _mean_rate(rates: Sequence[Rate]) -> Rate:
    """Not measurable unless every federation could measure it."""
    values = [rate.value for rate in rates if rate.value is not None]
    intervals = [rate.interval for rate in rates if rate.interval is not None]
    if len(values) < len(rates):
        return Rate(None, None)
    return Rate(float(np.mean(values)), _mean_interval(intervals))


def _mean_interval(intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    low, high = np.mean(np.asarray(intervals), axis=0)
    return float(low), float(high)


def _check_design(membership: Bools, error_level: float, delta: float) -> None:
    if membership.ndim != 2 or membership.dtype != np.bool_:
        raise AuditError(
            f"membership must be (F, n) and boolean, got shape {membership.shape} of {membership.dtype}"
        )
    if not len(membership) >= LEAST_FEDERATIONS:
        raise AuditError(f"at least {LEAST_FEDERATIONS} federations are needed, got {len(membership)}")
    if membership.all() or not membership.any():
        raise AuditError(
            f"membership is all {bool(membership.all())}; flip a coin for each record and federation"
        )
    if not 0 < error_level < 1:
        raise AuditError(f"error_level must be between 0 and 1, got {error_level}")
    if not 0 <= delta < 1:
        raise AuditError(f"delta must be in [0, 1), got {delta}")


def _check_evidence(piece: Evidence, shape: tuple[int, ...]) -> None:
    federations, records = shape
    expected = (federations, len(piece.candidates))
    if piece.confidence.shape != expected:
        raise AuditError(
            f"confidence must be {expected}, a row a federation and a column a candidate, "
            f"got shape {piece.confidence.shape}"
        )
    if len(piece.candidates) and not (piece.candidates.min() >= 0 and piece.candidates.max() < records):
        raise AuditError(
            f"candidates must be 0..{records - 1}, got {piece.candidates.min()}..{piece.candidates.max()}"
        )
    if not np.isfinite(piece.confidence).all():
        raise AuditError(
            f"confidence must be finite; {int((~np.isfinite(piece.confidence)).sum())} values are not"
        )
