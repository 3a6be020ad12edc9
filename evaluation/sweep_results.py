"""What a sweep found: one row a cell, settings with means over seeds, and the Pareto frontier.

Rows are derived from run folders alone, so that a sweep that was killed has lost nothing.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from securefd.config import config_hash
from securefd.errors import RunMismatch, SecurefdError
from securefd.evaluation.findings import Audit, Finding
from securefd.evaluation.findings_json import from_json
from securefd.evaluation.judged import judged
from securefd.evaluation.policy import Policy
from securefd.evaluation.policy_rules import judge_policy
from securefd.evaluation.sweep_config import SEED, Cell, Sweep, setting_of, settings_of
from securefd.folder import read_bytes
from securefd.result import Run, load_run

Row = dict[str, Any]
"""A value a column: text, number, truth value, or None where there is none."""

STATUS = ("done", "failed", "refused", "pending")
AUDITED = Path("audit", "findings.json")
MEASURES = (
    "student.accuracy",
    "clients.accuracy",
    "local.accuracy",
    "student.ece",
    "student.worst_class",
    "student.worst_group",
    "bytes",
    "seconds",
)
"""What the summary has means of. ``bytes``: up and down, of the client that sends, or receives, most, over
all rounds. ``seconds``: of all rounds, on the machine that ran them."""
UNBOUNDED = ("bytes", "seconds")
"""Measures that aren't shares, which an interval need not leave [0, 1] for."""
CONFIDENCE = 0.95
EPSILON_ALIKE = 1.01
"""Noise is calibrated to about a thousandth of epsilon; a hair less than asked for is no gain."""


def finished(folder: Path, *, audited: bool) -> bool:
    """Whether a cell's run, and its audit if one is wanted, is there."""
    return (folder / "result.json").is_file() and (not audited or (folder / AUDITED).is_file())


def rows(sweep: Sweep, folder: Path, failed: Mapping[str, str], policy: Policy | None = None) -> list[Row]:
    """A row for each cell, in the grid's order. ``folder``: of all cells. ``failed``: reasons by name."""
    found = [
        {"cell": cell.name, **settings_of(cell, sweep.columns), **_found(cell, sweep, folder, failed, policy)}
        for cell in sweep.cells
    ]
    names = dict.fromkeys(name for row in found for name in row)
    return [{name: row.get(name) for name in names} for row in found]


def _found(cell: Cell, sweep: Sweep, folder: Path, failed: Mapping[str, str], policy: Policy | None) -> Row:
    if cell.config is None:
        return {"status": "refused", "reason": cell.refused}
    if cell.name in failed:
        return {"status": "failed", "reason": failed[cell.name]}
    place = folder / cell.name
    if not finished(place, audited=sweep.audit):
        return {"status": "pending", "reason": "not run yet"}
    try:
        run = load_run(place)
        if config_hash(run.config) != config_hash(cell.config):
            raise RunMismatch(f"{place} holds a run of another configuration; remove it, and run again")
        audit = from_json(read_bytes(place / AUDITED).decode()) if sweep.audit else None
        return {
            "status": "done",
            "reason": "",
            **measured(run),
            **({} if audit is None else audits(audit)),
            **({} if policy is None else held_against(policy, run, audit)),
        }
    except SecurefdError as error:
        return {"status": "failed", "reason": str(error)}


def measured(run: Run) -> Row:
    """Utility, cost and promises of one run; the last about its records, by observer."""
    metrics, utility = run.metrics, run.metrics.get("student.utility") or {}
    row: Row = {name: metrics[name] for name in ("student.accuracy", "clients.accuracy", "local.accuracy")}
    row["test.records"] = metrics["test.records"]
    row["student.ece"] = utility.get("calibration error")
    for kind, among in (("class", "classes"), ("group", "groups")):
        worst = min(utility.get(among) or (), key=lambda each: float(each["accuracy"]), default=None)
        row[f"student.worst_{kind}"] = None if worst is None else worst["accuracy"]
        row[f"student.worst_{kind}.name"] = None if worst is None else worst["name"]
    row["bytes"] = sum(line["bytes.up"] + line["bytes.down"] for line in run.rounds)
    row["seconds"] = round(float(sum(line["seconds"] for line in run.rounds)), 3)
    for claim in run.claims:
        if claim.subject == "records":
            held = claim.guarantee
            row[f"{claim.observer}.epsilon"] = None if held is None else float(held.epsilon)
            row[f"{claim.observer}.delta"] = None if held is None else float(held.delta)
            row[f"{claim.observer}.unit"] = None if held is None else held.unit
            row[f"{claim.observer}.relation"] = None if held is None else held.relation
    return row


def audits(audit: Audit) -> Row:
    """The audit's judgement, and by observer the strongest attack's AUC and the largest lower bound."""
    findings = [each for each in audit.outcomes if isinstance(each, Finding)]
    row: Row = {"audit.judgement": audit.judgement}
    for observer in dict.fromkeys(each.observer for each in findings):
        own = [each for each in findings if each.observer == observer]
        aucs = [each.auc for each in own if not each.bound_method and not math.isnan(each.auc)]
        bounds = [each.epsilon_bound for each in own if each.epsilon_bound is not None]
        powers = [each.epsilon_power for each in own if each.epsilon_power is not None]
        row[f"audit.{observer}.auc"] = max(aucs, default=None)
        row[f"audit.{observer}.epsilon_bound"] = max(bounds, default=None)
        row[f"audit.{observer}.epsilon_power"] = max(powers, default=None)
    return row


