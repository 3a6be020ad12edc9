"""The audit of a run: its recipe by shadow federations, and its own student and views.

The game matches the neighbouring relation of the claim: in or out, or one of two records (`game`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
from joblib import parallel_config
from numpy.typing import NDArray

from securefd.attacks.candidates import Candidates, Evidence
from securefd.defenses.claims import Guarantee
from securefd.errors import AuditError, PrivacyError
from securefd.evaluation.audit import ERROR_LEVEL, Examined, audit_this_run, doubted, examine
from securefd.evaluation.canaries import audit_canaries, canary_controls
from securefd.evaluation.evidence import gather
from securefd.evaluation.findings import Audit, Outcome, Poisoned, Skipped
from securefd.evaluation.findings_json import FINDINGS, to_json
from securefd.evaluation.others import other_attacks
from securefd.evaluation.poisoned import FEWEST_HONEST, poisoned
from securefd.evaluation.shadows import Shadows, reserved_of, shadows_of
from securefd.folder import locked, make, write_bytes
from securefd.methods import method_named
from securefd.private import HeadPlan, PrivatePlan
from securefd.progress import Progress, Silent
from securefd.result import Run
from securefd.rng import generator
from securefd.runner import one_thread, pool_of
from securefd.views import Observer

RECORDS = "records.csv"
CANARIES_LEAVE = 0.5
"""What canaries leave of the error level to the audit of the recipe."""

MOST = 1000
"""Members, and as many non-members, of which this run is asked at most."""


def audit(
    run: Run,
    progress: Progress | None = None,
    shadows: Shadows | None = None,
    *,
    per_record: bool = False,
    workers: int | None = None,
    backend: str = "loky",
) -> Audit:
    """Attack ``run`` from the view of each observer in its configuration, and store what was found.

    ``shadows``: those of a run that differs in its sealing only, to save the time to play them again. What
    can't be attacked is an outcome with its reason. The result is stored in RUN/audit/findings.json, from
    which no record's membership follows. ``per_record``: also write RUN/audit/records.csv, how exposed each
    candidate is to each observer; it is about single private records and readable by its owner only.
    ``workers``: processes, as many as the run's configuration says unless given. ``backend``: of joblib, by
    name; neither changes what is found.

    Raises:
        AuditError: shadows of another recipe, stored ones that aren't what was stored, or an unknown backend.
        RunLocked: another process works on this run.
    """
    shown = progress or Silent()
    folder = run.path / "audit"
    if workers is not None:
        performance = run.config.performance.model_copy(update={"workers": workers})
        run = replace(run, config=run.config.model_copy(update={"performance": performance}))
    with locked(run.path), one_thread(), _spread_over(backend):
        make(folder)
        if not method_named(run.config.method.name).public:
            done = _nothing_to_attack(run)
        else:
            if shadows is None:
                shadows = shadows_of(run, shown)
            else:
                shadows.check(run)
            examined = _examined(run, shadows, shown)
            done = _with_canaries(run, examined.audit, shown)
            done = replace(
                done,
                others=other_attacks(run, run.config.performance.device),
                poisoned=_poisoned(shadows),
            )
            if per_record:
                write_bytes(folder / RECORDS, _by_record(shadows, examined).encode())
        write_bytes(folder / FINDINGS, to_json(done).encode())
    return done


@contextmanager
def _spread_over(backend: str) -> Iterator[None]:
    try:
        configured = parallel_config(backend=backend)
    except ValueError as error:
        raise AuditError(f"backend {backend!r} isn't one that joblib knows here ({error})") from None
    with configured:
        yield


def _examined(run: Run, shadows: Shadows, progress: Progress) -> Examined:
    observers = run.config.audit.observers
    sealed = run.config.sealing.kind != "plain"
    with progress.stage("attacks", len(observers) + 2) as advance:
        found = examine(
            {observer: partial(_evidence, shadows, observer, sealed) for observer in observers},
            shadows.game,
            claims={observer: _promise(shadows, observer) for observer in observers},
            rng=shadows.coins.generator("controls"),
            unprotected=shadows.unprotected(),
            mechanism=mechanism_of(shadows.setup.plans),
            error_level=ERROR_LEVEL * (1 if run.config.audit.canaries is None else CANARIES_LEAVE),
            workers=run.config.performance.workers,
            done=partial(advance, 1),
        )
        done = replace(found.audit.including(_this_run(run, observers)), commitment=shadows.commitment)
        advance(1)
    return replace(found, audit=done)


def _with_canaries(run: Run, done: Audit, progress: Progress) -> Audit:
    """The same audit, and what this run's canaries show. The error level is shared between the two."""
    if run.config.audit.canaries is None:
        return done
    checks = canary_controls(run)
    found = audit_canaries(run, progress, error_level=ERROR_LEVEL * (1 - CANARIES_LEAVE))
    return replace(
        done.including(doubted(outcome, checks) for outcome in found),
        controls=(*done.controls, *checks),
        error_level=ERROR_LEVEL,
    )


def _poisoned(shadows: Shadows) -> tuple[Poisoned, ...]:
    """What liars would do to the first round's consensus: beside what clients of one shadow answered.

    Shadows have every client's answers, sealed as the run may be. Empty for fewer than 3 clients.
    """
    (first, *_) = shadows.view("server", 0, sealed=False).rounds
    if first.answers is None or len(first.answers) < FEWEST_HONEST:
        return ()
    return tuple(poisoned(first.answers, shadows.coins.generator("poisoning")))


