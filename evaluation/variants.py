"""One run and its audit as a variant of a report: plain values, nothing private."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from securefd.defenses.charges import Charge as Cost
from securefd.defenses.claims import Claim, Guarantee
from securefd.defenses.ledger import Ledger
from securefd.errors import ReportError
from securefd.evaluation import findings as found
from securefd.evaluation import report
from securefd.evaluation.findings import Audit
from securefd.exchange import codec_of
from securefd.planning import sights
from securefd.private_client import ledger_path
from securefd.recipe import Recipe
from securefd.result import Run
from securefd.rules import n_clients

BYTES_A_WEIGHT = 4


def variant(
    run: Run, audit: Audit | None, *, description: str, substitutions: Sequence[str]
) -> report.Variant:
    """What the report says of ``run``. Raises ReportError for a ledger that is gone."""
    config = run.config
    recipe = recipe_of(run)
    outcomes = () if audit is None else audit.outcomes
    others = () if audit is None else audit.others
    skipped = [outcome for outcome in outcomes if isinstance(outcome, found.Skipped)]
    if audit is None:
        skipped = [_not_audited(run, observer) for observer in config.audit.observers]
    return report.Variant(
        name=config.name,
        method=config.method.name,
        sealing=config.sealing.kind,
        privacy="none" if config.privacy is None else config.privacy.route,
        description=description,
        sights=tuple(report.Sight(observer=who, sees=what) for who, what in sights(config, recipe).items()),
        claims=tuple(map(_claim, run.claims)),
        utility=_utility(run),
        communication=_communication(run),
        ledger=tuple(_ledgers(run)),
        findings=tuple(_finding(each) for each in outcomes if isinstance(each, found.Finding)),
        skipped=tuple(map(_skipped, skipped)),
        controls=tuple(
            report.Control(kind=each.kind, attack=each.attack, measured=each.measured, passed=each.passed)
            for each in (() if audit is None else audit.controls)
        ),
        game="add-or-remove" if audit is None else audit.game,
        risks=() if audit is None else tuple(map(_risk, audit.risks)),
        others=tuple(_other(each) for each in others if isinstance(each, found.OtherFinding)),
        not_made=tuple(_skipped(each) for each in others if isinstance(each, found.Skipped)),
        poisoned=() if audit is None else tuple(map(_poisoned, audit.poisoned)),
        unprotected=tuple(_unprotected(run, recipe, audit)),
        substitutions=(*run.notes, *substitutions),
    )


def recipe_of(run: Run) -> Recipe:
    """The recipe, from the manifest alone: a report reads no private record."""
    return Recipe.of(run.config, tuple(run.manifest["input shape"]), len(run.manifest["classes"]))


def guarantee_of(run: Run) -> Guarantee | None:
    """What is proven about records to everyone to whom anything is proven, or None."""
    proven = [claim.guarantee for claim in run.claims if claim.subject == "records"]
    found = (guarantee for guarantee in proven if guarantee is not None)
    return max(found, key=lambda guarantee: guarantee.epsilon, default=None)


def _not_audited(run: Run, observer: str) -> found.Skipped:
    return found.Skipped(
        subject="the recipe",
        observer=observer,
        attack="all",
        reason=f"not audited; run `securefd audit {run.path}`",
    )


def _claim(claim: Claim) -> report.Claim:
    proven = claim.guarantee
    return report.Claim(
        observer=claim.observer,
        subject=claim.subject,
        kind=claim.kind,
        unit=None if proven is None else proven.unit,
        relation=None if proven is None else proven.relation,
        epsilon=None if proven is None else proven.epsilon,
        delta=None if proven is None else proven.delta,
        assumption=claim.assumption or "",
        reason=claim.reason,
    )


def _utility(run: Run) -> report.Utility:
    metrics = run.metrics
    records = metrics["test.records"]

    def accuracy(name: str) -> report.Estimate:
        value = metrics[name]
        if value is None:
            missing = {"student.accuracy": f"method {run.config.method.name} has no student"}
            return report.Estimate(reason=missing.get(name, "not measured in this run"))
        return report.accuracy(value, records)

    return report.Utility(
        test_records=records,
        student=accuracy("student.accuracy"),
        clients_together=accuracy("clients.accuracy"),
        clients_alone=accuracy("local.accuracy"),
    )


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
        note="of the client that sent, or received, most",
    )


def _ledgers(run: Run) -> Iterator[report.Charge]:
    """What each client spent, kind by kind and together."""
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
            yield from _charges(f"client {k}", ledger, promised)


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


def _finding(each: found.Finding) -> report.Finding:
    return report.Finding(
        subject=each.subject,
        observer=each.observer,
        attack=each.attack,
        n_in=each.n_in,
        n_out=each.n_out,
        auc=report.estimate(each.auc, *each.auc_interval),
        rates=tuple(
            report.RateAt(
                fpr=fpr,
                tpr=report.estimate(
                    rate.value,
                    *(rate.interval or (None, None)),
                    otherwise=f"not measurable with {each.n_out} non-members",
                ),
            )
            for fpr, rate in each.tpr.items()
        ),
        trials_in=each.trials_in,
        trials_out=each.trials_out,
        bound_method=each.bound_method,
        epsilon_credible=each.epsilon_credible,
        epsilon_bound=each.epsilon_bound,
        epsilon_power=each.epsilon_power,
        confidence=each.confidence,
        threshold_rule=each.threshold_rule,
        claim_epsilon=each.claim_epsilon,
        delta=each.delta,
        judgement=each.judgement,
        reason=each.reason,
    )


def _skipped(each: found.Skipped) -> report.Skipped:
    return report.Skipped(
        subject=each.subject, observer=each.observer, attack=each.attack, reason=each.reason
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
    yield "accuracies on the test set"
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
