"""Runs, whole: what they promise of their folder, of their figures, and of whom they refuse."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from securefd import runner
from securefd.baselines import alone
from securefd.config import Config, PerformanceConfig, SealingConfig, to_toml
from securefd.defenses import sealing
from securefd.defenses.masked_client import MaskedClient
from securefd.defenses.masked_server import STAGES
from securefd.errors import ConfigError, ModelError, PrivacyError, RunError, RunLocked, RunMismatch
from securefd.folder import locked, read_arrays, read_lines
from securefd.messages import Answer, Broadcast, Query, encode
from securefd.methods import METHODS
from securefd.recipe import Recipe
from securefd.result import load_run
from securefd.runner import pool_of, run
from tests.engine.samples import DPSGD, N_CLASSES, NET, TREE, config, play, points

Settings = Callable[..., Config]
SESSION = bytes(32)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return lambda *models, **changes: config(tmp_path, *models, **changes)


def sealed(kind: str) -> SealingConfig:
    return SealingConfig(kind=kind)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def seen(folder: Path, number: int) -> dict[str, Any]:
    return read_arrays(folder / "views" / f"round-{number:03d}.safetensors")


def noisy_counts(folder: Path, client: int) -> np.ndarray:
    return read_arrays(folder / "clients" / str(client) / "counts.safetensors")["counts"]


# --- what a run leaves -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "masked", "homomorphic", "masked+homomorphic"])
def test_a_run_under_each_sealing(tmp_path: Path, settings: Settings, kind: str) -> None:
    done = run(settings("mlp", TREE, "logistic", sealing=sealed(kind), local_steps=40), tmp_path / "run")
    assert done.metrics["clients.accuracy"] > 0.6
    assert done.metrics["clients.accuracy"] == np.mean(done.metrics["clients.accuracies"])
    assert done.metrics["test.records"] == 30
    assert done.metrics["rounds"] == len(done.rounds) == 2
    assert [line["round"] for line in done.rounds] == [1, 2]
    probabilities = done.student.predict_proba(points(5)[0])
    np.testing.assert_allclose(probabilities.sum(-1), 1.0)
    accuracy = (done.student.predict_proba(done.split.test.x).argmax(-1) == done.split.test.y).mean()
    assert done.metrics["student.accuracy"] == accuracy
    assert {claim.observer for claim in done.claims} >= {"server", "peer", "release"}
    assert not any(claim.guarantee for claim in done.claims)
    assert done.notes == ()
    files = set(contents(tmp_path / "run"))
    assert files == {
        *("config.toml", "manifest.json", "metrics.jsonl", "result.json", "run.lock", "salt"),
        *(f"clients/{k}/salt" for k in range(3)),
        *("models/round-0002.safetensors", "models/student.safetensors"),
        *(f"views/round-00{k}.{kind}" for k in (1, 2) for kind in ("safetensors", "messages")),
    }


def test_only_their_owner_may_look(tmp_path: Path, settings: Settings) -> None:
    run(settings(), tmp_path / "run")
    for path in (tmp_path / "run", *(tmp_path / "run").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("name", ["dsfl", "balanced", "fedmd", "fedct"])
def test_sealing_changes_nothing_that_is_learnt(tmp_path: Path, settings: Settings, name: str) -> None:
    """Byte for byte: plain and masked put answers on one grid."""
    students = [
        play(settings("mlp", TREE, "mlp", name=name, sealing=sealed(kind)), tmp_path / kind)
        for kind in ("plain", "masked")
    ]
    assert students[0] == students[1]
    plain, masked = (seen(tmp_path / kind, 2) for kind in ("plain", "masked"))
    assert plain.pop("answers").shape == (3, 12, N_CLASSES)
    assert plain.keys() == masked.keys() == {"queries", "consensus", "total"}
    assert all(np.array_equal(plain[key], masked[key]) for key in plain)


def test_encryption_has_a_coarser_grid_and_learns_nearly_the_same(tmp_path: Path, settings: Settings) -> None:
    for kind in ("plain", "homomorphic"):
        play(settings(sealing=sealed(kind)), tmp_path / kind)
    views = [seen(tmp_path / kind, 1) for kind in ("plain", "homomorphic")]
    np.testing.assert_allclose(views[0]["total"], views[1]["total"], atol=2e-4)


@pytest.mark.parametrize("kind", ["homomorphic", "masked+homomorphic"])
def test_on_one_grid_encryption_changes_nothing(tmp_path: Path, settings: Settings, kind: str) -> None:
    """Byte for byte: every sealing adds up the same integers."""
    students = [
        play(settings(sealing=SealingConfig(kind=each, bits=13)), tmp_path / each)  # type: ignore[arg-type]
        for each in ("masked", kind)
    ]
    assert students[0] == students[1]


@pytest.mark.parametrize("name", METHODS)
def test_workers_change_no_byte(tmp_path: Path, settings: Settings, name: str) -> None:
    one, two = (
        run(
            settings("mlp", "mlp", TREE, NET, name=name, performance=PerformanceConfig(workers=workers)),
            tmp_path / str(workers),
        )
        for workers in (1, 2)
    )
    assert one.metrics == two.metrics
    for path in ("models/round-0002.safetensors", "views/round-002.safetensors"):
        assert (one.path / path).read_bytes() == (two.path / path).read_bytes()


def test_a_method_without_public_data_has_no_student(tmp_path: Path, settings: Settings) -> None:
    done = run(settings("mlp", TREE, "mlp", name="fd"), tmp_path / "run")
    assert done.metrics["student.accuracy"] is None
    assert done.view("server").student is None
    assert not (tmp_path / "run" / "models" / "student.safetensors").exists()
    with pytest.raises(RunError, match="has no student: method 'fd' has no public set to distil on; choose"):
        _ = done.student


def test_observers_see_no_more_than_they_should(tmp_path: Path, settings: Settings) -> None:
    plain = run(settings(), tmp_path / "plain")
    masked = run(settings(sealing=sealed("masked")), tmp_path / "masked")
    server, peer, release = (plain.view(observer) for observer in ("server", "peer", "release"))  # type: ignore[arg-type]
    assert [seen.answers is not None for seen in server.rounds] == [True, True]
    assert [seen.answers is None for seen in masked.view("server").rounds] == [True, True]
    assert masked.view("server").rounds[0].total is not None
    assert [(seen.answers, seen.total) for seen in peer.rounds] == [(None, None)] * 2
    assert peer.student is None
    assert release.rounds == ()
    assert release.student is not None


def test_the_student_refuses_other_inputs(tmp_path: Path, settings: Settings) -> None:
    done = run(settings(), tmp_path / "run")
    with pytest.raises(ModelError, match="the student takes inputs of shape"):
        done.student.predict_proba(np.zeros((2, 5), dtype=np.float32))


# --- figures -----------------------------------------------------------------------------------


def test_local_accuracy_is_that_of_each_client_alone(tmp_path: Path, settings: Settings) -> None:
    chosen = settings("mlp", "forest", "logistic", name="balanced")
    done = run(chosen, tmp_path / "run")
    split = done.split
    pool, rows = pool_of(split.clients)
    logits = alone(Recipe.of(chosen, (4,), N_CLASSES), pool, rows, split.test.x)
    expected = [(each.argmax(-1) == split.test.y).mean() for each in logits]
    assert done.metrics["local.accuracies"] == expected
    assert done.metrics["local.accuracy"] == np.mean(expected)


def test_local_accuracy_can_be_left_out(tmp_path: Path, settings: Settings, monkeypatch) -> None:
    def trained(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(runner, "alone", trained)
    done = run(settings(), tmp_path / "run", with_local=False)
    assert (done.metrics["local.accuracy"], done.metrics["local.accuracies"]) == (None, None)


def test_bytes_of_plain_answers(tmp_path: Path, settings: Settings) -> None:
    """12 answers of 3 classes at 20 bits take 4 bytes a value; the consensus is float32."""
    done = run(settings(), tmp_path / "run")
    up = len(encode(Answer(session=SESSION, round=1, sender=2, values=bytes(12 * N_CLASSES * 4))))
    down = len(encode(Query.of(SESSION, 1, np.arange(12))))
    down += len(encode(Broadcast(session=SESSION, round=1, body=bytes(12 * N_CLASSES * 4))))
    assert done.metrics["bytes"] == {"up": up, "down": down}


def test_bytes_of_masked_answers_are_those_that_travel(
    tmp_path: Path, settings: Settings, monkeypatch
) -> None:
    sent: dict[object, list[int]] = {}

    def counted(method: Callable[..., bytes]) -> Callable[..., bytes]:
        def call(client: object, *arguments: object, **named: object) -> bytes:
            message = method(client, *arguments, **named)
            sent.setdefault(client, []).append(len(message))
            return message

        return call

    for stage in STAGES:
        monkeypatch.setattr(MaskedClient, stage, counted(getattr(MaskedClient, stage)))
    done = run(settings(sealing=sealed("masked"), rounds=1), tmp_path / "run")
    assert [len(messages) for messages in sent.values()] == [len(STAGES)] * 3
    assert done.metrics["bytes"]["up"] == max(map(sum, sent.values()))


@pytest.mark.parametrize(("name", "options"), [("cfd", {"bits": 1}), ("cfd", {"bits": 4}), ("fedct", {})])
def test_bytes_of_coded_answers_are_those_that_travel(
    tmp_path: Path, settings: Settings, monkeypatch, name: str, options: dict[str, int]
) -> None:
    sent: list[list[int]] = []

    def counted(message: Answer) -> bytes:
        data = encode(message)
        if len(sent) <= message.round:
            sent.append([])
        sent[message.round].append(len(data))
        return data

    monkeypatch.setattr(sealing, "encode", counted)
    done = run(settings(name=name, rounds=3, queries=24, **options), tmp_path / "run")
    assert [line["bytes.up"] for line in done.rounds] == [max(each) for each in sent]
    assert done.metrics["bytes"]["up"] == max(map(max, sent))
    # nearly nothing changes from round to round, and only what changed is sent
    assert done.rounds[2]["bytes.up"] < done.rounds[0]["bytes.up"]


def test_a_round_that_asks_nothing_costs_next_to_nothing(tmp_path: Path, settings: Settings) -> None:
    done = run(settings("mlp", "forest", TREE, name="dsfl-power", queries=24), tmp_path / "run")
    down = len(encode(Query.of(SESSION, 1, np.arange(0))))
    down += len(encode(Broadcast(session=SESSION, round=1, body=b"")))
    assert (done.rounds[1]["bytes.up"], done.rounds[1]["bytes.down"]) == (0, down)
    assert done.metrics["bytes"]["up"] == done.rounds[0]["bytes.up"] > 0
    assert len(done.view("server").rounds[1].queries) == 0


# --- privacy -----------------------------------------------------------------------------------


def test_a_private_run_says_what_it_spent(tmp_path: Path, settings: Settings) -> None:
    done = run(settings(name="balanced", local_steps=4, privacy={**DPSGD, "epsilon": 4.0}), tmp_path / "run")
    guarantees = [claim.guarantee for claim in done.claims if claim.subject == "records"]
    assert len(guarantees) == 3
    for guarantee in guarantees:
        assert guarantee is not None
        assert 3.5 < guarantee.epsilon <= 4.0
        assert (guarantee.unit, guarantee.relation, guarantee.delta) == ("record", "add-or-remove", 1e-4)
    assert done.metrics["local.accuracies"] == done.rounds[0]["alone.accuracy"]
    assert done.notes == ()
    counts = [
        read_arrays(tmp_path / "run" / "clients" / str(k) / "counts.safetensors")["counts"] for k in range(3)
    ]
    assert all(count.shape == (N_CLASSES,) for count in counts)


@pytest.mark.parametrize("amount", [{"epsilon": 2.0}, {"noise": 2.0}])
def test_a_private_run_answers_with_noisy_counts_only(
    tmp_path: Path, settings: Settings, monkeypatch, amount: dict[str, float]
) -> None:
    """The true counts leave in no answer, whether epsilon or noise is given."""
    answered: list[Sequence[np.ndarray]] = []
    real = sealing.PlainSealing.run_round

    def spied(
        self: object, session: bytes, number: int, vectors: Sequence[np.ndarray], *more: object
    ) -> object:
        answered.append(vectors)
        return real(self, session, number, vectors, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(sealing.PlainSealing, "run_round", spied)
    chosen = settings(name="balanced", rounds=1, local_steps=4, privacy={**DPSGD, **amount})
    done = run(chosen, tmp_path / "run")
    ((*vectors,),) = answered
    for k, vector in enumerate(vectors):
        counts = vector[-N_CLASSES:] / (2**20 - 1) * 1000
        np.testing.assert_allclose(counts, noisy_counts(done.path, k), atol=0.01)


@pytest.mark.parametrize(
    ("privacy", "models", "error", "sentence"),
    [
        ({"epsilon": 4.0, "delta": 0.5}, (), PrivacyError, "delta must be below 1/22"),
        ({"epsilon": 4.0}, ("mlp", NET, "mlp"), ModelError, "batch normalisation"),
        ({"epsilon": 4.0}, ("mlp", TREE, "mlp"), ModelError, "can't be trained by DP-SGD"),
    ],
)
def test_what_cannot_be_private_is_refused_before_anything_is_paid_or_trained(
    tmp_path: Path,
    settings: Settings,
    monkeypatch,
    privacy: dict[str, float],
    models: tuple[str, ...],
    error: type[Exception],
    sentence: str,
) -> None:
    def trained(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("securefd.private.DpSgdPlan.train", trained)
    with pytest.raises(error, match=sentence):
        run(settings(*models, privacy={**DPSGD, **privacy}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_ledger_is_shared_between_runs(tmp_path: Path, settings: Settings) -> None:
    privacy = {**DPSGD, "epsilon": 4.0, "ledger": str(tmp_path / "ledgers")}
    run(settings(local_steps=4, privacy=privacy), tmp_path / "one")
    with pytest.raises(PrivacyError, match=r"training, part 1 of 4' costs .* above its budget"):
        run(settings(local_steps=4, rounds=1, privacy=privacy), tmp_path / "two")
    assert sorted(path.name for path in (tmp_path / "ledgers").iterdir()) == [
        f"client-{k}.jsonl" for k in range(3)
    ]


# --- a run that is there -----------------------------------------------------------------------


def test_a_finished_run_is_opened_not_trained(tmp_path: Path, settings: Settings, monkeypatch) -> None:
    first = run(settings(), tmp_path / "run")
    before = contents(tmp_path / "run")

    def trained(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(runner, "Federations", trained)
    again = run(settings(performance=PerformanceConfig(workers=5)), tmp_path / "run")
    assert again.metrics == first.metrics
    assert contents(tmp_path / "run") == before
    assert load_run(tmp_path / "run").claims == first.claims


def test_another_configuration_is_refused(tmp_path: Path, settings: Settings) -> None:
    run(settings(), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(RunMismatch, match=r"another configuration \(it differs in method\); choose"):
        run(settings(rounds=3), tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_changed_data_are_refused(tmp_path: Path, settings: Settings) -> None:
    """Whichever record it is: public, test or private."""
    run(settings(), tmp_path / "run")
    x, y = points(120)
    for row in range(0, 120, 10):
        changed = x.copy()
        changed[row, 0] += 0.01
        np.savez(tmp_path / "points.npz", x=changed, y=y)
        with pytest.raises(
            RunMismatch, match=r"was made with other (private records|public set|test set); rest"
        ):
            run(settings(), tmp_path / "run")
        with pytest.raises(RunMismatch, match="was made with other"):
            _ = load_run(tmp_path / "run").split


def test_a_second_process_is_refused(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"), pytest.raises(RunLocked, match="in use by another process; wait for it"):
        run(settings(), tmp_path / "run")
    run(settings(), tmp_path / "run")


@pytest.mark.parametrize(
    "names",
    [["thesis.tex"], ["models/best.pt"], ["config.toml"], ["manifest.json", "index.html"], [".hidden"]],
)
def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, settings: Settings, names: list[str]
) -> None:
    for name in names:
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (tmp_path / "work").chmod(0o755)
    with pytest.raises(RunError, match=r"isn't empty and holds no run .*; choose another folder"):
        run(settings(), tmp_path / "work")
    assert set(contents(tmp_path / "work")) == set(names)
    assert stat.S_IMODE((tmp_path / "work").stat().st_mode) == 0o755


def test_a_file_in_the_place_of_the_folder(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError, match="run is a file; name a folder"):
        run(settings(), tmp_path / "run")


def test_a_place_that_cannot_be_written(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="can't be made: Not a directory; choose another place"):
        run(settings(), tmp_path / "file" / "run")


def test_a_copy_without_its_lock_is_a_run(tmp_path: Path, settings: Settings) -> None:
    first = run(settings(), tmp_path / "run")
    (tmp_path / "run" / "run.lock").unlink()
    assert run(settings(), tmp_path / "run").metrics == first.metrics


def test_a_device_that_is_not_there(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"performance\.device must be there, got 'cuda:99', .*; write"):
        run(settings(performance=PerformanceConfig(device="cuda:99")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_models_that_cannot_be_leave_no_folder(tmp_path: Path, settings: Settings) -> None:
    """So that the same folder can be named again once the configuration is corrected."""
    with pytest.raises(ModelError, match="needs images"):
        run(settings("mlp", "cnn", "mlp"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_data_leave_no_folder(tmp_path: Path, settings: Settings) -> None:
    chosen = settings()
    (tmp_path / "points.npz").write_bytes(b"not an archive")
    with pytest.raises(Exception, match="can't be read as an npz file"):
        run(chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "broken", ["result.json", "metrics.jsonl", "manifest.json", "models/student.safetensors"]
)
def test_a_damaged_run_is_not_misread(tmp_path: Path, settings: Settings, broken: str) -> None:
    run(settings(), tmp_path / "run")
    (tmp_path / "run" / broken).write_bytes(b"{")
    with pytest.raises(RunError, match=r"isn't the file that a run writes .*; restore it or start"):
        _ = load_run(tmp_path / "run").student


def test_what_is_no_finished_run(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(RunError, match=r"nowhere is not a run folder \(it has no config\.toml\); name one"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(to_toml(settings()))
    with pytest.raises(RunError, match="isn't finished; resume it with `securefd run` and the same"):
        load_run(tmp_path / "run")


def test_a_line_a_round(tmp_path: Path, settings: Settings) -> None:
    done = run(settings(rounds=3), tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [json.dumps(line) for line in lines] == [json.dumps(line) for line in done.rounds]
    assert all(0 <= line["clients.accuracy"] <= 1 and line["seconds"] >= 0 for line in lines)
