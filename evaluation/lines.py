"""Charts of curves and rows: an attack at every threshold, a budget as it is spent, bytes beside weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from securefd.evaluation.drawing import (
    SMALL,
    Axis,
    Box,
    decades,
    grid,
    line,
    mark,
    picture,
    shortened,
    steps,
    text,
)
from securefd.evaluation.report import Communication, Finding, Spent
from securefd.evaluation.statistics import tpr_ceiling

FLOOR = 1e-3
"""Lowest rate that the axes of a curve show."""
_ROW = 20.0
_MARKED = 4
"""A curve has a marker at every so many points."""


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What (``epsilon``, ``delta``) allows any attack; ``observers``: to whom it is promised."""

    epsilon: float
    delta: float
    observers: tuple[str, ...]


def roc(
    findings: Sequence[Finding],
    ceilings: Sequence[Ceiling],
    *,
    series: Sequence[int],
    title: str,
    width: int,
    prefix: str,
) -> str:
    """The curves of some attacks, one an observer, on log axes; what a claim allows is shaded.

    ``series``: of each attack, which sets its colour, dashes and marker: the same for one observer in every
    drawing.
    """
    rows = len(findings) + max(1, len(ceilings)) + 1
    frame = Box(52.0, 30.0, width - 24.0, 30.0 + 0.72 * (width - 76.0))
    ticks = tuple((rate, f"{100 * rate:g}\u2009%") for rate in (0.001, 0.01, 0.1, 1.0))
    across = Axis(low=FLOOR, high=1.0, start=frame.left, end=frame.right, ticks=ticks, log=True)
    up = Axis(low=FLOOR, high=1.0, start=frame.bottom, end=frame.top, ticks=ticks, log=True)
    height = frame.bottom + 56 + rows * _ROW
    body = [
        *(_allowed(ceiling, across, up) for ceiling in ceilings),
        *grid(frame, across, up, ("False-positive rate", "True-positive rate")),
        f'<path class="guess" d="M{across(FLOOR):.1f},{up(FLOOR):.1f}L{across(1):.1f},{up(1):.1f}"/>',
        *(part for i, each in zip(series, findings, strict=True) for part in _curve(i, each, across, up)),
        *_key(series, findings, ceilings, frame.bottom + 62, width),
    ]
    words = [_ceiling_words(ceiling, whom=True) + "." for ceiling in ceilings] or ["Nothing is claimed."]
    words += [_curve_words(each) for each in findings]
    return picture(body, width=width, height=height, title=title, description=" ".join(words), prefix=prefix)


def _allowed(ceiling: Ceiling, across: Axis, up: Axis) -> str:
    """Below the most that any attack may reach, from the left edge to the right."""
    rates = [10 ** (i / 24 - 3) for i in range(73)]
    top = [
        (across(rate), up(tpr_ceiling(min(rate, 1.0), epsilon=ceiling.epsilon, delta=ceiling.delta)))
        for rate in rates
    ]
    edge = "L".join(f"{x:.1f},{y:.1f}" for x, y in top)
    return (
        f'<path class="allowed" d="M{across.start:.1f},{up.start:.1f}L{edge}V{up.start:.1f}Z"/>'
        f'<path class="ceiling" d="M{edge}"/>'
    )


def _curve(series: int, finding: Finding, across: Axis, up: Axis) -> Iterator[str]:
    """From where something is found on; that is at the floor where it is below."""
    shown = [(f, t) for f, t in zip(finding.roc.fpr, finding.roc.tpr, strict=True) if f >= FLOOR and t > 0]
    at = [(across(f), up(t)) for f, t in [*shown, (1.0, 1.0)]]
    who = _data(finding.observer)
    yield f'<g class="series"{who}>{line(series, at)}'
    for i in range((series * 2) % _MARKED, len(shown), _MARKED):
        (fpr, tpr) = shown[i]
        tip = f"{finding.observer}, {finding.attack}: {_rate(tpr)} of members at {_rate(fpr)} false positives"
        yield mark(series, at[i], tip, scale=0.62)
    yield "</g>"


