"""About how long a run takes on this machine: what it does, counted, times how long each piece takes.

See `securefd.timings` for the pieces. The figure is for a person who waits, and goes nowhere else.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from securefd import features, timings
from securefd.config import Config
from securefd.exchange import asked_counts, neighbourhood_of
from securefd.models import ModelSpec
from securefd.pate import PatePlan
from securefd.private import DpSgdPlan, PrivatePlan
from securefd.recipe import Recipe
from securefd.releases import ReleasePlan
from securefd.rules import n_clients, one_group

STORED = 0.001
"""Seconds until a file lies safely on a solid-state disk: as seen, 0.1 ms on an idle and 4 ms on a busy one.

A plan writes none, so it can't time that."""
STORED_A_ROUND, STORED_A_PAYMENT = 8, 9
"""Files, and lines of journals, that are stored in each round, and for each payment from a ledger."""
PAYMENT = 0.006
"""Seconds of reading, checking and signing a short ledger, seen where `STORED` was."""


@dataclass(frozen=True, kw_only=True)
class Duration:
    """``stages``: seconds of each kind of work that a run does."""

    stages: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.stages.values())

    def lines(self) -> list[str]:
        """In words, with what takes most of it."""
        total = self.seconds
        most = sorted(self.stages.items(), key=lambda stage: -stage[1])
        told = [f"{share / total:.0%} {name}" for name, share in most if share > 0.05 * total]
        return [f"{about(total)} on this machine if it does nothing else ({', '.join(told)})"]


def about(seconds: float) -> str:
    """A rounded figure with its unit: no more precise than an estimate can be."""
    units = (("second", 1, 90), ("minute", 60, 90), ("hour", 3600, 36), ("day", 86400, math.inf))
    name, size = next((name, size) for name, size, most in units if seconds < size * most)
    count = max(1, round(seconds / size))
    if count > 10:
        count = 5 * round(count / 5)
    return f"about {count:,} {name}{'s' * (count > 1)}"


def estimate(
    config: Config,
    recipe: Recipe,
    *,
    sizes: Sequence[int],
    n_public: int,
    n_test: int,
    private: Sequence[PrivatePlan],
    releases: ReleasePlan | None,
    setting_up: float,
) -> Duration:
    """How long `run` takes, with each client alone to compare with. Takes about two seconds at most itself.

    ``sizes``: records that each client trains on. ``setting_up``: seconds that it took to load the data and
    to size noise, which a run does again.
    """
    work = _Work(config, recipe, tuple(sizes), n_public, n_test, tuple(private), releases)
    with timings.apart():
        stages = {
            "setting up": setting_up,
            "features of the public set": work.features(),
            "private training": work.private_training(),
            "clients' training": work.training(),
            "the student's training": work.student(),
            "answers": work.answers(),
            "sealing": work.sealing(),
            "noise and ledgers": work.releasing(),
            "storing": recipe.settings.rounds * STORED_A_ROUND * STORED,
        }
    return Duration(stages={name: share for name, share in stages.items() if share > 0})


