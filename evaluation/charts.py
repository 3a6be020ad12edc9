"""Charts of variants as points: what each gains, against what an attack found or what it promises."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from securefd.evaluation.drawing import (
    FONT,
    N_COLOURS,
    SMALL,
    Axis,
    Box,
    decades,
    grid,
    letters,
    mark,
    picture,
    shortened,
    steps,
    text,
)
from securefd.evaluation.labels import place_labels
from securefd.evaluation.report import Estimate

_KEY = 15.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 18.0, 34.0, 62.0
_PROMISELESS = "none"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A variant: ``x`` the strongest attack's AUC, ``y`` the student's accuracy, both measured."""

    label: str
    x: Estimate
    y: Estimate
    series: int


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A variant: ``epsilon`` as promised to whom it promises least, or None; ``found``: what an attack proved
    to leak, or None; ``terms``: unit and relation; ``accuracy``: the student's, measured.
    """

    label: str
    epsilon: float | None
    found: float | None
    terms: str
    accuracy: Estimate
    series: int


@dataclass(frozen=True, kw_only=True)
class _Item:
    """A point as it is drawn. ``figures``: the label's second line; ``words``: all of it, read aloud."""

    label: str
    figures: str
    words: str
    x: float
    across: tuple[float, ...]
    y: Estimate
    series: int


_Across = Callable[[Box, float], Axis]
"""The horizontal axis in a frame, with at most about so many ticks."""
_Behind = Callable[[Box, Axis, Axis], Iterator[str]]
"""What is drawn behind the points."""


def privacy_utility(points: Sequence[Point], *, width: int, prefix: str) -> str:
    """Student accuracy against the strongest attack's AUC, one labelled point a variant.

    ``width`` is the drawing's width in SVG units (about pixels); ``prefix`` keeps ids apart where a page
    holds several drawings. Labels never overlap: the drawing grows until all of them fit.
    """
    items = [
        _Item(
            label=p.label,
            figures=f"{_percent(p.y)}, AUC {p.x.value:.2f}",
            words=f"{p.label}: student accuracy {_told(p.y, 100, 1)} percent, "
            f"strongest attack AUC {_told(p.x, 1, 2)}.",
            x=p.x.value or 0.0,
            across=_span(p.x),
            y=p.y,
            series=p.series,
        )
        for p in points
    ]

    def across(frame: Box, most: float) -> Axis:
        return _share_axis(
            [v for p in points for v in _span(p.x)] + [0.5], (frame.left, frame.right), most, 1
        )

    def guessing(frame: Box, x: Axis, _: Axis) -> Iterator[str]:
        yield f'<path class="guess" d="M{x(0.5):.1f},{frame.top:.1f}V{frame.bottom:.1f}"/>'
        yield text("tick", x(0.5), frame.bottom + 33, "guessing", "middle")

    said = "Higher is more accurate, further left is more private; AUC 0.5 is guessing."
    return _scatter(
        items,
        across,
        guessing,
        width=width,
        prefix=prefix,
        title="Privacy against utility",
        said=said,
        name="Strongest membership attack, AUC",
        barred=lambda x: (x(0.5),),
    )


