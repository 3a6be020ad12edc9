"""A sweep as one page that stands alone: the frontier as a chart, and every setting in a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from securefd.evaluation import drawing
from securefd.evaluation.drawing import Axis, Box
from securefd.evaluation.policy import Policy
from securefd.evaluation.sweep_config import SEED, Sweep
from securefd.evaluation.sweep_results import Row, cheapest, counts, telling

ON, OFF = 0, 1
"""Series of the chart, told apart by shape and colour: on the frontier, and not."""
WIDTH, LEFT, RIGHT, TOP, HEIGHT, BOTTOM = 720, 58.0, 24.0, 34.0, 380.0, 56.0
LABEL_HEIGHT = 15.0


def page(plan: Sweep, rows: Sequence[Row], settings: Sequence[Row], policy: Policy | None) -> str:
    """The page. Whatever comes from a file is escaped; only our own drawings and style are markup."""
    alike = [key for key in plan.columns if key != SEED and len({row[key] for row in settings}) == 1]
    numbered = list(enumerate(settings, 1))
    kinds = dict.fromkeys((row["unit"], row["relation"]) for row in settings if row["epsilon"] is not None)
    return _template().render(
        observer=plan.frontier,
        keys=telling(plan.columns, settings),
        settings=numbered,
        same=[(key, settings[0][key]) for key in alike if settings[0][key] is not None],
        charts=[
            (unit, relation, Markup(chart(numbered, unit, relation, plan.frontier)))  # noqa: S704
            for unit, relation in kinds
        ],
        counts=counts(rows),
        problems=[row for row in rows if row["status"] in ("failed", "refused")],
        policy=policy,
        cheapest=next((n for n, row in numbered if policy and row is cheapest(settings)), None),
        style=Markup(_resource("report.css")),  # noqa: S704
    )


def chart(settings: Sequence[tuple[int, Row]], unit: str, relation: str, observer: str) -> str:
    """Mean accuracy against epsilon of all settings with such a claim, by their numbers; an empty text if
    none has an accuracy.
    """
    points = [
        (number, row)
        for number, row in settings
        if (row["unit"], row["relation"]) == (unit, relation) and row["student.accuracy"] is not None
    ]
    if not points:
        return ""
    frame = Box(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    across, up = _epsilons(points, frame), _accuracies(points, frame)
    best = sorted((row for _, row in points if row["frontier"]), key=lambda row: float(row["epsilon"]))
    steps = [(across(row["epsilon"]), up(row["student.accuracy"])) for row in best]
    return drawing.picture(
        [
            *drawing.grid(frame, across, up, (f"epsilon towards {observer}, log scale", "Student accuracy")),
            f'<path class="frontier" d="{_stairs(steps, frame.right)}"/>' if steps else "",
            *(_whisker(row, across, up) for _, row in points),
            *(_point(number, row, across, up) for number, row in sorted(points, key=_on)),
            *_numbers(points, across, up, frame),
        ],
        width=WIDTH,
        height=HEIGHT,
        title=f"Student accuracy against epsilon per {unit}, {relation}",
        description="Higher is more accurate, further left is more private. "
        + " ".join(
            f"Setting {number}: epsilon {row['epsilon']:.3g}, accuracy {row['student.accuracy']:.1%}"
            f"{', on the frontier' if row['frontier'] else ''}."
            for number, row in points
        ),
        prefix=f"frontier-{unit}-{relation}",
    )


def _epsilons(points: Sequence[tuple[int, Row]], frame: Box) -> Axis:
    """A logarithmic axis with ticks at 1, 2 and 5 of each power of ten, a tenth wider than the values."""
    values = [float(row["epsilon"]) for _, row in points if row["epsilon"] > 0] or [1.0]
    low, high = min(values) / 1.4, max(values) * 1.4
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [head * 10.0**power for power in powers for head in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) > 8:
        inside = [tick for tick in inside if math.log10(tick).is_integer()]
    return Axis(
        low=low,
        high=high,
        start=frame.left,
        end=frame.right,
        ticks=tuple((tick, f"{tick:g}") for tick in inside),
        log=True,
    )


def _accuracies(points: Sequence[tuple[int, Row]], frame: Box) -> Axis:
    values = [float(v) for _, row in points for v in _span(row)]
    low, high = max(0.0, min(values) - 0.03), min(1.0, max(values) + 0.03)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 6 or s == 0.2)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = tuple((i * step, f"{100 * i * step:.0f}\u2009%") for i in range(first, last + 1))
    return Axis(low=low, high=high, start=frame.bottom, end=frame.top, ticks=ticks)


def _span(row: Row) -> Iterator[float]:
    for name in ("student.accuracy", "student.accuracy.low", "student.accuracy.high"):
        if row[name] is not None:
            yield row[name]


def _stairs(steps: Sequence[tuple[float, float]], right: float) -> str:
    """What the best accuracy is at each epsilon: it holds until another setting has more."""
    path = f"M{steps[0][0]:.1f},{steps[0][1]:.1f}"
    for x, y in steps[1:]:
        path += f"H{x:.1f}V{y:.1f}"
    return f"{path}H{right:.1f}"


def _on(point: tuple[int, Row]) -> bool:
    """What is on the frontier is drawn last, above the others."""
    return bool(point[1]["frontier"])


def _series(row: Row) -> int:
    return ON if row["frontier"] else OFF


def _whisker(row: Row, across: Axis, up: Axis) -> str:
    low, high = row["student.accuracy.low"], row["student.accuracy.high"]
    if low is None:
        return ""
    x = across(row["epsilon"])
    path = f"M{x - 4:.1f},{up(low):.1f}h8M{x:.1f},{up(low):.1f}V{up(high):.1f}M{x - 4:.1f},{up(high):.1f}h8"
    return f'<path class="whisker s{_series(row)}" d="{path}"/>'


def _point(number: int, row: Row, across: Axis, up: Axis) -> str:
    tip = f"{number}: epsilon {row['epsilon']:.3g}, accuracy {row['student.accuracy']:.1%}"
    return drawing.mark(_series(row), (across(row["epsilon"]), up(row["student.accuracy"])), tip)


def _numbers(points: Sequence[tuple[int, Row]], across: Axis, up: Axis, frame: Box) -> Iterator[str]:
    """A setting's number beside its point, moved down where another number is; left out if that is far."""
    placed: list[Box] = []
    for number, row in sorted(points, key=lambda point: not point[1]["frontier"]):
        x, y = across(row["epsilon"]) + 11, up(row["student.accuracy"]) + 4
        wide = 8.0 * len(str(number))
        for shift in (0, 1, -1, 2, -2):
            box = Box(x, y + shift * LABEL_HEIGHT - 11, x + wide, y + shift * LABEL_HEIGHT + 3)
            if box.inside(Box(frame.left, frame.top - 8, WIDTH, frame.bottom)) and not any(
                box.meets(other) for other in placed
            ):
                placed.append(box)
                yield drawing.text("value", x, box.bottom - 3, str(number))
                break


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"


def _within(row: Row, name: str) -> str:
    low, high = row[f"{name}.low"], row[f"{name}.high"]
    return "" if low is None else f"[{100 * low:.1f}, {100 * high:.1f}]"


def _resource(name: str) -> str:
    return resources.files("securefd.evaluation").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_resource),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(percent=_percent, within=_within)
    environment.globals.update(marker=lambda series: Markup(drawing.marker(series)))  # noqa: S704
    return environment.get_template("sweep.html.j2")
