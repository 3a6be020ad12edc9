"""Rules on what was measured: what attacks found, which of them must have been made, and accuracies.

Measured figures have intervals, and a rule is held against the end that speaks against the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from securefd.defenses.claims import Guarantee
from securefd.evaluation.judge import in_terms_of_game
from securefd.evaluation.policy import AccuracyRule, AttackRule, AuditRule, Subject
from securefd.evaluation.report import Claim, Estimate, Finding, Variant, Verdict
from securefd.evaluation.rulings import Asked, Found, exactly, lowered, percent, raised, sureness, untold

CONFIDENCE = 0.95
"""That an interval must hold with, two-sided, for its end to be held against a limit."""


def on_violations() -> Iterator[Asked]:
    """The question that every policy asks."""
    yield Asked(rule="violations", requires="no attack contradicts a claim", judge=violations)


def violations(variant: Variant) -> Found:
    """Whether a finding contradicts a claim; where none does, the checks must be whole and sound.

    A bound is held against what is claimed here, too: an audit may have judged it by another claim.
    """
    for each in variant.findings:
        if each.judgement == "VIOLATED" or _beyond(variant, each):
            assert each.epsilon_bound is not None
            assert each.confidence is not None
            why = each.reason if each.judgement == "VIOLATED" else "it is above what this run claims"
            return Found(
                result="fail",
                measured=f"epsilon at least {lowered(each.epsilon_bound)}",
                uncertainty=f"a lower bound with {percent(round(each.confidence, 6))} confidence",
                reason=f"{each.attack} by observer {each.observer}: {why}",
            )
    if not variant.findings:
        return untold("no attack was made", "nothing was audited; run `securefd audit` first")
    measured = f"{len(variant.findings)} findings, none of which contradicts a claim"
    if variant.skipped:
        return untold(measured, f"a check was skipped: {variant.skipped[0].reason}")
    if doubt := _unsound(variant):
        return untold(measured, doubt)
    return Found(
        result="pass",
        measured=measured,
        uncertainty="attacks bound what leaks from below, and are no guarantee",
        reason="no check was skipped, and the controls passed",
    )


def _beyond(variant: Variant, finding: Finding) -> bool:
    """Whether a finding's bound is above something that is proven of records to its observer."""
    if finding.epsilon_bound is None or finding.delta is None:
        return False
    to = "release" if finding.observer == "label-only" else finding.observer
    for claim in variant.claims:
        if (claim.kind, claim.subject, claim.observer) != ("proven", "records", to):
            continue
        held = in_terms_of_game(_guarantee(claim), variant.game)
        # at a larger delta less epsilon is needed, so a claim at a smaller one holds there as well
        if held is not None and held.delta <= finding.delta and finding.epsilon_bound > held.epsilon:
            return True
    return False


def _guarantee(claim: Claim) -> Guarantee:
    assert claim.epsilon is not None
    assert claim.delta is not None
    assert claim.unit is not None
    assert claim.relation is not None
    return Guarantee(epsilon=claim.epsilon, delta=claim.delta, unit=claim.unit, relation=claim.relation)


def on_attacks(rule: str, asks: AttackRule) -> Iterator[Asked]:
    """One question for each observer and subject."""
    limit = f"at most {percent(asks.tpr)} true positives at {percent(asks.fpr)} false positives"
    for observer in asks.observers:
        for subject in asks.subjects:
            yield Asked(
                rule=rule,
                requires=f"{limit}, in attacks by observer {observer} on {subject}",
                judge=partial(rate, asks, observer, subject),
                observer=observer,
            )


def rate(asks: AttackRule, observer: str, subject: Subject, variant: Variant) -> Found:
    """The upper end of the interval of the strongest attack by one observer on one subject.

    It is the largest of all attacks' upper ends, so it is above the rate of the attack that is truly
    strongest at least as often as that attack's own: choosing after looking costs no confidence. Tests of
    single records and of single federations, which bound epsilon, aren't rates over records.
    """
    measured, missing = [], []
    for each in _findings(variant, observer, subject):
        if each.bound_method:
            continue
        found = next((at.tpr for at in each.rates if math.isclose(at.fpr, asks.fpr)), None)
        if found is None:
            missing.append(f"{each.attack} has no rate at {percent(asks.fpr)} false positives")
        elif found.value is None:
            missing.append(f"{each.attack}: {found.reason}")
        elif found.high is None or not found.confidence >= CONFIDENCE:
            missing.append(f"{each.attack} has no interval with {percent(CONFIDENCE)} confidence")
        else:
            measured.append((found.high, each.attack, found))
    strongest = max(measured, key=lambda entry: entry[0], default=None)
    if strongest is not None and not strongest[0] <= asks.tpr:
        return _rated("fail", strongest[1], strongest[2], "the interval reaches above the limit")
    gap = _gap(variant, observer, subject) or next(iter(missing), None)
    if gap is not None or strongest is None:
        return untold(f"rates of {len(measured)} attacks", gap or "no attack was measured")
    return _rated("pass", strongest[1], strongest[2], "the interval stays within the limit")


