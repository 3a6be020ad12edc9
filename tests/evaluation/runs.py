"""Small runs on a few of scikit-learn's digits, to be audited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from securefd.attacks.candidates import Candidates
from securefd.config import (
    AuditConfig,
    ClientGroup,
    Config,
    DataConfig,
    MethodConfig,
    PerformanceConfig,
    PrivacyConfig,
    SealingConfig,
    StudentConfig,
)
from securefd.evaluation.coins import coins_of
from securefd.folder import make, write_bytes
from securefd.result import Run
from securefd.runner import pool_of, run

DPSGD = PrivacyConfig(unit="record", route="dpsgd", relation="add-or-remove", epsilon=8.0, delta=1e-4)


def digits_file(folder: Path, count: int = 300) -> Path:
    """The first digits as a file; made once."""
    path = folder / f"digits-{count}.npz"
    if not path.exists():
        x, y = load_digits(return_X_y=True)
        np.savez(
            path, x=(x[:count] / 16).reshape(-1, 1, 8, 8).astype(np.float32), y=y[:count].astype(np.int64)
        )
    return path


def config(
    folder: Path,
    *models: str,
    name: str = "small",
    sealing: str = "plain",
    groups: int | None = None,
    privacy: PrivacyConfig | None = None,
    shadows: int = 6,
    workers: int = 1,
    observers: tuple[str, ...] = ("server", "peer", "release", "label-only"),
    student_steps: int = 20,
    method: str = "balanced",
    **settings: Any,
) -> Config:
    """Three clients unless told otherwise, two rounds of a few steps."""
    lengths = {"rounds": 2, "queries": 60, "local_steps": 10, "digest_steps": 8}
    return Config(
        name=name,
        seed=11,
        data=DataConfig(source="npz", path=str(digits_file(folder)), public=80, test=70),
        clients=tuple(ClientGroup(model=model) for model in models or ("mlp", "mlp", "logistic")),
        method=MethodConfig(name=method, **(lengths | settings)),
        sealing=SealingConfig(kind=sealing, groups=groups),
        privacy=privacy,
        student=StudentConfig(model="mlp", steps=student_steps),
        audit=AuditConfig(shadows=shadows, observers=observers),
        performance=PerformanceConfig(workers=workers),
    )


def tossed(settings: Config, folder: Path) -> Run:
    """A run whose audit's coins are always the same: a sound control fails once in a thousand audits."""
    done = run(settings, folder)
    make(folder / "audit")
    write_bytes(folder / "audit" / "coins", bytes(range(64)))
    coins_of(folder / "audit")
    return done


def everyone(done: Run) -> Candidates:
    """All private records of a run, as an audit would wonder about them; nobody is reserved."""
    pool, rows = pool_of(done.split.clients)
    return Candidates(
        x=pool.x,
        labels=pool.y,
        client=np.repeat(np.arange(len(rows)), [len(own) for own in rows]),
        population_x=pool.x[:0],
        population_labels=pool.y[:0],
        n_classes=pool.n_classes,
    )
