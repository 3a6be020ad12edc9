"""The audit: what each observer's evidence gives away about membership, and whether that contradicts a claim.

From arrays alone; the federations themselves are run elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from securefd.attacks.candidates import Evidence
from securefd.attacks.table import Attack
from securefd.defenses.claims import Guarantee
from securefd.errors import AuditError
from securefd.evaluation.bounding import Bounded, Terms, bounded
from securefd.evaluation.controls import controls
from securefd.evaluation.findings import Audit, Control, Finding, Outcome, Skipped, Subject
from securefd.evaluation.game import Game
from securefd.evaluation.scoring import Tried, attacks_on, check_evidence, measure

ERROR_LEVEL = 0.05
"""Chance that any of an audit's epsilon bounds is above the truth."""

DELTA = 1e-5
"""Of a bound for which there is no claim to take delta from."""

LEAST_FEDERATIONS = 4
DESIGNS = 2
"""Tests of each observer that bound epsilon: of one record, and of one run.

Of a Gaussian mechanism there are two bounds from either. Those of one record follow from the same two rates;
that of one run is a third test.
"""

Source = Callable[[], Sequence[Evidence | Skipped]]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """An audit, and what stays with whoever made it: each candidate's exposure ``(n,)`` to each observer."""

    audit: Audit
    exposure: Mapping[str, Floats] = field(repr=False)


