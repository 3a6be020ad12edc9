"""What record-level privacy cost on MNIST, as ``RESULTS.md`` tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import record
from benchmarks.tables import NOT_RUN, Row, interval, met_by_all, table, where

Cells = Sequence[Mapping[str, Any]]

CURVES = (
    ("head", "student.accuracy", "`head`: student"),
    ("head", "mean.accuracy", "`head`: the clients' mean answer"),
    ("head", "alone.accuracy", "`head`: a client alone"),
    ("dpsgd", "student.accuracy", "`dpsgd`: student"),
    ("dpsgd", "mean.accuracy", "`dpsgd`: the clients' mean answer"),
    ("dpsgd", "alone.accuracy", "`dpsgd`: a client alone"),
    ("dp-fedavg", "student.accuracy", "DP-FedAvg: the shared model"),
)
"""Row, figure, and how they are called."""


def targets(found: Cells) -> list[Row]:
    """Rows of the table of targets."""
    rows: list[Row] = []
    for epsilon, least in record.TARGETS.items():
        today = [cell for cell in found if _is_of_today(cell)]
        values = _values(today, "head", epsilon, "student.accuracy")
        met = met_by_all(values, len(record.SEEDS), least)
        name = f"record level: student of `head`, ε = {epsilon:g} for each client's records, replace-one"
        rows.append((name, f"≥ {least:.1%}", interval(values, len(record.SEEDS)) or None, "", met))
    return rows


def section(found: Cells) -> str:
    """The part of RESULTS.md on record-level privacy."""
    head = "## Record level, few clients\n\n`make bench ONLY=record MNIST=folder`\n\n"
    today = [cell for cell in found if _is_of_today(cell)]
    if not found:
        return head + f"{NOT_RUN}\n"
    epsilons = [*sorted(e for e in record.EPSILONS if e is not None), None]
    rows = [
        [
            name,
            *(interval(_values(today, row, e, figure), len(record.SEEDS)) or NOT_RUN for e in epsilons),
        ]
        for row, figure, name in CURVES
    ]
    parts = [
        head + _settings(),
        table(["ε", *("no noise" if e is None else f"{e:g}" for e in epsilons)], rows).rstrip(),
    ]
    old = sorted({f"`{_name(cell)}`" for cell in found if not _is_of_today(cell)})
    if old:
        parts.append(
            "Run under other settings, which their files in `benchmarks/results/` hold, and not counted: "
            f"{', '.join(old)}."
        )
    return "\n\n".join([*parts, where(found)]) + "\n"


def _settings() -> str:
    dpsgd, shared = (record.STEP[row] for row in ("dpsgd", "dp-fedavg"))
    return (
        f"MNIST, {record.CLIENTS} clients of {record.RECORDS:,} records each, {record.PUBLIC:,} public "
        "images without labels. Unit: one record of one client. Relation: replace-one. δ = "
        f"{record.DELTA:g} for each client's records; ε is for all of a run, towards all but the client. "
        "Accuracy on MNIST's 10,000 test images: mean over seeds "
        f"{', '.join(map(str, record.SEEDS))}, with its 95% interval by Student's t. Settings were chosen on "
        "training images that were held out, for another seed.\n\n"
        f"`head`: method `{record.METHOD['name']}`, one round, student: {_listed(record.STUDENT)}. "
        "`dpsgd`: the same with a cnn for each client, trained from scratch by DP-SGD: "
        f"{_listed(record.DPSGD | dpsgd)}. "
        "DP-FedAvg: a cnn too, with DP-SGD as FedAvg's local training: unit and relation are the same: "
        f"{_listed(record.SHARED | shared)}. No noise: `dpsgd` with "
        f"{_listed(record.DPSGD_PLAIN)} of Adam, DP-FedAvg with {_listed(record.SHARED_PLAIN)}."
    )


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())


def _is_of_today(cell: Mapping[str, Any]) -> bool:
    kept = {key: cell[key] for key in ("row", "epsilon", "seed")}
    return bool(cell["settings"] == record.settings(record.Cell(**kept)))


def _values(found: Cells, row: str, epsilon: float | None, figure: str) -> list[float]:
    return [cell[figure] for cell in found if (cell["row"], cell["epsilon"]) == (row, epsilon)]


def _name(cell: Mapping[str, Any]) -> str:
    return record.Cell(row=cell["row"], epsilon=cell["epsilon"], seed=cell["seed"]).name
