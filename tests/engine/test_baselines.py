"""The baselines: alone, all data in one place, shared weights, and shared weights under DP-SGD."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from securefd.baselines import _average, alone, dp_fedavg, dp_fedavg_steps, fedavg, pooled
from securefd.cohort import Cohort, Member
from securefd.config import Config
from securefd.defenses import accounting, dpsgd
from securefd.defenses.claims import Guarantee, Relation
from securefd.defenses.dpsgd import DpSgd
from securefd.errors import ModelError, PrivacyError
from securefd.fleet import Objective
from securefd.recipe import Recipe
from tests.defenses.test_accounting import oracle_epsilon
from tests.engine.samples import N_CLASSES, NET, config, points, pool

TEST, LABELS = points(30, seed=7)
RECORDS = pool(90)
ROWS = [np.arange(0, 60), np.arange(60, 70), np.arange(70, 90)]
Recipes = Callable[..., Recipe]
PROMISE = Guarantee(epsilon=2.0, delta=1e-3, unit="record", relation="replace-one")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipes:
    def made(*models: str, **changes: object) -> Recipe:
        settings: Config = config(tmp_path, *models, **changes)
        return Recipe.of(settings, (4,), N_CLASSES)

    return made


def accuracy(logits: np.ndarray) -> float:
    return float((logits.argmax(-1) == LABELS).mean())


def test_an_average_is_weighted_by_records() -> None:
    states = [
        {"w": torch.tensor([1.0, 2.0]), "seen": torch.tensor(10)},
        {"w": torch.tensor([5.0, -2.0]), "seen": torch.tensor(30)},
    ]
    # (1 * 3 + 5 * 1) / 4 = 2, (2 * 3 - 2 * 1) / 4 = 1, (10 * 3 + 30 * 1) / 4 = 15
    average = _average(states, np.array([0.75, 0.25]))
    assert average["w"].tolist() == [2.0, 1.0]
    assert average["w"].dtype == torch.float32
    assert average["seen"].item() == 15
    assert average["seen"].dtype == torch.int64


def test_fedavg_is_the_average_of_what_clients_learn_from_one_model(recipe: Recipes) -> None:
    """One round, by hand: everyone starts from the first client's weights."""
    made = recipe(rounds=1)
    members = [Member(federation=0, client=k, model=made.student, rows=own) for k, own in enumerate(ROWS)]  # type: ignore[arg-type]
    clients = Cohort(members, RECORDS, seed=made.seed)
    clients.states = dict.fromkeys(range(3), clients.states[0])
    clients.fit("fit 0", made.local())
    shared = {
        name: (60 * clients.states[0][name] + 10 * clients.states[1][name] + 20 * clients.states[2][name])
        / 90
        for name in clients.states[0]
    }
    weight, bias = (value.numpy() for value in shared.values())
    expected = TEST @ weight.T + bias
    np.testing.assert_allclose(fedavg(made, RECORDS, ROWS, TEST), expected, rtol=1e-4, atol=1e-5)


def test_fedavg_tells_of_each_round_and_learns(recipe: Recipes) -> None:
    made = recipe(rounds=3, local_steps=100)
    told: list[tuple[int, float]] = []
    logits = fedavg(
        made, RECORDS, ROWS, TEST, each_round=lambda number, given: told.append((number, accuracy(given)))
    )
    assert [number for number, _ in told] == [0, 1, 2]
    assert told[-1][1] == accuracy(logits) > 0.9
    np.testing.assert_array_equal(logits, fedavg(made, RECORDS, ROWS, TEST))


def test_fedavg_of_a_users_network(recipe: Recipes) -> None:
    logits = fedavg(recipe(student={"model": NET}), RECORDS, ROWS, TEST)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("relation", ["replace-one", "add-or-remove"])
def test_dp_fedavg_costs_what_an_independent_accountant_says(recipe: Recipes, relation: Relation) -> None:
    """Convolved by brute force: all steps of all rounds, of each client at its own sampling rate."""
    made = recipe(rounds=3, local_steps=4)
    promise = replace(PROMISE, relation=relation)
    found = dp_fedavg_steps(made, [60, 20, 60], promise, clip=0.5)
    assert found[0] == found[2]
    for mechanism, size in zip(found, (60, 20, 60), strict=True):
        assert (mechanism.steps, mechanism.sampling_rate, mechanism.clip) == (12, 8 / size, 0.5)
        exact = oracle_epsilon(8 / size, mechanism.noise_multiplier, 12, 1e-3, relation)
        assert 1.97 < exact < 2.005


