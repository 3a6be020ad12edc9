"""How long a run takes, estimated: what is counted is what a run does, and nothing else is touched."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from securefd import cohort, duration, planning, timings
from securefd.cli import main
from securefd.config import Config, PerformanceConfig, SealingConfig, StudentConfig, to_toml
from securefd.defenses.shares import NoiseShare
from securefd.duration import Duration, about
from securefd.fleet import Objective
from securefd.models import ModelSpec
from securefd.planning import plan
from securefd.private import DpSgdPlan
from securefd.runner import run
from tests.engine import samples

Settings = Callable[..., Config]
OBJECTIVE = Objective(loss="cross_entropy", steps=1, batch_size=8, learning_rate=1e-3)
DPSGD = {**samples.DPSGD, "epsilon": 8.0}
HEAD = {**DPSGD, "route": "head"}
LOCAL = {"unit": "client", "route": "local", "relation": "replace-one", "epsilon": 8.0, "delta": 1e-3}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return lambda *models, **changes: samples.config(tmp_path, *models, **changes)


# --- in words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "about 1 second"),
        (1.6, "about 2 seconds"),
        (10.4, "about 10 seconds"),
        (13.0, "about 15 seconds"),
        (89.0, "about 90 seconds"),
        (91.0, "about 2 minutes"),
        (240.0, "about 4 minutes"),
        (1000.0, "about 15 minutes"),
        (5399.0, "about 90 minutes"),
        (5401.0, "about 2 hours"),
        (100_000.0, "about 30 hours"),
        (1_000_000.0, "about 10 days"),
        (1e9, "about 11,575 days"),
    ],
)
def test_a_figure_is_rounded_and_has_a_unit(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_the_largest_stages_are_named() -> None:
    (line,) = Duration(stages={"a": 1.0, "b": 200.0, "c": 99.0}).lines()
    assert line == "about 5 minutes on this machine if it does nothing else (67% b, 33% c)"


# --- what is counted, against what a run does ----------------------------------------------------


@pytest.fixture
def unit_costs(monkeypatch) -> None:
    """Every gradient step of a model, and every answer to an input, takes one second; nothing else any."""
    monkeypatch.setattr(timings, "gradient_step", lambda spec, count, *_, **__: float(count))
    monkeypatch.setattr(timings, "answer", lambda *_, **__: 1.0)
    monkeypatch.setattr(timings, "rounded", lambda *_: 0.0)
    monkeypatch.setattr(timings, "private_training", lambda *_, **__: 0.0)


@pytest.fixture
def done(monkeypatch) -> Counter[str]:
    """What a run does: steps of models, and answers of networks."""
    counted: Counter[str] = Counter()
    train, predict = cohort.train, cohort.predict

    def trained(spec: Any, states: Any, lessons: Any, objective: Any, **named: Any) -> Any:
        parts = 1 if lessons[0].rehearsal is None else 2
        counted["steps"] += parts * objective.steps * len(states)
        return train(spec, states, lessons, objective, **named)

    def predicted(spec: Any, states: Any, x: Any, **named: Any) -> Any:
        counted["answers"] += len(states) * len(x)
        return predict(spec, states, x, **named)

    monkeypatch.setattr(cohort, "train", trained)
    monkeypatch.setattr(cohort, "predict", predicted)
    return counted


@pytest.mark.usefixtures("unit_costs")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rounds": 1},
        {"local_steps": 0},
        {"name": "fedmd", "rounds": 3},
        {"name": "feddf"},
        {"name": "balanced", "rounds": 3},
        {"name": "dsfl-power", "rounds": 3, "queries": 20},
        {"name": "cfd", "rounds": 3},
        {"name": "fd", "rounds": 3},
        {"name": "median", "models": ("mlp", "mlp", samples.NET)},
        {"privacy": DPSGD},
        {"privacy": DPSGD, "rounds": 1},
        {"privacy": LOCAL, "models": ("mlp", "mlp", "logistic")},
        {"privacy": {"unit": "record", "route": "nfdp", "relation": "replace-one", "sample": 5}},
    ],
)
def test_steps_and_answers_are_those_of_a_run(
    tmp_path: Path, settings: Settings, done: Counter[str], changes: dict[str, Any]
) -> None:
    changes = dict(changes)
    config = settings(*changes.pop("models", ()), **changes)
    planned = plan(config).duration.stages
    assert not done
    run(config, tmp_path / "run")
    steps = planned.get("clients' training", 0) + planned.get("the student's training", 0)
    assert steps == done["steps"] > 0
    assert planned["answers"] == done["answers"] > 0


def test_features_are_learnt_once_and_records_seen_once(settings: Settings, monkeypatch) -> None:
    monkeypatch.setattr(timings, "contrastive_step", lambda *_, **__: 1.0)
    monkeypatch.setattr(timings, "feature", lambda *_, one_by_one, **__: 1e6 if one_by_one else 0.0)
    planned = plan(settings(*["head"] * 3, images=True, privacy=HEAD)).duration.stages
    assert planned["features of the public set"] == 200 + 1e6 * 66
    assert "features of the public set" not in plan(settings(*["head"] * 3)).duration.stages, "of a table"


def test_private_training_is_one_client_after_the_other(settings: Settings, monkeypatch) -> None:
    monkeypatch.setattr(
        timings, "private_training", lambda spec, *_, **__: {"mlp": 10, "logistic": 1}[spec.name]
    )
    monkeypatch.setattr(duration, "STORED", 0.0)
    monkeypatch.setattr(duration, "PAYMENT", 0.25)
    config = settings("mlp", "mlp", "logistic", privacy={**DPSGD, "ledger": ""}, local_steps=8)
    assert plan(config).duration.stages["private training"] == 21 + 3 * 4 * 0.25


def test_clients_that_are_at_work_abreast_take_less(settings: Settings, monkeypatch) -> None:
    monkeypatch.setattr(timings, "answer", lambda *_, **__: 1000.0)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    one, two, many = (
        plan(settings(performance=PerformanceConfig(workers=workers))).duration.stages["answers"]
        for workers in (1, 2, 64)
    )
    student = 1000 * 3 * 30
    assert one - student == pytest.approx(2 * (two - student), rel=0.01)
    assert many == pytest.approx(two, rel=0.01), "no more than there are processors"


@pytest.mark.parametrize("count", [3, 20, 50])
def test_sealing_grows_with_pairs_and_values(settings: Settings, monkeypatch, count: int) -> None:
    asked: list[Any] = []

    def sealed(*given: Any) -> float:
        asked.append(given)
        return 1.0

    monkeypatch.setattr(timings, "sealed", sealed)
    sealing = SealingConfig(kind="masked", threshold=count - count // 10)
    config = settings(*["logistic"] * count, sealing=sealing, rounds=3)
    assert plan(config).duration.stages["sealing"] == 3.0
    ((kind, clients, pairs, values, _bits),) = asked
    assert (kind, clients, values) == ("masked", count, 12 * samples.N_CLASSES)
    graph = plan(config).graph
    assert graph is not None
    assert pairs == count * graph.partners <= count * (count - 1)


def test_nobody_seals_what_is_sent_plainly(settings: Settings) -> None:
    assert "sealing" not in plan(settings()).duration.stages


# --- nothing else is touched ---------------------------------------------------------------------


def test_a_plan_changes_no_random_stream_and_no_setting(settings: Settings) -> None:
    config = settings("mlp", samples.NET, samples.TREE, privacy=None)
    torch.set_num_threads(2)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  # the global one is what is watched here
    before = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
    plan(config)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1][1])  # noqa: NPY002
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_a_run_is_the_same_after_a_plan_and_never_asks(
    tmp_path: Path, settings: Settings, monkeypatch
) -> None:
    config = settings("mlp", samples.NET, samples.TREE)
    first = samples.play(config, tmp_path / "one")
    plan(config)
    monkeypatch.setattr(planning, "estimate", lambda *_, **__: pytest.fail("estimated"))
    assert samples.play(config, tmp_path / "two") == first
    written = (tmp_path / "two" / "manifest.json").read_text() + (
        tmp_path / "two" / "config.toml"
    ).read_text()
    assert "duration" not in written
    assert "seconds" not in written


def test_a_plan_prints_it_and_gives_it_as_json(tmp_path: Path, settings: Settings, capsys) -> None:
    path = tmp_path / "federation.toml"
    path.write_text(to_toml(settings()))
    assert main(["plan", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\nhow long a run takes\n  about " in out
    assert " on this machine if it does nothing else (" in out
    assert main(["plan", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] == pytest.approx(sum(found["duration"]["stages"].values()))
    assert found["seconds"] > 0


# --- the pieces ----------------------------------------------------------------------------------


class Clock:
    """Time that passes only when work is done."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, 0

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.calls += 1


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timings.time, "perf_counter", lambda: made.now)
    monkeypatch.setattr(timings.time, "process_time", lambda: made.now)
    return made


