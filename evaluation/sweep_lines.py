"""What the command line says of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from securefd.evaluation.policy import Policy
from securefd.evaluation.sweep import CELLS, Swept
from securefd.evaluation.sweep_config import Sweep
from securefd.evaluation.sweep_results import Row, finished, telling


def begun(plan: Sweep, out: Path) -> str:
    """How many cells there are, before any is run."""
    able = plan.runnable
    done = sum(finished(out / CELLS / cell.name, audited=plan.audit) for cell in able)
    refused = len(plan.cells) - len(able)
    return f"{len(plan.cells)} cells: {done} finished before, {len(able) - done} to run, {refused} refused"


def told(done: Swept, plan: Sweep, policy: Policy | None) -> list[str]:
    """What failed, the settings that nothing beats, the cheapest that meets a policy, and where it all is."""
    counted, keys = done.counts, telling(plan.columns, done.settings)
    lines = [", ".join(f"{count} {status}" for status, count in counted.items() if count)]
    reasons = [(row["cell"], row["reason"]) for row in done.rows if row["status"] in ("failed", "refused")]
    lines += [f"{cell}: {reason}" for cell, reason in reasons]
    best = [row for row in done.settings if row["frontier"]]
    if best:
        lines.append(f"on the frontier of epsilon towards {plan.frontier} and student accuracy:")
        lines += [f"  {_setting(row, keys)}" for row in best]
    else:
        lines.append(f"no frontier: nothing is proven towards {plan.frontier} that has a student")
    if policy is not None:
        lines.append(
            f"cheapest that meets {policy.name!r} (bytes, then seconds): {_cheapest(done, plan, keys)}"
        )
    return [*lines, f"wrote {done.path}/results.csv, summary.csv, both as .parquet, and index.html"]


def _cheapest(done: Swept, plan: Sweep, keys: Sequence[str]) -> str:
    row = done.cheapest
    if row is not None:
        return f"{_varied(row, keys)}: {row['bytes']:,.0f} bytes, {row['seconds']:.1f} s"
    # A cell that can't be told about is nearer to passing than one that fails.
    held = sorted((r for r in done.rows if r.get("policy.reason")), key=lambda r: r["policy"] == "fail")
    why = f"; {held[0]['cell']} is nearest: {held[0]['policy.reason']}" if held else ""
    return f"none{why}" + ("" if plan.audit else "; audit = true in the sweep audits every cell")


def _varied(row: Row, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {row[key]}" for key in keys if row[key] is not None)


def _setting(row: Row, keys: Sequence[str]) -> str:
    low, high = row["student.accuracy.low"], row["student.accuracy.high"]
    interval = "" if low is None else f" ({low:.1%} to {high:.1%})"
    return (
        f"{_varied(row, keys)}: epsilon {row['epsilon']:.3g}, delta {row['delta']:.2g} per {row['unit']}, "
        f"{row['relation']}; accuracy {row['student.accuracy']:.1%}{interval}"
    )
