"""One target against many shadow models: LiRA and RMIA beside what one would write first, and TF-Privacy's.

Answers lie in memory-mapped files, as an audit of a large model keeps them. Each contender runs in a process
of its own, ``python -m benchmarks.scoring CONTENDER FOLDER``, which tells its seconds and its peak memory,
mapped pages that it touched included.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.store import RESULTS, keep
from benchmarks.tables import NOT_RUN, Row, at_most, table
from benchmarks.timing import spread

PLACE = RESULTS / "scoring.json"
MODELS, RECORDS, CLASSES, POPULATION = 256, 50_000, 10, 1_000
REPEATS = 5
TARGETS = {"seconds": 5.0, "MiB": 2048.0}
THEIRS = "tensorflow_privacy/privacy/privacy_tests/membership_inference_attack/advanced_mia.py"

Floats = NDArray[np.float64]


def measure(
    *,
    models: int = MODELS,
    records: int = RECORDS,
    population: int = POPULATION,
    repeats: int = REPEATS,
    place: Path = PLACE,
) -> None:
    """Run each contender some times, all in turn, and compare what they found."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    if _theirs() is None:
        del runs["TF-Privacy's LiRA"]
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), models, records, population)
        for _ in range(repeats):
            for name, found in runs.items():
                found.append(_run(name, folder))
        apart = _apart(Path(folder), runs)
    rows = {
        name: {key: spread([each[key] for each in found]) for key in ("seconds", "processor seconds", "MiB")}
        for name, found in runs.items()
    }
    sizes = {"models": models, "records": records, "classes": CLASSES, "population": population}
    keep(place, {"rows": rows, "apart": apart, "repeats": repeats, "targets": TARGETS, **sizes})
    print(
        f"scoring: LiRA {rows['LiRA']['seconds']['median']:.2f} s, "
        f"RMIA {rows['RMIA']['seconds']['median']:.2f} s",
        flush=True,
    )


def _prepare(folder: Path, models: int, records: int, population: int) -> None:
    """Softmax answers of shadows, of which half trained on each record, and of one target."""
    rng = np.random.default_rng(0)
    member = rng.random((models, records)) < 0.5
    for name, size, trained in (("records", records, member), ("population", population, None)):
        labels = rng.integers(0, CLASSES, size)
        difficulty = rng.normal(2, 3, size)
        np.save(folder / f"{name}-labels.npy", labels)
        shadows = np.lib.format.open_memmap(
            folder / f"{name}-shadows.npy", "w+", np.float32, (models, size, CLASSES)
        )
        for row in range(models):
            shadows[row] = _answers(rng, labels, difficulty + 2 * (0 if trained is None else trained[row]))
        shadows.flush()
        del shadows
        np.save(folder / f"{name}-target.npy", _answers(rng, labels, difficulty)[None])
    np.save(folder / "membership.npy", member)


def _answers(rng: np.random.Generator, labels: NDArray[np.int64], level: Floats) -> NDArray[np.float32]:
    logits = rng.standard_normal((len(labels), CLASSES), dtype=np.float32)
    logits[np.arange(len(labels)), labels] += level
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)


def _run(name: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scoring", name, folder]
    printed = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    ).stdout
    found: dict[str, float] = json.loads(printed)
    return found


def _apart(folder: Path, runs: Mapping[str, object]) -> dict[str, float]:
    """The largest difference of each other contender's scores from ours."""
    scores = {name: np.load(folder / f"{name}.npy") for name in runs}
    ours = {name: scores["RMIA" if "RMIA" in name else "LiRA"] for name in runs}
    # Ours breaks RMIA's ties within a step of the population's size, which the naive one leaves.
    size = len(np.load(folder / "population-labels.npy"))
    ours["naive RMIA"] = np.floor(ours["RMIA"] * (size + 1)) / size
    return {
        name: float(np.abs(ours[name] - scores[name]).max()) for name in runs if name not in ("LiRA", "RMIA")
    }


class _Given:
    """The files of a folder, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        def opened(name: str) -> Any:
            return np.load(folder / f"{name}.npy", mmap_mode="r")

        self.labels, self.population_labels = (
            np.load(folder / f"{name}-labels.npy") for name in ("records", "population")
        )
        self.target, self.shadows = opened("records-target"), opened("records-shadows")
        self.population, self.shadows_population = (
            opened("population-target"),
            opened("population-shadows"),
        )
        self.membership = np.load(folder / "membership.npy")


Score = Callable[[_Given], Floats]


def _ours(name: str) -> Score:
    from securefd.attacks.answers import Answers, Records, References
    from securefd.attacks.table import attack_named

    attack = attack_named(name)

    def score(given: _Given) -> Floats:
        def answers(about_records: Any, about_population: Any) -> Answers:
            return Answers(
                probabilities=about_records,
                labels=given.labels,
                population=about_population,
                population_labels=given.population_labels,
            )

        references = References(
            answers=answers(given.shadows, given.shadows_population), membership=given.membership
        )
        targets = answers(given.target, given.population)
        (scores,) = attack.score(targets, Records(labels=given.labels), references)
        return np.asarray(scores, dtype=np.float64)

    return score


def _all_confidences(values: Any, labels: NDArray[np.int64]) -> Floats:
    """What one would write first: everything in float64 at once."""
    probabilities = np.array(values, dtype=np.float64)
    own = probabilities[:, np.arange(len(labels)), labels]
    probabilities[:, np.arange(len(labels)), labels] = 0
    return np.asarray(np.log(own + 1e-45) - np.log(probabilities.sum(axis=-1) + 1e-45), dtype=np.float64)


def _naive_lira() -> Score:
    from scipy.stats import norm

    def score(given: _Given) -> Floats:
        (target,) = _all_confidences(given.target, given.labels)
        shadows = _all_confidences(given.shadows, given.labels)
        inside = np.where(given.membership, shadows, np.nan)
        outside = np.where(given.membership, np.nan, shadows)
        densities = [
            norm.logpdf(target, np.nanmedian(side, axis=0), np.nanstd(side, axis=0) + 1e-30)
            for side in (inside, outside)
        ]
        return np.asarray(densities[0] - densities[1], dtype=np.float64)

    return score


def _naive_rmia(given: _Given) -> Floats:
    def of_label(values: Any, labels: NDArray[np.int64]) -> Floats:
        return np.array(values, dtype=np.float64)[:, np.arange(len(labels)), labels]

    shadows = of_label(given.shadows, given.labels)
    usual = (
        np.nanmean(np.where(given.membership, shadows, np.nan), axis=0)
        + np.nanmean(np.where(given.membership, np.nan, shadows), axis=0)
    ) / 2
    usual_z = of_label(given.shadows_population, given.population_labels).mean(axis=0)
    ratio = of_label(given.target, given.labels)[0] / usual
    ratio_z = of_label(given.population, given.population_labels)[0] / usual_z
    return np.asarray((ratio[:, None] / ratio_z >= 1).mean(axis=1), dtype=np.float64)


def _theirs() -> Path | None:
    """TF-Privacy's module, if it is there; the package itself needs TensorFlow and an older NumPy."""
    return next((Path(folder) / THEIRS for folder in sys.path if (Path(folder) / THEIRS).exists()), None)