def test_a_round_of_dp_fedavg_averages_what_each_client_made_of_the_same_weights(
    recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: each client adds its number of records to every weight, in each of 2 rounds."""
    made, paid, starts = recipe(rounds=2, local_steps=3), [], []

    def stub(module: torch.nn.Module, x: Any, y: Any, *, mechanism: DpSgd, **settings: Any) -> None:
        paid.append((len(x), mechanism, settings["learning_rate"]))
        starts.append({name: value.clone() for name, value in module.state_dict().items()})
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += len(x)

    monkeypatch.setattr(dpsgd, "train", stub)
    logits = dp_fedavg(made, RECORDS, ROWS, TEST, promise=PROMISE, learning_rate=0.3)
    step = (60 * 60 + 10 * 10 + 20 * 20) / 90
    weight, bias = (value.numpy() + 2 * step for value in starts[0].values())
    np.testing.assert_allclose(logits, TEST @ weight.T + bias, rtol=1e-5)
    for number, start in enumerate(starts):
        for name, value in start.items():
            torch.testing.assert_close(value, starts[0][name] + step * (number // 3))
    # What is run in all rounds is what was sized for them.
    schedule = dp_fedavg_steps(made, [60, 10, 20], PROMISE)
    assert paid == [(len(own), each.part(3), 0.3) for own, each in zip(ROWS, schedule, strict=True)] * 2
    assert all(accounting.spent([each.charge], 1e-3, "replace-one") <= 2.0 for each in schedule)


def test_dp_fedavg_learns_and_its_noise_is_never_the_same(recipe: Recipes) -> None:
    made, told = recipe(rounds=3, local_steps=10), []
    promise = replace(PROMISE, epsilon=30.0)

    def play() -> np.ndarray:
        return dp_fedavg(
            made,
            RECORDS,
            ROWS,
            TEST,
            promise=promise,
            learning_rate=2.0,
            each_round=lambda number, logits: told.append((number, accuracy(logits))),
        )

    logits = play()
    assert [number for number, _ in told] == [0, 1, 2]
    assert told[-1][1] == accuracy(logits) > 0.7
    assert (logits != play()).any()


def test_dp_fedavg_refuses_before_anything_is_trained(
    recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe()
    monkeypatch.setattr(dpsgd, "poisson_sample", lambda *_: pytest.fail("trained"))

    def play(promise: Guarantee, given: Recipe = made, **settings: Any) -> None:
        dp_fedavg(given, RECORDS, ROWS, TEST, promise=promise, **{"learning_rate": 0.1, **settings})

    with pytest.raises(PrivacyError, match="one record, got one client; set unit"):
        play(replace(PROMISE, unit="client"))
    with pytest.raises(PrivacyError, match="delta must be below 1/10"):
        play(replace(PROMISE, delta=0.1))
    with pytest.raises(PrivacyError, match="epsilon must be > 0"):
        play(replace(PROMISE, epsilon=0.0))
    for clip in (0.0, math.nan):
        with pytest.raises(PrivacyError, match="clip must be > 0"):
            play(PROMISE, clip=clip)
    with pytest.raises(PrivacyError, match="steps must be at least 1"):
        play(PROMISE, recipe(local_steps=0))
    with pytest.raises(ModelError, match="batch normalisation"):
        play(PROMISE, recipe(student={"model": NET}))


def test_alone_is_as_much_local_training_as_in_a_run(recipe: Recipes) -> None:
    made = recipe("mlp", "forest", "logistic", rounds=3)
    advanced: list[int] = []
    logits = alone(made, RECORDS, ROWS, TEST, advance=advanced.append)
    assert sum(advanced) == 3
    members = [Member(federation=0, client=k, model=made.models[k], rows=own) for k, own in enumerate(ROWS)]
    clients = Cohort(members, RECORDS, seed=made.seed)
    for number in range(3):
        clients.fit(f"fit {number}", made.local())
    np.testing.assert_array_equal(logits, clients.logits(TEST))


def test_alone_nobody_learns_from_the_others(recipe: Recipes) -> None:
    made = recipe("mlp", "logistic", "mlp", name="fd")
    full = alone(made, RECORDS, ROWS, TEST)
    fewer = alone(made, RECORDS, [ROWS[0], ROWS[1], ROWS[2][:3]], TEST)
    np.testing.assert_array_equal(full[:2], fewer[:2])
    assert (full[2] != fewer[2]).any()


def test_pooled_learns_from_everybody(recipe: Recipes) -> None:
    rows = [np.flatnonzero(RECORDS.y == label) for label in range(N_CLASSES)]
    made = recipe("logistic", "logistic", "logistic", local_steps=60)
    together = accuracy(pooled(made, RECORDS, TEST))
    assert together > 0.9
    assert max(accuracy(logits) for logits in alone(made, RECORDS, rows, TEST)) < 0.7


def test_pooled_takes_as_many_steps_as_all_clients_together(recipe: Recipes) -> None:
    made = recipe(rounds=3, local_steps=7)
    member = Member(federation=0, client=0, model=made.student, rows=np.arange(90))  # type: ignore[arg-type]
    one = Cohort([member], RECORDS, seed=made.seed)
    settings = made.settings
    one.fit(
        "pooled",
        Objective(
            loss="cross_entropy",
            steps=3 * 7 * 3,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
        ),
    )
    np.testing.assert_array_equal(pooled(made, RECORDS, TEST), one.logits_of(0, TEST))
