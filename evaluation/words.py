"""Figures of a report in words: an epsilon with unit, relation, delta and observer, a rate with its interval.

Upper bounds are rounded up and lower bounds down, so that a rounded bound stays a bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from securefd.evaluation.html import interval, number
from securefd.evaluation.report import Claim, Estimate, Finding, Report, Variant

OBSERVERS = {
    "server": "whoever coordinates the federation",
    "peer": "another client",
    "keyholder": "whoever opens encrypted sums",
    "coalition": "the server together with some clients",
    "release": "whoever may query the student",
    "label-only": "whoever sees only the student's top class",
}
"""Who an observer is, for readers who don't know the word."""
_ORDER = ("VIOLATED", "INCONCLUSIVE", "CONSISTENT")


def at_most(value: float) -> str:
    """Three significant digits, rounded up."""
    return _rounded(value, ROUND_CEILING)


def at_least(value: float) -> str:
    """Three significant digits, rounded down."""
    return _rounded(value, ROUND_FLOOR)


def _rounded(value: float, how: str) -> str:
    exact = Decimal(repr(value))
    if not exact:
        return "0"
    step = Decimal((0, (1,), exact.adjusted() - 2))
    return number(float(exact.quantize(step, rounding=how)))


def terms(unit: str, relation: str, delta: float) -> str:
    """Everything but the observer without which an epsilon says nothing."""
    return f"for one {unit}, {relation}, δ = {number(delta)}"


def promise(claim: Claim) -> str:
    """What is promised, without to whom."""
    if claim.epsilon is None or claim.delta is None:
        return {"cryptographic": "hidden, under a cryptographic assumption", "none": "nothing"}[claim.kind]
    return f"ε ≤ {at_most(claim.epsilon)} {terms(str(claim.unit), str(claim.relation), claim.delta)}"


def bound(finding: Finding, game: str) -> str:
    """What certainly leaked, without to whom. The game of an audit is about one record."""
    if finding.epsilon_bound is None or finding.delta is None or finding.confidence is None:
        return "no bound"
    said = terms("record", game, finding.delta)
    return f"ε ≥ {at_least(finding.epsilon_bound)} {said}, at {sure(finding.confidence)} confidence"


def common_terms(report: Report) -> str:
    """The `terms` of every claim and lower bound, or an empty text where they differ or there are none."""
    found = {
        terms(str(claim.unit), str(claim.relation), claim.delta)
        for variant in report.variants
        for claim in variant.claims
        if claim.delta is not None
    }
    found |= {
        terms("record", variant.game, each.delta)
        for variant, each in _bounds(report)
        if each.delta is not None
    }
    return found.pop() if len(found) == 1 else ""


def common_confidence(report: Report) -> str:
    """That of every lower bound, or an empty text where they differ or there are none."""
    found = {sure(each.confidence) for _, each in _bounds(report)}
    return found.pop() if len(found) == 1 else ""


def shared_terms(report: Report) -> str:
    """A sentence for the caption of a table whose cells then leave it out."""
    said, level = common_terms(report), common_confidence(report)
    every = f" Every ε is {said}." if said else ""
    return f"{every} Lower bounds hold at {level} confidence." if level else every


def bound_terms(report: Report, variant: Variant, found: Finding) -> str:
    """What `shared_terms` doesn't say of a lower bound."""
    assert found.delta is not None
    assert found.confidence is not None
    said = "" if common_terms(report) else terms("record", variant.game, found.delta)
    level = "" if common_confidence(report) else f"at {sure(found.confidence)} confidence"
    return ", ".join(filter(None, (said, level)))


def _bounds(report: Report) -> Iterator[tuple[Variant, Finding]]:
    for variant in report.variants:
        for finding in variant.findings:
            if finding.epsilon_bound is not None:
                yield variant, finding


def sure(confidence: float | None) -> str:
    """A confidence in per cent, never rounded up."""
    return f"{at_least(100 * (confidence or 0.0))} %"


def share(estimate: Estimate) -> str:
    """Per cent with an interval, or why there is none."""
    if estimate.value is None:
        return estimate.reason
    return f"{100 * estimate.value:.1f} % {_within(estimate, 100, 1)}".rstrip()


def figure(estimate: Estimate) -> str:
    """A figure with an interval, or why there is none."""
    if estimate.value is None:
        return estimate.reason
    return f"{estimate.value:.3f} {_within(estimate, 1, 3)}".rstrip()


def _within(estimate: Estimate, scale: float, digits: int) -> str:
    found = interval(estimate, scale, digits)
    return found if not found or estimate.confidence == 0.95 else f"{found} at {sure(estimate.confidence)}"


def listed(words: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *rest, last = words
    return f"{', '.join(rest)} and {last}" if rest else last


def best_bound(variant: Variant, observer: str | None = None) -> Finding | None:
    """The finding with the largest bound, of one observer or of all; None where none was made."""
    made = [
        finding
        for finding in variant.findings
        if finding.epsilon_bound is not None and observer in (None, finding.observer)
    ]
    return max(made, key=lambda finding: finding.epsilon_bound or 0.0, default=None)


def worst_judgement(findings: Iterable[Finding]) -> str:
    """The gravest judgement of what was held against a claim, or an empty text."""
    found = {finding.judgement for finding in findings if finding.claim_epsilon is not None}
    return next((judgement.lower() for judgement in _ORDER if judgement in found), "")


def created(report: Report) -> str:
    """When it was made, for people."""
    return report.volatile.created.replace("T", " ").replace("Z", " UTC")