@dataclass(frozen=True)
class _Work:
    """What a run does; each method returns the seconds that one kind of it takes."""

    config: Config
    recipe: Recipe
    sizes: tuple[int, ...]
    n_public: int
    n_test: int
    private: tuple[PrivatePlan, ...]
    releases: ReleasePlan | None
    _known: dict[tuple[ModelSpec, int], float] = field(default_factory=dict)
    _fitted: dict[ModelSpec, timings.Refit] = field(default_factory=dict)
    _answered: dict[ModelSpec, float] = field(default_factory=dict)

    @cached_property
    def asked(self) -> list[int]:
        """Public inputs that are asked about, by round."""
        return asked_counts(self.recipe, self.n_public)

    @property
    def device(self) -> str:
        """Where networks are."""
        return self.config.performance.device

    @property
    def abreast(self) -> int:
        """How many clients are at work at the same time."""
        return min(self.config.performance.workers, os.cpu_count() or 1)

    def features(self) -> float:
        """Learning them, and those of what all heads are asked about, once for all of them."""
        shape = self.recipe.models[0].shape
        if not self.recipe.needs_features or len(shape) != 3:  # columns of a table take no time
            return 0.0
        learning = features.STEPS * timings.contrastive_step(shape, self.n_public, device=self.device)
        rows = self.n_public
        if self.recipe.has_heads:
            rows += self.n_public + self.n_test + sum(self.asked)
        return (
            learning + rows * timings.feature(shape, one_by_one=False, device=self.device) + self._records()
        )

    def _records(self) -> float:
        """Features of the records of heads: one by one where they are to be protected."""
        shape = self.recipe.models[0].shape
        heads = [size for spec, size in zip(self.recipe.models, self.sizes, strict=True) if spec.is_head]
        return sum(heads) * timings.feature(shape, one_by_one=bool(self.private), device=self.device)

    def private_training(self) -> float:
        """Of one client after the other."""
        known: dict[tuple[ModelSpec, int], float] = {}
        for spec, plan, size in zip(self.recipe.models, self.private, self.sizes, strict=False):
            if isinstance(plan, DpSgdPlan) and (spec, size) not in known:
                # Clients differ in size by chance: a step takes as many records of either.
                alike = next((s for m, s in known if m == spec and min(s, size) >= plan.expected_batch), None)
                known[spec, size] = (
                    timings.private_training(spec, plan, size, device=self.device)
                    if alike is None
                    else known[spec, alike]
                )
        return sum(
            self._private_training(spec, plan, known.get((spec, size), 0.0))
            for spec, plan, size in zip(self.recipe.models, self.private, self.sizes, strict=False)
        )

    def _private_training(self, spec: ModelSpec, plan: PrivatePlan, steps: float) -> float:
        paying = len(plan.parts) * (PAYMENT + STORED_A_PAYMENT * STORED)
        if isinstance(plan, PatePlan) and spec.is_network:
            taught = plan.teaching.steps * self._step(spec, plan.mechanism.teachers)
            return paying + taught + plan.learning.steps * self._step(spec, 1)
        return paying + steps

    def training(self) -> float:
        """Of clients, together and alone, but for what is private."""
        recipe, settings = self.recipe, self.recipe.settings
        rounds, local, digest = settings.rounds, settings.local_steps, settings.digest_steps
        if not recipe.method.public:
            digests = 0
        elif recipe.method.rehearsal and not recipe.private:
            digests = (rounds - 1) * local + digest  # beside the own records, and once at the end
        else:
            digests = rounds * digest
        steps = digests + (0 if recipe.private else 2 * rounds * local)
        networks = Counter(spec for spec in recipe.models if spec.is_network)
        return self._trees() + steps * sum(self._step(spec, count) for spec, count in networks.items())

    def _step(self, spec: ModelSpec, count: int) -> float:
        """One gradient step of each of ``count`` networks."""
        if (spec, count) not in self._known:
            self._known[spec, count] = timings.gradient_step(
                spec, count, self.recipe.local(), device=self.device, workers=self.abreast
            )
        return self._known[spec, count]

    def _trees(self) -> float:
        """Fitting estimators to their own records, together and alone, and to public inputs in each round.

        Two small ones abreast were seen to take as long as one after the other: most of it is Python's.
        """
        rounds, queries = self.recipe.settings.rounds, min(self.recipe.settings.queries, self.n_public)
        found = 0.0
        for spec, size in zip(self.recipe.models, self.sizes, strict=True):
            if spec.is_estimator:
                fitting = self._estimator(spec)
                records = 2 * size + rounds * (size + queries)
                found += (2 + rounds) * fitting.each + records * fitting.record
        return found

    def _estimator(self, spec: ModelSpec) -> timings.Refit:
        if spec not in self._fitted:
            self._fitted[spec] = timings.refit(spec)
        return self._fitted[spec]

    def student(self) -> float:
        """All that it digests, or learns in rounds, before each of which it labels all public inputs anew."""
        recipe = self.recipe
        if recipe.student is None:
            return 0.0
        if recipe.self_training:
            looks = 3 * (recipe.self_training - 1) * self.n_public  # as they are, bent, and for its features
            step = timings.self_training_step(recipe.student, device=self.device)
            return recipe.student_steps * step + looks * self._answer(recipe.student)
        steps = recipe.settings.rounds * recipe.settings.digest_steps + recipe.student_steps
        return steps * self._step(recipe.student, 1)

    def answers(self) -> float:
        """To queries, and on the test set after each round and at the end, of clients and student."""
        recipe, rounds = self.recipe, self.recipe.settings.rounds
        tests = rounds + 2  # private clients are asked before the first round, others alone at the end
        found = sum(
            sum(self.asked) * self._rounded
            + (sum(self.asked) + rounds * size * (not recipe.method.public) + tests * self.n_test)
            * self._answer(spec)
            for spec, size in zip(recipe.models, self.sizes, strict=True)
        )
        found /= self.abreast
        if recipe.student is not None:
            asked = sum(self.asked) if recipe.method.dual else 0
            found += (asked + (rounds + 1) * self.n_test) * self._answer(recipe.student)
        return found

    @cached_property
    def _rounded(self) -> float:
        return timings.rounded(self.recipe)

    def _answer(self, spec: ModelSpec) -> float:
        """To one input. That of a head is a product with features, which are counted elsewhere."""
        if spec.is_head:
            return 0.0
        if spec.is_estimator:
            return self._estimator(spec).answer
        if spec not in self._answered:
            self._answered[spec] = timings.answer(spec, device=self.device)
        return self._answered[spec]

    def sealing(self) -> float:
        """Of every round's sums."""
        kind = self.config.sealing.kind
        if kind == "plain":
            return 0.0
        found = 0.0
        for size, count in Counter(self._group_sizes()).items():
            graph = neighbourhood_of(one_group(self.config, size))
            pairs = 0.0 if graph is None else size * graph.partners
            values = [sum(block.size for block in self.recipe.blocks(asked)) for asked in self.asked]
            largest = max(values)
            rounds = sum(values) / largest  # what isn't asked isn't sealed
            found += count * rounds * timings.sealed(kind, size, pairs, largest, self.recipe.bits)
        return found

    def _group_sizes(self) -> list[int]:
        """Clients of each sum."""
        return [len(group) for group in self.recipe.groups] or [n_clients(self.config)]

    def releasing(self) -> float:
        """Each client's noise on its answers, and what it writes before it draws any."""
        if self.releases is None:
            return 0.0
        clients, share = n_clients(self.config), self.releases.share
        paid = [asked for asked in self.releases.rounds if asked.entries]
        found = clients * len(paid) * (PAYMENT + STORED_A_PAYMENT * STORED)
        if share is not None and paid:
            entries = sum(asked.entries for asked in paid)
            draws = 1 if self.releases.route.trusted else clients
            found += draws * timings.noised(share, entries)
        return found