def _evidence(shadows: Shadows, observer: Observer, sealed: bool) -> Sequence[Evidence | Skipped]:
    with one_thread():
        return gather(shadows.views(observer, sealed=sealed), shadows.about, subject="the recipe")


def _by_record(shadows: Shadows, examined: Examined) -> str:
    """A line a candidate: whose it is, its place in that client's data, and its exposure to each observer."""
    header = ["client", "record", *(f"exposure to {observer}" for observer in examined.exposure)]
    columns = [shadows.about.client, shadows.rows, *examined.exposure.values()]
    lines = [",".join(header)]
    for row in zip(*columns, strict=True):
        lines.append(",".join("" if np.isnan(value) else f"{value:.6g}" for value in row))
    return "\n".join(lines) + "\n"


def _promise(shadows: Shadows, observer: Observer) -> Guarantee | None:
    """What the recipe promises to an observer about a record: shadows play all of it, whatever this run
    spent. Decisions follow from the release, so what it promises holds for whoever sees them alone.

    A client with one record more or less is another client in its place. So what is promised for replaced
    clients holds in this game, and for added or removed ones what is promised to two of them.
    """
    if shadows.setup.releases is not None:
        found = shadows.setup.releases.guarantees().get("release" if observer == "label-only" else observer)
        if found is None:
            return None
        try:
            replaced = found if found.relation == "replace-one" else found.group(2)
        except PrivacyError:  # delta reaches 1
            return None
        return replace(replaced, unit="record", relation="add-or-remove")
    promised = [plan.guarantee for plan in shadows.setup.plans]
    return max(promised, key=lambda guarantee: guarantee.epsilon) if promised else None


def mechanism_of(plans: Sequence[PrivatePlan]) -> str | None:
    """Say "gaussian" where all that ever depends on a record is one sum with Gaussian noise, as of a head.

    Its noise is discrete, on a grid so fine that no test of so few trials could tell: sums are of vectors of
    100,000 steps, and noise is as wide. By DP-SGD a record enters some steps and not others, by a coin: a
    mixture, of which these bounds would prove too much.
    """
    alone = all(isinstance(plan, HeadPlan) and plan.counts is None for plan in plans)
    return "gaussian" if plans and alone else None


def _this_run(run: Run, observers: Sequence[Observer]) -> tuple[Outcome, ...]:
    """Attacks on this run's own views: records that it trained on against test records that it didn't.

    Half of the test records are kept apart, as what attacks compare with.

    A test record is given to a client at random, as likely as records of its class are that client's own: or
    else clients' mixes of classes, and not what their models remember, would tell the two apart.
    """
    split = run.split
    rng = generator(run.config.seed, "audit", "records")
    owners = np.repeat(np.arange(len(split.clients)), [len(client) for client in split.clients])
    x = np.concatenate([client.x for client in split.clients])
    labels = np.concatenate([client.y for client in split.clients])
    used = np.concatenate(run.trained_on(pool_of(split.clients)[1]))
    owners, x, labels = owners[used], x[used], labels[used]
    reserved = reserved_of(split)
    left = np.setdiff1d(np.arange(len(split.test)), reserved)
    count = min(len(x), len(left), MOST)
    members = rng.choice(len(x), count, replace=False)
    others = rng.choice(left, count, replace=False)
    given = np.array([_owner(owners, labels, label, rng) for label in split.test.y[others]], dtype=np.int64)
    about = Candidates(
        x=np.concatenate([x[members], split.test.x[others]]),
        labels=np.concatenate([labels[members], split.test.y[others]]),
        client=np.concatenate([owners[members], given]),
        population_x=split.test.x[reserved],
        population_labels=split.test.y[reserved],
        n_classes=split.n_classes,
    )
    evidence: list[Evidence | Skipped] = []
    for observer in observers:
        evidence += gather([run.view(observer)], about, subject="this run")
    return audit_this_run(evidence, np.arange(2 * count) < count)


def _owner(
    owners: NDArray[np.int64], labels: NDArray[np.int64], label: np.int64, rng: np.random.Generator
) -> int:
    """A client, drawn as often as it holds a record of this class; of any class where nobody holds one."""
    same = owners[labels == label]
    return int(rng.choice(same if len(same) else owners))


def _nothing_to_attack(run: Run) -> Audit:
    """Without a public set no observer can ask anything about a record; the reasons are kept."""
    own = run.split.clients[0]
    about = Candidates(
        x=own.x,
        labels=own.y,
        client=np.full(len(own), -1, dtype=np.int64),
        population_x=run.split.test.x[:0],
        population_labels=run.split.test.y[:0],
        n_classes=run.split.n_classes,
    )
    skipped: list[Outcome] = []
    for observer in run.config.audit.observers:
        for reason in gather([run.view(observer)], about, subject="the recipe"):
            assert isinstance(reason, Skipped)
            skipped += [reason, replace(reason, subject="this run")]
    return Audit(outcomes=tuple(skipped), controls=(), error_level=ERROR_LEVEL, federations=0)
