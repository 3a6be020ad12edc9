"""The charts of a report: which variants, attacks and figures go into each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from securefd.evaluation import charts, lines
from securefd.evaluation.report import Finding, Variant, strongest

WIDE, NARROW, PANEL = 720, 360, 380
"""Widths of drawings in SVG units: for screens and paper, for phones, and for either, side by side."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One chart at two widths; the page shows one of them. ``missing``: variants that it can't show."""

    wide: str
    narrow: str
    missing: tuple[str, ...] = ()


def privacy_utility(variants: Sequence[Variant]) -> Pair:
    """Accuracy against the strongest attack."""
    points = [_point(index, variant) for index, variant in enumerate(variants)]
    drawn = [point for point in points if point is not None]
    return Pair(
        wide=charts.privacy_utility(drawn, width=WIDE, prefix="wide"),
        narrow=charts.privacy_utility(drawn, width=NARROW, prefix="narrow"),
        missing=tuple(v.name for v, point in zip(variants, points, strict=True) if point is None),
    )


def frontier(variants: Sequence[Variant]) -> Pair | None:
    """Accuracy against what is promised; None where nothing is promised by anyone, or nothing measured."""
    points = [
        _promise(index, variant)
        for index, variant in enumerate(variants)
        if variant.utility.student.value is not None
    ]
    if all(point.epsilon is None for point in points):
        return None
    return Pair(
        wide=charts.frontier(points, width=WIDE, prefix="front-wide"),
        narrow=charts.frontier(points, width=NARROW, prefix="front-narrow"),
        missing=tuple(v.name for v in variants if v.utility.student.value is None),
    )


def curves(variants: Sequence[Variant], observers: Sequence[str]) -> tuple[tuple[int, str], ...]:
    """For each variant, by number, the curve of each observer's strongest attack that has one."""
    return tuple(_curves(variants, observers))


def budgets(variants: Sequence[Variant]) -> tuple[tuple[int, str], ...]:
    """For each variant that spends, by number, what was spent access by access."""
    return tuple(
        (index, lines.budget(v.spent, title=f"Budget of {v.name}", width=PANEL, prefix=f"budget-{index}"))
        for index, v in enumerate(variants)
        if v.spent is not None
    )


def traffic(variants: Sequence[Variant], size: Callable[[int], str]) -> Pair:
    """Bytes beside sharing weights; ``size`` puts them in words."""
    rows = [(v.name, v.communication) for v in variants]
    sizes = [(size(c.up), size(c.down), size(c.weights or 0)) for _, c in rows]
    return Pair(
        wide=lines.traffic(rows, sizes, width=WIDE, prefix="bytes-wide"),
        narrow=lines.traffic(rows, sizes, width=NARROW, prefix="bytes-narrow"),
    )


def _point(index: int, variant: Variant) -> charts.Point | None:
    top = strongest(variant.findings)
    if top is None or variant.utility.student.value is None:
        return None
    return charts.Point(label=variant.name, x=top.auc, y=variant.utility.student, series=index)


def _promise(index: int, variant: Variant) -> charts.Promise:
    """Of the observer to whom least is promised. Bounds count where they are in the same terms."""
    proven = [claim for claim in variant.claims if claim.subject == "records" and claim.epsilon is not None]
    worst = max(proven, key=lambda claim: claim.epsilon or 0.0, default=None)
    same = worst is not None and (worst.unit, worst.relation) == ("record", variant.game)
    bounds = [f.epsilon_bound for f in variant.findings if same and f.epsilon_bound is not None]
    return charts.Promise(
        label=variant.name,
        epsilon=None if worst is None else worst.epsilon,
        found=max(bounds, default=None),
        terms="" if worst is None else f"per {worst.unit}, {worst.relation}",
        accuracy=variant.utility.student,
        series=index,
    )


def _curves(variants: Sequence[Variant], observers: Sequence[str]) -> Iterator[tuple[int, str]]:
    for index, variant in enumerate(variants):
        by_observer = ([f for f in variant.findings if f.observer == who and f.roc.fpr] for who in observers)
        drawn = [top for top in map(strongest, by_observer) if top is not None]
        if drawn:
            yield (
                index,
                lines.roc(
                    drawn,
                    _ceilings(variant.findings),
                    series=[observers.index(each.observer) for each in drawn],
                    title=f"Attacks on {variant.name} at every threshold",
                    width=PANEL,
                    prefix=f"roc-{index}",
                ),
            )


def _ceilings(findings: Sequence[Finding]) -> list[lines.Ceiling]:
    """What is promised in the terms of the game, which are those of a curve."""
    found: dict[tuple[float, float], dict[str, None]] = {}
    for each in findings:
        if each.claim_epsilon is not None and each.delta is not None:
            found.setdefault((each.claim_epsilon, each.delta), {})[each.observer] = None
    return [
        lines.Ceiling(epsilon=epsilon, delta=delta, observers=tuple(who))
        for (epsilon, delta), who in found.items()
    ]
