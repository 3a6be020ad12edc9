"""Linear clients on public features: from one noised sum under a guarantee, from the plain sum without."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from securefd import features, heads
from securefd.config import ClientGroup, Config, DataConfig, PrivacyConfig, parse_config
from securefd.defenses import accounting, filters
from securefd.defenses.claims import HEAD, claim_about_records
from securefd.defenses.head import ClassSums, Head
from securefd.errors import BudgetExceeded, ConfigError, ModelError, PrivacyError
from securefd.evaluation.play import Play, play
from securefd.federation import Federations
from securefd.folder import read_arrays
from securefd.heads import Basis
from securefd.models import ModelSpec
from securefd.planning import plan
from securefd.private import HeadPlan, charges_of, plan_private
from securefd.recipe import Recipe
from securefd.result import Run
from securefd.runner import pool_of, run
from tests.engine.samples import N_CLASSES, config, pictures, points, same
from tests.evaluation.runs import everyone

PRIVATE: dict[str, Any] = {
    "unit": "record",
    "route": "head",
    "relation": "replace-one",
    "delta": 1e-4,
    "epsilon": 4.0,
}
PUBLIC = points(60, seed=9)[0]
X, Y = points(200)

DIGITS = """
name = "digits"
seed = 3
data = { source = "digits", public = 400, test = 300, partition = { kind = "dirichlet", alpha = 0.5 } }
student = { model = "cnn", steps = 400 }

[[clients]]
count = 3
model = "head"

[method]
name = "dsfl"
rounds = 1
queries = 400
digest_steps = 50

[sealing]
kind = "masked"

