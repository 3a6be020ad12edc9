"""What the protection of whole clients cost on MNIST, as ``RESULTS.md`` tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import client
from benchmarks.tables import NOT_RUN, Row, interval, met_by_all, table, where

Cells = Sequence[Mapping[str, Any]]


def targets(found: Cells) -> list[Row]:
    """Rows of the table of targets."""
    rows: list[Row] = []
    for (name, epsilon), least in client.TARGETS.items():
        values = _values(_of_today(found), name, epsilon)
        met = met_by_all(values, len(client.SEEDS), least)
        what = "PATE's split" if name == "pate" else "the 10,000 held out"
        rows.append(
            (
                f"client level, nobody trusted: student, ε = {epsilon:g}, replace-one, {what}",
                f"≥ {least:.1%}",
                interval(values, len(client.SEEDS)) or None,
                "",
                met,
            )
        )
    return rows


def section(found: Cells) -> str:
    """The part of RESULTS.md on client-level privacy."""
    head = "## Client level, nobody trusted\n\n`make bench ONLY=client MNIST=folder`\n\n"
    if not found:
        return head + f"{NOT_RUN}\n"
    today = _of_today(found)
    epsilons = [*sorted(e for e in client.EPSILONS if e is not None), None]
    rows = [
        [
            row.what,
            *(interval(_values(today, row.name, e), len(client.SEEDS)) or NOT_RUN for e in epsilons),
        ]
        for row in client.ROWS
    ]
    parts = [
        head + _settings(),
        table(["ε", *("no noise" if e is None else f"{e:g}" for e in epsilons)], rows).rstrip(),
    ]
    old = sorted(f"`{_cell(each).name}`" for each in found if each not in today)
    if old:
        parts.append(
            "Run under other settings, which their files in `benchmarks/results/` hold, and not counted: "
            f"{', '.join(old)}."
        )
    return "\n\n".join([*parts, where(found)]) + "\n"


def _settings() -> str:
    chosen = client.settings(next(client.table()))
    return (
        f"MNIST, {client.CLIENTS} clients of 200 records each, whose models are heads on features learnt "
        f"from the public images: the first {client.PUBLIC:,} test images, without labels. Votes, with "
        "shares of discrete Gaussian noise under masks, everyone with everyone. Unit: one client, all of its "
        f"records. Relation: replace-one. δ = {client.DELTA:g}; ε is towards server, peers and users of the "
        f"student. Judged on the last {client.HELD_OUT:,} training images, which are nobody's; on PATE's "
        "split clients have 240 records each, and the last 1,000 test images judge. With a threshold of 200 "
        "of whom 25 collude, noise is for the 175 that are left, ε is also towards that coalition, and in "
        f"these runs all attend. Student: {_listed(chosen['student'])}. Accuracy: mean over seeds "
        f"{', '.join(map(str, client.SEEDS))}, with its 95% interval by Student's t. Settings were chosen on "
        "another split of training images; that a first student, of 380 steps, fell short on PATE's split "
        "was seen before it was trained for longer, how much longer was chosen on that other split."
    )


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())


def _of_today(found: Cells) -> Cells:
    return [each for each in found if each["settings"] == client.settings(_cell(each))]


def _cell(found: Mapping[str, Any]) -> client.Cell:
    return client.Cell(row=found["row"], epsilon=found["epsilon"], seed=found["seed"])


def _values(found: Cells, row: str, epsilon: float | None) -> list[float]:
    return [each["student.accuracy"] for each in found if (each["row"], each["epsilon"]) == (row, epsilon)]