@pytest.mark.parametrize("step", [1e-4, 1e-3, 0.02, 1.0, 30.0])
def test_a_step_is_what_one_more_takes(clock: Clock, step: float) -> None:
    """But where a single one tries the patience: then what comes before the first is taken for a part."""
    beginning = 0.003
    found = timings.slope(lambda steps: clock.work(beginning + steps * step))
    assert found == pytest.approx(step, rel=1e-6 if step < 0.05 else 0.01)
    assert clock.now <= max(8 * timings.PATIENCE, 5 * step)


def test_the_first_time_does_not_count(clock: Clock) -> None:
    costs = iter([0.2, 0.01])
    assert timings.seconds(lambda: clock.work(next(costs))) == pytest.approx(0.01)


def test_waiting_for_other_processes_does_not_count(clock: Clock, monkeypatch) -> None:
    monkeypatch.setattr(timings.time, "process_time", lambda: clock.now / 3)
    assert timings.seconds(lambda: clock.work(0.03)) == pytest.approx(0.01)
    assert timings.seconds(lambda: clock.work(0.03), "mps") == pytest.approx(0.03), "the processor may wait"


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "resnet", samples.NET])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_any_network_can_be_timed(name: str, count: int) -> None:
    spec = ModelSpec(name=name, shape=(1, 8, 8), n_classes=3)
    assert 0 < timings.gradient_step(spec, count, OBJECTIVE, device="cpu", workers=2) < math.inf
    assert 0 < timings.answer(spec, device="cpu") < math.inf


