"""What a policy made of a report, as a section of the printed forms; without a policy there is none."""

from __future__ import annotations

from collections.abc import Iterator

from securefd.evaluation.document import Cell, Section, cell, table
from securefd.evaluation.report import PolicyResult, Report


def ruled(report: Report) -> tuple[Section, ...]:
    """One section, or none."""
    if report.policy is None:
        return ()
    return (_section(report, report.policy),)


def basis(policy: PolicyResult) -> str:
    """What a verdict by ``policy`` rests on."""
    return (
        f"Policy {policy.name}, whose content has SHA-256 {policy.sha256}. The worst of its rules decides, "
        "and a claim that an attack contradicts fails whatever it says."
    )


def _section(report: Report, policy: PolicyResult) -> Section:
    several = len(report.variants) > 1
    names = [variant.name for variant in report.variants]
    results = table(
        "A measured figure is held against the limit by the end of its interval that speaks against the run. "
        "What can't be told doesn't pass.",
        ("Rule", "Asks for", "Measured", "Result", "Why"),
        (2.2, 2.6, 2.6, 1.4, 2.2),
        ((name if several else "", tuple(_rows(policy, name))) for name in names),
    )
    return Section(title="Policy", lead=basis(policy), blocks=(results,))


def _rows(policy: PolicyResult, variant: str) -> Iterator[tuple[Cell, ...]]:
    for each in policy.results:
        if each.variant == variant:
            yield (
                cell(each.rule),
                cell(each.requires),
                cell(each.measured, each.uncertainty),
                cell(each.result, mark=each.result),
                cell(each.reason),
            )