[privacy]
unit = "record"
route = "head"
relation = "replace-one"
epsilon = 4.0
delta = 1e-4
"""


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis.learn(PUBLIC, seed=1)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(features.learn.__kwdefaults__, "steps", 100)
        yield run(parse_config(DIGITS), tmp_path_factory.mktemp("digits") / "run")


def federation(folder: Path, *models: str, privacy: dict[str, Any] | None = None, **changes: Any) -> Config:
    given = None if privacy is None else {**PRIVATE, **privacy}
    return config(folder, *(models or ("head",) * 3), privacy=given, **changes)


# --- one client ----------------------------------------------------------------------------------


def test_a_head_is_made_of_class_sums(basis: Basis) -> None:
    state = heads.fitted(basis, X, Y, N_CLASSES)
    whitening = basis.whitening(4)
    x = whitening(basis.learnt(X))
    sums = x.T @ (np.eye(N_CLASSES)[Y] - 1 / N_CLASSES) / len(x)
    expected = np.linalg.solve(whitening.second_moment + np.eye(4) / 4, sums)
    np.testing.assert_allclose(state["weight"].numpy(), expected, atol=1e-4)
    assert torch.equal(state["own"], state["weight"])
    answers = heads.logits(basis, state, X)
    assert answers.shape == (200, N_CLASSES)
    assert (answers.argmax(-1) == Y).mean() > 0.95
    np.testing.assert_allclose(answers, Head(weights=state["weight"].double().numpy()).logits(x), atol=1e-5)


def test_a_release_is_the_same_with_noise(basis: Basis) -> None:
    quiet = ClassSums(n_classes=N_CLASSES, dimensions=4, variance=1.0)
    fitted = heads.fitted(basis, X, Y, N_CLASSES)["weight"]
    torch.testing.assert_close(heads.released(basis, X, Y, quiet)["weight"], fitted, atol=1e-4, rtol=0)
    loud = ClassSums.of(30.0, n_classes=N_CLASSES, dimensions=4)
    drawn = [heads.released(basis, X, Y, loud)["weight"] for _ in range(2)]
    assert not torch.equal(*drawn)
    assert float((drawn[0] - fitted).abs().max()) > 0.01


def test_what_is_digested_counts_as_records_beside_the_own(basis: Basis) -> None:
    state = heads.fitted(basis, X[:50], Y[:50], N_CLASSES)
    after = heads.digested(basis, state, 50, X[50:], Y[50:])
    together = heads.fitted(basis, X, Y, N_CLASSES)["weight"]
    torch.testing.assert_close(after["weight"], together, atol=1e-5, rtol=0)
    assert torch.equal(after["own"], state["own"])
    twice = heads.digested(basis, after, 50, X[50:], Y[50:])
    assert same(twice, after)


def test_features_are_looked_up_by_what_the_inputs_are(basis: Basis) -> None:
    state = heads.fitted(basis, X, Y, N_CLASSES)
    first = heads.logits(basis, state, X)
    for seed in range(6):  # more than are kept
        heads.logits(basis, state, points(30, seed=seed)[0])
    assert np.array_equal(heads.logits(basis, state, X), first)
    changed = X.copy()
    changed[0] += 1
    assert not np.array_equal(heads.logits(basis, state, changed), first)


def test_a_basis_goes_to_other_processes(basis: Basis) -> None:
    """As shadow federations do."""
    basis.whitened(X, 3)
    again = pickle.loads(pickle.dumps(basis))
    assert np.array_equal(again.whitened(X, 3), basis.whitened(X, 3))


def test_records_are_looked_up_one_by_one(basis: Basis) -> None:
    x = np.concatenate([X[:20], X[:5], X[150:160]])
    expected = basis.whitening(3).each(basis.learnt.each(x))
    for _ in range(2):
        assert np.array_equal(basis.each(x, 3), expected)
    assert basis.each(X[:0], 3).shape == (0, 3)


def test_the_seed_of_a_run_decides_the_features() -> None:
    public = pictures(30)[0]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(features.learn.__kwdefaults__, "steps", 3)
        one, again, other = (Basis.learn(public, seed=seed).learnt.state for seed in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)


# --- its plan ------------------------------------------------------------------------------------


def planned(folder: Path, sizes: list[int], **privacy: Any) -> list[HeadPlan]:
    settings = federation(folder, privacy=privacy)
    assert settings.privacy is not None
    plans = plan_private(settings.privacy, Recipe.of(settings, (4,), N_CLASSES), sizes)
    assert all(isinstance(each, HeadPlan) for each in plans)
    return plans  # type: ignore[return-value]


@pytest.mark.parametrize("relation", ["add-or-remove", "replace-one"])
def test_noise_is_sized_for_the_one_release(tmp_path: Path, relation: str) -> None:
    for each in planned(tmp_path, [200, 60], relation=relation):
        assert each.parts == (1,)
        assert charges_of(each) == [each.mechanism.charge] == [each.charge(1)]
        assert 3.9 < accounting.spent(charges_of(each), 1e-4, relation) <= 4.0
        assert (each.guarantee.epsilon, each.guarantee.relation) == (4.0, relation)
        assert each.counts is None


def test_a_shared_ledger_gets_the_noise_that_its_filter_needs(tmp_path: Path) -> None:
    (shared,) = planned(tmp_path, [200], ledger=str(tmp_path / "ledgers"))
    assert 3.9 < filters.spent(charges_of(shared), 1e-4, "replace-one") <= 4.0


def test_noise_may_be_given_instead_of_epsilon(tmp_path: Path) -> None:
    (each,) = planned(tmp_path, [200], epsilon=None, noise=2.0)
    assert each.mechanism.noise_multiplier == pytest.approx(2.0)
    assert each.guarantee.epsilon == accounting.spent([each.mechanism.charge], 1e-4, "replace-one")


def test_a_delta_that_lets_a_record_be_published(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="delta must be below 1/10000"):
        planned(tmp_path, [10_000])


def test_a_plan_says_what_a_head_costs(tmp_path: Path) -> None:
    found = plan(federation(tmp_path, privacy={"epsilon": 1.0}))
    text = "\n".join(found.lines())
    assert "client 0: head, 22 records" in text
    assert "client 0: one sum of 3 features by class, noise multiplier 7.03" in text
    assert "too few records for so much noise at every client: a head needs about 1" in text
    promised, other = found.spending
    assert all(0.98 < epsilon <= 1.0 for epsilon in promised.epsilons)
    assert max(other.epsilons) < 0.6
    assert json.dumps(found.to_dict())
    assert HEAD in claim_about_records(found.claims, "release").reason


# --- a whole run ---------------------------------------------------------------------------------


def test_a_student_of_private_heads_knows_more_than_a_client_alone(digits: Run) -> None:
    metrics = digits.metrics
    assert metrics["student.accuracy"] > metrics["local.accuracy"] + 0.02
    assert metrics["student.accuracy"] > 0.8
    claim = claim_about_records(digits.claims, "release")
    assert claim.guarantee is not None
    assert 3.9 < claim.guarantee.epsilon <= 4.0
    assert (claim.guarantee.unit, claim.guarantee.relation) == ("record", "replace-one")
    assert not digits.notes


def test_one_line_of_each_ledger_paid_for_all_of_it(digits: Run) -> None:
    for client in range(3):
        ledger = digits.path / "clients" / str(client) / "ledger.jsonl"
        paid = [line for line in ledger.read_text().splitlines() if "training" in line]
        assert len(paid) == 1
        assert "discrete_gaussian" in paid[0]
        stored = read_arrays(digits.path / "clients" / str(client) / "private.safetensors")
        assert stored["model.weight"].shape[1] == 10


def test_its_recipe_is_played_again_with_fresh_noise(digits: Run) -> None:
    setup = Play.of(digits, everyone(digits))
    assert setup.basis is not None
    stored = read_arrays(digits.path / "models" / "features.safetensors")
    assert all(
        np.array_equal(stored[f"features.{name}"], value.numpy())
        for name, value in setup.basis.learnt.state.items()
    )
    rows = pool_of(digits.split.clients)[1]
    played = play(setup, [rows, rows])
    one, other = played["answers.0"]
    assert one.shape == (3, 400, 10)
    assert not np.array_equal(one, other)


class Killed:
    """A run that is killed before its first question."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: Config, out: Path) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Federations, "ask", self)
            with pytest.raises(KeyboardInterrupt):
                run(settings, out)

    def __call__(self, *_: object) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_sends_what_is_stored_and_pays_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = federation(tmp_path, privacy={}), tmp_path / "run"
    Killed(monkeypatch, settings, out)
    ledgers = [out / "clients" / str(k) / "ledger.jsonl" for k in range(3)]
    paid = [ledger.read_bytes() for ledger in ledgers]
    stored = [(out / "clients" / str(k) / "private.safetensors").read_bytes() for k in range(3)]
    learnt = (out / "models" / "features.safetensors").read_bytes()

    def drawn_again(*_: object) -> None:
        raise AssertionError("noise was drawn again")

    with monkeypatch.context() as patched:
        patched.setattr(heads, "released", drawn_again)
        found = run(settings, out)
    assert [ledger.read_bytes() for ledger in ledgers] == paid
    assert [(out / "clients" / str(k) / "private.safetensors").read_bytes() for k in range(3)] == stored
    assert (out / "models" / "features.safetensors").read_bytes() == learnt
    # what was sent in both rounds is what the stored head says
    basis = Basis.learn(found.split.public, seed=settings.seed)
    for seen in found.view("server").rounds:
        assert seen.answers is not None
        for k, answers in enumerate(seen.answers):
            state = _state(read_arrays(out / "clients" / str(k) / "private.safetensors"))
            expected = softmax(heads.logits(basis, state, found.split.public[seen.queries]), axis=-1)
            np.testing.assert_allclose(answers, expected, atol=1e-5)


