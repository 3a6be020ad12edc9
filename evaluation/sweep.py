"""``securefd sweep``: the cells of a grid side by side, each a run folder, so that a kill loses nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool

from securefd.errors import ConfigError, RunError, RunLocked, RunMismatch, SecurefdError
from securefd.evaluation import sweep_results as results
from securefd.evaluation.policy import Policy
from securefd.evaluation.recipe import audit
from securefd.evaluation.sweep_config import Cell, Sweep
from securefd.evaluation.sweep_page import page
from securefd.evaluation.sweep_results import Row, finished
from securefd.folder import LOCK, locked, make, write_bytes
from securefd.progress import Progress, Silent
from securefd.runner import run

FILE = "sweep.toml"
CELLS = "cells"
PAGE = "index.html"
SECONDS_BETWEEN_RESULTS = 20.0
"""Results are also written while cells run, so that one can look."""
SECONDS_FOR_LOCK = 10.0
"""A killed sweep's processes notice within a second, and let go of their cells."""
KILLED = "its process was killed, most likely for lack of memory; free some, and run the sweep again"

ONE_IN_A_PROCESS = 2
"""joblib makes no process for a single job at a time."""

Outcome = tuple[str, str]
"""A cell's name, and why it failed; empty if it didn't."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep found. ``rows``: one a cell; ``settings``: one for all that varies but the seed."""

    path: Path
    rows: tuple[Row, ...]
    settings: tuple[Row, ...]
    again: int
    """Cells that had been finished before, and weren't run again."""

    @property
    def cheapest(self) -> Row | None:
        """The setting that passes the policy at least cost; None without a policy, or where none passes."""
        return results.cheapest(self.settings)

    @property
    def counts(self) -> dict[str, int]:
        """How many cells are done, failed, refused or pending."""
        return results.counts(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As `securefd sweep --json` prints it."""
        return {
            "path": self.path,
            "counts": self.counts,
            "finished before": self.again,
            "cheapest": self.cheapest,
            "cells": self.rows,
            "settings": self.settings,
        }


def sweep(
    plan: Sweep,
    out: str | Path,
    progress: Progress | None = None,
    *,
    workers: int | None = None,
    backend: str = "loky",
    policy: Policy | None = None,
) -> Swept:
    """Run every cell that isn't finished yet in ``out``, and write its results there.

    The folder is for its owner, since seeds in it say who holds which records.
    A cell that fails is a row with its reason, and is tried again when the sweep is run again. More cells may
    be asked for in the same folder; finished ones may not be left out. ``workers``: cells at a time, as many
    as the base's performance.workers unless given. ``backend``: of joblib, by name. ``policy``: what cells
    are held against, to name the cheapest setting that passes.

    Raises:
        RunError: ``out`` holds something else. RunLocked: another sweep works there.
        RunMismatch: it holds finished cells that this sweep doesn't ask for.
        ConfigError: joblib knows no such backend.
    """
    shown, folder = progress or Silent(), Path(out)
    _check_place(folder)
    _check_backend(backend)
    make(folder)
    with locked(folder):
        cells = folder / CELLS
        make(cells)
        _check_others(plan, cells)
        write_bytes(folder / FILE, tomli_w.dumps(dict(plan.tables)).encode())
        todo = [c for c in plan.runnable if not finished(cells / c.name, audited=plan.audit)]
        failed: dict[str, str] = {}
        written = time.monotonic()
        with shown.stage("cells", len(todo)) as advance, parallel_config(backend=backend):
            for name, reason in _play(todo, cells, plan.audit, workers or plan.workers):
                if reason:
                    failed[name] = reason
                advance(1)
                if time.monotonic() - written > SECONDS_BETWEEN_RESULTS:
                    _write(plan, folder, failed, policy)
                    written = time.monotonic()
        rows, settings = _write(plan, folder, failed, policy)
    return Swept(
        path=folder, rows=tuple(rows), settings=tuple(settings), again=len(plan.runnable) - len(todo)
    )


def _write(
    plan: Sweep, folder: Path, failed: dict[str, str], policy: Policy | None
) -> tuple[list[Row], list[Row]]:
    rows = results.rows(plan, folder / CELLS, failed, policy)
    settings = results.summary(rows, plan)
    for stem, table in (("results", rows), ("summary", settings)):
        write_bytes(folder / f"{stem}.csv", results.to_csv(table))
        write_bytes(folder / f"{stem}.parquet", results.to_parquet(table))
    write_bytes(folder / PAGE, page(plan, rows, settings, policy).encode())
    return rows, settings


def _check_place(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; name a folder for the sweep")
    names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    strange = names - {LOCK, CELLS, f".{FILE}.partial"}
    if strange and FILE not in names:
        raise RunError(
            f"folder {folder} isn't empty and holds no sweep (found {min(strange)!r}); choose another folder"
        )


def _check_backend(backend: str) -> None:
    try:
        with parallel_config(backend=backend):
            pass
    except ValueError as error:
        raise ConfigError(f"backend {backend!r} isn't one that joblib knows here ({error})") from None


def _check_others(plan: Sweep, cells: Path) -> None:
    """Results only grow: what took hours to find isn't dropped for another sweep in the same place."""
    wanted = {cell.name for cell in plan.cells}
    others = [p.name for p in cells.iterdir() if p.name not in wanted and finished(p, audited=False)]
    if others:
        raise RunMismatch(
            f"{cells} holds {len(others)} finished cells that this sweep doesn't ask for (such as "
            f"{min(others)}); ask for them too, remove them, or choose another folder"
        )


def _play(todo: Sequence[Cell], folder: Path, audited: bool, workers: int) -> Iterator[Outcome]:
    """Outcomes as they come. Where a process dies, those that it may have been working on are tried again,
    one at a time, so that the one that kills its process is known, and the others aren't lost.
    """
    left = {cell.name: cell for cell in todo}
    while left:
        try:
            for name, reason in _at_once(list(left.values()), folder, audited, workers):
                del left[name]
                yield name, reason
        except BrokenProcessPool:
            begun = [cell for cell in left.values() if (folder / cell.name).exists()]
            if not begun:
                raise RunError(f"no cell could be begun: {KILLED}") from None
            for cell in begun:
                try:
                    (outcome,) = _at_once([cell], folder, audited, ONE_IN_A_PROCESS)
                except BrokenProcessPool:
                    outcome = (cell.name, KILLED)
                del left[cell.name]
                yield outcome


def _at_once(todo: Sequence[Cell], folder: Path, audited: bool, jobs: int) -> Iterator[Outcome]:
    try:
        pool = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
    except ValueError:  # a backend that tells nothing before all is done
        pool = Parallel(n_jobs=jobs, batch_size=1)
    yield from pool(delayed(_cell)(cell, folder / cell.name, audited, os.getpid()) for cell in todo)


def _cell(cell: Cell, folder: Path, audited: bool, parent: int) -> Outcome:
    """Run by a worker: one cell, from where it was. Whatever goes wrong with it is its own outcome."""
    if os.getppid() == parent:
        _end_with(parent)
    assert cell.config is not None
    deadline = time.monotonic() + SECONDS_FOR_LOCK
    while True:
        try:
            make(folder)  # shows that it was begun, if this process is killed
            done = run(cell.config, folder)
            if audited and not finished(folder, audited=True):
                audit(done, workers=1)
        except RunLocked as error:
            if time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            return cell.name, str(error)
        except SecurefdError as error:
            return cell.name, " ".join(str(error).split())
        except Exception as error:  # a model or data function of the user's own may raise anything
            return cell.name, " ".join(f"{type(error).__name__}: {error}".split())
        return cell.name, ""


@cache
def _end_with(parent: int) -> None:
    """End this worker when the sweep is gone, however that ended, so that its cell can go on elsewhere.

    The sweep handles Ctrl-C, which a terminal sends to its workers too.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    with suppress(ValueError):  # signals are for the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True, name="ends with the sweep").start()
