"""The charts of a report as blocks of a document, each with words on how to read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from securefd.evaluation import figures
from securefd.evaluation.document import Block, Chart, Drawings
from securefd.evaluation.html import observers, size
from securefd.evaluation.report import Report


def utility(report: Report) -> Iterator[Block]:
    """Accuracy against attacks, and against promises."""
    attacked = figures.privacy_utility(report.variants)
    if len(attacked.missing) < len(report.variants):
        yield Drawings(
            charts=(Chart(svg=attacked.wide),),
            caption="Up is more useful, left is more private. Bars are 95 % intervals. The strongest attack "
            "is picked after looking, and its interval is not widened for that. Axes do not start at zero."
            f"{_missing('student or attack', attacked.missing)}",
        )
    promised = figures.frontier(report.variants)
    if promised is not None:
        yield Drawings(
            charts=(Chart(svg=promised.wide),),
            caption="Up is more useful, left is a stronger promise, to whom least is promised. A bar to the "
            "left reaches down to what a test proved to leak, and to the edge where it proved nothing. The "
            "dashed line joins what no other variant beats in both. Bars up and down are 95 % intervals."
            f"{_missing('the student', promised.missing)}",
        )


def curves(report: Report) -> Iterator[Block]:
    """Members found against false alarms."""
    drawn = figures.curves(report.variants, observers(report.variants))
    if drawn:
        yield Drawings(
            charts=_titled(report, drawn),
            wide=False,
            caption="How many members the strongest attack of each observer finds, for how many false "
            "alarms, on logarithmic axes. Curves are means over federations; what a claim allows is shaded.",
        )


def budgets(report: Report) -> Iterator[Block]:
    """Spending, access by access."""
    drawn = figures.budgets(report.variants)
    if drawn:
        yield Drawings(
            charts=_titled(report, drawn),
            wide=False,
            caption="Of the holder who spent most. Each step is one access to private data, paid for before "
            "it is made; the line above is what is promised.",
        )


def traffic(report: Report) -> Iterator[Block]:
    """Bytes beside sharing weights."""
    yield Drawings(
        charts=(Chart(svg=figures.traffic(report.variants, size).wide),),
        caption="The axis is logarithmic. A bar reaches from the round with the fewest bytes to the one with "
        "the most, where rounds differ.",
    )


def _titled(report: Report, drawn: Iterable[tuple[int, str]]) -> tuple[Chart, ...]:
    """Charts of variants, which are told by their place."""
    return tuple(Chart(svg=svg, title=report.variants[index].name) for index, svg in drawn)


def _missing(what: str, names: tuple[str, ...]) -> str:
    return f" Not drawn, because {what} was not measured: {', '.join(names)}." if names else ""
