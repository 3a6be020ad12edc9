"""Tiny sweeps on points, and a model that kills its process."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
from torch import nn

from securefd.evaluation.sweep_config import Sweep, parse_sweep
from tests.engine.samples import net, points

DPSGD = '{ unit = "record", route = "dpsgd", relation = "add-or-remove", delta = 1e-3, epsilon = 4 }'
DEADLY = f"{__name__}:deadly"
BROKEN = f"{__name__}:broken"


def deadly(shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    """As if the system were out of memory, in a worker; a usual model elsewhere."""
    if multiprocessing.current_process().name != "MainProcess":
        os.kill(os.getpid(), signal.SIGKILL)
    return net(shape, n_classes, seed)


def broken(shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    """Always fails, unless a file says that it was repaired."""
    if not Path("repaired").exists():
        raise ZeroDivisionError("two\nlines")
    return net(shape, n_classes, seed)


def tiny(folder: Path, grid: str, head: str = "", base: str = "") -> Sweep:
    """A sweep of federations of three clients, two rounds and a few steps each."""
    path = folder / "points.npz"
    if not path.exists():
        x, y = points(120)
        np.savez(path, x=x, y=y)
    return parse_sweep(
        f"""
        {head}
        [base]
        seed = 5
        data = {{ source = "npz", path = "{path}", public = 24, test = 30 }}
        clients = [{{ count = 3, model = "logistic" }}]
        student = {{ model = "logistic", steps = 4 }}
        performance = {{ workers = 1 }}
        {base}
        [base.method]
        name = "dsfl"
        rounds = 2
        queries = 12
        local_steps = 6
        digest_steps = 3
        batch_size = 8
        {grid}
        """
    )