def on_audits(rule: str, asks: AuditRule) -> Iterator[Asked]:
    """One question for each observer and subject."""
    power = "" if asks.power is None else f" that could certify epsilon = {exactly(asks.power)}"
    tested = ", with the power to contradict the claim" if asks.claims_tested else ""
    for observer in asks.observers:
        for subject in asks.subjects:
            yield Asked(
                rule=rule,
                requires=f"an audit of {subject} as seen by observer {observer}{power}{tested}",
                judge=partial(audited, asks, observer, subject),
                observer=observer,
            )


def audited(asks: AuditRule, observer: str, subject: Subject, variant: Variant) -> Found:
    """Whether an audit was made, whole, with sound controls, and with the power that is asked for."""
    findings = _findings(variant, observer, subject)
    made = f"{len(findings)} findings"
    gap = _gap(variant, observer, subject)
    if gap is None and not any(each.auc.value is not None for each in findings):
        gap = "no attack was measured"
    if gap is None and asks.claims_tested:
        gap = _untested(findings)
    if gap is not None:
        return untold(made, gap)
    if asks.power is None:
        return Found(
            result="pass", measured=made, uncertainty="a count", reason="made, and its controls passed"
        )
    powers = [each.epsilon_power for each in findings if each.epsilon_power is not None]
    if not powers:
        return untold(made, "no test was made that could certify any epsilon")
    enough = max(powers) >= asks.power
    return Found(
        result="pass" if enough else "inconclusive",
        measured=f"{made}, which could have certified epsilon = {lowered(max(powers))}",
        uncertainty="computed from the number of trials",
        estimate=Estimate(value=max(powers)),
        reason="enough power"
        if enough
        else "too few trials: audit with more shadows, candidates or canaries",
    )


def on_accuracy(asks: AccuracyRule) -> Iterator[Asked]:
    """One question for each key that is given."""
    if asks.student is not None:
        yield Asked(
            rule="accuracy.student",
            requires=f"accuracy of the student at least {percent(asks.student)}",
            judge=partial(student, asks.student),
        )
    if asks.clients_together is not None:
        yield Asked(
            rule="accuracy.clients_together",
            requires=f"mean accuracy of clients, together, at least {percent(asks.clients_together)}",
            judge=partial(clients_together, asks.clients_together),
        )


def student(least: float, variant: Variant) -> Found:
    """The student's accuracy."""
    return accurate(least, variant.utility.student)


def clients_together(least: float, variant: Variant) -> Found:
    """The mean accuracy of clients after the last round."""
    return accurate(least, variant.utility.clients_together)


def accurate(least: float, found: Estimate) -> Found:
    """An accuracy, by the lower end of its interval."""
    if found.value is None:
        return untold("not measured", found.reason)
    if found.low is None or not found.confidence >= CONFIDENCE:
        return untold(f"{lowered(100 * found.value)}%", f"no interval with {percent(CONFIDENCE)} confidence")
    holds = found.low >= least
    return Found(
        result="pass" if holds else "fail",
        measured=f"{lowered(100 * found.value)}%",
        uncertainty=sureness(found),
        estimate=found,
        reason="the interval stays above the limit" if holds else "the interval reaches below the limit",
    )


def _rated(result: Verdict, attack: str, found: Estimate, reason: str) -> Found:
    assert found.value is not None
    return Found(
        result=result,
        measured=f"{raised(100 * found.value)}% by {attack}",
        uncertainty=sureness(found),
        estimate=found,
        reason=reason,
    )


def _untested(findings: Sequence[Finding]) -> str | None:
    """Why no claim was tested, or None. A violation is another rule's."""
    held = [each for each in findings if each.claim_epsilon is not None]
    if not held:
        return "nothing is claimed that an attack could contradict"
    return None if any(each.judgement != "INCONCLUSIVE" for each in held) else held[0].reason


def _findings(variant: Variant, observer: str, subject: Subject) -> list[Finding]:
    return [each for each in variant.findings if (each.observer, each.subject) == (observer, subject)]


def _gap(variant: Variant, observer: str, subject: Subject) -> str | None:
    """Why the audit of a variant says nothing, or not all, of one observer and subject; or None."""
    for each in variant.skipped:
        if (each.observer, each.subject) == (observer, subject):
            return f"skipped, {each.attack}: {each.reason}"
    if not _findings(variant, observer, subject):
        return f"no attack by observer {observer} on {subject} was made; name them in audit.observers"
    return _unsound(variant)


def _unsound(variant: Variant) -> str | None:
    """Why the audit of a variant can't be trusted, or None."""
    for control in variant.controls:
        if not control.passed:
            return f"the {control.kind} control failed, so the audit can't be trusted: {control.measured}"
    lacking = sorted({"null", "positive"} - {control.kind for control in variant.controls})
    return f"the audit has no {lacking[0]} control, so it can't be trusted" if lacking else None