def examine(
    sources: Mapping[str, Source],
    game: Game,
    *,
    claims: Mapping[str, Guarantee | None],
    rng: np.random.Generator,
    unprotected: Evidence | None = None,
    mechanism: str | None = None,
    delta: float = DELTA,
    error_level: float = ERROR_LEVEL,
    workers: int = 1,
    done: Callable[[], None] = lambda: None,
) -> Examined:
    """Audit the recipe from many federations, each run afresh with its own coin flips.

    ``sources``: by observer, what gathers its evidence; called in the process that attacks with it.
    ``claims``: what each observer is promised about records. ``rng``: for the controls only.
    ``unprotected``: what could be held against records that nothing protects, for a positive control.
    ``mechanism``: "gaussian" where only Gaussian noise on sums over records leaves them; see `Terms`.
    ``workers``: processes. ``done``: called when an observer, or the controls, are.

    The error level is shared out evenly over the tests of all observers, which are two each (three of a
    Gaussian mechanism), whatever the number of attacks: see `trials`.

    Raises:
        AuditError: too few federations, or an error level or delta out of range. An attack that fails is an
            outcome.
    """
    _check_design(game, error_level, delta)
    alpha = error_level / max(1, (DESIGNS + (mechanism is not None)) * len(sources))
    terms = Terms(promise=None, delta=delta, alpha=alpha, mechanism=mechanism)
    tasks = [
        delayed(_observer)(name, source, game, replace(terms, promise=claims.get(name)))
        for name, source in sources.items()
    ]
    tasks.append(delayed(controls)(game, delta=delta, alpha=alpha, rng=rng, unprotected=unprotected))
    found = []
    for each in Parallel(n_jobs=min(workers, len(tasks)), return_as="generator")(tasks):
        found.append(each)
        done()
    *observers, checks = found
    bounds = [doubted(outcome, checks) for each in observers for outcome in each.bounded.outcomes]
    return Examined(
        audit=Audit(
            outcomes=(*(outcome for each in observers for outcome in each.outcomes), *bounds),
            controls=checks,
            error_level=error_level,
            federations=game.federations,
            game=game.relation,
            risks=tuple(each.bounded.risk for each in observers if each.bounded.risk is not None),
        ),
        exposure={each.name: each.bounded.exposure for each in observers},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Observed:
    """``outcomes``: of all attacks by one observer. ``bounded``: what they prove."""

    name: str
    outcomes: tuple[Outcome, ...]
    bounded: Bounded


def _observer(name: str, source: Source, game: Game, terms: Terms) -> _Observed:
    """All attacks by one observer."""
    outcomes: list[Outcome] = []
    tried: list[Tried] = []
    for piece in source():
        if isinstance(piece, Skipped):
            outcomes.append(piece)
            continue
        for attack in attacks_on(piece):
            try:
                made = Tried.of(attack, piece, game)
            except AuditError as error:
                outcomes.append(_failed("the recipe", piece, attack, error))
                continue
            tried.append(made)
            outcomes.append(_measured(made))
    return _Observed(name=name, outcomes=tuple(outcomes), bounded=bounded(name, tried, game, terms))


def audit_this_run(evidence: Sequence[Evidence | Skipped], member: Bools) -> tuple[Outcome, ...]:
    """What attacks without shadows find in one run: members against others, ``member`` ``(n,)``.

    No epsilon: the records share models and a consensus, so they aren't independent trials, and they weren't
    put in by coin flips. For the same reason the intervals say how the result varies with the choice of
    records, not from run to run. Nothing here is held against a claim.
    """
    outcomes: list[Outcome] = []
    for piece in evidence:
        if isinstance(piece, Skipped):
            outcomes.append(piece)
            continue
        for attack in attacks_on(piece, references=False):
            try:
                outcomes.append(_of_this_run(piece, attack, member))
            except AuditError as error:
                outcomes.append(_failed("this run", piece, attack, error))
    return tuple(outcomes)


def _of_this_run(piece: Evidence, attack: Attack, member: Bools) -> Finding:
    if member.ndim != 1 or member.dtype != np.bool_:
        raise AuditError(f"member must be (n,) and boolean, got shape {member.shape} of {member.dtype}")
    check_evidence(piece, 1, len(member))
    scored = [attack.score(part.answers, part.records, None) for part in piece.parts]
    measured = measure(np.concatenate(scored, axis=1), member[None, piece.candidates])
    return Finding(
        subject="this run",
        observer=piece.observer,
        attack=f"{attack.name} on {piece.signal}",
        n_in=measured.n_in,
        n_out=measured.n_out,
        auc=measured.auc.value,
        auc_interval=measured.auc.interval,
        tpr=measured.tpr,
        roc=measured.roc,
        delta=DELTA,
        judgement="INCONCLUSIVE",
        reason="records of one run share its models: they aren't independent trials and bound no epsilon",
    )


def _failed(subject: Subject, piece: Evidence, attack: Attack, error: AuditError) -> Skipped:
    name = f"{attack.name} on {piece.signal}"
    return Skipped(subject=subject, observer=piece.observer, attack=name, reason=str(error))


def _measured(tried: Tried) -> Finding:
    measured = tried.measured
    return Finding(
        subject="the recipe",
        observer=tried.piece.observer,
        attack=tried.name,
        n_in=measured.n_in,
        n_out=measured.n_out,
        auc=measured.auc.value,
        auc_interval=measured.auc.interval,
        tpr=measured.tpr,
        roc=measured.roc,
        delta=DELTA,
        judgement="INCONCLUSIVE",
        reason="turns share their shadows: they measure an attack and bound no epsilon",
    )


def doubted(outcome: Outcome, checks: Sequence[Control]) -> Outcome:
    """A finding that a failed control casts doubt on proves nothing.

    Where the null control fails no bound can be trusted. Where a positive control fails, leaks may have been
    missed; one that was found stands.
    """
    failed = [check for check in checks if not check.passed]
    doubts = [
        check
        for check in failed
        if check.kind == "null" or (isinstance(outcome, Finding) and outcome.judgement == "CONSISTENT")
    ]
    if not doubts or not isinstance(outcome, Finding):
        return outcome
    reason = f"the {doubts[0].kind} control failed, {doubts[0].attack}: {doubts[0].measured}"
    return replace(outcome, judgement="INCONCLUSIVE", reason=reason)


def _check_design(game: Game, error_level: float, delta: float) -> None:
    if not game.federations >= LEAST_FEDERATIONS:
        raise AuditError(f"at least {LEAST_FEDERATIONS} federations are needed, got {game.federations}")
    if not 0 < error_level < 1:
        raise AuditError(f"error_level must be between 0 and 1, got {error_level}")
    if not 0 <= delta < 1:
        raise AuditError(f"delta must be in [0, 1), got {delta}")
