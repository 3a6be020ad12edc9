"""The baselines: alone, all data in one place, shared weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from securefd.baselines import _average, alone, fedavg, pooled
from securefd.cohort import Cohort, Member
from securefd.config import Config
from securefd.fleet import Objective
from securefd.recipe import Recipe
from tests.engine.samples import N_CLASSES, NET, config, points, pool

TEST, LABELS = points(30, seed=7)
RECORDS = pool(90)
ROWS = [np.arange(0, 60), np.arange(60, 70), np.arange(70, 90)]
Recipes = Callable[..., Recipe]


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