def frontier(promises: Sequence[Promise], *, width: int, prefix: str) -> str:
    """Student accuracy against the epsilon promised, with a line along those that no other one dominates.

    A bar reaches from what an attack proved to leak to what is promised: the truth lies between. Who promises
    nothing stands apart, at the right. Sizes are as of `privacy_utility`.
    """
    told = [p for p in promises if p.epsilon is not None]
    values = [v for p in told for v in (p.epsilon, p.found) if v is not None]
    low, high = decades(v for v in values if v >= 0.01)
    # A place apart for those without a promise, who are spread over it: they often are equally accurate.
    apart = [p.label for p in promises if p.epsilon is None]
    slot = (high / low) ** min(0.09, 0.3 / max(1, len(apart)))
    items = [_promised(p, low, high * slot ** (2 + _rank(apart, p))) for p in promises]
    end, middle = high * slot ** (2.5 + len(apart)), high * slot ** (1.5 + len(apart) / 2)
    best = _best(told)

    def across(frame: Box, _: float) -> Axis:
        ticks = [(value, f"{value:g}") for value in steps(low, high)]
        if apart:
            ticks.append((middle, _PROMISELESS))
        return Axis(
            low=low, high=end, start=frame.left + 12, end=frame.right - 24, ticks=tuple(ticks), log=True
        )

    def line(_: Box, x: Axis, y: Axis) -> Iterator[str]:
        at = [(x(p.epsilon or 0.0), y(p.accuracy.value or 0.0)) for p in best]
        if len(at) > 1:
            path = f"M{at[0][0]:.1f},{at[0][1]:.1f}" + "".join(f"H{a:.1f}V{b:.1f}" for a, b in at[1:])
            yield f'<path class="frontier" d="{path}"/>'

    said = "Higher is more accurate, further left is a stronger promise."
    if len(best) > 1:
        said += f" None of these is beaten in both: {', '.join(p.label for p in best)}."
    return _scatter(
        items,
        across,
        line,
        width=width,
        prefix=prefix,
        title="Promise against utility",
        said=said,
        name="ε promised, at most",
        barred=lambda _: (),
    )


def _rank(apart: Sequence[str], p: Promise) -> int:
    return apart.index(p.label) if p.epsilon is None else 0


def _promised(p: Promise, low: float, aside: float) -> _Item:
    """``low``: the axis's end, which bars don't pass; ``aside``: where it stands without a promise."""
    claim = "no ε promised" if p.epsilon is None else f"ε ≤ {p.epsilon:.3g}"
    words = f"{p.label}: student accuracy {_told(p.accuracy, 100, 1)} percent, "
    words += claim if p.epsilon is None else f"epsilon at most {p.epsilon:.3g} {p.terms}"
    if p.found is not None:
        words += f", at least {p.found:.3g} leaks"
    x = aside if p.epsilon is None else p.epsilon
    bar = () if p.found is None or p.epsilon is None else (min(max(p.found, low), x), x)
    return _Item(
        label=p.label,
        figures=f"{_percent(p.accuracy)}, {claim}",
        words=words + ".",
        x=x,
        across=bar,
        y=p.accuracy,
        series=p.series,
    )


def _best(told: Sequence[Promise]) -> list[Promise]:
    """Those that no other beats in both, by rising epsilon; none where terms differ: these don't compare."""
    if len({p.terms for p in told}) != 1:
        return []
    kept: list[Promise] = []
    for p in sorted(told, key=lambda p: (p.epsilon or 0.0, -(p.accuracy.value or 0.0))):
        if not kept or (p.accuracy.value or 0.0) > (kept[-1].accuracy.value or 0.0):
            kept.append(p)
    return kept


def _scatter(
    items: Sequence[_Item],
    across: _Across,
    behind: _Behind,
    *,
    width: int,
    prefix: str,
    title: str,
    said: str,
    name: str,
    barred: Callable[[Axis], tuple[float, ...]],
) -> str:
    labels = [(shortened(i.label, width / 2 - _KEY), i.figures) for i in items]
    boxes = None
    height = max(300.0, 0.52 * width) + 20 * max(0, len(items) - 5)
    while boxes is None:
        frame = Box(_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)
        x = across(frame, width / 80)
        y = _share_axis([v for i in items for v in _span(i.y)], (frame.bottom, frame.top), height / 70, 100)
        at = [(x(i.x), y(i.y.value or 0.0)) for i in items]
        bars = [Box(line - 3, frame.top, line + 3, frame.bottom) for line in barred(x)]
        bars += [bar for i in items for bar in _bars(i, x, y)]
        boxes = place_labels([_size(label) for label in labels], at, bars, frame)
        height += 80
    body = [
        *grid(frame, x, y, (name, "Student accuracy"), drop=54),
        *behind(frame, x, y),
        *(_whiskers(item, x, y) for item in items),
        *(_leader(box, place) for box, place in zip(boxes, at, strict=True)),
        *(mark(i.series, place, i.words) for i, place in zip(items, at, strict=True)),
        *(_words(i.series, label, box) for i, label, box in zip(items, labels, boxes, strict=True)),
    ]
    return picture(
        body,
        width=width,
        height=frame.bottom + _BOTTOM,
        title=title,
        description=" ".join([said, *(item.words for item in items)]),
        prefix=prefix,
    )


