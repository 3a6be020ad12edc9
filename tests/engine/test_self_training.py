"""A student that labels the public inputs itself, round after round, from noisy answers to some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from securefd import features, self_training
from securefd.config import ClientGroup, Config, DataConfig, MethodConfig, StudentConfig
from securefd.encoders import InRange
from securefd.errors import ConfigError, ModelError
from securefd.features import Features, bent, learn
from securefd.fleet import initial, predict
from securefd.folder import read_arrays
from securefd.models import ModelSpec
from securefd.planning import plan
from securefd.result import view_path
from securefd.runner import run
from securefd.self_training import Answers, Looks, self_trained
from tests.engine.samples import NET, pictures, points, same

X, Y = pictures(240, seed=2)
TEST, LABELS = pictures(150, seed=3)
EVERY = np.arange(240)
ENCODER = ModelSpec(name="encoder", shape=(1, 8, 8), n_classes=3)


@pytest.fixture(scope="module")
def learnt() -> Features:
    return learn(X, seed=3, steps=20)


def started(spec: ModelSpec, learnt: Features) -> Any:
    state = initial(spec, 5)
    return state | {f"0.{name}": value for name, value in learnt.state.items()} if spec.is_encoder else state


def taught(spec: ModelSpec, learnt: Features, answers: Answers, public: Any = X, **options: Any) -> Any:
    settings = {"rounds": 3, "steps": 90, "rng": np.random.default_rng(4)} | options
    return self_trained(spec, started(spec, learnt), public, answers, learnt, **settings)


def accuracy(spec: ModelSpec, state: Any, x: Any = TEST, y: Any = LABELS) -> float:
    (logits,) = predict(spec, [state], torch.from_numpy(x))
    return float((logits.argmax(axis=-1) == y).mean())


def noisy(known: Any, deviation: float) -> Answers:
    drawn = np.random.default_rng(6).normal(size=(len(known), 3))
    return Answers(values=np.eye(3)[Y[known]] + deviation * drawn, known=known)


def test_it_learns_what_most_noisy_answers_get_wrong(learnt: Features) -> None:
    answers = noisy(EVERY, 1.5)
    assert (answers.values.argmax(axis=1) == Y).mean() < 0.6
    assert accuracy(ENCODER, taught(ENCODER, learnt, answers)) > 0.95


def test_it_learns_from_answers_to_few_inputs(learnt: Features) -> None:
    assert accuracy(ENCODER, taught(ENCODER, learnt, noisy(np.arange(12), 0.1))) > 0.95


@pytest.mark.parametrize("name", ["cnn", "mlp", NET])
def test_any_network_will_do(learnt: Features, name: str) -> None:
    x, y = (X, Y) if name != NET else points(240, seed=2)
    spec = ModelSpec(name=name, shape=x.shape[1:], n_classes=3)
    basis = learnt if name != NET else learn(x, seed=3)
    answers = Answers(values=np.eye(3)[y] + np.random.default_rng(1).normal(size=(240, 3)), known=EVERY)
    state = taught(spec, basis, answers, x, steps=400)
    assert accuracy(spec, state, x, y) > 0.85


def test_the_generator_decides_everything_and_torchs_own_is_left_alone(learnt: Features) -> None:
    before = torch.random.get_rng_state()
    first, again = (taught(ENCODER, learnt, noisy(EVERY, 1.0), steps=20) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(first, again)
    assert not same(first, taught(ENCODER, learnt, noisy(EVERY, 1.0), steps=20, rng=np.random.default_rng(5)))


@pytest.mark.parametrize(("rounds", "steps"), [(1, 1), (3, 3), (2, 10), (4, 11)])
def test_any_number_of_steps_will_do(learnt: Features, rounds: int, steps: int) -> None:
    state = taught(ENCODER, learnt, noisy(EVERY, 1.0), rounds=rounds, steps=steps)
    assert all(bool(value.isfinite().all()) for value in state.values())


def test_each_round_learns_labels_of_its_own(learnt: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is settled anew, with what the student itself thinks, is what the next round learns."""
    settled, features, targets = [np.eye(3)[[2] * 240], 9 * np.eye(3)[[1] * 240]], [], []
    original = torch.nn.functional.cross_entropy

    def settle(given: Any, *_: Any) -> Any:
        features.append(given)
        return settled[len(features) - 1]

    def spy(logits: Any, target: Any, **options: Any) -> Any:
        targets.append(set(target.tolist()))
        return original(logits, target, **options)

    monkeypatch.setattr(self_training, "_settled", settle)
    monkeypatch.setattr("securefd.self_training.F.cross_entropy", spy)
    taught(ENCODER, learnt, noisy(EVERY, 3.0), rounds=2, steps=8)
    assert targets == [{2}] * 4 + [{1}] * 4
    public, own = features  # first by what was learnt of them, then by what the student makes of them
    assert np.array_equal(public, learnt(X))
    assert own.shape == public.shape
    assert not np.array_equal(own, public)