def _theirs_lira() -> Score:
    """Its functions of LiRA, without the package around them, which imports TensorFlow."""
    place = _theirs()
    assert place is not None
    parts = ["tensorflow_privacy", "privacy", "privacy_tests", "utils"]
    for depth in range(1, len(parts) + 1):
        sys.modules[".".join(parts[:depth])] = types.ModuleType(parts[depth - 1])
    sys.modules[".".join(parts)].log_loss = None  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("advanced_mia", place)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def confidence(values: Any, labels: NDArray[np.int64]) -> Floats:
        one_by_one = (np.array(of, dtype=np.float64) for of in values)
        return np.stack([module.calculate_statistic(of, labels, is_logits=False) for of in one_by_one])

    def score(given: _Given) -> Floats:
        (target,) = confidence(given.target, given.labels)
        shadows, member = confidence(given.shadows, given.labels), given.membership
        inside = [shadows[member[:, i], i][:, None] for i in range(len(target))]
        outside = [shadows[~member[:, i], i][:, None] for i in range(len(target))]
        return np.asarray(-module.compute_score_lira(target[:, None], inside, outside), dtype=np.float64)

    return score


CONTENDERS: dict[str, Callable[[], Score]] = {
    "LiRA": lambda: _ours("lira"),
    "naive LiRA": _naive_lira,
    "TF-Privacy's LiRA": _theirs_lira,
    "RMIA": lambda: _ours("rmia"),
    "naive RMIA": lambda: _naive_rmia,
}
"""Each imports what it needs, and gives what is timed."""


def _peak() -> float:
    """Most memory of this process so far, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def contend(name: str, folder: Path) -> dict[str, float]:
    """Run by a process of its own: score, keep the scores, and tell what it took."""
    given, score = _Given(folder), CONTENDERS[name]()
    began, worked = time.perf_counter(), time.process_time()
    scores = score(given)
    found = {
        "seconds": time.perf_counter() - began,
        "processor seconds": time.process_time() - worked,
        "MiB": _peak(),
    }
    np.save(folder / f"{name}.npy", scores)
    return found


def targets(found: Mapping[str, Any] | None) -> list[Row]:
    """Rows of the table of targets."""
    rows: list[Row] = []
    for name in ("LiRA", "RMIA"):
        of = None if found is None else found["rows"][name]
        size = f"{MODELS} shadows × {RECORDS:,} records × {CLASSES} classes"
        for key, shown in (("seconds", ".2f"), ("MiB", ",.0f")):
            value = math.nan if of is None else of[key]["median" if key == "seconds" else "highest"]
            row = at_most(f"{name} of {size}, {key}", TARGETS[key], value, shown)
            rows.append(row if of is not None else (row[0], row[1], None, shown, None))
    return rows


def section(found: Mapping[str, Any] | None) -> str:
    """The part of RESULTS.md on scoring."""
    head = "## Scoring a large target\n\n`make bench ONLY=scoring`\n\n"
    if found is None:
        return head + f"{NOT_RUN}\n"
    rows = [
        [
            name,
            *(f"{of[key]['median']:.2f}" for key in ("seconds", "processor seconds")),
            f"{of['MiB']['highest']:,.0f}",
            f"{found['apart'][name]:.1e}" if name in found["apart"] else "",
        ]
        for name, of in found["rows"].items()
    ]
    absent = "" if "TF-Privacy's LiRA" in found["rows"] else " TF-Privacy isn't installed here."
    return (
        head + f"One target and {found['models']} shadows, {found['records']:,} records, {found['classes']} "
        f"classes and {found['population']:,} reserved non-members, in memory-mapped float32. Each contender "
        f"runs in a process of its own; medians of {found['repeats']}, and the highest peak memory, which "
        f"includes the mapped pages. Apart: the largest difference from our score; RMIA's moves in steps of "
        f"{1 / found['population']:g}, and ratios that are all but equal are rounded to either side of one."
        f"{absent}\n\n" + table(["attack", "s", "processor s", "peak MiB", "apart"], rows)
    )


if __name__ == "__main__":
    print(json.dumps(contend(sys.argv[1], Path(sys.argv[2]))))
