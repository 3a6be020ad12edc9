"""Federations of one recipe, step by step: local training, answers, consensus, digest, student.

Nothing here reads or writes files, and nothing draws released noise or keys: a run adds sealing, a ledger
and a folder around these steps; shadow federations call them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from securefd.cache import Cache
from securefd.cohort import Cohort, Member, Pool
from securefd.defenses.csprng import uniform
from securefd.defenses.quantise import Block, dequantise_sum, quantise
from securefd.defenses.rounding import quantise_by_chance
from securefd.defenses.sealing import PartialSum
from securefd.errors import DataError, ProtocolError
from securefd.fleet import Objective
from securefd.heads import Basis
from securefd.methods import Own, clipped, leave_one_out
from securefd.recipe import Recipe
from securefd.releases import ReleasePlan
from securefd.rng import generator
from securefd.selection import representative
from securefd.self_training import Answers, self_trained
from securefd.simplex import on_simplex_grid

Vector = NDArray[np.int64]
Floats = NDArray[np.float64]

STUDENT = -1
"""The student's number as a member: no client has it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What a round is about: its ``queries``, and those of them that aren't cached and must be ``asked``."""

    round: int
    queries: NDArray[np.int64]
    asked: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Consensus:
    """What one federation made of the sum of its answers.

    ``mean``: ``(a, n_classes)`` the mean answer, decoded. ``fresh``: ``(a, n_classes)`` what is broadcast
    for the queries asked, as float32 carries it: zeros for one that isn't answered. ``target``: ``(m,
    n_classes)`` what is digested. ``known``: ``(m,)`` of which queries: all, but those never answered.
    """

    mean: Floats
    fresh: Floats
    target: Floats
    known: NDArray[np.bool_]


class Federations:
    """``len(rows)`` federations of one recipe over one pool of records and one public set.

    ``caches``: what was broadcast; ``taught``: what the student learns from, which differs only under
    dual distillation. ``digested``: the queries of the last digest. ``weights``: of each federation, what
    `Method.combine_individual` returned last.

    ``rows[f][k]``: rows of the pool that client k of federation f owns. ``counts[f][k]``: the class counts
    that the method may use, true by default; noisy ones under a record-level route. ``releases``: how answers
    are noised under a client-level route; here they are only rounded for it, and decoded. ``basis``: what
    clients with model ``head`` stand on, and the student and the choice of queries, where they do. Raises
    DataError for a client without records.
    """

    def __init__(
        self,
        recipe: Recipe,
        pool: Pool,
        rows: Sequence[Sequence[NDArray[np.int64]]],
        public: NDArray[np.float32],
        *,
        counts: Sequence[Sequence[Floats]] | None = None,
        releases: ReleasePlan | None = None,
        basis: Basis | None = None,
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        self.recipe = recipe
        self.public = public
        self.releases = releases
        self.n_clients = len(recipe.models)
        _check_rows(rows)
        members = [
            Member(federation=f, client=k, model=recipe.models[k], rows=own)
            for f, federation in enumerate(rows)
            for k, own in enumerate(federation)
        ]
        self.clients = Cohort(
            members,
            pool,
            seed=recipe.seed,
            balanced=recipe.balanced,
            basis=basis,
            device=device,
            workers=workers,
        )
        nobody = np.empty(0, dtype=np.int64)
        self.students = (
            Cohort(
                [
                    Member(federation=f, client=STUDENT, model=recipe.student, rows=nobody)
                    for f in range(len(rows))
                ],
                pool,
                seed=recipe.seed,
                device=device,
                workers=workers,
            )
            if recipe.student is not None
            else None
        )
        true = [np.bincount(pool.y[m.rows], minlength=pool.n_classes).astype(np.float64) for m in members]
        self._counts = true if counts is None else [c for federation in counts for c in federation]
        duration = recipe.options.cache_rounds
        self.caches = [Cache.empty(len(public), pool.n_classes, duration) for _ in rows]
        self.taught = list(self.caches)
        self.digested = nobody
        self.anchors: list[Floats | None] = [None] * len(members)
        self.weights: list[Floats | None] = [None] * len(rows)
        self._basis = basis
        self._device = device
        self._chosen = np.arange(len(public))
        if recipe.selective:
            drawn = int(generator(recipe.seed, "selection").integers(2**63))
            self._chosen = representative(self._standing.public, recipe.settings.queries, seed=drawn)
        if self.students is not None and recipe.student is not None and recipe.student.is_encoder:
            for state in self.students.states.values():
                state |= {f"0.{name}": value.clone() for name, value in self._standing.learnt.state.items()}

    @property
    def n_federations(self) -> int:
        """How many federations are played side by side."""
        return len(self.caches)

    def ask(self, round: int) -> Asked:  # noqa: A002
        """Run by the server: choose what round ``round`` (from 0) is about. All federations ask the same."""
        queries = self._chosen[self.recipe.queries(round, len(self.public))]
        asked = self.caches[0].missing(queries, round) if self.recipe.method.public else queries
        return Asked(round=round, queries=queries, asked=asked)

    def fit(self, round: int) -> None:  # noqa: A002
        """Run by each client: local training on its own records, without formal privacy."""
        self.clients.fit(
            f"fit {round}",
            self.recipe.local(),
            counts=self._counts if self.recipe.balanced else None,
            anchors=self.anchors if any(anchor is not None for anchor in self.anchors) else None,
            rehearsal=self._rehearsal(),
        )

    def answer(self, asked: Asked) -> list[list[Vector]]:
        """Run by each client: its answers on the grid, ``[federation][client]``, each ``(d,)``."""
        recipe = self.recipe
        logits = self.clients.logits(self.public[asked.asked]) if recipe.method.public else None
        blocks = recipe.blocks(len(asked.asked))
        vectors = []
        for index in range(len(self.clients.members)):
            own = Own(
                logits=np.empty((0, recipe.n_classes))
                if logits is None
                else logits[index].astype(np.float64),
                counts=self._counts[index],
                classwise=None if recipe.method.public else self._classwise(index),
            )
            answer = recipe.method.answer(own, recipe.options)
            vectors.append(
                quantise(answer, blocks, recipe.bits)
                if self.releases is None
                else quantise_by_chance(answer, blocks, recipe.bits, uniform)
            )
        return [vectors[f * self.n_clients : (f + 1) * self.n_clients] for f in range(self.n_federations)]

    def combine(
        self,
        asked: Asked,
        totals: Sequence[Vector],
        parts: Sequence[Sequence[PartialSum]] | None = None,
    ) -> list[Consensus]:
        """Run by the server: the consensus of each federation from its opened sum ``(d,)``.

        ``parts``: of what the sums are made: single answers, sums of groups, or one sum of those clients that
        took part; all clients, in one sum, unless given. ProtocolError where a method that combines answers
        one by one gets the sum alone. A method with dual distillation broadcasts what the student makes of
        the consensus, so the student digests first.
        """
        recipe = self.recipe
        blocks = recipe.blocks(len(asked.asked))
        if parts is None:
            numbers = [self.n_clients] * len(totals)
        else:
            numbers = [sum(len(part.clients) for part in opened) for opened in parts]
        sums = [self._decoded(t, blocks, n) for t, n in zip(totals, numbers, strict=True)]
        means = [s[0] / n for s, n in zip(sums, numbers, strict=True)]
        if recipe.method.combine is not None:
            combine = recipe.method.combine
            fresh = [combine(s, n, recipe.options) for s, n in zip(sums, numbers, strict=True)]
        else:
            fresh = self._combine_individual(asked, parts)
        combined = [f.astype(np.float32).astype(np.float64) for f in fresh]
        if recipe.method.dual:
            self._student_digest(f"digest {asked.round}", recipe.digest(), asked.asked, fresh)
            assert self.students is not None
            own = self.students.logits(self.public[asked.asked]).astype(np.float64)
            fresh = [on_simplex_grid(np.asarray(softmax(z, axis=-1)), recipe.options.bits) for z in own]
        else:
            fresh = combined
        if not recipe.method.public:
            every = np.ones(recipe.n_classes, dtype=np.bool_)
            return [
                Consensus(mean=m, fresh=f, target=f, known=every) for m, f in zip(means, fresh, strict=True)
            ]
        answered = [self._answered(mean) for mean in means]
        fresh = [np.where(rows[:, None], f, 0.0) for f, rows in zip(fresh, answered, strict=True)]
        self.caches = [
            cache.store(asked.asked[rows], f[rows], asked.round)
            for cache, f, rows in zip(self.caches, fresh, answered, strict=True)
        ]
        self.taught = [
            cache.store(asked.asked[rows], c[rows], asked.round)
            for cache, c, rows in zip(self.taught, combined, answered, strict=True)
        ]
        known = [cache.known(asked.queries) for cache in self.caches]
        targets = [cache.consensus[asked.queries] for cache in self.caches]
        return [
            Consensus(mean=m, fresh=f, target=t, known=k)
            for m, f, t, k in zip(means, fresh, targets, known, strict=True)
        ]

    def _answered(self, mean: Floats) -> NDArray[np.bool_]:
        """``(a,)`` which queries are answered at all; where votes agree too little, nothing is released."""
        if self.releases is None or self.releases.confident is None:
            return np.ones(len(mean), dtype=np.bool_)
        answered: NDArray[np.bool_] = np.any(mean != 0, axis=-1)
        return answered

    def _decoded(self, total: Vector, blocks: Sequence[Block], n_clients: int) -> tuple[Floats, ...]:
        if self.releases is None:
            return dequantise_sum(total, blocks, self.recipe.bits, n_clients)
        reach = self.releases.reach(total.size)
        first, *others = dequantise_sum(total, blocks, self.recipe.bits, n_clients, reach)
        return self.releases.unbiased(first / n_clients) * n_clients, *others

    def _combine_individual(self, asked: Asked, parts: Sequence[Sequence[PartialSum]] | None) -> list[Floats]:
        recipe = self.recipe
        assert recipe.method.combine_individual is not None
        if parts is None:
            raise ProtocolError(
                f"method {recipe.method.name} combines answers one by one, got their sum; pass them as parts"
            )
        m, fresh = len(asked.asked), []
        for federation, opened in enumerate(parts):
            means = [recipe.decoded(part.total, m, len(part.clients)) / len(part.clients) for part in opened]
            consensus, self.weights[federation] = recipe.method.combine_individual(
                np.stack(means), self.weights[federation], recipe.options
            )
            fresh.append(consensus)
        return fresh

    def digest(self, asked: Asked, consensus: Sequence[Consensus], *, clients: bool = True) -> None:
        """Run by each client, and by the server for its student: learn the consensus.

        Where the method rehearses, networks learn it in the next round's local training, if there is one.
        Private clients learn it at the end, for as long as all rounds together: until then each round is
        answered from what was trained privately, since nothing else brings anything new, and answers from
        models that digested answers get worse. ``clients``: whether they learn at all; after the last answer
        nobody else would notice.
        """
        recipe = self.recipe
        targets, known_to = [c.target for c in consensus], [c.known for c in consensus]
        stage = f"digest {asked.round}"
        last = asked.round + 1 == recipe.settings.rounds
        if clients and recipe.private and last:
            known = np.flatnonzero(self.caches[0].made >= 0)
            objective = replace(recipe.digest(), steps=recipe.settings.rounds * recipe.settings.digest_steps)
            everything = [cache.lookup(known) for cache in self.caches]
            self.clients.digest(stage, objective, self.public[known], everything)
        elif clients and not recipe.private:
            later = recipe.method.rehearsal and not last
            objective = replace(recipe.digest(), steps=0) if later else recipe.digest()
            self.clients.digest(stage, objective, self.public[asked.queries], targets, known_to)
        self.digested = asked.queries[known_to[0]]
        if not recipe.method.dual and not recipe.self_training:
            self._student_digest(stage, recipe.digest(), asked.queries, targets, known_to)

    def set_anchors(self, totals: Sequence[Vector], vectors: Sequence[Sequence[Vector]]) -> None:
        """Run by each client of ``fd``: the others' mean logits of each class, from the sum less its own."""
        recipe, blocks = self.recipe, self.recipe.blocks(0)
        anchors: list[Floats | None] = []
        for total, own_vectors in zip(totals, vectors, strict=True):
            sums = dequantise_sum(total, blocks, recipe.bits, self.n_clients)
            for vector in own_vectors:
                own = dequantise_sum(vector, blocks, recipe.bits, 1)
                means, known = leave_one_out(sums, own, self.n_clients)
                anchors.append(np.where(known[:, None], means, np.nan))
        self.anchors = anchors

    def finish(self) -> None:
        """Run by the server: distil the student once more, from the last answers on every public input.

        A student that trains itself starts here: rounds of it would be of answers that are still to come.
        """
        if self.students is None:
            return
        every = np.arange(len(self.public))
        known = [cache.known(every) for cache in self.taught]
        if self.recipe.self_training:
            for index, rows in enumerate(known):
                self._self_train(index, np.flatnonzero(rows))
            return
        some = np.flatnonzero(np.any(known, axis=0))
        self._student_digest(
            "final",
            self.recipe.final(),
            some,
            [cache.consensus[some] for cache in self.taught],
            [rows[some] for rows in known],
        )

    def _self_train(self, index: int, known: NDArray[np.int64]) -> None:
        """The student of one federation, from what is ``known``; nothing known leaves it as it is."""
        recipe = self.recipe
        assert self.students is not None
        assert recipe.student is not None
        if not len(known):
            return
        self.students.states[index] = self_trained(
            recipe.student,
            self.students.states[index],
            self.public,
            Answers(values=self.taught[index].consensus[known], known=known),
            self._standing.learnt,
            rounds=recipe.self_training,
            steps=recipe.student_steps,
            rng=generator(recipe.seed, "self-training"),
            device=self._device,
        )

    @property
    def _standing(self) -> Basis:
        assert self._basis is not None, "what stands on features needs a basis"
        return self._basis

    def _rehearsal(self) -> tuple[NDArray[np.float32], list[Floats]] | None:
        """The last consensus, to be learnt beside the own records."""
        if not self.recipe.method.rehearsal or not len(self.digested):
            return None
        return self.public[self.digested], [cache.lookup(self.digested) for cache in self.caches]

    def _student_digest(
        self,
        stage: str,
        objective: Objective,
        queries: NDArray[np.int64],
        targets: Sequence[Floats],
        known: Sequence[NDArray[np.bool_]] | None = None,
    ) -> None:
        assert self.students is not None
        self.students.digest(stage, objective, self.public[queries], targets, known)

    def _classwise(self, index: int) -> Floats:
        """Mean centred and clipped logits over the own records of each class, ``(C, C)``."""
        logits, labels = self.clients.records_logits(index)
        values = clipped(logits.astype(np.float64), self.recipe.options.logit_bound)
        means = np.zeros((self.recipe.n_classes, self.recipe.n_classes))
        for label in np.unique(labels):
            means[label] = values[labels == label].mean(axis=0)
        return means


def _check_rows(rows: Sequence[Sequence[NDArray[np.int64]]]) -> None:
    for federation in rows:
        for k, own in enumerate(federation):
            if not len(own):
                raise DataError(f"client {k} has no records to learn from; give it some, or leave it out")