def _state(arrays: Any) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(arrays[f"model.{name}"])) for name in ("own", "weight")}


def test_a_release_that_is_lost_is_paid_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise KeyboardInterrupt

    for name, budget in (("tight", None), ("wide", 9.0)):
        settings = federation(tmp_path, privacy={} if budget is None else {"budget": budget})
        out = tmp_path / name
        with monkeypatch.context() as patched:
            patched.setattr(heads, "released", lost)
            with pytest.raises(KeyboardInterrupt):
                run(settings, out)
        if budget is None:
            with pytest.raises(BudgetExceeded, match="part 1 of 1"):
                run(settings, out)
        else:
            claim = claim_about_records(run(settings, out).claims, "server")
            assert claim.guarantee is not None
            assert 5.0 < claim.guarantee.epsilon <= 9.0


def test_a_run_in_several_rounds_resumes_to_the_same_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise nothing is drawn, so that a run that was killed ends with the same bytes."""
    settings = federation(tmp_path, "head", "head", "mlp")
    whole = run(settings, tmp_path / "whole")
    Killed(monkeypatch, settings, tmp_path / "killed")
    again = run(settings, tmp_path / "killed")
    for name in ("student", "round-0002", "features"):
        one, other = ((each.path / "models" / f"{name}.safetensors").read_bytes() for each in (whole, again))
        assert one == other
    assert whole.metrics["local.accuracy"] > 0.8
    assert claim_about_records(whole.claims, "server").kind == "none"


@pytest.mark.parametrize("name", ["fedmd", "dsfl", "dsfl-power", "feddf", "cfd", "fedct"])
def test_every_method_that_asks_about_public_inputs_takes_heads(tmp_path: Path, name: str) -> None:
    found = run(federation(tmp_path, privacy={"epsilon": 50.0}, name=name), tmp_path / "run")
    assert found.metrics["clients.accuracy"] > 0.6


# --- what can't be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "privacy", "changes", "sentence"),
    [
        (("head", "mlp", "head"), {}, {}, r"clients\[1\]\.model must be head for privacy\.route = 'head'"),
        (("mlp", "mlp", "mlp"), {}, {}, r"clients\[0\]\.model must be head .*choose 'head', or .*'dpsgd'"),
        (("head",) * 3, {"route": "dpsgd"}, {}, r"clients\[0\]\.model doesn't fit privacy\.route = 'dpsgd'"),
        (("head",) * 3, {"unit": "client"}, {}, r"privacy\.unit must be record for privacy\.route = 'head'"),
        (("head",) * 3, {"clip": 2.0}, {}, r"privacy\.clip must be left out for privacy\.route = 'head'"),
        (("head",) * 3, {"learning_rate": 2.0}, {}, r"privacy\.learning_rate must be left out"),
        (("head",) * 3, {"mechanism": "skellam"}, {}, r"privacy\.mechanism must be left out"),
        (
            ("head",) * 3,
            {},
            {"name": "balanced"},
            r"clients\[0\]\.model doesn't fit method\.name = 'balanced'",
        ),
        (
            ("mlp", "head", "mlp"),
            None,
            {"name": "fd"},
            r"clients\[1\]\.model doesn't fit method\.name = 'fd'",
        ),
    ],
)
def test_heads_where_they_cannot_be(
    tmp_path: Path, models: tuple[str, ...], privacy: dict[str, Any] | None, changes: Any, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        federation(tmp_path, *models, privacy=privacy, **changes)


def test_features_need_public_inputs(tmp_path: Path) -> None:
    path = tmp_path / "points.npz"
    federation(tmp_path)
    data = DataConfig(source="npz", path=str(path), public=1, test=30)
    with pytest.raises(ConfigError, match=r"data\.public must be at least 2 for clients' model = 'head'"):
        federation(tmp_path, data=data, queries=1)


def test_a_student_is_no_head(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"student\.model must be one of"):
        federation(tmp_path, student={"model": "head"})


def test_inputs_without_features() -> None:
    with pytest.raises(ModelError, match="model 'head' needs images"):
        ModelSpec(name="head", shape=(3, 4), n_classes=2).check()


def test_a_route_without_privacy_settings_is_complete() -> None:
    assert PrivacyConfig(**PRIVATE).route == "head"
    assert ClientGroup(model="head").count == 1
