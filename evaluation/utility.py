"""Calibration and accuracy by class and group, as a report says them: with intervals and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from securefd.evaluation.report import Estimate, Part, accuracy, estimate
from securefd.result import Run

NO_STUDENT = "this run has no student"
OLD = "not measured in this run"


def calibration(run: Run) -> Estimate:
    """The student's expected calibration error, with its bootstrap interval; a reason where there is none."""
    found = _of(run)
    if found is None:
        return Estimate(reason=NO_STUDENT if run.metrics["student.accuracy"] is None else OLD)
    names = ("calibration error", "calibration error.low", "calibration error.high")
    return estimate(*(found[name] for name in names))


def by_class(run: Run) -> tuple[Part, ...]:
    """The student's accuracy on each class of the test set; empty without a student."""
    return _parts((_of(run) or {}).get("classes", ()))


def by_group(run: Run) -> tuple[Part, ...]:
    """The same on each group of test records, by ``grouped_by``; empty where none are known."""
    return _parts((_of(run) or {}).get("groups", ()))


def grouped_by(run: Run) -> str:
    """What tells the groups apart: a column of the data, or ``owner``; empty without groups."""
    return str((_of(run) or {}).get("grouped by", ""))


def _of(run: Run) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = run.metrics.get("student.utility")
    return found


def _parts(rows: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    return tuple(
        Part(
            name=str(row["name"]) or "(empty)",
            records=row["records"],
            accuracy=accuracy(row["accuracy"], row["records"]),
        )
        for row in rows
    )
