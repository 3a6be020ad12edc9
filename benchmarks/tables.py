"""How figures are written: tables, targets and verdicts, and where the figures were found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

NOT_RUN = "not run"

Found = Mapping[str, Any]
"""What one benchmark kept."""
Row = tuple[str, str, float | str | None, str, bool | None]
"""A figure's name, its target, what was found or why nothing was, how a number is shown, whether it's met."""


def at_most(name: str, target: float, found: float, shown: str, unit: str = "") -> Row:
    return name, f"≤ {target:g}{unit}", found, shown, found <= target


def at_least(name: str, target: float, found: float, shown: str, unit: str = "") -> Row:
    return name, f"≥ {target:g}{unit}", found, shown, found >= target


def targets(rows: Iterable[Row]) -> str:
    lines = ([name, target, _shown(found, shown), verdict(met)] for name, target, found, shown, met in rows)
    return "## Targets\n\n" + table(["figure", "target", "found", ""], lines)


def _shown(found: float | str | None, shown: str) -> str:
    return NOT_RUN if found is None else found if isinstance(found, str) else format(found, shown)


def verdict(met: bool | None) -> str:
    return {True: "met", False: "**missed**", None: ""}[met]


def interval(values: Sequence[float], seeds: int) -> str:
    """The mean of seeds' shares, with its 95% interval by Student's t; nothing of nothing.

    ``seeds``: how many there are to be; fewer are told.
    """
    from scipy.stats import t

    if not values:
        return ""
    fewer = "" if len(values) == seeds else f" ({len(values)} of {seeds} seeds)"
    if len(values) == 1:
        return f"{values[0]:.2%}{fewer}"
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):.2%} ± {100 * half:.2f}{fewer}"


def met_by_all(values: Sequence[float], seeds: int, least: float) -> bool | None:
    """Whether the mean reaches ``least``: None until all seeds have been run."""
    return mean(values) >= least if len(values) == seeds else None


def where(found: Iterable[Found]) -> str:
    """Machine, versions and days of some results."""
    places = [each["where"] for each in found if "where" in each]
    if not places:
        return ""
    keys = ("machine", "system", "versions", "day")
    return "; ".join(" / ".join(sorted({place[key] for place in places})) for key in keys) + "."


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