def test_looks_are_bent_within_the_range_of_the_inputs() -> None:
    looks = Looks.of(16 * X - 3, np.random.default_rng(1))
    rows = torch.arange(50)
    as_they_are, once, again = looks(rows, 0.0), looks(rows, 0.7), looks(rows, 0.7)
    assert torch.equal(as_they_are, torch.from_numpy(16 * X[:50] - 3))
    assert not torch.equal(once, again)
    low, high = float(looks.inputs.min()), float(looks.inputs.max())
    assert low - 1e-5 <= float(once.min()) <= float(once.max()) <= high + 1e-5


def test_rows_of_a_table_are_left_as_they_are() -> None:
    x, _ = points(20)
    assert torch.equal(Looks.of(x, np.random.default_rng(1))(torch.arange(5), 0.7), torch.from_numpy(x[:5]))


def test_no_strength_bends_nothing() -> None:
    images = torch.from_numpy(X[:6])
    scale = InRange()
    scale.fit(images)
    assert torch.allclose(scale.inverse(scale(images)), images, atol=1e-6)
    assert torch.allclose(bent(scale(images), torch.Generator(), 0.0), scale(images), atol=1e-5)


def configured(tmp_path: Path, *, method: dict[str, Any], student: dict[str, Any]) -> Config:
    return Config(
        name="self-training",
        seed=3,
        data=DataConfig(source="digits", public=200, test=200),
        clients=(ClientGroup(count=3, model="mlp"),),
        method=MethodConfig(**{"name": "dsfl", "rounds": 2, "queries": 40, "digest_steps": 5} | method),
        student=StudentConfig(**{"model": "encoder", "steps": 40, "self_training": 2} | student),
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STEPS", 20)
    monkeypatch.setattr(features.learn, "__kwdefaults__", {"device": "cpu", "steps": 20})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("selection", ["random", "representative"])
def test_a_run_trains_its_student_at_the_end(tmp_path: Path, selection: str) -> None:
    config = configured(tmp_path, method={"selection": selection}, student={})
    done = run(config, tmp_path / "run", with_local=False)
    assert done.metrics["student.accuracy"] > 0.6
    assert "student.accuracy" not in done.rounds[0]  # which would be that of a student that knows nothing yet
    queries = [read_arrays(view_path(done.path, number))["queries"] for number in range(2)]
    assert np.array_equal(queries[0], queries[1]) == (selection == "representative")
    assert plan(config).largest.up == done.metrics["bytes"]["up"]


@pytest.mark.parametrize(
    ("method", "student", "sentence"),
    [
        ({"name": "cfd"}, {}, r"self_training must be 0 for method.name = 'cfd'.*remove it"),
        ({"name": "fd"}, {"model": "mlp"}, r"self_training must be 0 for method.name = 'fd'.*remove it"),
        ({}, {"self_training": 41}, r"must be at most student.steps = 40.*got 41"),
        ({"name": "fd", "selection": "representative"}, {"self_training": 0, "model": "mlp"}, "selection"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, method: dict[str, Any], student: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        configured(tmp_path, method=method, student=student)


def test_an_encoder_is_of_images_and_of_students_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"clients\[0\].model must be one of"):
        Config(
            name="x",
            seed=1,
            data=DataConfig(source="digits"),
            clients=(ClientGroup(count=3, model="encoder"),),
            method=MethodConfig(name="dsfl"),
        )
    with pytest.raises(ConfigError, match=r"student.model doesn't fit data.source = 'breast-cancer'"):
        Config(
            name="x",
            seed=1,
            data=DataConfig(source="breast-cancer", public=100, test=100),
            clients=(ClientGroup(count=3, model="mlp"),),
            method=MethodConfig(name="dsfl", queries=100),
            student=StudentConfig(model="encoder"),
        )
    with pytest.raises(ModelError, match="needs images"):
        ModelSpec(name="encoder", shape=(30,), n_classes=2).check()
