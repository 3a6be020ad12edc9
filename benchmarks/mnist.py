"""MNIST, 10 clients, 5 architectures, label skew: every method beside local, pooled and fedavg.

Each cell (method, alpha, seed) is one run. A killed benchmark resumes within the run; a finished cell is
kept as a small JSON file and not run again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import cells
from benchmarks.store import kept

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "mnist"
CACHE = HERE / "cache" / "mnist"

ALPHAS = (0.1, 0.5)
THREE_SEEDS = ("balanced", "dsfl", "fedavg", "cfd")
SIX_SEEDS = (("dsfl", 0.1), ("cfd", 0.1))
"""Their difference varies by more from seed to seed than it is."""
METHODS = ("balanced", "dsfl", "dsfl-power", "feddf", "fedmd", "cfd", "fedct", "votes", "fd")
BASELINES = ("local", "pooled", "fedavg", "fedavg-long")
MODELS = ("cnn", "resnet", "mlp", "benchmarks.architectures:wide_cnn", "benchmarks.architectures:deep_mlp")
CLIENTS_EACH = 2
PUBLIC = 10_000
ROUNDS = 8
LONG = 20
"""Rounds that ``fedavg-long`` is given: sharing weights needs more of them under skew."""
STEPS = 150
BATCH = 64
LEARNING_RATE = 3e-3
STUDENT = "cnn"
STUDENT_STEPS = 1500
COUNT_BOUND = 6000
"""Public: no class of MNIST has more than 6,742 training images, of which about a sixth are public."""
OPTIONS: dict[str, dict[str, Any]] = {
    "balanced": {"count_bound": COUNT_BOUND},
    "cfd": {"bits": 1},
    # Every round asks about all public inputs: cached for the method's usual 50 rounds, the first round's
    # consensus would be the last.
    "dsfl-power": {"cache_rounds": 2},
}
"""Where a method doesn't keep its defaults."""


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """One run."""

    method: str
    alpha: float
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.method}-{self.alpha:g}-{self.seed}"


def table(only: str | None = None) -> Iterator[Cell]:
    """All cells, the most important first; ``only`` names one method or baseline."""
    named = (*THREE_SEEDS, *(name for name in (*METHODS, *BASELINES) if name not in THREE_SEEDS))
    for seed in range(1, 7):
        for method in named:
            for alpha in ALPHAS:
                if only in (None, method) and seed <= n_seeds(method, alpha):
                    yield Cell(method=method, alpha=alpha, seed=seed)


def n_seeds(method: str, alpha: float) -> int:
    """How often a method is run."""
    if (method, alpha) in SIX_SEEDS:
        return 6
    return 3 if method in THREE_SEEDS else 1


def results() -> list[dict[str, Any]]:
    """What has been run."""
    return cells.results(RESULTS)


def measure(mnist: Path, only: str | None = None, processes: int = 2) -> None:
    """Run the cells that aren't there, side by side, one thread each."""
    left = [cell for cell in table(only) if not _done(cell)]
    RESULTS.mkdir(parents=True, exist_ok=True)
    cells.side_by_side([(run_cell, (cell, mnist)) for cell in left], processes=processes)


def _done(cell: Cell) -> bool:
    """Whether the cell was run with today's settings and options."""
    found = kept(RESULTS / f"{cell.name}.json")
    today = (settings(), OPTIONS.get(cell.method, {}))
    return found is not None and (found["settings"], found["options"]) == today


def run_cell(cell: Cell, mnist: Path) -> str:
    """Run one cell and keep its figures; a line for a person."""
    measured = _baseline if cell.method in BASELINES else _method

    def measure() -> dict[str, Any]:
        return measured(cell, mnist) | {"options": OPTIONS.get(cell.method, {})}

    return cells.run_cell(cell, RESULTS / f"{cell.name}.json", settings(), measure)


def settings() -> dict[str, Any]:
    """What all cells share."""
    return {
        "clients": CLIENTS_EACH * len(MODELS),
        "models": list(MODELS),
        "public": PUBLIC,
        "rounds": ROUNDS,
        "steps": STEPS,
        "batch": BATCH,
        "learning rate": LEARNING_RATE,
        "student": STUDENT,
        "student steps": STUDENT_STEPS,
    }


def configured(cell: Cell, mnist: Path) -> Any:
    """The configuration of a cell; a baseline takes its data, models and lengths from that of ``dsfl``."""
    from securefd.config import (
        ClientGroup,
        Config,
        DataConfig,
        DirichletPartition,
        MethodConfig,
        PerformanceConfig,
        StudentConfig,
    )

    name = "dsfl" if cell.method in BASELINES else cell.method
    options = OPTIONS.get(name, {})
    return Config(
        name=cell.name,
        seed=cell.seed,
        data=DataConfig(
            source="idx",
            path=str(mnist),
            public=PUBLIC,
            test="",
            partition=DirichletPartition(kind="dirichlet", alpha=cell.alpha),
        ),
        clients=tuple(ClientGroup(count=CLIENTS_EACH, model=model) for model in MODELS),
        method=MethodConfig(
            name=name,
            rounds=LONG if cell.method == "fedavg-long" else ROUNDS,
            queries=PUBLIC,
            local_steps=STEPS,
            digest_steps=STEPS,
            batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            **options,
        ),
        student=StudentConfig(model=STUDENT, steps=STUDENT_STEPS),
        performance=PerformanceConfig(workers=1),
    )


def _method(cell: Cell, mnist: Path) -> dict[str, Any]:
    from securefd.runner import run

    folder = cells.run_folder(CACHE, cell, settings())
    done = run(configured(cell, mnist), folder, with_local=False)
    figures = {
        "clients.accuracy": done.metrics["clients.accuracy"],
        "student.accuracy": done.metrics["student.accuracy"],
        "bytes.up": max(line["bytes.up"] for line in done.rounds),
        "bytes.up.total": sum(line["bytes.up"] for line in done.rounds),
        "bytes.down.total": sum(line["bytes.down"] for line in done.rounds),
        "student.accuracy by round": [line.get("student.accuracy") for line in done.rounds],
    }
    shutil.rmtree(folder)  # its views are large, and its figures are kept
    return figures


def _baseline(cell: Cell, mnist: Path) -> dict[str, Any]:
    import numpy as np

    from securefd import baselines
    from securefd.runner import pool_of

    recipe, split = cells.loaded(configured(cell, mnist))
    pool, rows = pool_of(split.clients)

    def accuracy(logits: Any) -> float:
        return float((logits.argmax(-1) == split.test.y).mean())

    if cell.method == "local":
        logits = baselines.alone(recipe, pool, rows, split.test.x)
        return {"clients.accuracy": float(np.mean([accuracy(each) for each in logits]))}
    if cell.method == "pooled":
        return {"student.accuracy": accuracy(baselines.pooled(recipe, pool, split.test.x))}
    by_round: list[float] = []
    baselines.fedavg(
        recipe, pool, rows, split.test.x, each_round=lambda _, logits: by_round.append(accuracy(logits))
    )
    weights = (
        4 * sum(value.numel() for value in recipe.student.network(0).state_dict().values())
        if recipe.student
        else 0
    )
    return {"student.accuracy": by_round[-1], "student.accuracy by round": by_round, "bytes.up": weights}
