"""What every table of results stands beside: each client alone, all data in one place, shared weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from securefd.cohort import Cohort, Member, Pool
from securefd.defenses import accounting, dpsgd
from securefd.defenses.charges import Charge
from securefd.defenses.claims import Guarantee
from securefd.defenses.dpsgd import DpSgd
from securefd.errors import PrivacyError
from securefd.fleet import Objective, State
from securefd.heads import Basis
from securefd.models import ModelSpec
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


def dp_fedavg(
    recipe: Recipe,
    pool: Pool,
    rows: Rows,
    test: NDArray[np.float32],
    *,
    promise: Guarantee,
    learning_rate: float,
    clip: float = 1.0,
    device: str = "cpu",
    each_round: Callable[[int, NDArray[np.float32]], None] | None = None,
) -> NDArray[np.float32]:
    """`fedavg` whose local steps are DP-SGD: what is promised holds for each client's records.

    Unit of privacy: one record. Relation, epsilon and delta: of ``promise``, over all rounds together and
    towards whoever sees every client's weights in each of them; averaging is post-processing. The numbers of
    records are taken as public: clients are weighted by them.

    McMahan et al. 2017, Algorithm 1, with Abadi et al. 2016, Algorithm 1, as the local optimiser, ``clip`` as
    its norm and ``learning_rate`` as its step. The DP-FedAvg of McMahan et al. 2018 (Learning Differentially
    Private Recurrent Language Models) protects whole clients, of which it needs thousands, from all but a
    trusted server: of the two, only this one has the unit and the relation of a record-level route.

    Returns logits (n, n_classes) of the shared model. Raises PrivacyError for what `dp_fedavg_steps` refuses,
    and ModelError for a student that DP-SGD can't train.
    """
    assert recipe.student is not None
    mechanisms = dp_fedavg_steps(recipe, [len(own) for own in rows], promise, clip=clip)
    members = [Member(federation=0, client=k, model=recipe.student, rows=own) for k, own in enumerate(rows)]
    cohort = Cohort(members, pool, seed=recipe.seed, device=device)
    shared = cohort.states[0]
    weights = np.array([len(own) for own in rows], dtype=np.float64)
    logits = np.empty(0, dtype=np.float32)
    for number in range(recipe.settings.rounds):
        learnt = [
            _privately(
                recipe.student,
                shared,
                pool,
                own,
                mechanism.part(recipe.settings.local_steps),
                learning_rate=learning_rate,
                device=device,
            )
            for own, mechanism in zip(rows, mechanisms, strict=True)
        ]
        shared = _average(learnt, weights / weights.sum())
        if each_round is not None or number + 1 == recipe.settings.rounds:
            cohort.states[0] = shared
            logits = cohort.logits_of(0, test)
        if each_round is not None:
            each_round(number, logits)
    return logits


def dp_fedavg_steps(
    recipe: Recipe, sizes: Sequence[int], promise: Guarantee, *, clip: float = 1.0
) -> list[DpSgd]:
    """All steps of all rounds of clients with ``sizes`` records, and the noise that ``promise`` asks for.

    Raises PrivacyError for a promise to clients, or a delta of at least 1 / records.
    """
    if promise.unit != "record":
        raise PrivacyError(
            f"dp_fedavg must promise something to one record, got one {promise.unit}; set unit = 'record'"
        )

    def sized(size: int) -> DpSgd:
        accounting.check_delta(promise.delta, size)

        def steps(noise: float) -> DpSgd:
            return DpSgd(
                sampling_rate=min(1.0, recipe.settings.batch_size / size),
                noise_multiplier=noise,
                clip=clip,
                steps=recipe.settings.rounds * recipe.settings.local_steps,
            )

        def charges(noise: float) -> list[Charge]:
            return [steps(noise).charge]

        return steps(accounting.calibrate(charges, promise.epsilon, promise.delta, promise.relation))

    by_size = {size: sized(size) for size in set(sizes)}
    return [by_size[size] for size in sizes]


def _privately(
    spec: ModelSpec,
    state: State,
    pool: Pool,
    rows: NDArray[np.int64],
    mechanism: DpSgd,
    *,
    learning_rate: float,
    device: str,
) -> State:
    """Run by one client: steps from ``state`` on its own records."""
    module = spec.network(0)
    module.load_state_dict(state)
    dpsgd.train(
        module, pool.x[rows], pool.y[rows], mechanism=mechanism, learning_rate=learning_rate, device=device
    )
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _average(states: Sequence[State], weights: NDArray[np.float64]) -> State:
    return {
        name: torch.stack([w * state[name].double() for w, state in zip(weights, states, strict=True)])
        .sum(0)
        .to(states[0][name].dtype)
        for name in states[0]
    }
