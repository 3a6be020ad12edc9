"""A private client pays, then trains, then stores: whatever is lost in between is paid for again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from securefd import private_client
from securefd.config import PrivacyConfig
from securefd.defenses import filters
from securefd.errors import BudgetExceeded, ConfigError, LedgerError, ModelError
from securefd.fleet import State
from securefd.folder import read_arrays
from securefd.given import Given
from securefd.private import DpSgdPlan, PrivatePlan, plan_private
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
        real: Callable[..., State] = DpSgdPlan.train

        def train(plan: DpSgdPlan, *arguments: object, **settings: object) -> State:
            self.note()
            return real(plan, *arguments, **settings)

        monkeypatch.setattr(DpSgdPlan, "train", train)

    def note(self) -> None:
        assert self.client is not None
        lines = self.client._account.path.read_text().splitlines()
        self.paid.append([line for line in lines if "training" in line])
        if len(self.paid) == self.dies_in:
            raise KeyboardInterrupt


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    return Trained(monkeypatch)


@pytest.fixture
def client(tmp_path: Path, planned, trained: Trained) -> Callable[..., PrivateClient]:
    def made(run: str = "run", **settings: object) -> PrivateClient:
        plan, privacy, _ = planned
        given = privacy.model_copy(update=settings)
        trained.client = PrivateClient(tmp_path / run / "clients" / "3", 3, plan, given)
        return trained.client

    return made


def train(client: PrivateClient, recipe: Recipe, advanced: list[int] | None = None) -> State:
    told = [] if advanced is None else advanced
    spec = recipe.models[0]
    counts = client.counts(Y, N_CLASSES)
    start = spec.network(0).state_dict()
    given = Given(spec=spec, x=X, y=Y, public=X[:0], counts=counts)
    return client.train(given, start, advance=told.append)


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
    one = PrivateClient(tmp_path / "run" / "clients" / "0", 0, plan, privacy)
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
    shared = {"ledger": str(tmp_path / "shared" / "ledgers"), "budget": 1.25 * plan.guarantee.epsilon}
    train(client("one", **shared), recipe)
    second = client("two", **shared)
    second.counts(Y, N_CLASSES)
    with pytest.raises(BudgetExceeded, match=r"part 1 of 4' costs .*client-3\.jsonl .* above its budget"):
        train(second, recipe)
    assert second.charges() == ["class counts", *PARTS, "class counts"]
    assert not list((tmp_path / "two" / "clients" / "3").glob("ledger*"))
    assert sorted(path.name for path in (tmp_path / "shared" / "ledgers").iterdir()) == ["client-3.jsonl"]


def test_a_shared_ledger_is_a_filter_of_the_order_at_which_the_first_run_costs_least(
    tmp_path: Path, client, planned
) -> None:
    """Every run promises what was preset, for all runs together."""
    plan, _, recipe = planned
    shared = {"ledger": str(tmp_path / "ledgers"), "budget": 12.0}
    first = client("one", **shared)
    assert first.spent().epsilon == 0
    train(first, recipe)
    preset = first.spent()
    assert (preset.epsilon, preset.delta, preset.relation) == (12.0, 1e-4, "add-or-remove")
    with first._account.open() as ledger:
        charges = [plan.counts.charge, plan.mechanism.charge]
        assert ledger.filter.order == filters.best_order(charges, 1e-4, "add-or-remove", 12.0)
    train(client("two", **shared), recipe)
    assert client("two", **shared).spent() == preset
    with pytest.raises(LedgerError, match=r"was made for \(epsilon = 12.* can't grow"):
        client("three", **shared | {"budget": 13.0}).spent()
    smaller = client("three", **shared | {"budget": 4.0})
    with pytest.raises(BudgetExceeded):
        train(smaller, recipe)
    assert smaller.spent() == preset


def test_a_ledger_of_one_run_is_no_shared_one(tmp_path: Path, client, planned) -> None:
    _, _, recipe = planned
    train(client(), recipe)
    (tmp_path / "ledgers").mkdir()
    client()._account.path.rename(tmp_path / "ledgers" / "client-3.jsonl")
    with pytest.raises(LedgerError, match=r"name another folder in privacy\.ledger"):
        client("two", ledger=str(tmp_path / "ledgers")).spent()


def test_a_budget_beyond_one_run_pays_for_what_is_lost(client, planned, trained: Trained) -> None:
    plan, _, recipe = planned
    trained.dies_in = 2
    with pytest.raises(KeyboardInterrupt):
        train(client(budget=6.0), recipe)
    again = client(budget=6.0)
    train(again, recipe)
    assert again.note is None
    assert again.charges() == ["class counts", *PARTS[:2], *PARTS[1:]]
    assert plan.guarantee.epsilon < again.spent().epsilon <= 6.0


def test_a_budget_below_one_run_is_refused(client) -> None:
    with pytest.raises(
        ConfigError, match=r"privacy\.budget must cover .*epsilon = 4, delta.*got 3\.9; raise it"
    ):
        client(budget=3.9)


def test_a_lost_or_foreign_ledger_never_makes_what_is_stored_look_free(
    tmp_path: Path, client, planned
) -> None:
    _, _, recipe = planned
    train(client(), recipe)
    ledger = client()._account.path
    receipts = client()._account.receipts.path
    paid, signed = ledger.read_bytes(), receipts.read_bytes()
    ledger.unlink()
    for _ in range(2):  # opening made a new one, which is no better
        with pytest.raises(LedgerError, match="are of another ledger"):
            client().spent()
    receipts.unlink()
    with pytest.raises(LedgerError, match="doesn't hold what was paid for"):
        client().spent()
    ledger.write_bytes(b"".join(paid.splitlines(keepends=True)[:-1]))  # an old backup
    with pytest.raises(LedgerError, match=r"has signed line 6.* restore the newest copy"):
        train(client(), recipe)
    (tmp_path / "run" / "server" / "witness.jsonl").unlink()
    with pytest.raises(LedgerError, match="restore the ledger"):
        train(client(), recipe)
    ledger.write_bytes(paid)
    assert client().spent().epsilon > 1.0
    receipts.write_bytes(signed)
    with pytest.raises(LedgerError, match="remembers nothing"):
        client().spent()


def test_the_server_of_the_run_is_its_witness(tmp_path: Path, client, planned) -> None:
    _, _, recipe = planned
    one = client()
    train(one, recipe)
    server = tmp_path / "run" / "server"
    assert {path.name for path in server.iterdir()} == {"witness.jsonl", "witness.key", "witness.pub"}
    assert len((server / "witness.jsonl").read_bytes().splitlines()) == len(one.charges()) == 5
    assert one._account.receipts.path == tmp_path / "run" / "clients" / "3" / "receipts.jsonl"


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_cut_from_a_shared_ledger_between_two_runs_is_noticed_by_a_witness_that_is_kept(
    tmp_path: Path, client, planned, kept: bool
) -> None:
    _, _, recipe = planned
    shared = {"ledger": str(tmp_path / "ledgers"), "budget": 12.0}
    if kept:
        shared["witness"] = str(tmp_path / "elsewhere" / "witness")
    train(client("one", **shared), recipe)
    ledger = tmp_path / "ledgers" / "client-3.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-2]))
    if kept:
        assert (tmp_path / "ledgers" / "client-3.receipts.jsonl").exists()
        assert not (tmp_path / "one" / "server").exists()
        for name in ("one", "two"):
            with pytest.raises(LedgerError, match=r"has 4 lines, and its witness has signed line 6"):
                client(name, **shared).spent()
    else:
        client("two", **shared).spent()  # its server has never seen this ledger
        with pytest.raises(LedgerError, match=r"has 4 lines, and its witness has signed line 6"):
            client("one", **shared).spent()


def test_two_runs_with_servers_of_their_own_share_a_ledger_by_turns(
    tmp_path: Path, client, planned, trained: Trained
) -> None:
    _, _, recipe = planned
    shared = {"ledger": str(tmp_path / "ledgers"), "budget": 20.0}
    trained.dies_in = 2
    with pytest.raises(KeyboardInterrupt):
        train(client("one", **shared), recipe)
    train(client("two", **shared), recipe)
    train(client("one", **shared), recipe)
    assert len(client("two", **shared).charges()) == 5 + 6


def test_training_that_diverged_is_not_stored(client, planned, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, recipe = planned

    def diverged(*_: object, **__: object) -> State:
        return {"weight": torch.tensor([float("nan")])}

    monkeypatch.setattr(DpSgdPlan, "train", diverged)
    with pytest.raises(ModelError, match=r"lower privacy\.learning_rate"):
        train(client(), recipe)
    assert not client()._model.exists()