def held_against(policy: Policy, run: Run, audit: Audit | None) -> Row:
    """What a policy says of one run: its verdict, and the first rule that the run doesn't pass, with why."""
    ruled = judge_policy(policy, [judged(run, audit)], run.manifest["versions"])
    worst = next((each for each in ruled.results if each.result == ruled.verdict != "pass"), None)
    return {
        "policy": ruled.verdict,
        "policy.reason": None if worst is None else f"{worst.rule}: {worst.reason}",
    }


def cheapest(settings: Sequence[Row]) -> Row | None:
    """The setting that costs least of those of which every cell is done and passes the policy, or None.

    Cost: bytes up and down, of the client that sends, or receives, most, over all rounds; where that is the
    same, seconds. Both are means over seeds.
    """
    passing = [row for row in settings if row["passes"]]
    return min(passing, key=lambda row: (row["bytes"], row["seconds"]), default=None)


def summary(found: Sequence[Row], sweep: Sweep) -> list[Row]:
    """A row for each setting: all that varies but the seed, with means over its seeds that are done.

    ``MEASURE.low`` and ``MEASURE.high`` are the 95% interval of the mean over seeds by Student's t, and None
    below two seeds. What is promised to the frontier's observer is the weakest promise of any seed.
    ``passes``: whether every cell is done and passes the policy, if there is one. ``frontier``: whether no
    other setting is as good, see `mark_frontier`.
    """
    keys = [name for name in sweep.columns if name != SEED]
    settings: dict[str, list[Row]] = {}
    for row, cell in zip(found, sweep.cells, strict=True):
        settings.setdefault(setting_of(cell), []).append(row)
    made = [_setting(keys, members, sweep.frontier) for members in settings.values()]
    mark_frontier(made)
    return made


def _setting(keys: Sequence[str], members: Sequence[Row], observer: str) -> Row:
    done = [row for row in members if row["status"] == "done"]
    row: Row = {key: members[0][key] for key in keys}
    row["cells"] = " ".join(member["cell"] for member in members)
    row |= {status: sum(each["status"] == status for each in members) for status in STATUS}
    for name in MEASURES:
        values = [float(each[name]) for each in done if each.get(name) is not None]
        row[name] = fmean(values) if values else None
        row[f"{name}.low"], row[f"{name}.high"] = t_interval(values, math.inf if name in UNBOUNDED else 1.0)
    row["passes"] = len(done) == len(members) and all(each.get("policy") == "pass" for each in done)
    weakest = max(done, key=lambda each: _infinite(each.get(f"{observer}.epsilon")), default={})
    for name in ("epsilon", "delta", "unit", "relation"):
        row[name] = weakest.get(f"{observer}.{name}")
    return row


def t_interval(values: Sequence[float], most: float) -> tuple[float | None, float | None]:
    """The 95% interval of a mean by Student's t, within [0, ``most``]; None twice below two values."""
    from scipy.stats import t

    if len(values) < 2:
        return None, None
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    mean = fmean(values)
    return max(0.0, mean - half), min(most, mean + half)


def mark_frontier(settings: Sequence[Row]) -> None:
    """Put ``frontier`` into each row: whether it has a proven claim and an accuracy, and no other row of the
    same unit and relation has epsilon and delta as small and a mean accuracy as high, one of them better. An
    epsilon that is larger by 1% at most counts as being as small.
    """
    for row in settings:
        row["frontier"] = _compares(row) and not any(_dominates(other, row) for other in settings)


def _compares(row: Row) -> bool:
    return row["epsilon"] is not None and row["student.accuracy"] is not None


def _dominates(one: Row, other: Row) -> bool:
    """Never in a circle: along it no accuracy and no delta could change, and epsilon would only fall."""
    if not _compares(one) or (one["unit"], one["relation"]) != (other["unit"], other["relation"]):
        return False
    as_good = (
        one["epsilon"] <= other["epsilon"] * EPSILON_ALIKE
        and one["delta"] <= other["delta"]
        and one["student.accuracy"] >= other["student.accuracy"]
    )
    better = (
        one["epsilon"] < other["epsilon"]
        or one["delta"] < other["delta"]
        or one["student.accuracy"] > other["student.accuracy"]
    )
    return bool(as_good and better)


def telling(columns: Sequence[str], settings: Sequence[Row]) -> list[str]:
    """The columns that tell settings apart, in few words: not the seed, and nothing that follows from others.

    A column with a single value, or none, says no more than another with several values in the same rows.
    """
    values = {key: [row[key] for row in settings] for key in columns if key != SEED}
    given = {key: tuple(value is not None for value in own) for key, own in values.items()}
    several = {key for key, own in values.items() if len(set(own) - {None}) > 1}
    alike = {(True,) * len(settings), (False,) * len(settings), *(given[key] for key in several)}
    return [key for key in values if key in several or given[key] not in alike]


def to_csv(table: Sequence[Row]) -> bytes:
    """The table as RFC 4180 has it, with its header; None is empty, numbers are exact."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue().encode()


def to_parquet(table: Sequence[Row]) -> bytes:
    """The same columns, each of one type: numbers, truth values, or text."""
    import pyarrow as pa  # slow to import
    import pyarrow.parquet as pq

    columns = {name: pa.array(_one_type([row[name] for row in table])) for name in table[0]}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _one_type(values: Iterable[Any]) -> list[Any]:
    """Whole numbers beside fractions become fractions, whatever else is mixed becomes text."""
    held = list(values)
    kinds = {type(value) for value in held if value is not None}
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in held]
    if len(kinds) > 1:
        return [None if value is None else str(value) for value in held]
    return held


def _infinite(epsilon: float | None) -> float:
    return math.inf if epsilon is None else epsilon


def counts(found: Iterable[Row]) -> dict[str, int]:
    """How many cells have each status."""
    statuses = [row["status"] for row in found]
    return {status: statuses.count(status) for status in STATUS}
