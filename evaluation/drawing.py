"""What charts are made of: boxes, axes, markers, and the SVG around them.

Text only: crisp in print, styled by the page (light and dark), read aloud by ``<title>`` and ``<desc>``. A
series is told by its marker's shape or its dashes, and its label, never by colour alone.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

N_COLOURS = 6
FONT, SMALL = 13.0, 11.5
_MARKERS = (
    "M0,-6.2A6.2,6.2 0 1 1 0,6.2A6.2,6.2 0 1 1 0,-6.2Z",
    "M-5.6,-5.6H5.6V5.6H-5.6Z",
    "M0,-7.2L6.8,5.2H-6.8Z",
    "M0,-7.6L7.6,0L0,7.6L-7.6,0Z",
    "M-2.2,-6.6H2.2V-2.2H6.6V2.2H2.2V6.6H-2.2V2.2H-6.6V-2.2H-2.2Z",
    "M0,7.2L6.8,-5.2H-6.8Z",
    "M-3.4,-6.4H3.4L6.8,0L3.4,6.4H-3.4L-6.8,0Z",
)


@dataclass(frozen=True)
class Box:
    """A rectangle in SVG units: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two share any area."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def nearest(self, point: tuple[float, float]) -> tuple[float, float]:
        """The place in this box that is nearest to a point."""
        x, y = point
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)

    def crossed(self, start: tuple[float, float], end: tuple[float, float]) -> bool:
        """Whether a line passes through, to about a tenth of its length."""
        between = [
            (start[0] + (end[0] - start[0]) * i / 12, start[1] + (end[1] - start[1]) * i / 12)
            for i in range(13)
        ]
        return any(self.left < x < self.right and self.top < y < self.bottom for x, y in between)

    def inside(self, other: Box) -> bool:
        """Whether this lies within the other."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.top <= self.top and self.bottom <= other.bottom


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A scale from values to SVG units: ``low`` lies at ``start``, ``high`` at ``end``; its ticks have words.

    On a ``log`` axis, values below ``low``, and 0 with them, lie at its start.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def decades(values: Iterable[float]) -> tuple[float, float]:
    """The powers of ten around some values above 0, or 1 and 10 where there are none."""
    exponents = [math.log10(value) for value in values if value > 0] or [0.0, 1.0]
    low, high = math.floor(min(exponents) + 1e-9), math.ceil(max(exponents) - 1e-9)
    return 10.0**low, 10.0 ** max(high, low + 1)


def steps(low: float, high: float) -> tuple[float, ...]:
    """Round values for ticks of a log axis: powers of ten, and 2 and 5 times these where there are few."""
    powers = range(round(math.log10(low)), round(math.log10(high)) + 1)
    bases = (1, 2, 5) if len(powers) < 4 else (1,)
    return tuple(
        base * 10.0**power for power in powers for base in bases if base * 10.0**power <= high * 1.01
    )


def grid(frame: Box, across: Axis, up: Axis, names: tuple[str, str], *, drop: float = 40.0) -> Iterator[str]:
    """Rules, ticks, and the names of both axes, the horizontal one's first, ``drop`` below the frame."""
    for tick, words in up.ticks:
        y = up(tick)
        yield f'<path class="grid" d="M{frame.left:.1f},{y:.1f}H{frame.right:.1f}"/>'
        yield text("tick", frame.left - 8, y + 4, words, "end")
    for tick, words in across.ticks:
        x = across(tick)
        yield f'<path class="axis" d="M{x:.1f},{frame.bottom:.1f}v5"/>'
        yield text("tick", x, frame.bottom + 19, words, "middle")
    yield f'<path class="axis" d="M{frame.left:.1f},{frame.bottom:.1f}H{frame.right:.1f}"/>'
    yield text("name", 4, 16, names[1])
    yield text("name", frame.right, frame.bottom + drop, names[0], "end")


def text(kind: str, x: float, y: float, words: str, anchor: str = "start") -> str:
    """A line of text."""
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{where}>{escape(words)}</text>'


def picture(
    body: Iterable[str], *, width: float, height: float, title: str, description: str, prefix: str
) -> str:
    """The SVG; ``prefix`` keeps ids apart where a page holds several."""
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-labelledby="{prefix}-title" aria-describedby="{prefix}-desc">'
        f'<title id="{prefix}-title">{escape(title)}</title>'
        f'<desc id="{prefix}-desc">{escape(description)}</desc>{"".join(body)}</svg>'
    )


def symbol(series: int, colour: int | None = None) -> str:
    """The shape of a series, around (0, 0), in its colour or another's."""
    hue = (series if colour is None else colour) % N_COLOURS
    return f'<path class="mark s{hue}" d="{_MARKERS[series % len(_MARKERS)]}"/>'


def mark(series: int, at: tuple[float, float], tip: str = "", *, scale: float = 1.0) -> str:
    """The shape of a series somewhere, with words for whoever points at it."""
    sized = "" if scale == 1.0 else f" scale({scale})"
    told = f' class="tip"><title>{escape(tip)}</title>' if tip else ">"
    return f'<g transform="translate({at[0]:.1f} {at[1]:.1f}){sized}"{told}{symbol(series)}</g>'


def marker(series: int) -> str:
    """The marker of a variant as a small picture of its own, for tables; decoration beside its name."""
    return (
        '<svg class="key" viewBox="-9 -9 18 18" width="14" height="14" aria-hidden="true" focusable="false">'
        f"{symbol(series)}</svg>"
    )


def line(series: int, points: Sequence[tuple[float, float]]) -> str:
    """A line through points; each series has its own colour and dashes."""
    path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<path class="line s{series % N_COLOURS} d{series % N_COLOURS}" d="{path}"/>' if points else ""


def shortened(words: str, units: float, size: float = FONT) -> str:
    """As much of the words as surely fits into so many SVG units, with an ellipsis for the rest."""
    if letters(words) * size * 0.6 <= units:
        return words
    kept = words
    while kept and (letters(kept) + 1) * size * 0.6 > units:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def letters(words: str) -> float:
    """How many letters wide; estimated, since the reader's font isn't known here."""
    return sum(1.65 if unicodedata.east_asian_width(c) in "WF" else 1.0 for c in words)
