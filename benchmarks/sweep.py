"""A sweep of 60 cells on scikit-learn's digits with 2 workers, killed twice, and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.store import RESULTS, keep
from benchmarks.tables import NOT_RUN, Found, Row, at_least, at_most, table, where

PLACE = RESULTS / "sweep" / "killed.json"

CELLS = 60
WORKERS = 2
KILLED_AT = (15, 35)
"""Finished cells at which the whole process group gets SIGKILL."""
BASE = """
[base]
seed = 1
data = { source = "digits", public = 300, test = 300 }
clients = [{ count = 3, model = "logistic" }]
method = { name = "dsfl", rounds = 3, queries = 300, local_steps = 40, digest_steps = 40 }
student = { steps = 150 }
"""
PLAIN = """
[[grid]]
methods = ["dsfl", "balanced"]
sealing = ["plain", "masked"]
seeds = 3
"""
NOISED = """
[[grid]]
privacy = [{ unit = "record", route = "dpsgd", relation = "add-or-remove", delta = 1e-4 }]
methods = ["dsfl", "balanced"]
sealing = ["plain", "masked"]
epsilon = [1, 2, 4, 8]
seeds = 3
"""
FIGURES = ("student.accuracy", "clients.accuracy", "local.accuracy", "student.ece", "bytes")
"""What an unbroken sweep must give bit for bit, where no noise is drawn."""

HEAD = "## A sweep that is killed\n\n`make bench ONLY=sweep`\n\n"

Stamp = tuple[int, int, bytes]


def measure(place: Path = PLACE, killed_at: tuple[int, ...] = KILLED_AT, grids: str = PLAIN + NOISED) -> None:
    """Run the sweep, kill it at these counts of finished cells, let it end, and look at every cell."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "sweep.toml").write_text(BASE + grids)
        (folder / "plain.toml").write_text(BASE + PLAIN)
        began = time.monotonic()
        stamps: list[dict[str, Stamp]] = []
        for count in killed_at:
            _killed(folder, count)
            stamps.append(finished(folder / "broken"))
        ended = _swept(folder, "sweep.toml", "broken")
        seconds = time.monotonic() - began
        last = finished(folder / "broken")
        unbroken = _swept(folder, "plain.toml", "unbroken")
    keep(place, compared(stamps, last, ended, unbroken) | {"workers": WORKERS, "seconds": round(seconds, 1)})


def compared(
    stamps: list[dict[str, Stamp]],
    last: dict[str, Stamp],
    ended: Mapping[str, Any],
    unbroken: Mapping[str, Any],
) -> dict[str, Any]:
    """How many cells were lost, or done twice: their results were written again after they were there."""
    rows = {row["cell"]: row for row in ended["cells"]}
    again = sum(last.get(name) != stamp for stamp_of in stamps for name, stamp in stamp_of.items())
    return {
        "cells": len(rows),
        "done": ended["counts"]["done"],
        "kills": len(stamps),
        "finished at kills": [len(stamp_of) for stamp_of in stamps],
        "not run again at the end": ended["finished before"],
        "lost": sum(name not in last for name in rows),
        "done twice": again,
        "folders too many": len(set(last) - set(rows)),
        "compared": len(unbroken["cells"]),
        "other figures": sum(
            any(rows[row["cell"]][name] != row[name] for name in FIGURES) for row in unbroken["cells"]
        ),
    }


def finished(sweep: Path) -> dict[str, Stamp]:
    """Each finished cell's result: its inode, when it was written, and what it holds."""
    found = {}
    for path in sweep.glob("cells/*/result.json"):
        status = path.stat()
        found[path.parent.name] = (status.st_ino, status.st_mtime_ns, path.read_bytes())
    return found


def _command(name: str, out: str) -> list[str]:
    return [sys.executable, "-m", "securefd", "sweep", name, "-o", out, f"--workers={WORKERS}", "--json"]


def _killed(folder: Path, count: int) -> None:
    """Start the sweep and kill its whole process group once ``count`` cells are finished."""
    process = subprocess.Popen(
        _command("sweep.toml", "broken"),
        cwd=folder,
        env=_environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and len(list((folder / "broken").glob("cells/*/result.json"))) < count:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _swept(folder: Path, name: str, out: str) -> dict[str, Any]:
    done = subprocess.run(
        _command(name, out), cwd=folder, env=_environment(), check=True, stdout=subprocess.PIPE
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _environment() -> dict[str, str]:
    here = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}


def targets(found: Found | None) -> list[Row]:
    names = ("sweep, killed twice: cells done", "cells lost", "cells done twice")
    if found is None:
        return [
            (names[0], f"≥ {CELLS}", None, "", None),
            *((name, "≤ 0", None, "", None) for name in names[1:]),
        ]
    return [
        at_least(names[0], CELLS, found["done"], "d"),
        at_most(names[1], 0, found["lost"] + found["folders too many"], "d"),
        at_most(names[2], 0, found["done twice"], "d"),
    ]


def section(found: Found | None) -> str:
    """A sweep that is killed, for ``RESULTS.md``."""
    if found is None:
        return f"{HEAD}{NOT_RUN}\n"
    at = " and ".join(map(str, found["finished at kills"]))
    rows = [
        ["cells, and done at the end", f"{found['cells']}, {found['done']}"],
        [f"finished when the process group was killed ({found['kills']} times SIGKILL)", at],
        ["finished before the last start, and not run again", f"{found['not run again at the end']}"],
        ["lost, done twice", f"{found['lost']}, {found['done twice']}"],
        [
            "without noise: cells of an unbroken sweep, and those with another figure",
            f"{found['compared']}, {found['other figures']}",
        ],
        [f"seconds with {found['workers']} workers, all starts together", f"{found['seconds']:.0f}"],
    ]
    return (
        HEAD
        + "`securefd sweep` over two methods, sealed or not, with and without DP-SGD at four epsilons, three "
        "seeds each, on scikit-learn's digits. A cell is done twice if its result was written again once it "
        "was there.\n\n" + table(["figure", "found"], rows) + f"\n{where([found])}\n"
    )
