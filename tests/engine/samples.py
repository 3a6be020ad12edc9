"""Tiny federations: three classes of points or pictures, three clients, two rounds, a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

from securefd.cohort import Pool
from securefd.config import (
    ClientGroup,
    Config,
    DataConfig,
    MethodConfig,
    PerformanceConfig,
    PrivacyConfig,
    StudentConfig,
)
from securefd.fleet import State
from securefd.runner import run

N_CLASSES = 3
N_FEATURES = 4
HERE = "tests.engine.samples"
TREE = f"{HERE}:tree"
NET = f"{HERE}:net"
DPSGD: dict[str, Any] = {"unit": "record", "route": "dpsgd", "relation": "add-or-remove", "delta": 1e-4}


def points(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``(n, 4)`` points around a centre for each class, and their labels; every class occurs."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % N_CLASSES
    centres = np.eye(N_CLASSES, N_FEATURES) * 2
    return (centres[y] + rng.normal(size=(n, N_FEATURES)) * 0.4).astype(np.float32), y.astype(np.int64)


def pictures(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``(n, 1, 8, 8)`` pictures with a bright band for each class, and their labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % N_CLASSES
    x = rng.random((n, 1, 8, 8)) * 0.3
    for k in range(n):
        x[k, 0, 2 * y[k] : 2 * y[k] + 2] += 0.6
    return x.astype(np.float32), y.astype(np.int64)


def pool(n: int = 60, seed: int = 0) -> Pool:
    """A pool of points."""
    x, y = points(n, seed)
    return Pool(x=x, y=y, n_classes=N_CLASSES)


def config(folder: Path, *models: str, images: bool = False, **changes: Any) -> Config:
    """A federation on a file in ``folder``, which is written unless it is there.

    ``changes``: keys of ``[method]``, or whole tables of other names.
    """
    path = folder / ("pictures.npz" if images else "points.npz")
    if not path.exists():
        x, y = pictures(120) if images else points(120)
        np.savez(path, x=x, y=y)
    tables = {key: changes.pop(key) for key in list(changes) if key in Config.model_fields and key != "name"}
    privacy = tables.pop("privacy", None)
    method = {
        "name": "dsfl",
        "rounds": 2,
        "queries": 12,
        "local_steps": 6,
        "digest_steps": 3,
        "batch_size": 8,
        "learning_rate": 0.02,
    }
    return Config(
        **{
            "name": "tiny",
            "seed": 5,
            "data": DataConfig(source="npz", path=str(path), public=24, test=30),
            "clients": tuple(ClientGroup(model=model) for model in models or ("mlp", "mlp", "logistic")),
            "method": MethodConfig(**{**method, **changes}),
            "privacy": None if privacy is None else PrivacyConfig(**privacy),
            "student": StudentConfig(model="logistic", steps=4),
            "performance": PerformanceConfig(workers=1),
            **tables,
        }
    )


def play(settings: Config, out: Path) -> bytes:
    """Run it to the end; the student's file."""
    run(settings, out)
    return (out / "models" / "student.safetensors").read_bytes()


def same(one: State, other: State) -> bool:
    """Whether two models have the same weights, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# --- users' factories ---------------------------------------------------------------------------


def net(shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    """A network that draws random numbers, with a buffer that counts batches."""
    width = int(np.prod(shape))
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(width), nn.Dropout(0.1), nn.Linear(width, n_classes))


def tree(shape: tuple[int, ...], n_classes: int, seed: int) -> BaseEstimator:
    """A single decision tree."""
    return DecisionTreeClassifier(max_depth=4, random_state=seed)


def without_probabilities(shape: tuple[int, ...], n_classes: int, seed: int) -> BaseEstimator:
    """A classifier that answers with labels only."""
    return SVC()


def nothing(shape: tuple[int, ...], n_classes: int, seed: int) -> None:
    """Forgets to return its model."""


def failing(shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    """Raises."""
    raise KeyError("weights\nof my model")


def one_output(shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    """One logit instead of one a class."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 1))


def wrong_width(shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    """Made for other inputs."""
    return nn.Sequential(nn.Flatten(), nn.Linear(5, n_classes))


class Pair(nn.Module):
    """Answers with two things."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def pair(shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    """A network that doesn't answer with logits."""
    return Pair()
