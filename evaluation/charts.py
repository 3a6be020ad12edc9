"""Charts as inline SVG, made of text: crisp in print, styled by the page (light and dark), read aloud by
``<title>`` and ``<desc>``. A variant is told by its marker's shape and its label, never by colour alone.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from securefd.evaluation.report import Estimate

N_COLOURS = 6
_MARKERS = (
    "M0,-6.2A6.2,6.2 0 1 1 0,6.2A6.2,6.2 0 1 1 0,-6.2Z",
    "M-5.6,-5.6H5.6V5.6H-5.6Z",
    "M0,-7.2L6.8,5.2H-6.8Z",
    "M0,-7.6L7.6,0L0,7.6L-7.6,0Z",
    "M-2.2,-6.6H2.2V-2.2H6.6V2.2H2.2V6.6H-2.2V2.2H-6.6V-2.2H-2.2Z",
    "M0,7.2L6.8,-5.2H-6.8Z",
    "M-3.4,-6.4H3.4L6.8,0L3.4,6.4H-3.4L-6.8,0Z",
)
_FONT, _SMALL, _KEY = 13.0, 11.5, 15.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 18.0, 34.0, 62.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """A variant: ``x`` the strongest attack's AUC, ``y`` the student's accuracy, both measured."""

    label: str
    x: Estimate
    y: Estimate
    series: int


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


@dataclass(frozen=True)
class _Axis:
    """A linear scale from values to SVG units, with its ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def marker(series: int) -> str:
    """The marker of a variant as a small picture of its own, for tables; decoration beside its name."""
    return (
        '<svg class="key" viewBox="-9 -9 18 18" width="14" height="14" aria-hidden="true" focusable="false">'
        f"{_symbol(series)}</svg>"
    )


def privacy_utility(points: Sequence[Point], *, width: int, prefix: str) -> str:
    """Student accuracy against the strongest attack's AUC, one labelled point a variant.

    ``width`` is the drawing's width in SVG units (about pixels); ``prefix`` keeps ids apart where a page
    holds several drawings. Labels never overlap: the drawing grows until all of them fit.
    """
    texts = [_label(point, narrow=width < 480) for point in points]
    boxes = None
    height = max(300.0, 0.52 * width) + 20 * max(0, len(points) - 5)
    while boxes is None:
        frame = Box(_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)
        across = _axis([v for p in points for v in _span(p.x)] + [0.5], frame.left, frame.right, width / 80)
        up = _axis([v for p in points for v in _span(p.y)], frame.bottom, frame.top, height / 70)
        at = [(across(p.x.value or 0.0), up(p.y.value or 0.0)) for p in points]
        boxes = place_labels([_size(text) for text in texts], at, _bars(points, across, up), frame)
        height += 80
    drawing = [
        *_grid(frame, across, up),
        *(_whiskers(point, across, up) for point in points),
        *(_leader(box, place) for box, place in zip(boxes, at, strict=True)),
        *(_mark(point, place) for point, place in zip(points, at, strict=True)),
        *(_words(p, text, box) for p, text, box in zip(points, texts, boxes, strict=True)),
    ]
    return (
        f'<svg class="chart" viewBox="0 0 {width} {frame.bottom + _BOTTOM:.0f}" role="img" '
        f'aria-labelledby="{prefix}-title" aria-describedby="{prefix}-desc">'
        f'<title id="{prefix}-title">Privacy against utility</title>'
        f'<desc id="{prefix}-desc">{escape(_description(points))}</desc>{"".join(drawing)}</svg>'
    )


def place_labels(
    sizes: Sequence[tuple[float, float]],
    points: Sequence[tuple[float, float]],
    bars: Sequence[Box],
    frame: Box,
) -> tuple[Box, ...] | None:
    """A box inside ``frame`` for each label, over no other label and no marker; None if it is too full.

    Where there is a choice: near its own point, nearer to it than to others, clear of bars and leaders.
    """
    markers = [Box(x - 9, y - 9, x + 9, y + 9) for x, y in points]
    placed: list[Box] = []
    for size, point in zip(sizes, points, strict=True):
        blocked = [*placed, *markers]
        free = [box for box in _candidates(size, point, frame) if not any(box.meets(b) for b in blocked)]
        if not free:
            return None
        leaders = [(p, box.nearest(p)) for p, box in zip(points, placed, strict=False)]
        placed.append(min(free, key=lambda box: _cost(box, point, points, bars, placed, leaders)))
    return tuple(placed)