def _key(
    series: Sequence[int],
    findings: Sequence[Finding],
    ceilings: Sequence[Ceiling],
    top: float,
    width: float,
) -> Iterator[str]:
    y = top
    for i, each in zip(series, findings, strict=True):
        name = shortened(f"{each.observer}: {each.attack}", width - 112, SMALL)
        yield f'<g class="series"{_data(each.observer)}>{line(i, [(8, y - 4), (40, y - 4)])}'
        yield mark(i, (24, y - 4), scale=0.62)
        yield text("key-words", 48, y, name)
        yield text("key-words", width - 6, y, f"AUC {each.auc.value or 0.0:.3f}", "end") + "</g>"
        y += _ROW
    for ceiling in ceilings:
        yield f'<rect class="allowed" x="8" y="{y - 12:.1f}" width="32" height="14"/>'
        yield f'<path class="ceiling" d="M8,{y - 12:.1f}h32"/>'
        words = _ceiling_words(ceiling, whom=len(ceilings) > 1)
        yield text("key-words", 48, y, shortened(words, width - 54, SMALL))
        y += _ROW
    if not ceilings:
        yield text("key-words", 48, y, "nothing is claimed, so nothing is shaded")
        y += _ROW
    yield f'<path class="guess" d="M8,{y - 4:.1f}h32"/>' + text("key-words", 48, y, "guessing")


def _data(observer: str) -> str:
    return f' data-observer="{escape(observer)}"'


def _ceiling_words(ceiling: Ceiling, *, whom: bool) -> str:
    said = f"allowed by ε = {_short(ceiling.epsilon)}, δ = {_short(ceiling.delta)}"
    return f"{said}, promised to {', '.join(ceiling.observers)}" if whom else said


def _curve_words(finding: Finding) -> str:
    told = dict(zip(finding.roc.fpr, finding.roc.tpr, strict=True))
    rates = [f"{_rate(told[f])} at {_rate(f)}" for f in (0.001, 0.01, 0.1) if f in told]
    found = f"true positives {', '.join(rates)} false positives" if rates else "no curve was measured"
    return f"{finding.observer}, {finding.attack}, AUC {finding.auc.value or 0.0:.3f}: {found}."


def _short(value: float) -> str:
    return f"{value:.3g}".replace("e-0", "e-")


def _rate(value: float) -> str:
    return f"{100 * value:.3g}\u2009%"


def budget(spent: Spent, *, title: str, width: int, prefix: str) -> str:
    """Epsilon after each access of one holder, against what is promised."""
    count = len(spent.accesses)
    frame = Box(52.0, 34.0, width - 18.0, 240.0)
    every = math.ceil(count / 12)
    across = Axis(
        low=0,
        high=count,
        start=frame.left,
        end=frame.right,
        ticks=tuple((n, str(n)) for n in range(0, count + 1, every)),
    )
    top = 1.12 * max(spent.limit, *spent.epsilon, 1e-9)
    step = _round_step(top / 5)
    up = Axis(
        low=0,
        high=top,
        start=frame.bottom,
        end=frame.top,
        ticks=tuple((i * step, f"{i * step:.3g}") for i in range(int(top / step) + 1)),
    )
    path = f"M{across(0):.1f},{up(0):.1f}"
    path += "".join(f"H{across(i + 1):.1f}V{up(e):.1f}" for i, e in enumerate(spent.epsilon))
    tips = [f"{what}: ε = {e:.3g}" for what, e in zip(spent.accesses, spent.epsilon, strict=True)]
    body = [
        *grid(frame, across, up, (f"Private accesses of {spent.holder}", "ε spent, composed")),
        f'<path class="limit" d="M{frame.left:.1f},{up(spent.limit):.1f}H{frame.right:.1f}"/>',
        text("tick", frame.left + 6, up(spent.limit) - 6, f"promised: {spent.limit:.3g}"),
        f'<path class="line s0" d="{path}"/>',
        *(mark(0, (across(i + 1), up(spent.epsilon[i])), tip, scale=0.72) for i, tip in enumerate(tips)),
    ]
    most = f"ε = {_short(spent.limit)} at most, at δ = {_short(spent.delta)}"
    return picture(
        body,
        width=width,
        height=frame.bottom + 52,
        title=title,
        description=f"{most}; {spent.holder} had spent, after each access: {'; '.join(tips)}.",
        prefix=prefix,
    )