@pytest.mark.parametrize("name", ["forest", "boosting", samples.TREE])
def test_any_estimator_can_be_timed(name: str) -> None:
    found = timings.refit(ModelSpec(name=name, shape=(1, 20, 20), n_classes=3))
    assert min(found.each, found.record) >= 0 < found.each + found.record
    assert found.answer > 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (5,)])
def test_self_training_can_be_timed(shape: tuple[int, ...]) -> None:
    assert (
        0
        < timings.self_training_step(ModelSpec(name="mlp", shape=shape, n_classes=3), device="cpu")
        < math.inf
    )


def test_a_student_that_trains_itself_takes_its_own_steps_alone(settings: Settings, monkeypatch) -> None:
    monkeypatch.setattr(timings, "self_training_step", lambda *_, **__: 1.0)
    monkeypatch.setattr(timings, "answer", lambda *_, **__: 100.0)
    student = StudentConfig(model="logistic", steps=40, self_training=3)
    assert plan(settings(student=student)).duration.stages["the student's training"] == 40 + 3 * 2 * 24 * 100


@pytest.mark.parametrize("kind", ["masked", "homomorphic", "masked+homomorphic"])
@pytest.mark.parametrize("clients", [3, 100])
def test_any_sealing_can_be_timed(kind: str, clients: int) -> None:
    assert 0 < timings.sealed(kind, clients, clients * 10.0, 50, 20 if kind == "masked" else 14) < math.inf


@pytest.mark.parametrize("values", [1, timings.MOST_VALUES, 5 * timings.MOST_VALUES])
def test_noise_can_be_timed(values: int) -> None:
    assert timings.noised(NoiseShare(kind="discrete-gaussian", variance=9.0), values) > 0


def test_private_training_can_be_timed_without_records(settings: Settings) -> None:
    from securefd.private import plan_private
    from securefd.recipe import Recipe

    config = settings(privacy=DPSGD)
    assert config.privacy is not None
    recipe = Recipe.of(config, (samples.N_FEATURES,), samples.N_CLASSES)
    (private,) = plan_private(config.privacy, recipe, [22])
    assert isinstance(private, DpSgdPlan)
    assert timings.private_training(recipe.models[0], private, 22, device="cpu") > 0
