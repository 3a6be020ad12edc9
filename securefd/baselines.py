"""What every table of results stands beside: each client alone, all data in one place, shared weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from securefd.cohort import Cohort, Member, Pool
from securefd.fleet import Objective, State
from securefd.heads import Basis
from securefd.recipe import Recipe

Rows = Sequence[NDArray[np.int64]]


def _ignore(_: int) -> None:
    """Nobody watches."""


def alone(
    recipe: Recipe,
    pool: Pool,
    rows: Rows,
    test: NDArray[np.float32],
    *,
    device: str = "cpu",
    workers: int = 1,
    advance: Callable[[int], None] = _ignore,
    basis: Basis | None = None,
) -> NDArray[np.float32]:
    """``local``: as much local training as in a run, no collaboration; logits (n_clients, n, n_classes)."""
    members = [Member(federation=0, client=k, model=recipe.models[k], rows=own) for k, own in enumerate(rows)]
    cohort = Cohort(members, pool, seed=recipe.seed, basis=basis, device=device, workers=workers)
    objective = Objective(
        loss="cross_entropy",
        steps=recipe.settings.local_steps,
        batch_size=recipe.settings.batch_size,
        learning_rate=recipe.settings.learning_rate,
    )
    for number in range(recipe.settings.rounds):
        cohort.fit(f"fit {number}", objective)
        advance(1)
    return cohort.logits(test)


def pooled(
    recipe: Recipe, pool: Pool, test: NDArray[np.float32], *, device: str = "cpu"
) -> NDArray[np.float32]:
    """``pooled``: the student's architecture on everybody's records, for as many steps as all clients take.

    Nobody's data stayed private: an upper bound to compare with. Returns logits (n, n_classes).
    """
    assert recipe.student is not None
    everything = Member(federation=0, client=0, model=recipe.student, rows=np.arange(len(pool.x)))
    cohort = Cohort([everything], pool, seed=recipe.seed, device=device)
    steps = recipe.settings.rounds * recipe.settings.local_steps * len(recipe.models)
    objective = Objective(
        loss="cross_entropy",
        steps=steps,
        batch_size=recipe.settings.batch_size,
        learning_rate=recipe.settings.learning_rate,
    )
    cohort.fit("pooled", objective)
    return cohort.logits_of(0, test)


def fedavg(
    recipe: Recipe,
    pool: Pool,
    rows: Rows,
    test: NDArray[np.float32],
    *,
    device: str = "cpu",
    workers: int = 1,
    each_round: Callable[[int, NDArray[np.float32]], None] | None = None,
) -> NDArray[np.float32]:
    """``fedavg``: every client has the student's architecture, and weights are averaged by record counts.

    McMahan et al. 2017, Algorithm 1, all clients in every round, with the run's optimiser and numbers of
    rounds and local steps. Returns logits (n, n_classes) of the shared model.
    """
    assert recipe.student is not None
    members = [Member(federation=0, client=k, model=recipe.student, rows=own) for k, own in enumerate(rows)]
    cohort = Cohort(members, pool, seed=recipe.seed, device=device, workers=workers)
    shared = cohort.states[0]
    weights = np.array([len(own) for own in rows], dtype=np.float64)
    objective = Objective(
        loss="cross_entropy",
        steps=recipe.settings.local_steps,
        batch_size=recipe.settings.batch_size,
        learning_rate=recipe.settings.learning_rate,
    )
    logits = np.empty(0, dtype=np.float32)
    for number in range(recipe.settings.rounds):
        cohort.states = dict.fromkeys(range(len(members)), shared)
        cohort.fit(f"fit {number}", objective)
        shared = _average([cohort.states[k] for k in range(len(members))], weights / weights.sum())
        if each_round is not None or number + 1 == recipe.settings.rounds:
            cohort.states = dict.fromkeys(range(len(members)), shared)
            logits = cohort.logits_of(0, test)
        if each_round is not None:
            each_round(number, logits)
    return logits


def _average(states: Sequence[State], weights: NDArray[np.float64]) -> State:
    return {
        name: torch.stack([w * state[name].double() for w, state in zip(weights, states, strict=True)])
        .sum(0)
        .to(states[0][name].dtype)
        for name in states[0]
    }
