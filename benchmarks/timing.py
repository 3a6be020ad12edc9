"""Times of works that are compared: one after the other in every turn, so that all share the same weather."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def in_turn(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Processor seconds of each work, all of them in turn, after one turn that doesn't count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            if repeat:
                times[name].append(time.process_time() - began)
    return {name: spread(found) for name, found in times.items()}


def spread(found: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(found), "lowest": min(found), "highest": max(found)}


def scaled(figures: Mapping[str, float], factor: float) -> dict[str, float]:
    """Every figure, ``factor`` times."""
    return {name: factor * value for name, value in figures.items()}
