"""A report as a document: sections of paragraphs, tables and pictures, which PDF and Markdown both print.

Everything is plain text. Whoever prints it makes sure that no text is taken for markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

_TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LEFTWARD = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]"
_LEFTWARDS = re.compile(f"{_LEFTWARD}+(?:[ ]{_LEFTWARD}+)*")
_RIGHT = "\u200e"


def steady(text: str) -> str:
    """``text`` without marks that turn the direction of what follows, and with what follows Arabic or Hebrew
    kept in its order: a name must not turn ``[0.1, 0.2]`` into ``[0.2, 0.1]``.
    """
    return _LEFTWARDS.sub(lambda run: run[0] + _RIGHT, _TURNS.sub("", text))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """``text``, and a smaller ``note`` under it. ``mark``: a judgement or verdict, which may be coloured."""

    text: str
    note: str = ""
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of a table under a common ``title``, or none; the first cell names the row."""

    title: str = ""
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """``widths``: of the columns, in parts of the whole."""

    caption: str
    head: tuple[str, ...]
    widths: tuple[float, ...]
    groups: tuple[Rows, ...]
    kind: Literal["table"] = field(default="table", init=False)


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """``quiet``: said beside something, in smaller letters."""

    text: str
    quiet: bool = False
    kind: Literal["paragraph"] = field(default="paragraph", init=False)


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]
    kind: Literal["bullets"] = field(default="bullets", init=False)


@dataclass(frozen=True, kw_only=True)
class Term:
    """A word and what there is to say of it."""

    term: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A list of words and what there is to say of each."""

    terms: tuple[Term, ...]
    kind: Literal["terms"] = field(default="terms", init=False)


@dataclass(frozen=True, kw_only=True)
class Heading:
    """Of a part of a section."""

    text: str
    kind: Literal["heading"] = field(default="heading", init=False)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG in base64, enlarged without smoothing; ``alternative``: what it shows, in words."""

    png: str
    alternative: str
    kind: Literal["picture"] = field(default="picture", init=False)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """An SVG of our own making, for the page's style sheet, and the variant that it is of, if of one."""

    svg: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Charts; several stand side by side. ``wide``: a single one takes the whole page's width."""

    charts: tuple[Chart, ...]
    caption: str
    wide: bool = True
    kind: Literal["drawings"] = field(default="drawings", init=False)


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text to be shown as it is."""

    text: str
    kind: Literal["code"] = field(default="code", init=False)


Block = Table | Paragraph | Bullets | Terms | Heading | Picture | Drawings | Code


@dataclass(frozen=True, kw_only=True)
class Section:
    """``lead``: a sentence that says what it is about."""

    title: str
    lead: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """To one question, a line for each variant that has its own."""

    question: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """``answers``: to the first questions of whoever has to sign; ``overview``: a table after them."""

    title: str
    verdict: str
    summary: str
    created: str
    answers: tuple[Answer, ...]
    overview: Table
    sections: tuple[Section, ...]


def table(
    caption: str,
    head: Iterable[str],
    widths: Iterable[float],
    groups: Iterable[tuple[str, Iterable[tuple[Cell, ...]]]],
) -> Table:
    """A table from (title, rows) pairs: without those that have no rows, and the same rows once, under all
    their titles.
    """
    titles: dict[tuple[tuple[Cell, ...], ...], list[str]] = {}
    for title, rows in groups:
        titles.setdefault(tuple(rows), []).append(title)
    return Table(
        caption=caption,
        head=tuple(head),
        widths=tuple(widths),
        groups=tuple(Rows(title=" · ".join(named), rows=rows) for rows, named in titles.items() if rows),
    )


def cell(text: str, note: str = "", mark: str = "") -> Cell:
    """The same by position."""
    return Cell(text=text, note=note, mark=mark)
