"""Training 32 models of one architecture: as a fleet, and one by one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.store import RESULTS, keep

PLACE = RESULTS / "fleet.json"

MODELS = 32
RECORDS = 240
BATCH = 64
STEPS = {"mlp": 100, "cnn": 30}
TARGETS = {"mlp": 5.0, "cnn": 1.5}
INPUTS = {"digits, 8 × 8": (1, 8, 8), "MNIST, 28 × 28": (1, 28, 28)}
REPEATS = 3


def measure() -> None:
    """Time both ways in turn, and keep the fastest of each."""
    rows = []
    for inputs, shape in INPUTS.items():
        for model in STEPS:
            row = _race(model, shape) | {"model": model, "inputs": inputs, "target": TARGETS[model]}
            rows.append(row)
            print(f"fleet: {model} on {inputs}: {row['ratio']:.1f} times as fast as one by one", flush=True)
    keep(
        PLACE,
        {"rows": rows, "models": MODELS, "batch": BATCH, "steps": STEPS, "workers": os.cpu_count() or 1},
    )


def _race(model: str, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Milliseconds a model and step: of a fleet as runs train it, of an ordinary loop, and, for multilayer
    perceptrons, of their matrix products alone, faster than which no fleet can be.

    A run gives each operation one thread and trains stacks side by side. The loop has one model at a time, so
    it gets the cores within operations, or a single one where that is faster: its better time counts.
    """
    import numpy as np
    import torch

    from securefd.fleet import Lesson, Objective, initial, train, train_one_by_one
    from securefd.models import ModelSpec

    spec = ModelSpec(name=model, shape=shape, n_classes=10)
    states = [initial(spec, seed) for seed in range(MODELS)]
    made = torch.Generator().manual_seed(0)
    x = torch.rand((MODELS * RECORDS, *shape), generator=made)
    y = torch.randint(0, 10, (MODELS * RECORDS,), generator=made)
    objective = Objective(loss="cross_entropy", steps=STEPS[model], batch_size=BATCH, learning_rate=1e-3)
    cores = os.cpu_count() or 1

    def lessons() -> list[Lesson]:
        return [
            Lesson(
                x=x,
                target=y,
                rows=np.arange(k * RECORDS, (k + 1) * RECORDS),
                order=np.random.default_rng(k),
            )
            for k in range(MODELS)
        ]

    def loop(threads: int) -> float:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        train_one_by_one(spec, states, lessons(), objective)
        return time.perf_counter() - began

    def fleet() -> float:
        torch.set_num_threads(1)
        began = time.perf_counter()
        train(spec, states, lessons(), objective, workers=cores)
        return time.perf_counter() - began

    layers = [
        (layer.in_features, layer.out_features)
        for layer in spec.network(0).children()
        if isinstance(layer, torch.nn.Linear)
    ]

    def products() -> float:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(cores) as pool:
            began = time.perf_counter()
            list(pool.map(lambda _: _products(layers, MODELS // cores, objective.steps), range(cores)))
            return time.perf_counter() - began

    before = torch.get_num_threads()
    try:
        times = [(fleet(), loop(1), loop(cores), products()) for _ in range(REPEATS)]
    finally:
        torch.set_num_threads(before)
    each = 1000 / MODELS / objective.steps
    together, single, several, least = (min(column) * each for column in zip(*times, strict=True))
    loop_ms = min(single, several)
    return {
        "fleet ms": together,
        "loop ms, 1 thread": single,
        "loop ms, all cores": several,
        "products ms": least if model == "mlp" else None,
        "ratio": loop_ms / together,
        "ratio at most": loop_ms / least if model == "mlp" else None,
    }


def _products(layers: Sequence[tuple[int, int]], models: int, steps: int) -> None:
    """The matrix products of training a stack of multilayer perceptrons, and nothing else.

    A product with the weights forwards, one for their gradient, and one backwards but for the first layer.
    """
    import torch

    stack = [
        (torch.rand(models, out, width), torch.rand(models, width, BATCH), torch.rand(models, out, BATCH))
        for width, out in layers
    ]
    for _ in range(steps):
        for index, (weights, x, gradient) in enumerate(stack):
            torch.bmm(weights, x)
            torch.bmm(gradient, x.mT)
            if index:
                torch.bmm(weights.mT, gradient)