def _round_step(value: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least ``value``."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * base for base in (1, 2, 5, 10) if power * base >= value * (1 - 1e-9))


def traffic(
    rows: Sequence[tuple[str, Communication]],
    sizes: Sequence[tuple[str, str, str]],
    *,
    width: int,
    prefix: str,
) -> str:
    """Bytes up and down, a client and round, beside what sharing weights would send up: a row a variant.

    ``sizes``: the same three figures in words. Bars reach from the round with the fewest to the one with the
    most bytes.
    """
    counts = [n for _, c in rows for n in (c.up, c.down, c.weights or 0, *c.up_by_round, *c.down_by_round)]
    low, high = decades(n for n in counts if n > 0)
    top, gap = 58.0, 46.0
    frame = Box(12.0, top, width - 16.0, top + gap * len(rows))
    ticks = tuple((value, _bytes(value)) for value in steps(low, high))
    across = Axis(low=low, high=high, start=frame.left + 8, end=frame.right - 8, ticks=ticks, log=True)
    body = [*_traffic_key()]
    for tick, words in ticks:
        body.append(f'<path class="grid" d="M{across(tick):.1f},{top - 8:.1f}V{frame.bottom:.1f}"/>')
        body.append(text("tick", across(tick), frame.bottom + 18, words, "middle"))
    body.append(text("name", frame.right, frame.bottom + 38, "Bytes a client and round", "end"))
    told = []
    for i, ((name, c), size) in enumerate(zip(rows, sizes, strict=True)):
        y = top + gap * i + 28
        body.append(text("label", frame.left + 4, y - 14, shortened(name, width - 40)))
        body.append(f'<path class="axis" d="M{frame.left:.1f},{y:.1f}H{frame.right:.1f}"/>')
        body += _row(name, c, size, across, y)
        weights = f", and sharing weights would send {size[2]} up" if c.weights else ""
        told.append(f"{name}: {size[0]} up, {size[1]} down{weights}.")
    return picture(
        body,
        width=width,
        height=frame.bottom + 48,
        title="Bytes a client and round, beside sharing weights",
        description=" ".join(told),
        prefix=prefix,
    )


def _row(name: str, c: Communication, size: tuple[str, str, str], across: Axis, y: float) -> Iterator[str]:
    kinds = (
        ("weights, if shared instead", c.weights or 0, (), size[2]),
        ("down", c.down, c.down_by_round, size[1]),
        ("up", c.up, c.up_by_round, size[0]),
    )
    shown = [(series, *kind) for series, kind in zip((3, 1, 0), kinds, strict=True) if kind[1]]
    for series, _, _, by_round, _ in shown:
        ends = [across(n) for n in by_round if n > 0]
        if ends and max(ends) - min(ends) > 1:
            a, b = min(ends), max(ends)
            bar = f"M{a:.1f},{y - 5:.1f}v10M{a:.1f},{y:.1f}H{b:.1f}M{b:.1f},{y - 5:.1f}v10"
            yield f'<path class="whisker s{series}" d="{bar}"/>'
    for series, kind, count, _, words in shown:
        yield mark(series, (across(count), y), f"{name}, {kind}: {words}")


def _traffic_key() -> Iterator[str]:
    x = 16.0
    for series, words in ((0, "up"), (1, "down"), (3, "weights, if shared instead")):
        yield mark(series, (x, 18.0)) + text("key-words", x + 13, 22.0, words)
        x += 13 + len(words) * SMALL * 0.6 + 26


def _bytes(value: float) -> str:
    """A round number of bytes, in the unit that suits it."""
    unit = min(int(math.log10(value) + 1e-9) // 3, 3)
    return f"{value / 1000**unit:g}\u2009{('B', 'kB', 'MB', 'GB')[unit]}"
