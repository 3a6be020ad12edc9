"""Record-level differential privacy, as one client's part of a run: by DP-SGD, or a head from one noised sum.

A client trains privately once, before its first answer; everything after is answered from that model and
from public inputs, and costs nothing more. The training is cut into parts. Each part is paid for on disk
before it starts and stored when it ends, so that a crash loses, and pays twice for, one part at most; when
the budget then doesn't cover the last parts, they aren't trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from securefd import heads
from securefd.cohort import log_prior
from securefd.config import PrivacyConfig
from securefd.defenses import accounting, dpsgd, filters
from securefd.defenses.charges import Charge
from securefd.defenses.claims import Guarantee
from securefd.defenses.dpsgd import DpSgd
from securefd.defenses.head import ClassSums, worthwhile
from securefd.defenses.noise import CountNoise
from securefd.errors import ModelError, PrivacyError
from securefd.features import width
from securefd.fleet import State
from securefd.given import Given
from securefd.losses import balanced_cross_entropy
from securefd.models import ModelSpec
from securefd.pate import BATCH, STEPS, PatePlan, VoteCounts, usual_teachers
from securefd.recipe import Recipe

PARTS = 4
"""Parts that a private training is cut into."""
COUNTS_SHARE = 0.05
"""Share of epsilon that noisy class counts get, where the method uses them: enough for counts of tens. Where
noise is given instead of epsilon, it is a share of what the training costs, and comes on top."""


class PrivatePlan(Protocol):
    """What one client's private accesses are, and what they come to together.

    Unit of privacy: one record of this client. ``counts``: the noise on class counts, or None where the
    method uses none. ``guarantee``: of everything in the plan, under its relation.
    """

    @property
    def counts(self) -> CountNoise | None:
        """The noise on class counts."""

    @property
    def guarantee(self) -> Guarantee:
        """What all of it promises."""

    @property
    def parts(self) -> tuple[int, ...]:
        """Steps of each part: what is paid for, done and stored at a time."""

    def charge(self, steps: int) -> Charge:
        """What so many steps cost."""

    def train(self, given: Given, state: State, steps: int) -> State:
        """Run by one client, after it has paid: so many steps on its records; the new weights."""


@dataclass(frozen=True, kw_only=True)
class DpSgdPlan:
    """A network is trained by DP-SGD. ``expected_batch``: the divisor of each step, fixed beforehand."""

    mechanism: DpSgd
    expected_batch: float
    learning_rate: float
    counts: CountNoise | None
    guarantee: Guarantee

    @property
    def parts(self) -> tuple[int, ...]:
        """As `PARTS` as can be."""
        size = math.ceil(self.mechanism.steps / PARTS)
        return tuple(min(size, self.mechanism.steps - done) for done in range(0, self.mechanism.steps, size))

    def charge(self, steps: int) -> Charge:
        """That of the mechanism for so many steps."""
        return self.mechanism.part(steps).charge

    def train(self, given: Given, state: State, steps: int) -> State:
        """Take the next steps; with class counts, of a balanced softmax."""
        module = given.spec.network(0)
        module.load_state_dict(state)
        prior = torch.zeros(given.spec.n_classes) if given.counts is None else log_prior(given.counts)
        prior = prior.to(given.device)

        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            return balanced_cross_entropy(outputs, labels, prior)

        dpsgd.train(
            module,
            given.x,
            given.y,
            mechanism=self.mechanism.part(steps),
            learning_rate=self.learning_rate,
            expected_batch=self.expected_batch,
            loss=loss,
            device=given.device,
        )
        return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


@dataclass(frozen=True, kw_only=True)
class HeadPlan:
    """A head is made of one noised sum over the records, all at once."""

    mechanism: ClassSums
    guarantee: Guarantee
    counts: CountNoise | None = None
    parts: tuple[int, ...] = (1,)

    def charge(self, steps: int) -> Charge:
        """That of the one release."""
        return self.mechanism.charge

    def train(self, given: Given, state: State, steps: int) -> State:
        """Draw the noise, and make the head."""
        assert given.basis is not None, "a head needs a basis"
        return heads.released(given.basis, given.x, given.y, self.mechanism)


def charges_of(plan: PrivatePlan) -> list[Charge]:
    """Everything that a plan costs."""
    counted: list[Charge] = [] if plan.counts is None else [plan.counts.charge]
    return [*counted, plan.charge(sum(plan.parts))]


def plan_private(
    privacy: PrivacyConfig, recipe: Recipe, sizes: Sequence[int], n_public: int = 0
) -> list[PrivatePlan]:
    """Size the noise for each client with ``sizes`` records, so that its guarantee is what was asked.

    ``n_public``: how many public inputs there are, for teachers to vote on.

    Raises PrivacyError for a delta that lets a record be published (it must be below 1 / records), noise
    that earns no finite epsilon, more teachers than records or more labels than public inputs, and ModelError
    for a model that the route can't train: all of them before anything is paid for.
    """
    assert privacy.delta is not None
    for size in sizes:
        accounting.check_delta(privacy.delta, size)
    for spec in set(recipe.models):
        _check_trainable(spec, privacy.route)
    planned = {size: _planned(privacy, recipe, size, n_public) for size in set(sizes)}
    return [planned[size] for size in sizes]


def _planned(privacy: PrivacyConfig, recipe: Recipe, size: int, n_public: int) -> PrivatePlan:
    if privacy.route == "pate":
        return _plan_pate(privacy, recipe, size, n_public)
    return (_plan_head if privacy.route == "head" else _plan_dpsgd)(privacy, recipe, size)


def _check_trainable(spec: ModelSpec, route: str) -> None:
    if route == "pate" and spec.is_estimator:
        raise ModelError(
            f"model {spec.name!r} can't learn from noisy votes, because it takes whole labels and is "
            "refitted on its own records; choose a network or head"
        )
    if route != "dpsgd":
        return
    if spec.is_estimator:
        raise ModelError(
            f"model {spec.name!r} can't be trained by DP-SGD, because it doesn't train by gradient steps; "
            "choose a network"
        )
    module = spec.network(0)
    dpsgd.check_module(module)
    dpsgd.check_separate(module, spec.shape)


def _plan_dpsgd(privacy: PrivacyConfig, recipe: Recipe, size: int) -> PrivatePlan:
    rate = min(1.0, recipe.settings.batch_size / size)

    def mechanism(noise: float) -> DpSgd:
        return DpSgd(
            sampling_rate=rate, noise_multiplier=noise, clip=privacy.clip, steps=recipe.settings.local_steps
        )

    sized = _size(privacy, recipe, size, lambda noise: mechanism(noise).charge)
    return DpSgdPlan(
        mechanism=mechanism(sized.noise),
        expected_batch=rate * size,
        learning_rate=privacy.learning_rate,
        counts=sized.counts,
        guarantee=sized.guarantee,
    )


def _plan_head(privacy: PrivacyConfig, recipe: Recipe, size: int) -> PrivatePlan:
    classes, most = recipe.n_classes, width(recipe.models[0].shape)

    def mechanism(noise: float) -> ClassSums:
        dimensions = worthwhile(size, noise, n_classes=classes, at_most=most)
        return ClassSums.of(noise, n_classes=classes, dimensions=dimensions)

    sized = _size(privacy, recipe, size, lambda noise: mechanism(noise).charge)
    return HeadPlan(mechanism=mechanism(sized.noise), counts=sized.counts, guarantee=sized.guarantee)


def _plan_pate(privacy: PrivacyConfig, recipe: Recipe, size: int, n_public: int) -> PrivatePlan:
    teachers = usual_teachers(size) if privacy.teachers is None else privacy.teachers
    if not 2 <= teachers <= size:
        raise PrivacyError(
            f"privacy.teachers must be at least 2 and at most a client's records, got {teachers} for {size} "
            "records; ask for fewer, or have larger clients"
        )
    labels = n_public if privacy.labels is None else privacy.labels
    if not 1 <= labels <= n_public:
        raise PrivacyError(
            f"privacy.labels must be at least 1 and at most the number of public inputs, got {labels} for "
            f"{n_public} inputs; ask for fewer, or add public inputs"
        )

    def mechanism(noise: float) -> VoteCounts:
        return VoteCounts.of(noise, teachers=teachers, labels=labels, n_classes=recipe.n_classes)

    sized = _size(privacy, recipe, size, lambda noise: mechanism(noise).charge)
    return PatePlan(
        mechanism=mechanism(sized.noise),
        public=n_public,
        seed=recipe.seed,
        teaching=recipe.local(),
        learning=replace(recipe.local(), loss="squared", steps=STEPS, batch_size=min(BATCH, labels)),
        counts=sized.counts,
        guarantee=sized.guarantee,
    )


@dataclass(frozen=True, kw_only=True)
class _Sized:
    """What noise a training gets, relative to what one record contributes, and what comes with it."""

    noise: float
    counts: CountNoise | None
    guarantee: Guarantee


def _size(privacy: PrivacyConfig, recipe: Recipe, size: int, training: Callable[[float], Charge]) -> _Sized:
    # In a ledger that is shared, a filter counts; its bounds are a little larger.
    counting, delta = filters if privacy.ledger else accounting, privacy.delta
    assert delta is not None

    def cost(charges: Sequence[Charge]) -> float:
        epsilon: float = counting.spent(charges, delta, privacy.relation)
        return epsilon

    asked = privacy.epsilon
    if asked is None:
        assert privacy.noise is not None
        asked = cost([training(privacy.noise)])
        if not asked < math.inf:
            raise PrivacyError(
                f"privacy.noise must be enough for a finite epsilon, got {privacy.noise} for {size} records; "
                "give a larger one"
            )
    counts = (
        CountNoise(epsilon=COUNTS_SHARE * asked, relation=privacy.relation)
        if recipe.method.private_quantities
        else None
    )

    def charges(noise: float) -> list[Charge]:
        return [training(noise)] if counts is None else [counts.charge, training(noise)]

    noise = privacy.noise
    if noise is None:
        noise = counting.calibrate(charges, asked, delta, privacy.relation)
    return _Sized(
        noise=noise,
        counts=counts,
        guarantee=Guarantee(
            epsilon=cost(charges(noise)) if privacy.epsilon is None else privacy.epsilon,
            delta=delta,
            unit=privacy.unit,
            relation=privacy.relation,
        ),
    )
