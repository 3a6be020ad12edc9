"""Playing a run's recipe: everything that happens in a federation, from local training to the student.

Nothing here knows who plays it or why; a `Play` and the rows that each client owns decide everything, but
for noise, which is drawn afresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.candidates import Candidates
from securefd.checkpoint import pack_state
from securefd.cohort import Cohort, Member, Pool
from securefd.defenses.sealing import PartialSum
from securefd.federation import Federations
from securefd.given import Given
from securefd.heads import Basis
from securefd.nfdp import Sampled, plan_samples
from securefd.private import PrivatePlan, plan_private
from securefd.recipe import Recipe
from securefd.releases import ReleasePlan, plan_releases
from securefd.result import Run
from securefd.runner import basis_of, one_thread, pool_of

Arrays = dict[str, NDArray[Any]]
Rows = Sequence[NDArray[np.int64]]
"""Of the pool, those that each client of one federation owns."""


UNPROTECTED_STEPS = 50
"""Least steps of a model that is trained without protection; where clients train privately their own steps
may be set elsewhere."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Unprotected:
    """``client`` trains alone, too, and without protection, and is asked ``x`` ``(a, ...)``.

    A control: what is found there could be found, and is protected elsewhere.
    """

    client: int
    x: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Play:
    """Everything about a federation but who takes part.

    ``plans``: of private clients, else empty. ``samples``: what share of its records each client trains on,
    or empty for all. ``releases``: of noised answers, or None. ``basis``: of heads, or None.
    """

    recipe: Recipe
    pool: Pool
    public: NDArray[np.float32]
    plans: tuple[PrivatePlan, ...]
    samples: tuple[Sampled, ...]
    releases: ReleasePlan | None
    basis: Basis | None
    device: str
    unprotected: Unprotected

    @classmethod
    def of(cls, run: Run, about: Candidates) -> Play:
        """What ``run`` played, and the client with the fewest of the candidates ``about`` alone."""
        config, split = run.config, run.split
        recipe = Recipe.of(config, split.input_shape, split.n_classes)
        sizes = [len(client) for client in split.clients]
        private = recipe.private and config.privacy is not None
        return cls(
            recipe=recipe,
            pool=pool_of(split.clients)[0],
            public=split.public,
            plans=tuple(plan_private(config.privacy, recipe, sizes, len(split.public)))
            if private and config.privacy
            else (),
            samples=plan_samples(config, sizes),
            releases=plan_releases(config, recipe, len(split.public)),
            basis=basis_of(config, recipe, split, run.path),
            device=config.performance.device,
            unprotected=_fewest(about),
        )


def play(setup: Play, rows: Sequence[Rows]) -> Arrays:
    """Play one federation for each of ``rows``, side by side; what travelled, and the students.

    ``queries.R``: (a,). ``answers.R``: (F, n_clients, a, C) the first part of the answers, on the grid.
    ``consensus.R``: (F, a, C). ``student.NAME``: (F, ...) weights. ``unprotected``: (F, a', C) logits.
    """
    recipe = setup.recipe
    everyone = rows
    if setup.samples:
        rows = [
            [sampled.of(own) for sampled, own in zip(setup.samples, federation, strict=True)]
            for federation in rows
        ]
    with one_thread():
        counts = _noisy_counts(setup, rows)
        federations = Federations(
            recipe,
            setup.pool,
            rows,
            setup.public,
            counts=counts,
            releases=setup.releases,
            basis=setup.basis,
            device=setup.device,
            workers=1,
        )
        if setup.plans:
            _train_privately(setup, federations, counts)
        arrays: Arrays = {"unprotected": _trained_alone(setup, everyone)}
        for number in range(recipe.settings.rounds):
            if not setup.plans:
                federations.fit(number)
            asked = federations.ask(number)
            vectors = _noised(setup.releases, np.array(federations.answer(asked)), number)
            parts = [_parts(recipe, own) for own in vectors]
            totals = [_noised_sum(setup.releases, own.sum(axis=0), len(own)) for own in vectors]
            consensus = federations.combine(asked, totals, parts)
            federations.digest(asked, consensus, clients=number + 1 < recipe.settings.rounds)
            shape = recipe.blocks(len(asked.asked))[0].shape
            size = int(np.prod(shape))
            arrays |= {
                f"queries.{number}": asked.asked,
                f"answers.{number}": vectors[..., :size]
                .reshape(*vectors.shape[:2], *shape)
                .astype(np.uint32 if setup.releases is None else np.int64),
                f"consensus.{number}": np.stack([each.fresh for each in consensus]),
            }
        federations.finish()
        assert federations.students is not None
        states = [pack_state("student", federations.students.states[f]) for f in range(len(rows))]
        return arrays | {name: np.stack([state[name] for state in states]) for name in states[0]}


