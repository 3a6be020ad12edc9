"""The clients of one or many federations, side by side, and what they do in a round.

A run has one federation; an audit re-runs the recipe as dozens of shadow federations. Both are members of
one cohort here, so that models of one architecture train together whoever they belong to, and so that a
shadow is produced by the very code that it shadows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from threadpoolctl import ThreadpoolController

from securefd import heads
from securefd.fleet import Lesson, Objective, State, initial, predict, train
from securefd.heads import Basis
from securefd.models import ModelSpec
from securefd.rng import generator

T = TypeVar("T")

SMALLEST_PROBABILITY = 1e-6
"""What a tree's 0 counts as when its probabilities are taken as logits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One client of one federation: its model, and the rows of the record pool that are its own."""

    federation: int
    client: int
    model: ModelSpec
    rows: NDArray[np.int64]

    @property
    def labels(self) -> tuple[str | int, ...]:
        """What names this member's random streams: the same in every federation of a recipe.

        The seed is no secret, so whoever attacks knows initial weights and order, and shadows share them.
        """
        return ("federation", 0, "client", self.client)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """All private records of a simulation, client after client. ``x``: (n, ...), ``y``: (n,)."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    n_classes: int


class Cohort:
    """Members with their current models. The state is replaced, never shared, at each stage."""

    def __init__(
        self,
        members: Sequence[Member],
        pool: Pool,
        *,
        seed: int,
        balanced: bool = False,
        basis: Basis | None = None,
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        """``basis``: what members with model ``head`` stand on."""
        self.members = tuple(members)
        self.seed = seed
        self.balanced = balanced
        self._pool = pool
        self._x = torch.from_numpy(pool.x)
        self._y = torch.from_numpy(pool.y)
        self._device = device
        self._workers = workers
        self._basis = basis
        self._groups: dict[ModelSpec, list[int]] = {}
        for index, member in enumerate(self.members):
            self._groups.setdefault(member.model, []).append(index)
        self._trees = [index for index, member in enumerate(self.members) if member.model.is_estimator]
        self._heads = [index for index, member in enumerate(self.members) if member.model.is_head]
        self.states: dict[int, State] = {}
        self._estimators: dict[int, BaseEstimator] = {}
        self._pseudo: dict[int, tuple[NDArray[np.float32], NDArray[np.int64]]] = {}
        for index, member in enumerate(self.members):
            if member.model.is_head:
                self.states[index] = heads.blank(member.model.n_classes)
            elif member.model.is_network:
                self.states[index] = initial(member.model, self._draw(member, "initial"))

    def fit(
        self,
        stage: str,
        objective: Objective,
        *,
        counts: Sequence[NDArray[np.float64]] | None = None,
        anchors: Sequence[NDArray[np.float64] | None] | None = None,
        rehearsal: tuple[NDArray[np.float32], Sequence[NDArray[np.float64]]] | None = None,
    ) -> None:
        """Run by each client: learn from its own records.

        ``counts``: the class counts that a balanced softmax weighs by, a member. ``anchors``: (C, C) logits
        that each class is drawn to, a member. ``rehearsal``: public inputs and, for each federation, a
        consensus on them that is learnt along.
        """
        rehearsals = None
        if rehearsal is not None:
            public, targets = rehearsal
            every = [np.arange(len(public))] * len(targets)
            rehearsals = self._public_lessons(f"{stage} rehearsal", public, targets, every)
        lessons = {
            index: Lesson(
                x=self._x,
                target=self._y,
                rows=member.rows,
                order=generator(self.seed, *member.labels, stage),
                log_prior=None if counts is None else log_prior(counts[index]),
                anchors=None if anchors is None else _anchors(anchors[index]),
                rehearsal=None if rehearsals is None else rehearsals[index],
            )
            for index, member in enumerate(self.members)
            if member.model.is_network
        }
        self._train(stage, lessons, objective)
        # Neither has steps to continue: once fitted, it changes only when it digests.
        self._refit([index for index in self._trees if index not in self._estimators])
        self._fit_heads()

    def digest(
        self,
        stage: str,
        objective: Objective,
        public: NDArray[np.float32],
        targets: Sequence[NDArray[np.float64]],
        known: Sequence[NDArray[np.bool_]] | None = None,
    ) -> None:
        """Run by each client: learn the consensus on public inputs.

        ``targets``: (m, n_classes) for each federation; ``known``: (m,) which of them there are, all unless
        given. Estimators and heads take the top class as a label and are refitted on their own records and
        the public ones together. A network or a head to which nothing is known stays as it is.
        """
        rows = [
            np.arange(len(public)) if known is None else np.flatnonzero(known[f]) for f in range(len(targets))
        ]
        self._train(stage, self._public_lessons(stage, public, targets, rows), objective)
        for index in self._trees:
            self._pseudo[index] = _labelled(public, targets, rows, self.members[index].federation)
        self._refit(self._trees)
        taught = {self.members[index].federation for index in self._heads}
        labelled = {f: _labelled(public, targets, rows, f) for f in taught}
        for index in self._heads:
            member = self.members[index]
            x, labels = labelled[member.federation]
            if len(x):
                self.states[index] = heads.digested(
                    self._standing(), self.states[index], len(member.rows), x, labels
                )

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run by each client: ``(n_members, n, n_classes)`` logits on inputs that everyone may see."""
        return np.stack(self._abreast(lambda index: self.logits_of(index, x), range(len(self.members))))

    def logits_of(self, index: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run by one client: ``(n, n_classes)`` logits."""
        member = self.members[index]
        if member.model.is_estimator:
            return self._estimator_logits(index, x)
        if member.model.is_head:
            return heads.logits(self._standing(), self.states[index], x)
        tensor = torch.from_numpy(np.ascontiguousarray(x))
        (logits,) = predict(member.model, [self.states[index]], tensor, device=self._device)
        return np.asarray(logits)

    def records_logits(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Run by one client: logits on its own records, and their labels. Private: they stay there."""
        rows = self.members[index].rows
        return self.logits_of(index, self._pool.x[rows]), self._pool.y[rows]

    def pseudo_labels(self, index: int) -> NDArray[np.int64] | None:
        """The public labels that an estimator was last refitted with, if any."""
        return self._pseudo[index][1] if index in self._pseudo else None

    def restore_estimators(
        self, public: NDArray[np.float32], labels: Mapping[int, NDArray[np.int64]]
    ) -> None:
        """Refit estimators from the public labels that a checkpoint holds: nothing is ever unpickled."""
        self._pseudo = {index: (public, given) for index, given in labels.items()}
        self._refit(self._trees)

    def _public_lessons(
        self,
        stage: str,
        public: NDArray[np.float32],
        targets: Sequence[NDArray[np.float64]],
        rows: Sequence[NDArray[np.int64]],
    ) -> dict[int, Lesson]:
        """Of networks; none of those of a federation without rows."""
        x = torch.from_numpy(public)
        soft = [torch.from_numpy(np.asarray(target, dtype=np.float32)) for target in targets]
        return {
            index: Lesson(
                x=x,
                target=soft[member.federation],
                rows=rows[member.federation],
                order=generator(self.seed, *member.labels, stage),
            )
            for index, member in enumerate(self.members)
            if member.model.is_network and len(rows[member.federation])
        }

    def _fit_heads(self) -> None:
        """Those that know nothing yet, on their own records."""
        for index in self._heads:
            if not len(self.states[index]["own"]):
                member = self.members[index]
                x, y = self._pool.x[member.rows], self._pool.y[member.rows]
                self.states[index] = heads.fitted(self._standing(), x, y, self._pool.n_classes)

    def _standing(self) -> Basis:
        assert self._basis is not None, "members with model head need a basis"
        return self._basis

    def _train(self, stage: str, lessons: dict[int, Lesson], objective: Objective) -> None:
        if not objective.steps:
            return
        for spec, members in self._groups.items():
            indices = [index for index in members if index in lessons]
            if not spec.is_network or not indices:
                continue
            if spec.is_ours:
                self._train_together(spec, indices, lessons, objective, self._workers)
                continue
            for index in indices:
                # A user's network may draw from torch's one generator (dropout): one at a time, seeded.
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self._draw(self.members[index], f"{stage} network"))
                    self._train_together(spec, [index], lessons, objective, 1)

    def _train_together(
        self,
        spec: ModelSpec,
        indices: Sequence[int],
        lessons: Mapping[int, Lesson],
        objective: Objective,
        workers: int,
    ) -> None:
        states = train(
            spec,
            [self.states[index] for index in indices],
            [lessons[index] for index in indices],
            objective,
            device=self._device,
            workers=workers,
        )
        self.states.update(zip(indices, states, strict=True))

    def _refit(self, indices: Sequence[int]) -> None:
        def fitted(index: int) -> BaseEstimator:
            member = self.members[index]
            x, y = self._pool.x[member.rows], self._pool.y[member.rows]
            if index in self._pseudo:
                public, labels = self._pseudo[index]
                x, y = np.concatenate([x, public]), np.concatenate([y, labels])
            estimator = member.model.estimator(
                self._draw(member, "estimator") % 2**32, balanced=self.balanced
            )
            with _one_thread():
                return estimator.fit(x.reshape(len(x), -1), y)

        self._estimators.update(zip(indices, self._abreast(fitted, indices), strict=True))

    def _abreast(self, work: Callable[[int], T], indices: Sequence[int]) -> list[T]:
        """``work`` for each member, in as many threads as there are workers."""
        if self._workers == 1:
            return [work(index) for index in indices]
        with ExitStack() as stack:
            if self._trees:
                # scikit-learn empties the filters of the whole process for a moment around each tree, and
                # warns where it finds them emptied by another thread: they are put back as they were.
                stack.enter_context(warnings.catch_warnings(record=True))
                warnings.simplefilter("ignore")
            pool = stack.enter_context(ThreadPoolExecutor(self._workers))
            return list(pool.map(work, indices))

    def _estimator_logits(self, index: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        estimator = self._estimators[index]
        probabilities = np.zeros((len(x), self._pool.n_classes))
        if len(estimator.classes_) == 1:  # boosting answers with two columns even then
            probabilities[:, estimator.classes_] = 1.0
        elif len(x):  # scikit-learn refuses to answer nothing
            with _one_thread():
                probabilities[:, estimator.classes_] = estimator.predict_proba(x.reshape(len(x), -1))
        return np.log(np.maximum(probabilities, SMALLEST_PROBABILITY)).astype(np.float32)

    def _draw(self, member: Member, label: str) -> int:
        return int(generator(self.seed, *member.labels, label).integers(2**63))


def _one_thread() -> AbstractContextManager[object]:
    """One OpenMP thread in scikit-learn: clients run side by side, and on a busy machine its threads would
    wait for one another a hundred times longer than they compute.
    """
    limit: AbstractContextManager[object] = _libraries().limit(limits=1, user_api="openmp")
    return limit


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _labelled(
    public: NDArray[np.float32],
    targets: Sequence[NDArray[np.float64]],
    rows: Sequence[NDArray[np.int64]],
    federation: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What one federation knows: inputs, and the top classes of its targets."""
    own = rows[federation]
    return public[own], np.asarray(targets[federation])[own].argmax(-1).astype(np.int64)


def _anchors(logits: NDArray[np.float64] | None) -> torch.Tensor | None:
    return None if logits is None else torch.from_numpy(logits.astype(np.float32))


LEAST_SHARE = 0.01
"""Share of a client's records that a class counts as having at least, in a balanced softmax.

Much less, and a client wouldn't learn that its own records aren't of the classes that it lacks; much more,
and it would unlearn those classes.
"""


def log_prior(counts: NDArray[np.float64]) -> torch.Tensor:
    """Log class counts for a balanced softmax, ``(n_classes,)``, finite whatever the counts are."""
    floor = max(LEAST_SHARE * counts.sum(), LEAST_SHARE)
    return torch.from_numpy(np.log(np.maximum(counts, floor)).astype(np.float32))