def _candidates(size: tuple[float, float], point: tuple[float, float], frame: Box) -> Iterator[Box]:
    """Places for a label: beside the point, then on wider and wider rings around it."""
    (w, h), (x, y) = size, point
    reach = math.hypot(frame.right - frame.left, frame.bottom - frame.top)
    for gap in (12.0, *range(20, int(reach), 14)):
        for degrees in (-35, 35, -145, 145, 0, 180, -90, 90, -65, 65, -115, 115, -15, 15, -165, 165):
            dx, dy = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            centre_x, centre_y = x + dx * (gap + w / 2), y + dy * (gap + h / 2)
            box = Box(centre_x - w / 2, centre_y - h / 2, centre_x + w / 2, centre_y + h / 2)
            if box.inside(frame):
                yield box


def _cost(
    box: Box,
    point: tuple[float, float],
    points: Sequence[tuple[float, float]],
    bars: Sequence[Box],
    placed: Sequence[Box],
    leaders: Sequence[tuple[tuple[float, float], tuple[float, float]]],
) -> float:
    """How hard it is to read: distance, and much more for whatever could be taken for something else."""
    own = math.dist(point, box.nearest(point))
    confused = sum(math.dist(p, box.nearest(p)) < own for p in points)
    crossed = sum(other.crossed(point, box.nearest(point)) for other in placed)
    crossed += sum(box.crossed(*leader) for leader in leaders)
    return own + 25 * sum(box.meets(bar) for bar in bars) + 40 * confused + 60 * crossed


def _span(estimate: Estimate) -> tuple[float, ...]:
    return tuple(v for v in (estimate.low, estimate.value, estimate.high) if v is not None)


def _axis(values: Sequence[float], start: float, end: float, most: float) -> _Axis:
    """An axis over all values within [0, 1], with at most about ``most`` ticks at round values."""
    low, high = min(values, default=0.5), max(values, default=1.0)
    pad = max(0.08 * (high - low), 0.01)
    low, high = max(0.0, low - pad), min(1.0, high + pad)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.25, 0.5) if (high - low) / s <= most or s == 0.5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return _Axis(low, high, start, end, tuple(round(i * step, 6) for i in range(first, last + 1)))


def _bars(points: Sequence[Point], across: _Axis, up: _Axis) -> list[Box]:
    """The areas that interval bars and the guessing line cover."""
    bars = [Box(across(0.5) - 3, up.end, across(0.5) + 3, up.start)]
    for p in points:
        x, y = across(p.x.value or 0.0), up(p.y.value or 0.0)
        xs, ys = [across(v) for v in _span(p.x)], [up(v) for v in _span(p.y)]
        bars += [Box(min(xs), y - 4, max(xs), y + 4), Box(x - 4, min(ys), x + 4, max(ys))]
    return bars


def _grid(frame: Box, across: _Axis, up: _Axis) -> Iterator[str]:
    for tick in up.ticks:
        y = up(tick)
        yield f'<path class="grid" d="M{frame.left:.1f},{y:.1f}H{frame.right:.1f}"/>'
        yield (
            f'<text class="tick" x="{frame.left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">'
            f"{100 * tick:.0f}\u2009%</text>"
        )
    for tick in across.ticks:
        x = across(tick)
        yield f'<path class="axis" d="M{x:.1f},{frame.bottom:.1f}v5"/>'
        yield (
            f'<text class="tick" x="{x:.1f}" y="{frame.bottom + 19:.1f}" text-anchor="middle">'
            f"{tick:.2f}</text>"
        )
    yield f'<path class="axis" d="M{frame.left:.1f},{frame.bottom:.1f}H{frame.right:.1f}"/>'
    x = across(0.5)
    yield f'<path class="guess" d="M{x:.1f},{frame.top:.1f}V{frame.bottom:.1f}"/>'
    yield f'<text class="tick" x="{x:.1f}" y="{frame.bottom + 33:.1f}" text-anchor="middle">guessing</text>'
    yield '<text class="name" x="4" y="16">Student accuracy</text>'
    yield (
        f'<text class="name" x="{frame.right:.1f}" y="{frame.bottom + 54:.1f}" text-anchor="end">'
        "Strongest membership attack, AUC</text>"
    )


