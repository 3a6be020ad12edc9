"""The report as Markdown in the GitHub flavour, and what makes any text safe in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from securefd.evaluation.document import (
    Block,
    Bullets,
    Cell,
    Code,
    Document,
    Drawings,
    Heading,
    Paragraph,
    Picture,
    Table,
    Terms,
    steady,
)
from securefd.evaluation.report import Report
from securefd.evaluation.sections import document

SIGNS = {"fail": "✗", "violated": "✗", "pass": "✓", "consistent": "✓", "inconclusive": "?"}
"""Beside the word, for whoever skims; never instead of it."""
_NAMED = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "$": "&#36;", "@": "&#64;"}
"""HTML, formulas and mentions: as entities, which are shown and never taken for anything else."""


def to_markdown(report: Report) -> str:
    """The same report gives the same text."""
    return "\n\n".join(_parts(document(report))) + "\n"


def plain(text: str) -> str:
    """``text`` on one line, shown as it is wherever it stands: nothing in it is markup, HTML or a link."""
    line = " ".join(steady(text).split())
    line = re.sub(r"[\\`*_\[\]#|~{}]", r"\\\g<0>", line)
    line = re.sub(r"[<>&$@]", lambda found: _NAMED[found[0]], line)
    line = line.replace("://", "&#58;//").replace("www.", "www&#46;")
    # What would begin a list, or be a rule or the line under a heading.
    return re.sub(r"^(\d{0,9})([-+=.)])(?=[-+=\s]|$)", r"\1\\\2", line)


def fenced(text: str) -> str:
    """``text`` as a block of code, in a fence that is longer than any within."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{steady(text).rstrip()}\n{fence}"


def bullets(items: Iterable[str]) -> str:
    """A list of texts."""
    return "\n".join(f"- {plain(item)}" for item in items)


def rows(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """A table of texts."""
    lines = [[plain(name) for name in head]]
    lines += [["---"] * len(lines[0]), *([plain(text) for text in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _parts(made: Document) -> Iterator[str]:
    yield f"# {plain(made.title)}"
    yield f"**Verdict: {SIGNS[made.verdict]} {made.verdict}.** {plain(made.summary)}"
    for each in made.answers:
        yield f"**{plain(each.question)}**"
        yield plain(each.lines[0]) if len(each.lines) == 1 else bullets(each.lines)
    yield "**To whom?**"
    yield from _block(made.overview)
    for section in made.sections:
        yield f"## {plain(section.title)}"
        yield plain(section.lead)
        for block in section.blocks:
            yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Heading():
            yield f"### {plain(block.text)}"
        case Paragraph():
            yield plain(block.text)
        case Bullets():
            yield bullets(block.items)
        case Terms():
            yield "\n".join(f"- **{plain(each.term)}**: {plain(each.text)}" for each in block.terms)
        case Code():
            yield fenced(block.text)
        case Picture():
            yield f"![{plain(block.alternative)}](data:image/png;base64,{block.png})"
        case Table():
            yield from _table(block)
        case Drawings():  # every figure of a chart is in a table
            return


def _table(block: Table) -> Iterator[str]:
    yield plain(block.caption)
    for group in block.groups:
        if group.title:
            yield f"**{plain(group.title)}**"
        yield rows(block.head, (map(_cell, row) for row in group.rows))


def _cell(cell: Cell) -> str:
    sign = f"{SIGNS[cell.mark]} " if cell.mark in SIGNS else ""
    if not cell.note:
        return f"{sign}{cell.text}"
    note = cell.note if cell.note.startswith("[") else f"({cell.note})"
    return f"{sign}{cell.text} {note}"
