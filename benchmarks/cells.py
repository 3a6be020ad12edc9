"""Cells of a table: each is a run or a baseline, made side by side and kept, so that a killed one goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.store import keep, kept

Task = tuple[Callable[..., str], tuple[Any, ...]]
Settings = Mapping[str, Any]


def results(folder: Path) -> list[dict[str, Any]]:
    """What has been run."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def is_done(place: Path, settings: Settings) -> bool:
    """Whether the cell that is kept in ``place`` was run with today's settings."""
    found = kept(place)
    return found is not None and found["settings"] == settings


def side_by_side(*stages: Sequence[Task], processes: int) -> None:
    """Run the tasks of one stage after the other, each in a process of its own, and print what they say."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for tasks in stages:
            for done in as_completed([pool.submit(function, *given) for function, given in tasks]):
                print(done.result(), flush=True)


def run_cell(cell: Any, place: Path, settings: Settings, measure: Callable[[], dict[str, Any]]) -> str:
    """Measure one cell, on one thread, and keep its figures; a line for a person."""
    from securefd.runner import one_thread

    began = time.monotonic()
    with one_thread():
        figures = measure()
    found = asdict(cell) | figures | {"settings": settings}
    found["seconds"] = round(time.monotonic() - began, 1)
    keep(place, found)
    shown = {key: f"{value:.4f}" for key, value in figures.items() if isinstance(value, float)}
    return f"{cell.name}: {shown} in {found['seconds']} s"


def run_folder(cache: Path, cell: Any, settings: Settings) -> Path:
    """Where a cell runs with these settings: with others, it doesn't resume."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return cache / f"{cell.name}-{digest[:12]}"


def loaded(config: Any) -> tuple[Any, Any]:
    """The recipe and the split of a configuration."""
    from securefd.data.splits import load_split
    from securefd.recipe import Recipe
    from securefd.rules import n_clients

    split = load_split(config.data, n_clients(config), config.seed)
    return Recipe.of(config, split.input_shape, split.n_classes), split


def learn_features(config: Any, cache: Path) -> str:
    """Learn what heads stand on, of public inputs and a seed alone: once for all runs of that seed."""
    from securefd.runner import basis_of, one_thread

    began = time.monotonic()
    recipe, split = loaded(config)
    place = _features(cache, config.seed)
    place.parent.mkdir(parents=True, exist_ok=True)
    with one_thread():
        basis_of(config, recipe, split, place.parent.parent)
    return f"features of seed {config.seed}: in {time.monotonic() - began:.1f} s"


@contextmanager
def distilled(config: Any, cache: Path, folder: Path, **options: Any) -> Iterator[Any]:
    """The finished run of ``config`` in ``folder``, which is removed afterwards.

    Its features are those of `learn_features`, put where a run has them that was killed when it had learnt
    them.
    """
    from securefd.folder import locked, make, read_bytes, write_bytes
    from securefd.runner import run

    place = folder / "models" / "features.safetensors"
    if not place.exists():
        make(place.parent)
        with locked(folder):
            write_bytes(place, read_bytes(_features(cache, config.seed)))
    yield run(config, folder, **options)
    shutil.rmtree(folder)  # its views are large, and its figures are kept


def written(charges: Iterable[Any]) -> list[Any]:
    """What one client pays, as its ledger writes it."""
    import msgspec

    return [msgspec.to_builtins(charge) for charge in charges]


def promised(claims: Iterable[Any]) -> dict[str, str]:
    """What is promised about records, by observer."""
    about = [claim for claim in claims if claim.subject == "records"]
    return {claim.observer: str(claim.guarantee or claim.assumption or "none") for claim in about}


def _features(cache: Path, seed: int) -> Path:
    return cache / f"features-{seed}" / "models" / "features.safetensors"
