"""MNIST, 250 clients of 200 records, a whole client is protected, nobody is trusted: curves over epsilon.

The split of PATE (Papernot et al. 2017): the first 9,000 test images, without labels, are public. Each cell
(row, epsilon, seed) is one run, kept as a small JSON file and not run again: a killed benchmark goes on with
the cells that are left.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import cells

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "client"
CACHE = HERE / "cache" / "client"

EPSILONS = (2.0, 1.0, 0.5, 4.0, 8.0, None)
"""The most important first; None: no noise, and no promise."""
SEEDS = (1, 2, 3)
DELTA = 1e-5
CLIENTS = 250
PUBLIC = 9_000
HELD_OUT = 10_000
# Chosen at the noise of epsilon = 2 on another split, of training images alone.
FEW = 250
"""Queries of the rows that spend their budget on few: from 100 to 1,000 the number hardly mattered."""
STUDENT: dict[str, Any] = {"model": "encoder", "steps": 1500, "self_training": 4}
"""Each doubling of the steps brought a little."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One curve. ``whole``: all training images go to clients, and the last test images judge, as in PATE."""

    name: str
    what: str
    whole: bool = False
    queries: int = PUBLIC
    threshold: int = CLIENTS
    colluders: int = 0


ROWS = (
    Row(name="many", what="all attend, 9,000 queries"),
    Row(name="pate", what="the same on PATE's split", whole=True),
    Row(name="few", what=f"all attend, {FEW} representative queries", queries=FEW),
    Row(name="dropouts", what="threshold 200, 25 colluders, 9,000 queries", threshold=200, colluders=25),
)
TARGETS = {("many", 2.0): 0.975, ("many", 1.0): 0.965, ("pate", 2.0): 0.985}
"""The least accuracy of the student, by row and epsilon."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run. ``epsilon``: None without noise."""

    row: str
    epsilon: float | None
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.row}-{'none' if self.epsilon is None else f'{self.epsilon:g}'}-{self.seed}"

    @property
    def setting(self) -> Row:
        """What the row says."""
        (row,) = (row for row in ROWS if row.name == self.row)
        return row


def table() -> Iterator[Cell]:
    """All cells, the most important first."""
    for epsilon in EPSILONS:
        for row in ROWS:
            for seed in SEEDS:
                if epsilon is not None or row.name in ("many", "pate", "few"):
                    yield Cell(row=row.name, epsilon=epsilon, seed=seed)


def settings(cell: Cell) -> dict[str, Any]:
    """What decides a cell's figures, besides its own fields."""
    row = cell.setting
    return asdict(row) | {
        "clients": CLIENTS,
        "public": PUBLIC,
        "delta": DELTA,
        "method": {"name": "votes", "rounds": 1, "digest_steps": 0},
        "student": STUDENT,
    }


def results() -> list[dict[str, Any]]:
    """What has been run."""
    return cells.results(RESULTS)


def measure(mnist: Path, processes: int = 2) -> None:
    """Run the cells that aren't there, side by side, one thread each."""
    left = [cell for cell in table() if not _done(cell)]
    RESULTS.mkdir(parents=True, exist_ok=True)
    for whole in {cell.setting.whole for cell in left}:
        _write_data(mnist, whole)
    seeds = sorted({cell.seed for cell in left})
    features = [(learn_features, (seed,)) for seed in seeds]
    cells.side_by_side(features, [(run_cell, (cell,)) for cell in left], processes=processes)
    shutil.rmtree(CACHE, ignore_errors=True)  # what was learnt holds for today's code only


def _done(cell: Cell) -> bool:
    """Whether the cell was run with today's settings."""
    return cells.is_done(RESULTS / f"{cell.name}.json", settings(cell))


def configured(cell: Cell) -> Any:
    """The configuration of a cell."""
    from securefd.config import (
        ClientGroup,
        Config,
        DataConfig,
        MethodConfig,
        PerformanceConfig,
        PrivacyConfig,
        SealingConfig,
        StudentConfig,
    )

    chosen, row, folder = settings(cell), cell.setting, _folder(cell.setting.whole)
    privacy = None
    if cell.epsilon is not None:
        privacy = PrivacyConfig(
            unit="client", route="distributed", relation="replace-one", epsilon=cell.epsilon, delta=DELTA
        )
    return Config(
        name=cell.name,
        seed=cell.seed,
        data=DataConfig(
            source="npz",
            path=str(folder / "clients.npz"),
            public=str(folder / "public.npz"),
            test=str(folder / "test.npz"),
        ),
        clients=(ClientGroup(count=CLIENTS, model="head"),),
        method=MethodConfig(
            queries=row.queries,
            selection="random" if row.queries == PUBLIC else "representative",
            **chosen["method"],
        ),
        # Everyone masks with everyone, so that no server can open a sum over fewer than the threshold.
        sealing=SealingConfig(
            kind="masked", threshold=row.threshold, colluders=row.colluders, degree=CLIENTS - 1
        ),
        privacy=privacy,
        student=StudentConfig(**chosen["student"]),
        performance=PerformanceConfig(workers=1),
    )


def learn_features(seed: int) -> str:
    """Those of the public images, which are the same on either split."""
    whole = not (_folder(False) / "clients.npz").exists()
    return cells.learn_features(
        configured(Cell(row="pate" if whole else "many", epsilon=None, seed=seed)), CACHE
    )


def run_cell(cell: Cell) -> str:
    """Run one cell and keep its figures; a line for a person."""
    return cells.run_cell(cell, RESULTS / f"{cell.name}.json", settings(cell), lambda: _distilled(cell))


def _distilled(cell: Cell) -> dict[str, Any]:
    from securefd.releases import plan_releases

    config = configured(cell)
    recipe, split = cells.loaded(config)
    planned = plan_releases(config, recipe, len(split.public))
    folder = cells.run_folder(CACHE, cell, settings(cell))
    with cells.distilled(config, CACHE, folder, with_local=False) as done:
        return {
            "student.accuracy": done.metrics["student.accuracy"],
            "charges": [] if planned is None else cells.written(planned.charges()),
            "deviation": None if planned is None else planned.deviation,
            "claims": cells.promised(done.claims),
            "bytes.up": done.metrics["bytes"]["up"],
        }


def _folder(whole: bool) -> Path:
    return CACHE / ("whole" if whole else "held-out")


def _write_data(mnist: Path, whole: bool) -> None:
    """What clients hold, what is public and what judges, as three files."""
    import numpy as np

    from securefd.data.idx import IdxFolder

    folder, source = _folder(whole), IdxFolder(path=str(mnist))
    train, test = source.records(), source.own_test()
    assert test is not None
    nobodys = np.arange(len(train.labels) - HELD_OUT, len(train.labels))
    parts = {
        "clients": (train, np.arange(len(train.labels) if whole else nobodys[0])),
        "public": (test, np.arange(PUBLIC)),
        "test": (test, np.arange(PUBLIC, len(test.labels))) if whole else (train, nobodys),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (records, rows) in parts.items():
        arrays = {"x": records.features.take(rows).x.astype(np.float32) / 255}
        if name != "public":
            arrays["y"] = np.asarray(records.labels)[rows].astype(np.int64)
        np.savez(folder / f"{name}.npz", **arrays)