def _whiskers(point: Point, across: _Axis, up: _Axis) -> str:
    x, y = across(point.x.value or 0.0), up(point.y.value or 0.0)
    path = ""
    if point.x.low is not None and point.x.high is not None:
        low, high = across(point.x.low), across(point.x.high)
        path += f"M{low:.1f},{y - 4:.1f}v8M{low:.1f},{y:.1f}H{high:.1f}M{high:.1f},{y - 4:.1f}v8"
    if point.y.low is not None and point.y.high is not None:
        low, high = up(point.y.low), up(point.y.high)
        path += f"M{x - 4:.1f},{low:.1f}h8M{x:.1f},{low:.1f}V{high:.1f}M{x - 4:.1f},{high:.1f}h8"
    return f'<path class="whisker s{point.series % N_COLOURS}" d="{path}"/>' if path else ""


def _symbol(series: int) -> str:
    return f'<path class="mark s{series % N_COLOURS}" d="{_MARKERS[series % len(_MARKERS)]}"/>'


def _mark(point: Point, place: tuple[float, float]) -> str:
    return f'<g transform="translate({place[0]:.1f} {place[1]:.1f})">{_symbol(point.series)}</g>'


def _leader(box: Box, point: tuple[float, float]) -> str:
    """A thin line to a label that had to move away from its point."""
    near = box.nearest(point)
    if math.dist(near, point) < 28:
        return ""
    return f'<path class="leader" d="M{point[0]:.1f},{point[1]:.1f}L{near[0]:.1f},{near[1]:.1f}"/>'


def _label(point: Point, *, narrow: bool) -> tuple[str, str]:
    most = 20 if narrow else 32
    name = point.label if len(point.label) <= most else point.label[: most - 1].rstrip() + "…"
    return name, f"{100 * (point.y.value or 0.0):.1f}\u2009%, AUC {point.x.value:.2f}"


def _size(text: tuple[str, str]) -> tuple[float, float]:
    """Width and height of a label, estimated generously: the reader's font isn't known here."""
    widths = (_width(text[0]) * _FONT * 0.66 + _KEY, _width(text[1]) * _SMALL * 0.6)
    return max(widths) + 4, _FONT + _SMALL + 8


def _width(text: str) -> float:
    return sum(1.65 if unicodedata.east_asian_width(c) in "WF" else 1.0 for c in text)


def _words(point: Point, text: tuple[str, str], box: Box) -> str:
    """The label, with its marker once more, so that it is told apart however far it had to move."""
    x, y = box.left + 2, box.top + _FONT
    return (
        f'<g transform="translate({x + 5:.1f} {y - 4.5:.1f}) scale(0.72)">{_symbol(point.series)}</g>'
        f'<text class="label" x="{x + _KEY:.1f}" y="{y:.1f}">{escape(text[0])}</text>'
        f'<text class="value" x="{x:.1f}" y="{y + _SMALL + 4:.1f}">{escape(text[1])}</text>'
    )


def _description(points: Sequence[Point]) -> str:
    """The chart in words, for those who don't see it."""
    rows = []
    for point in points:
        y, x = (_with_interval(e, scale, digits) for e, scale, digits in ((point.y, 100, 1), (point.x, 1, 2)))
        rows.append(f"{point.label}: student accuracy {y} percent, strongest attack AUC {x}.")
    return " ".join(["Higher is more accurate, further left is more private; AUC 0.5 is guessing.", *rows])


def _with_interval(estimate: Estimate, scale: float, digits: int) -> str:
    text = f"{scale * (estimate.value or 0.0):.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} (from {scale * estimate.low:.{digits}f} to {scale * estimate.high:.{digits}f})"