def _fewest(about: Candidates) -> Unprotected:
    """The client with the fewest candidates: its model remembers each best, and costs least."""
    clients, counts = np.unique(about.client, return_counts=True)
    client = int(clients[counts.argmin()])
    own = about.x[about.client == client]
    asked = np.concatenate([own, about.population_x.reshape(-1, *own.shape[1:])])
    return Unprotected(client=client, x=asked)


def _trained_alone(setup: Play, rows: Sequence[Rows]) -> NDArray[np.float32]:
    """Logits ``(F, a, C)`` of one client's model, trained on its records for as long as a run trains it."""
    recipe, client = setup.recipe, setup.unprotected.client
    members = [
        Member(federation=f, client=client, model=recipe.models[client], rows=federation[client])
        for f, federation in enumerate(rows)
    ]
    cohort = Cohort(members, setup.pool, seed=recipe.seed, basis=setup.basis, device=setup.device)
    objective = replace(recipe.local(), steps=max(recipe.local().steps, UNPROTECTED_STEPS))
    for number in range(recipe.settings.rounds):
        cohort.fit(f"fit {number}", objective)
    return cohort.logits(setup.unprotected.x)


def _parts(recipe: Recipe, vectors: NDArray[np.int64]) -> list[PartialSum]:
    """What a server would combine of one federation's answers ``(n_clients, d)``: sums of groups, or each."""
    groups = recipe.groups or tuple((k,) for k in range(len(vectors)))
    return [PartialSum(total=vectors[list(group)].sum(axis=0), clients=group) for group in groups]


def _noised(releases: ReleasePlan | None, vectors: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """What leaves each client ``(F, n_clients, d)``, with fresh noise where the deployed clients add some."""
    if releases is None:
        return vectors
    noised = np.empty_like(vectors)
    for place in np.ndindex(*vectors.shape[:2]):
        sealed, noise = releases.release(vectors[place], number)
        noised[place] = sealed if noise is None else sealed + noise
    return noised


def _noised_sum(releases: ReleasePlan | None, total: NDArray[np.int64], clients: int) -> NDArray[np.int64]:
    """What a server makes of the sum over ``clients`` that it opened before anyone else sees it."""
    trusted = releases is not None and releases.route.trusted and total.size
    return releases.noised_sum(total, clients) if releases is not None and trusted else total


def _noisy_counts(setup: Play, rows: Sequence[Rows]) -> list[list[NDArray[np.float64]]] | None:
    """Class counts with fresh noise, as the deployed clients drew theirs; None where none are noised."""
    if not any(plan.counts for plan in setup.plans):
        return None
    return [
        [
            np.asarray(
                plan.counts(np.bincount(setup.pool.y[own], minlength=setup.pool.n_classes)), np.float64
            )
            for plan, own in zip(setup.plans, federation, strict=True)
            if plan.counts is not None
        ]
        for federation in rows
    ]


def _train_privately(
    setup: Play, federations: Federations, counts: list[list[NDArray[np.float64]]] | None
) -> None:
    clients = federations.clients
    for index, member in enumerate(clients.members):
        plan = setup.plans[member.client]
        given = Given(
            spec=member.model,
            x=setup.pool.x[member.rows],
            y=setup.pool.y[member.rows],
            public=setup.public,
            counts=None if counts is None else counts[member.federation][member.client],
            basis=setup.basis,
            device=setup.device,
        )
        for steps in plan.parts:
            clients.states[index] = plan.train(given, clients.states[index], steps)
