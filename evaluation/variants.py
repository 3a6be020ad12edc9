"""One run and its audit as a variant of a report: plain values, nothing private."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from securefd.defenses.charges import Charge as Cost
from securefd.defenses.claims import Guarantee
from securefd.defenses.ledger import Ledger
from securefd.errors import ReportError
from securefd.evaluation import findings as found
from securefd.evaluation import report
from securefd.evaluation.facts import facts
from securefd.evaluation.findings import Audit
from securefd.evaluation.judged import claimed, guarantee_of, judged, skipped
from securefd.evaluation.run_files import student_hash
from securefd.exchange import codec_of
from securefd.planning import sights
from securefd.private_client import ledger_path
from securefd.recipe import Recipe
from securefd.result import Run
from securefd.rules import n_clients

BYTES_A_WEIGHT = 4

MOST_ACCESSES = 24
"""Of which a report says what was spent after them: of more, so many spread evenly, and the last."""


def variant(
    run: Run, audit: Audit | None, *, description: str, substitutions: Sequence[str]
) -> report.Variant:
    """What the report says of ``run``. Raises ReportError for a ledger that is gone."""
    config = run.config
    recipe = recipe_of(run)
    others = () if audit is None else audit.others
    ledgers, unprotected = tuple(_ledgers(run)), tuple(_unprotected(run, recipe, audit))
    facts_of = facts(run, recipe, unprotected)
    more = {
        "description": description,
        "sights": tuple(
            report.Sight(observer=who, sees=what) for who, what in sights(config, recipe).items()
        ),
        "claims": tuple(claimed(claim, facts_of(claim)) for claim in run.claims),
        "communication": _communication(run),
        "ledger": ledgers,
        "spent": _spent(run),
        "risks": () if audit is None else tuple(map(_risk, audit.risks)),
        "others": tuple(_other(each) for each in others if isinstance(each, found.OtherFinding)),
        "not_made": tuple(skipped(each) for each in others if isinstance(each, found.Skipped)),
        "poisoned": () if audit is None else tuple(map(_poisoned, audit.poisoned)),
        "unprotected": unprotected,
        "substitutions": (*run.notes, *substitutions),
        "student_sha256": student_hash(run),
    }
    return report.Variant.model_validate({**dict(judged(run, audit)), **more})


def recipe_of(run: Run) -> Recipe:
    """The recipe, from the manifest alone: a report reads no private record."""
    return Recipe.of(run.config, tuple(run.manifest["input shape"]), len(run.manifest["classes"]))


def _communication(run: Run) -> report.Communication:
    weights = None
    if recipe_of(run).student is not None:
        weights = BYTES_A_WEIGHT * sum(value.numel() for value in run.student.state.values())
    up, down = ([line[key] for line in run.rounds] for key in ("bytes.up", "bytes.down"))
    return report.Communication(
        up=round(sum(up) / len(up)),
        down=round(sum(down) / len(down)),
        clients=n_clients(run.config),
        rounds=len(run.rounds),
        weights=weights,
        up_by_round=tuple(up),
        down_by_round=tuple(down),
        note="of the client that sent, or received, most",
    )


def _ledgers(run: Run) -> Iterator[report.Charge]:
    """What each client spent, kind by kind and together."""
    for holder, ledger, promised in _opened(run):
        yield from _charges(holder, ledger, promised)


def _spent(run: Run) -> report.Spent | None:
    """Access by access, what the client spent who spent most; the first of them where several did."""
    totals = {
        holder: ledger.price([each.charge for each in ledger.charged])
        for holder, ledger, _ in _opened(run)
        if ledger.charged
    }
    for holder, ledger, promised in _opened(run):
        if holder != max(totals, key=lambda name: totals[name], default=None):
            continue
        count = len(ledger.charged)
        ends = sorted({round(end) for end in np.linspace(1, count, min(count, MOST_ACCESSES))})
        charges = [each.charge for each in ledger.charged]
        return report.Spent(
            holder=holder,
            accesses=tuple(ledger.charged[end - 1].what for end in ends),
            epsilon=tuple(ledger.price(charges[:end]) for end in ends),
            delta=promised.delta,
            limit=promised.epsilon,
        )
    return None


def _opened(run: Run) -> Iterator[tuple[str, Ledger, Guarantee]]:
    """Each client's name, its ledger, open until the next is asked for, and what is promised."""
    promised = guarantee_of(run)
    if run.config.privacy is None or promised is None:
        return
    for k in range(n_clients(run.config)):
        path = ledger_path(run.path / "clients" / str(k), k, run.config.privacy)
        if not path.exists():
            raise ReportError(
                f"ledger {path} is missing; restore it, since what was spent is unknown without it"
            )
        with Ledger.open(path, promised) as ledger:
            yield f"client {k}", ledger, promised


def _charges(holder: str, ledger: Ledger, promised: Guarantee) -> Iterator[report.Charge]:
    kinds: dict[str, list[Cost]] = {}
    for each in ledger.charged:
        kinds.setdefault(str(each.charge), []).append(each.charge)
    if len(kinds) > 1:
        kinds["everything, composed"] = [each.charge for each in ledger.charged]
    for kind, costs in kinds.items():
        yield report.Charge(
            holder=holder,
            event=kind,
            count=len(costs),
            unit=promised.unit,
            relation=promised.relation,
            epsilon=ledger.price(costs),
            delta=promised.delta,
        )


def _other(each: found.OtherFinding) -> report.OtherFinding:
    return report.OtherFinding(
        observer=each.observer,
        attack=each.attack,
        measure=each.measure,
        value=report.estimate(each.value, *(each.interval or (None, None))),
        baseline=each.baseline,
        cases=each.cases,
        what=each.what,
        picture=each.picture,
    )


def _poisoned(each: found.Poisoned) -> report.Poisoned:
    return report.Poisoned(
        rule=each.rule,
        attack=each.attack,
        fraction=each.fraction,
        liars=each.liars,
        agreement=each.agreement,
        shift=each.shift,
    )


def _risk(each: found.Risk) -> report.Risk:
    return report.Risk(
        observer=each.observer,
        attack=each.attack,
        highest=report.estimate(each.highest, *each.highest_interval),
        average=each.average,
        records=each.records,
    )


def _unprotected(run: Run, recipe: Recipe, audit: Audit | None) -> Iterator[str]:
    config = run.config
    proven = guarantee_of(run) is not None
    if not proven:
        yield "single private records: no noise was added"
        for quantity in recipe.method.private_quantities:
            seen = "of each client" if config.sealing.kind == "plain" else "summed over the clients"
            yield f"{quantity}, {seen}, which reach the server without noise"
    yield "how many records each client has, whether it takes part, and how long it takes"
    if codec_of(recipe, config.sealing) is not None:
        yield "how many of a client's answers changed from one round to the next, which message lengths show"
    yield "accuracies and calibration on the test set, by class and group"
    if proven:
        yield "the choice of hyper-parameters, which is taken to be made without the private data"
    if audit is not None:
        yield "what the audit found, which was computed from private records without noise"


def by_name(runs: Sequence[Run], given: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    """``given``, after checking that it speaks of runs that are there."""
    unknown = set(given) - {run.config.name for run in runs}
    if unknown:
        raise ReportError(
            f"substitutions name {sorted(unknown)[0]!r}, which is none of the runs; use their names"
        )
    return given
