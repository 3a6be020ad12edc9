"""A private client pays, then trains, then stores: whatever is lost in between is paid for again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from securefd import private_client
from securefd.config import PrivacyConfig
from securefd.errors import BudgetExceeded, LedgerError, ModelError
from securefd.fleet import State
from securefd.folder import read_arrays
from securefd.private import PrivatePlan, plan_private
from securefd.private_client import PrivateClient
from securefd.recipe import Recipe
from tests.engine.samples import DPSGD, N_CLASSES, config, points, same

X, Y = points(40)
PARTS = [f"training, part {k} of 4" for k in (1, 2, 3, 4)]


@pytest.fixture
def planned(tmp_path: Path) -> tuple[PrivatePlan, PrivacyConfig, Recipe]:
    privacy = PrivacyConfig(**{**DPSGD, "epsilon": 4.0})
    settings = config(tmp_path, name="balanced", privacy=privacy.model_dump(), local_steps=8)
    recipe = Recipe.of(settings, (4,), N_CLASSES)
    (plan,) = plan_private(privacy, recipe, [40])
    return plan, privacy, recipe


class Trained:
    """Stands where a part is trained: notes what the ledger holds then, and may be killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paid: list[list[str]] = []
        self.client: PrivateClient | None = None
        self.dies_in: int | None = None
        self._train: Callable[..., State] = private_client.train_part
        monkeypatch.setattr(private_client, "train_part", self)

    def __call__(self, *arguments: object, **settings: object) -> State:
        assert self.client is not None
        lines = self.client._ledger.read_text().splitlines()
        self.paid.append([line for line in lines if "training" in line])
        if len(self.paid) == self.dies_in:
            raise KeyboardInterrupt
        return self._train(*arguments, **settings)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    return Trained(monkeypatch)


@pytest.fixture
def client(tmp_path: Path, planned, trained: Trained) -> Callable[..., PrivateClient]:
    def made(name: str = "0", ledger: str = "") -> PrivateClient:
        plan, privacy, _ = planned
        given = privacy.model_copy(update={"ledger": ledger})
        trained.client = PrivateClient(tmp_path / "clients" / name, 3, plan, given)
        return trained.client

    return made


def train(client: PrivateClient, recipe: Recipe, advanced: list[int] | None = None) -> State:
    told = [] if advanced is None else advanced
    spec = recipe.models[0]
    counts = client.counts(Y, N_CLASSES)
    start = spec.network(0).state_dict()
    return client.train(spec, start, X, Y, counts=counts, device="cpu", advance=told.append)


def test_each_part_is_paid_for_before_it_is_trained(client, planned, trained: Trained) -> None:
    plan, _, recipe = planned
    advanced: list[int] = []
    one = client()
    train(one, recipe, advanced)
    assert [len(paid) for paid in trained.paid] == [1, 2, 3, 4]
    assert one.charges() == ["class counts", *PARTS]
    assert sum(advanced) == len(plan.parts) == 4
    assert one.note is None
    assert 3.8 < one.spent().epsilon <= plan.guarantee.epsilon


def test_what_is_stored_is_sent_again_and_costs_nothing(client, planned, trained: Trained) -> None:
    _, _, recipe = planned
    first = train(client(), recipe)
    again = client()
    advanced: list[int] = []
    assert same(train(again, recipe, advanced), first)
    assert len(trained.paid) == 4
    assert sum(advanced) == 4
    assert again.charges() == ["class counts", *PARTS]


def test_counts_are_drawn_once(client) -> None:
    drawn = client().counts(Y, N_CLASSES)
    for _ in range(5):
        again = client()
        np.testing.assert_array_equal(again.counts(Y, N_CLASSES), drawn)
        assert again.charges() == ["class counts"]
    assert drawn.dtype == np.float64
    assert (drawn >= 0).all()