def _share_axis(values: Sequence[float], ends: tuple[float, float], most: float, scale: int) -> Axis:
    """An axis within [0, 1], with about ``most`` round ticks at most; in per cent if ``scale`` is 100."""
    low, high = min(values, default=0.5), max(values, default=1.0)
    pad = max(0.08 * (high - low), 0.01)
    low, high = max(0.0, low - pad), min(1.0, high + pad)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.25, 0.5) if (high - low) / s <= most or s == 0.5)
    places = [
        round(i * step, 6) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]
    ticks = tuple((v, f"{v:.2f}" if scale == 1 else f"{scale * v:.0f}\u2009%") for v in places)
    return Axis(low=low, high=high, start=ends[0], end=ends[1], ticks=ticks)


def _bars(item: _Item, across: Axis, up: Axis) -> Iterator[Box]:
    """The areas that interval bars cover."""
    x, y = across(item.x), up(item.y.value or 0.0)
    xs = [across(v) for v in (*item.across, item.x)]
    ys = [up(v) for v in _span(item.y)]
    yield Box(min(xs), y - 4, max(xs), y + 4)
    yield Box(x - 4, min(ys), x + 4, max(ys))


def _whiskers(item: _Item, across: Axis, up: Axis) -> str:
    x, y = across(item.x), up(item.y.value or 0.0)
    path = ""
    if len(item.across) > 1:
        low, high = across(item.across[0]), across(item.across[-1])
        path += f"M{low:.1f},{y - 4:.1f}v8M{low:.1f},{y:.1f}H{high:.1f}M{high:.1f},{y - 4:.1f}v8"
    if item.y.low is not None and item.y.high is not None:
        low, high = up(item.y.low), up(item.y.high)
        path += f"M{x - 4:.1f},{low:.1f}h8M{x:.1f},{low:.1f}V{high:.1f}M{x - 4:.1f},{high:.1f}h8"
    return f'<path class="whisker s{item.series % N_COLOURS}" d="{path}"/>' if path else ""


def _leader(box: Box, point: tuple[float, float]) -> str:
    """A thin line to a label that had to move away from its point."""
    near = box.nearest(point)
    if math.dist(near, point) < 28:
        return ""
    return f'<path class="leader" d="M{point[0]:.1f},{point[1]:.1f}L{near[0]:.1f},{near[1]:.1f}"/>'


def _size(label: tuple[str, str]) -> tuple[float, float]:
    """Width and height of a label, estimated generously: the reader's font isn't known here."""
    widths = (letters(label[0]) * FONT * 0.66 + _KEY, letters(label[1]) * SMALL * 0.6)
    return max(widths) + 4, FONT + SMALL + 8


def _words(series: int, label: tuple[str, str], box: Box) -> str:
    """The label, with its marker once more, so that it is told apart however far it had to move."""
    x, y = box.left + 2, box.top + FONT
    return (
        mark(series, (x + 5, y - 4.5), scale=0.72)
        + text("label", x + _KEY, y, label[0])
        + text("value", x, y + SMALL + 4, label[1])
    )


def _span(estimate: Estimate) -> tuple[float, ...]:
    return tuple(v for v in (estimate.low, estimate.value, estimate.high) if v is not None)


def _percent(estimate: Estimate) -> str:
    return f"{100 * (estimate.value or 0.0):.1f}\u2009%"


def _told(estimate: Estimate, scale: float, digits: int) -> str:
    text = f"{scale * (estimate.value or 0.0):.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} (from {scale * estimate.low:.{digits}f} to {scale * estimate.high:.{digits}f})"
