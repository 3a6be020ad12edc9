"""What a verdict rests on, of one run and its audit: claims, accuracies, findings, skipped checks, controls.

Read from the small files of a run: no model, ledger or private record is opened, and no large library.
"""

from __future__ import annotations

from securefd.defenses.claims import Claim, Guarantee
from securefd.evaluation import findings as found
from securefd.evaluation import report, utility
from securefd.evaluation.findings import Audit
from securefd.result import Run
from securefd.rules import n_clients


def judged(run: Run, audit: Audit | None) -> report.Variant:
    """The part of a variant that claims and policies are judged by; the rest is as if nobody knew it."""
    config = run.config
    outcomes = () if audit is None else audit.outcomes
    left_out = [outcome for outcome in outcomes if isinstance(outcome, found.Skipped)]
    if audit is None:
        left_out = [_not_audited(run, observer) for observer in config.audit.observers]
    return report.Variant(
        name=config.name,
        method=config.method.name,
        sealing=config.sealing.kind,
        threshold=None if config.sealing.kind == "plain" else config.sealing.threshold,
        privacy="none" if config.privacy is None else config.privacy.route,
        claims=tuple(claimed(claim, None) for claim in run.claims),
        utility=_utility(run),
        communication=report.Communication(up=0, down=0, clients=n_clients(config), rounds=len(run.rounds)),
        findings=tuple(_finding(each) for each in outcomes if isinstance(each, found.Finding)),
        skipped=tuple(map(skipped, left_out)),
        controls=tuple(
            report.Control(kind=each.kind, attack=each.attack, measured=each.measured, passed=each.passed)
            for each in (() if audit is None else audit.controls)
        ),
        game="add-or-remove" if audit is None else audit.game,
    )


def guarantee_of(run: Run) -> Guarantee | None:
    """What is proven about records to everyone to whom anything is proven, or None."""
    proven = [claim.guarantee for claim in run.claims if claim.subject == "records"]
    found = (guarantee for guarantee in proven if guarantee is not None)
    return max(found, key=lambda guarantee: guarantee.epsilon, default=None)


def claimed(claim: Claim, stated: report.Facts | None) -> report.Claim:
    """A claim as a row; ``stated``: its facts, or None."""
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
        facts=stated,
    )


def skipped(each: found.Skipped) -> report.Skipped:
    """A check that was not made, as a row."""
    return report.Skipped(
        subject=each.subject, observer=each.observer, attack=each.attack, reason=each.reason
    )


def _not_audited(run: Run, observer: str) -> found.Skipped:
    return found.Skipped(
        subject="the recipe",
        observer=observer,
        attack="all",
        reason="not audited; run `securefd audit RUN`",
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
        calibration_error=utility.calibration(run),
        classes=utility.by_class(run),
        groups=utility.by_group(run),
        grouped_by=utility.grouped_by(run),
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
        roc=report.Roc(fpr=tuple(fpr for fpr, _ in each.roc), tpr=tuple(tpr for _, tpr in each.roc)),
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
