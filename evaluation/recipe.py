"""The audit of a run: its recipe by shadow federations, and its own student and views.

The game is in or out: a coin decides for each record whether it takes part, and an attack must tell. It is
the game of the add-or-remove relation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.claims import Guarantee
from securefd.errors import PrivacyError
from securefd.evaluation.audit import ERROR_LEVEL, audit_recipe, audit_this_run
from securefd.evaluation.evidence import Evidence, gather
from securefd.evaluation.findings import Audit, Outcome, Skipped
from securefd.evaluation.findings_json import to_json
from securefd.evaluation.shadows import Shadows, shadows_of
from securefd.folder import locked, make, write_bytes
from securefd.methods import method_named
from securefd.nfdp import trained_on
from securefd.progress import Progress, Silent
from securefd.result import Run
from securefd.rng import generator
from securefd.runner import one_thread, pool_of
from securefd.views import Observer

FINDINGS = "findings.json"
MOST = 1000
"""Members, and as many non-members, of which this run is asked at most."""


def audit(run: Run, progress: Progress | None = None, shadows: Shadows | None = None) -> Audit:
    """Attack ``run`` from the view of each observer in its configuration, and store what was found.

    ``shadows``: those of a run that differs in its sealing only, to save the time to play them again. What
    can't be attacked is an outcome with its reason. The result is stored in RUN/audit/findings.json, from
    which no record's membership follows.

    Raises:
        AuditError: shadows of another recipe, or stored ones that aren't what was stored.
        RunLocked: another process works on this run.
    """
    shown = progress or Silent()
    folder = run.path / "audit"
    with locked(run.path), one_thread():
        make(folder)
        if method_named(run.config.method.name).public:
            if shadows is None:
                shadows = shadows_of(run, shown)
            else:
                shadows.check(run)
            done = _attacked(run, shadows, shown)
        else:
            done = _nothing_to_attack(run)
        write_bytes(folder / FINDINGS, to_json(done).encode())
    return done


def _attacked(run: Run, shadows: Shadows, progress: Progress) -> Audit:
    observers = run.config.audit.observers
    with progress.stage("attacks", len(observers) + 2) as advance:
        evidence: list[Evidence | Skipped] = []
        for observer in observers:
            views = shadows.views(observer, sealed=run.config.sealing.kind != "plain")
            evidence += gather(views, shadows.x, shadows.labels, shadows.client, subject="the recipe")
            advance(1)
        done = audit_recipe(
            evidence,
            shadows.membership,
            claims={observer: _promise(shadows, observer) for observer in observers},
            relation="add-or-remove",
            rng=shadows.coins.generator("controls"),
        )
        advance(1)
        done = replace(done.including(_this_run(run, observers)), commitment=shadows.commitment)
        advance(1)
    return done


def _promise(shadows: Shadows, observer: Observer) -> Guarantee | None:
    """What the recipe promises to an observer about a record: shadows play all of it, whatever this run
    spent.

    A client with one record more or less is another client in its place. So what is promised for replaced
    clients holds in this game, and for added or removed ones what is promised to two of them.
    """
    if shadows.setup.releases is not None:
        found = shadows.setup.releases.guarantees().get(observer)
        if found is None:
            return None
        try:
            replaced = found if found.relation == "replace-one" else found.group(2)
        except PrivacyError:  # delta reaches 1
            return None
        return replace(replaced, unit="record", relation="add-or-remove")
    promised = [plan.guarantee for plan in shadows.setup.plans]
    return max(promised, key=lambda guarantee: guarantee.epsilon) if promised else None


def _this_run(run: Run, observers: Sequence[Observer]) -> tuple[Outcome, ...]:
    """Attacks on this run's own views: records that it trained on against test records that it didn't.

    A test record is given to a client at random, as likely as records of its class are that client's own: or
    else clients' mixes of classes, and not what their models remember, would tell the two apart.
    """
    split = run.split
    rng = generator(run.config.seed, "audit", "records")
    owners = np.repeat(np.arange(len(split.clients)), [len(client) for client in split.clients])
    x = np.concatenate([client.x for client in split.clients])
    labels = np.concatenate([client.y for client in split.clients])
    used = np.concatenate(trained_on(run.path, run.config, pool_of(split.clients)[1]))
    owners, x, labels = owners[used], x[used], labels[used]
    count = min(len(x), len(split.test), MOST)
    members = rng.choice(len(x), count, replace=False)
    others = rng.choice(len(split.test), count, replace=False)
    given = np.array([_owner(owners, labels, label, rng) for label in split.test.y[others]], dtype=np.int64)
    evidence: list[Evidence | Skipped] = []
    for observer in observers:
        evidence += gather(
            [run.view(observer)],
            np.concatenate([x[members], split.test.x[others]]),
            np.concatenate([labels[members], split.test.y[others]]),
            np.concatenate([owners[members], given]),
            subject="this run",
        )
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
    owner = np.full(len(own), -1, dtype=np.int64)
    skipped: list[Outcome] = []
    for observer in run.config.audit.observers:
        for reason in gather([run.view(observer)], own.x, own.y, owner, subject="the recipe"):
            assert isinstance(reason, Skipped)
            skipped += [reason, replace(reason, subject="this run")]
    return Audit(outcomes=tuple(skipped), controls=(), error_level=ERROR_LEVEL, federations=0)
