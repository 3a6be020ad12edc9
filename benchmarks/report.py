"""``RESULTS.md``: every figure that was measured, those that weren't, and the targets beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import (
    audits,
    audits_report,
    calibration,
    client,
    client_report,
    communication,
    fleet,
    homomorphic,
    mnist,
    noise,
    pairs,
    record,
    record_report,
    scale,
    scoring,
    sealing,
    sealing_report,
    sweep,
)
from benchmarks.store import kept
from benchmarks.tables import NOT_RUN, Found, Row, at_least, at_most, table, targets, verdict, where

PLACE = Path(__file__).parent / "RESULTS.md"

Cells = Mapping[tuple[str, float], Sequence[Mapping[str, Any]]]
"""Results on MNIST by method and alpha, in order of seeds."""

HEAD = """# Results

Written by `make bench`, never by hand. `make bench ONLY=name` measures one part again: `fleet`,
`communication`, `sealing`, `homomorphic`, `noise`, `calibration`, `scoring`, `pairs`, `sweep`, `demo`,
`audits`, `scale`, `client`, `record`, `mnist`, or one method on MNIST, as in `ONLY=mnist:balanced`; `audits`,
`scale`, `client`, `record` and `mnist` also need `MNIST=folder`, with MNIST's IDX files. What was measured is
kept in `benchmarks/results/`. A figure that misses its target is printed as it is.
"""


def write(place: Path = PLACE) -> None:
    """Put the results together anew."""
    partial = place.with_suffix(".partial")
    partial.write_text(
        text(
            kept(fleet.PLACE),
            kept(communication.PLACE),
            kept(scale.PLACE),
            kept(sealing.PLACE),
            kept(homomorphic.PLACE),
            kept(noise.PLACE),
            mnist.results(),
            client.results(),
            record.results(),
            kept(scoring.PLACE),
            kept(calibration.PLACE),
            kept(pairs.PLACE),
            kept(audits.DEMO),
            audits.results(),
            kept(sweep.PLACE),
        )
    )
    os.replace(partial, place)


def text(
    of_fleet: Mapping[str, Any] | None,
    of_communication: Mapping[str, Any] | None,
    of_scale: Mapping[str, Any] | None,
    of_sealing: Mapping[str, Any] | None,
    of_homomorphic: Mapping[str, Any] | None,
    of_noise: Mapping[str, Any] | None,
    of_mnist: Sequence[Mapping[str, Any]],
    of_client: Sequence[Mapping[str, Any]] = (),
    of_record: Sequence[Mapping[str, Any]] = (),
    of_scoring: Mapping[str, Any] | None = None,
    of_calibration: Mapping[str, Any] | None = None,
    of_pairs: Mapping[str, Any] | None = None,
    of_demo: Mapping[str, Any] | None = None,
    of_audits: Mapping[str, Mapping[str, Any]] | None = None,
    of_sweep: Mapping[str, Any] | None = None,
) -> str:
    """The file, from what is there."""
    cells: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for cell in sorted(of_mnist, key=lambda cell: int(cell["seed"])):
        cells.setdefault((cell["method"], cell["alpha"]), []).append(cell)
    parts = (
        HEAD,
        targets(
            _mnist_targets(cells)
            + _fleet_targets(of_fleet)
            + _scale_targets(of_scale)
            + sealing_report.masked_targets(of_sealing)
            + sealing_report.homomorphic_targets(of_homomorphic)
            + noise.targets(of_noise)
            + calibration.targets(of_calibration)
            + scoring.targets(of_scoring)
            + pairs.targets(of_pairs)
            + audits_report.targets(of_demo)
            + client_report.targets(of_client)
            + record_report.targets(of_record)
            + sweep.targets(of_sweep)
        ),
        _mnist(cells, of_mnist),
        _communication(of_communication, cells),
        sealing_report.masked(of_sealing),
        sealing_report.homomorphic(of_homomorphic),
        noise.section(of_noise),
        calibration.section(of_calibration),
        scoring.section(of_scoring),
        pairs.section(of_pairs),
        audits_report.demo(of_demo),
        audits_report.section(of_audits or {}),
        client_report.section(of_client),
        record_report.section(of_record),
        sweep.section(of_sweep),
        _fleet(of_fleet),
        _scale(of_scale),
    )
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _mnist_targets(cells: Cells) -> list[Row]:
    rows: list[Row] = []
    for alpha in mnist.ALPHAS:
        best = _best(cells, alpha)
        found = None if best is None else _mean(cells, best, alpha, "student.accuracy")
        rows.append(
            (
                f"student of the best method ({best or NOT_RUN}), α = {alpha:g}",
                "≥ 97%",
                found,
                ".1%",
                None if found is None else found >= 0.97,
            )
        )
    return [
        *rows,
        _beats_fedavg(cells),
        *(_cfd_accuracy(cells, alpha) for alpha in mnist.ALPHAS),
        _cfd_upload(cells),
    ]


def _fleet_targets(found: Found | None) -> list[Row]:
    rows: list[Row] = []
    for row in found["rows"] if found else []:
        name = f"fleet of 32 against one by one: {row['model']}, {row['inputs']}"
        rows.append(at_least(name, row["target"], row["ratio"], ".1f", " ×"))
    return rows


def _scale_targets(found: Found | None) -> list[Row]:
    if not found:
        return []
    name = f"{found['clients']} clients trained and asked, seconds"
    return [at_most(name, found["target seconds"], found["seconds"], ".0f")]


def _beats_fedavg(cells: Cells) -> Row:
    alpha = mnist.ALPHAS[0]
    best = _best(cells, alpha)
    theirs = _mean(cells, "fedavg", alpha, "student.accuracy")
    ours = None if best is None else _mean(cells, best, alpha, "student.accuracy")
    name = f"lead of the best method's student over fedavg, α = {alpha:g}, in points"
    if ours is None or theirs is None:
        return name, "> 0", None, "", None
    return name, "> 0", 100 * (ours - theirs), ".1f", ours > theirs


def _cfd_accuracy(cells: Cells, alpha: float) -> Row:
    name = f"cfd with 1 bit behind dsfl, α = {alpha:g}, in points (same seeds)"
    ours, theirs = cells.get(("cfd", alpha), ()), cells.get(("dsfl", alpha), ())
    by_seed = {cell["seed"]: cell["student.accuracy"] for cell in theirs}
    behind = [by_seed[cell["seed"]] - cell["student.accuracy"] for cell in ours if cell["seed"] in by_seed]
    if not behind:
        return name, "≤ 1", None, "", None
    return name, "≤ 1", 100 * mean(behind), ".1f", mean(behind) <= 0.01


def _cfd_upload(cells: Cells) -> Row:
    name = "cfd's upload as a part of dsfl's: 1 /"
    shares = [
        _upload(theirs) / _upload(ours)
        for alpha in mnist.ALPHAS
        for ours in cells.get(("cfd", alpha), ())
        for theirs in cells.get(("dsfl", alpha), ())
    ]
    return name, "≥ 30", min(shares, default=None), ".0f", min(shares) >= 30 if shares else None


def _mnist(cells: Cells, of_mnist: Sequence[Mapping[str, Any]]) -> str:
    settings = mnist.settings()
    parts = [
        "## MNIST, 10 clients, 5 architectures, label skew",
        "`make bench ONLY=mnist MNIST=folder`",
        "Test accuracy on all 10,000 test images: mean over seeds (lowest to highest). "
        + "; ".join(f"{key}: {_listed(value)}" for key, value in settings.items())
        + ".",
        "`local`: each client alone; `pooled`: the student's architecture on everybody's records; `fedavg`: "
        "the student's architecture, weights shared, same rounds and local steps; "
        f"`fedavg-long`: {mnist.LONG} rounds.",
    ]
    for alpha in mnist.ALPHAS:
        rows = [
            [
                f"`{method}`",
                _spread(cells.get((method, alpha), ()), "student.accuracy"),
                _spread(cells.get((method, alpha), ()), "clients.accuracy"),
                str(len(cells.get((method, alpha), ()))),
            ]
            for method in (*mnist.METHODS, *mnist.BASELINES)
        ]
        parts.append(f"Dirichlet α = {alpha:g}")
        parts.append(table(["method", "student", "mean client", "seeds"], rows).rstrip())
    others = sorted({f"`{_name(cell)}`" for cell in of_mnist if cell["settings"] != settings})
    if others:
        parts.append(
            f"Run under other settings, which their files in `benchmarks/results/` hold: {', '.join(others)}."
        )
    return "\n\n".join([*parts, where(of_mnist)]) + "\n"


def _communication(found: Mapping[str, Any] | None, cells: Cells) -> str:
    head = "## Upload, a client and round\n\n`make bench ONLY=communication`; coded messages: runs on MNIST\n"
    if found is None:
        return f"{head}\n{NOT_RUN}\n"
    weights = found["weights"]
    rows = [[row["method"], row["sealing"], row["bytes"]] for row in found["rows"]]
    rows += [
        [method, f"plain, coded; mean of the run, α = {alpha:g}", _upload(cell)]
        for method in ("cfd", "fedct")
        for alpha in mnist.ALPHAS
        for cell in cells.get((method, alpha), ())[:1]
    ]
    lines = [
        [f"`{method}`", sealing, f"{size:,.0f}", f"{size / weights:.4f}"] for method, sealing, size in rows
    ]
    lines.append(["`fedavg`", f"plain, weights of the {found['model']}", f"{weights:,}", "1"])
    note = f"{found['clients']} clients, {found['queries']:,} queries a round, 10 classes (`fd` has none).\n"
    columns = ["method", "sealing", "bytes", "of fedavg's"]
    return "\n".join([head, note, table(columns, lines), where([found]), ""])


def _fleet(found: Mapping[str, Any] | None) -> str:
    head = "## A fleet against one by one\n\n`make bench ONLY=fleet`\n"
    if found is None:
        return f"{head}\n{NOT_RUN}\n"
    note = (
        f"{found['models']} models, batches of {found['batch']}; milliseconds a model and step. The fleet "
        f"has one thread an operation and {found['workers']} stacks side by side, as in a run; the loop is "
        "timed with one thread and with all cores, and its better time counts. *At most*: the ratio of a "
        "fleet that did nothing but the matrix products of its layers; measured for the MLP, which has no "
        "other arithmetic to speak of.\n"
    )
    lines = [
        [row["model"], row["inputs"]]
        + [f"{row[key]:.3f}" for key in ("fleet ms", "loop ms, 1 thread", "loop ms, all cores")]
        + [f"{row['ratio']:.1f}"]
        + ["–" if row.get("ratio at most") is None else f"{row['ratio at most']:.1f}"]
        + [f"{row['target']:g}", verdict(row["ratio"] >= row["target"])]
        for row in found["rows"]
    ]
    columns = [
        "model",
        "inputs",
        "fleet",
        "loop, 1 thread",
        "loop, all cores",
        "ratio",
        "at most",
        "target",
        "",
    ]
    return "\n".join([head, note, table(columns, lines), where([found]), ""])


def _scale(found: Mapping[str, Any] | None) -> str:
    head = "## 250 clients\n\n`make bench ONLY=scale MNIST=folder`\n"
    if found is None:
        return f"{head}\n{NOT_RUN}\n"
    body = (
        f"{found['clients']} clients with {found['records']} MNIST records each, model {found['model']}: "
        f"{found['steps']} steps of {found['batch']} ({found['epochs']:.0f} epochs) took "
        f"{found['training seconds']:.0f} s, answers to {found['queries']:,} queries "
        f"{found['answering seconds']:.0f} s, with {found['workers']} workers; "
        f"mean accuracy alone {found['accuracy alone']:.1%}. Target: {found['target seconds']:g} s in all.\n"
    )
    return "\n".join([head, body, where([found]), ""])


def _best(cells: Cells, alpha: float) -> str | None:
    means = {method: _mean(cells, method, alpha, "student.accuracy") for method in mnist.METHODS}
    known = {method: found for method, found in means.items() if found is not None}
    return max(known, key=lambda method: known[method], default=None)


def _mean(cells: Cells, method: str, alpha: float, key: str) -> float | None:
    values = _values(cells.get((method, alpha), ()), key)
    return mean(values) if values else None


def _values(cells: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [cell[key] for cell in cells if cell.get(key) is not None]


def _spread(cells: Sequence[Mapping[str, Any]], key: str) -> str:
    values = _values(cells, key)
    if not values:
        return "–" if cells else NOT_RUN
    middle = f"{mean(values):.2%}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2%} to {max(values):.2%})"


def _upload(cell: Mapping[str, Any]) -> float:
    """Mean bytes that a client uploaded in a round."""
    return float(cell["bytes.up.total"]) / len(cell["student.accuracy by round"])


def _name(cell: Mapping[str, Any]) -> str:
    return f"{cell['method']}-{cell['alpha']:g}-{cell['seed']}"


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
