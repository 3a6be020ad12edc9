"""What a client's private training costs is planned, checked and sized before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from securefd.config import PrivacyConfig
from securefd.defenses import accounting
from securefd.errors import ModelError, PrivacyError
from securefd.fleet import State
from securefd.given import Given
from securefd.models import ModelSpec
from securefd.private import COUNTS_SHARE, PARTS, PrivatePlan, plan_private
from securefd.recipe import Recipe
from tests.engine.samples import DPSGD, N_CLASSES, NET, TREE, config, points, same

Recipes = Callable[..., Recipe]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipes:
    def made(*models: str, **changes: object) -> Recipe:
        settings = config(tmp_path, *models, **{"privacy": {**DPSGD, "noise": 1.0}, **changes})
        return Recipe.of(settings, (4,), N_CLASSES)

    return made


def privacy(**changes: object) -> PrivacyConfig:
    return PrivacyConfig(**{**DPSGD, **changes})  # type: ignore[arg-type]


def trained(
    plan: PrivatePlan, spec: ModelSpec, state: State, x: Any, y: Any, *, steps: int, counts: Any = None
) -> State:
    """Some steps, of a network that stands on nothing public."""
    return plan.train(Given(spec=spec, x=x, y=y, public=points(0)[0], counts=counts), state, steps)


def total(plan: PrivatePlan, settings: PrivacyConfig) -> float:
    """Everything that the plan accesses, composed."""
    events = [plan.mechanism.part(steps).event for steps in plan.parts]
    if plan.counts is not None:
        events.append(plan.counts.charge.event)
    return accounting.epsilon(accounting.compose(events), settings.delta, settings.relation)


@pytest.mark.parametrize("relation", ["add-or-remove", "replace-one"])
@pytest.mark.parametrize("name", ["dsfl", "balanced"])
def test_noise_is_sized_for_everything_that_is_accessed(recipe: Recipes, name: str, relation: str) -> None:
    settings = privacy(epsilon=3.0, relation=relation)
    plans = plan_private(settings, recipe(name=name), [40, 25, 40])
    assert plans[0] == plans[2] != plans[1]
    for plan, size in zip(plans, [40, 25, 40], strict=True):
        assert plan.guarantee.epsilon == 3.0
        assert (plan.guarantee.delta, plan.guarantee.relation) == (1e-4, relation)
        assert 2.9 < total(plan, settings) <= 3.0
        assert plan.mechanism.sampling_rate == 8 / size
        assert plan.mechanism.steps == 6
        assert (plan.counts is not None) == (name == "balanced")


def test_counts_cost_a_share(recipe: Recipes) -> None:
    (plan,) = plan_private(privacy(epsilon=3.0), recipe(name="balanced"), [40])
    assert plan.counts is not None
    assert plan.counts.epsilon == pytest.approx(COUNTS_SHARE * 3.0)


def test_counts_are_noised_where_noise_is_given_instead_of_epsilon(recipe: Recipes) -> None:
    """The true counts are as private as before; what they cost comes on top of the training."""
    settings = privacy(noise=1.0)
    (plan,) = plan_private(settings, recipe(name="balanced"), [40])
    (without,) = plan_private(settings, recipe(name="dsfl"), [40])
    assert plan.mechanism == without.mechanism
    assert plan.mechanism.noise_multiplier == 1.0
    assert plan.counts is not None
    assert plan.counts.epsilon == pytest.approx(COUNTS_SHARE * without.guarantee.epsilon)
    assert without.guarantee.epsilon < plan.guarantee.epsilon == total(plan, settings)


def test_a_client_with_fewer_records_than_a_batch_samples_all(recipe: Recipes) -> None:
    (plan,) = plan_private(privacy(noise=1.0), recipe(), [5])
    assert plan.mechanism.sampling_rate == 1.0


@pytest.mark.parametrize(
    ("steps", "parts"), [(1, (1,)), (3, (1, 1, 1)), (4, (1,) * 4), (6, (2, 2, 2)), (10, (3, 3, 3, 1))]
)
def test_parts_add_up(recipe: Recipes, steps: int, parts: tuple[int, ...]) -> None:
    (plan,) = plan_private(privacy(noise=1.0), recipe(local_steps=steps), [40])
    assert plan.parts == parts
    assert len(parts) <= PARTS


@pytest.mark.parametrize("size", [100, 101])
def test_a_delta_that_lets_a_record_be_published(recipe: Recipes, size: int) -> None:
    with pytest.raises(PrivacyError, match=rf"delta must be below 1/{size} .*got 0\.01: lower it"):
        plan_private(privacy(epsilon=3.0, delta=0.01), recipe(), [40, size])
    assert plan_private(privacy(noise=1.0, delta=0.01), recipe(), [40, 99])


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            TREE,
            "tree' can't be trained by DP-SGD, because it doesn't .* steps; choose a network",
        ),
        (NET, "model Sequential has batch normalisation at '1'.*; use group normalisation"),
    ],
)
def test_a_model_that_cannot_be_trained_privately(recipe: Recipes, model: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        plan_private(privacy(epsilon=3.0), recipe("mlp", model, "mlp"), [40, 40, 40])


def test_noise_that_protects_nothing(recipe: Recipes) -> None:
    with pytest.raises(PrivacyError, match=r"privacy\.noise must be enough .*, got 0\.001 for 40"):
        plan_private(privacy(noise=1e-3), recipe(), [40])


def test_a_part_trains_what_the_plan_says(recipe: Recipes) -> None:
    made = recipe()
    (plan,) = plan_private(privacy(noise=1.0, clip=0.5, learning_rate=0.25), made, [40])
    assert (plan.mechanism.clip, plan.learning_rate) == (0.5, 0.25)
    x, y = points(40)
    spec = made.models[0]
    state = spec.network(0).state_dict()
    before = {name: value.clone() for name, value in state.items()}
    after = trained(plan, spec, state, x, y, steps=2)
    assert same(state, before)
    assert not same(after, before)
    again = trained(plan, spec, state, x, y, steps=2)
    assert not same(after, again), "noise is drawn anew each time"


def test_a_longer_step_moves_further(recipe: Recipes) -> None:
    made = recipe("logistic", "logistic", "logistic")
    (plan,) = plan_private(privacy(noise=1.0), made, [40])
    spec = made.models[0]
    state = spec.network(0).state_dict()
    x, y = points(40)

    def moved(rate: float) -> float:
        after = trained(replace(plan, learning_rate=rate), spec, state, x, y, steps=4)
        return float(sum((after[name] - state[name]).abs().sum() for name in state))

    assert moved(10.0) > 20 * moved(0.01)


def test_counts_weigh_the_private_loss_too(recipe: Recipes) -> None:
    """Without noise: records of one class only, and counts that say so, leave the others standing."""
    made = recipe("logistic", "logistic", "logistic", local_steps=40)
    (plan,) = plan_private(privacy(noise=1.0), made, [40])
    plan = replace(plan, mechanism=replace(plan.mechanism, noise_multiplier=1e-9))
    spec = made.models[0]
    state = spec.network(0).state_dict()
    x, y = points(40)
    y = np.zeros_like(y)

    def confidence(counts: list[float] | None) -> float:
        given = None if counts is None else np.array(counts)
        after = trained(plan, spec, state, x, y, steps=40, counts=given)
        module = spec.network(0)
        module.load_state_dict(after)
        with torch.no_grad():
            return float(module(torch.from_numpy(x)).softmax(-1)[:, 0].mean())

    assert confidence([40.0, 1.0, 1.0]) < confidence(None) - 0.1
