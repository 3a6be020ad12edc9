"""A recipe: everything about a federation that decides what its clients and its student learn.

A run follows it once, with real sealing and a ledger; an audit follows it dozens of times, on coin-flipped
records. Performance and, but for its groups, sealing aren't part of it: they change no learnt weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securefd.config import Config, MethodConfig
from securefd.defenses.grouped import Groups, cut, group_sizes
from securefd.defenses.quantise import Block, dequantise_sum
from securefd.defenses.sealing import value_bits
from securefd.errors import ModelError
from securefd.fleet import Objective
from securefd.methods import Method, Options, method_named
from securefd.models import ModelSpec, Shape
from securefd.refusals import refusal
from securefd.rng import generator
from securefd.routes import ROUTES, Noised

NOISY_BITS = 8
"""Bits of a value under noise on answers, unless given: noise is far coarser than their 255 steps."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One federation's method, models and lengths of training.

    ``models``: one for each client. ``student``: None where the method has no public set to distil on.
    ``bits``: of the grid that answers are put on. ``private``: clients' own training is noised, once,
    before the first answer; later rounds touch public inputs only. ``groups``: within which answers are
    summed before they are combined; empty where they aren't.
    """

    method: Method
    options: Options
    settings: MethodConfig
    models: tuple[ModelSpec, ...]
    student: ModelSpec | None
    student_steps: int
    self_training: int
    bits: int
    seed: int
    private: bool
    groups: Groups = ()

    @classmethod
    def of(cls, config: Config, shape: Shape, n_classes: int) -> Recipe:
        """Return the recipe that a configuration describes for inputs of this shape.

        Raises ModelError for a model that can't do its part in it.
        """
        method = method_named(config.method.name)
        options = method.resolve(config.method)
        names = [group.model for group in config.clients for _ in range(group.count)]
        grid = method.grid_bits(options)
        _, largest = group_sizes(len(names), config.sealing.groups or 1)
        models = tuple(ModelSpec(name=name, shape=shape, n_classes=n_classes) for name in names)
        student = ModelSpec(name=config.student.model, shape=shape, n_classes=n_classes)
        for spec in {*models, student}:
            spec.check()
        if student.is_estimator:
            raise ModelError(
                "student.model must be a network, because the student is released as weights, never pickled; "
                f"got {student.name!r}, which makes an estimator: choose mlp, or a factory of torch modules"
            )
        return cls(
            method=method,
            options=options,
            settings=config.method,
            models=models,
            student=student if method.public else None,
            student_steps=config.student.steps,
            self_training=config.student.self_training,
            bits=_sealing_bits(config, largest) if grid is None else grid,
            seed=config.seed,
            private=_noised(config) == "training",
            groups=()
            if config.sealing.groups is None
            else cut(generator(config.seed, "groups").permutation(len(names)), config.sealing.groups),
        )

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.models[0].n_classes

    @property
    def has_heads(self) -> bool:
        """Whether a client stands on public features."""
        return any(spec.is_head for spec in self.models)

    @property
    def needs_features(self) -> bool:
        """Whether anything is made of features of the public set."""
        starts = self.student is not None and (self.student.is_encoder or self.self_training > 0)
        return self.has_heads or starts or self.selective

    @property
    def selective(self) -> bool:
        """Whether the inputs that are asked about are chosen by what they look like."""
        return self.settings.selection == "representative"

    @property
    def balanced(self) -> bool:
        """Whether local training is by a balanced softmax."""
        return self.method.local_loss == "balanced"

    def queries(self, round: int, n_public: int) -> NDArray[np.int64]:  # noqa: A002
        """Sorted indices of the public inputs that round ``round`` (from 0) is about.

        Where they are chosen by what they look like: places among those chosen, the same in every round.
        """
        if not self.method.public:
            return np.empty(0, dtype=np.int64)
        count = min(self.settings.queries, n_public)
        if self.selective:
            return np.arange(count, dtype=np.int64)
        drawn = generator(self.seed, "queries", round).choice(n_public, size=count, replace=False)
        return np.sort(drawn).astype(np.int64)

    def blocks(self, n_queries: int) -> tuple[Block, ...]:
        """The layout of one client's answer."""
        return self.method.blocks(n_queries, self.n_classes, self.options)

    def decoded(
        self, vector: NDArray[np.int64], n_queries: int, n_clients: int = 1, beyond: int = 0
    ) -> NDArray[np.float64]:
        """The first block of ``n_clients`` answers' sum, ``(n_queries, n_classes)``, back from the grid.

        ``beyond``: how far noise may carry it; see `dequantise_sum`.
        """
        return dequantise_sum(vector, self.blocks(n_queries), self.bits, n_clients, beyond)[0]

    def local(self) -> Objective:
        """What a client minimises on its own records in one round."""
        return self._objective("cross_entropy", self.settings.local_steps)

    def digest(self) -> Objective:
        """What a client, and the student, minimise on the consensus in one round."""
        return self._objective(self.method.loss, self.settings.digest_steps)

    def final(self) -> Objective:
        """What the student minimises at the end."""
        return self._objective(self.method.loss, self.student_steps)

    def _objective(self, loss: str, steps: int) -> Objective:
        return Objective(
            loss=loss,
            steps=steps,
            batch_size=self.settings.batch_size,
            learning_rate=self.settings.learning_rate,
            temperature=self.options.temperature,
            distance_weight=0.0 if self.method.public else self.options.distance_weight,
        )


def _noised(config: Config) -> Noised | None:
    """What is noised under the configured route, if anything is."""
    if config.privacy is None or config.privacy.route == "none":
        return None
    return ROUTES[config.privacy.route].noised


def _sealing_bits(config: Config, n_clients: int) -> int:
    """Bits of each value on the grid: those asked for, or the most whose sums fit and that aren't noise."""
    sealing = config.sealing
    most = value_bits(sealing.kind, n_clients)
    if sealing.bits is not None and sealing.bits > most:
        raise refusal(
            "sealing.bits",
            f"must be at most {most} for sealing.kind = {sealing.kind!r} and {n_clients} clients, whose sums "
            "must fit",
            sealing.bits,
            "give less, or leave it out",
        )
    if sealing.bits is not None:
        return sealing.bits
    return min(most, NOISY_BITS) if _noised(config) == "answers" else most
