"""Places for the labels of points, such that none covers another or a marker."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from securefd.evaluation.drawing import Box


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