def test_counts_lost_between_paying_and_storing_are_paid_for_again(client, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(private_client, "write_arrays", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client().counts(Y, N_CLASSES)
    again = client()
    again.counts(Y, N_CLASSES)
    assert again.charges() == ["class counts", "class counts"]


def test_counts_where_the_method_uses_none(tmp_path: Path) -> None:
    privacy = PrivacyConfig(**{**DPSGD, "noise": 1.0})
    recipe = Recipe.of(config(tmp_path, privacy=privacy.model_dump()), (4,), N_CLASSES)
    (plan,) = plan_private(privacy, recipe, [40])
    one = PrivateClient(tmp_path / "0", 0, plan, privacy)
    assert one.counts(Y, N_CLASSES) is None
    assert one.charges() == []


@pytest.mark.parametrize("dies_in", [2, 3, 4])
def test_a_part_that_is_lost_is_paid_for_again_and_the_last_one_falls_away(
    client, planned, trained: Trained, dies_in: int
) -> None:
    plan, _, recipe = planned
    trained.dies_in = dies_in
    with pytest.raises(KeyboardInterrupt):
        train(client(), recipe)
    stored = read_arrays(client()._model)
    trained.dies_in = None
    again = client()
    advanced: list[int] = []
    state = train(again, recipe, advanced)
    # up to the one that was lost, that one again, and what follows but for the last
    parts = [*PARTS[:dies_in], *PARTS[dies_in - 1 : -1]]
    assert again.charges() == ["class counts", *parts]
    assert again.spent().epsilon <= plan.guarantee.epsilon
    assert sum(advanced) == 4
    assert again.note is not None
    assert again.note.startswith("client 3 trained 3 of 4 parts, and its budget didn't cover the others: ")
    assert int(stored["parts"][0]) == dies_in - 1
    # once over, it stays over
    over = client()
    assert same(train(over, recipe), state)
    assert over.charges() == again.charges()
    assert over.note == again.note


def test_a_part_that_is_lost_every_time_ends_in_a_refusal(client, planned, trained: Trained) -> None:
    plan, _, recipe = planned
    for _ in range(4):
        trained.paid, trained.dies_in = [], 1
        with pytest.raises((KeyboardInterrupt, BudgetExceeded)):
            train(client(), recipe)
    with pytest.raises(BudgetExceeded, match=r"part 1 of 4' costs epsilon = .* above its budget"):
        train(client(), recipe)
    assert client().spent().epsilon <= plan.guarantee.epsilon
    assert not client()._model.exists()


def test_a_shared_ledger_adds_up_and_refuses(tmp_path: Path, client, planned) -> None:
    plan, _, recipe = planned
    shared = str(tmp_path / "shared" / "ledgers")
    train(client("run 1", shared), recipe)
    second = client("run 2", shared)
    with pytest.raises(BudgetExceeded, match=r"'class counts' costs .*client-3\.jsonl .* above its budget"):
        train(second, recipe)
    assert second.charges() == ["class counts", *PARTS]
    assert not (tmp_path / "clients" / "run 2" / "ledger.jsonl").exists()
    assert second.spent().epsilon <= plan.guarantee.epsilon


def test_a_lost_or_foreign_ledger_never_makes_what_is_stored_look_free(client, planned) -> None:
    _, _, recipe = planned
    train(client(), recipe)
    ledger = client()._ledger
    paid = ledger.read_bytes()
    ledger.unlink()
    for _ in range(2):  # opening made a new one, which is no better
        with pytest.raises(LedgerError, match="doesn't hold what was paid for"):
            client().spent()
    ledger.write_bytes(b"".join(paid.splitlines(keepends=True)[:-1]))  # an old backup
    with pytest.raises(LedgerError, match="restore the ledger"):
        train(client(), recipe)
    ledger.write_bytes(paid)
    assert client().spent().epsilon > 1.0


def test_training_that_diverged_is_not_stored(client, planned, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, recipe = planned

    def diverged(*_: object, **__: object) -> State:
        return {"weight": torch.tensor([float("nan")])}

    monkeypatch.setattr("securefd.private_client.train_part", diverged)
    with pytest.raises(ModelError, match=r"lower privacy\.learning_rate"):
        train(client(), recipe)
    assert not client()._model.exists()
