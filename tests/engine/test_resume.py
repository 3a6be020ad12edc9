"""Interrupted anywhere and started again, a run ends as if nothing had happened; what was paid stays paid."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from securefd.config import Config, SealingConfig, to_toml
from securefd.errors import RunError
from securefd.folder import locked, read_arrays, read_json, read_lines
from securefd.result import load_run
from securefd.runner import run
from tests.engine import killed
from tests.engine.samples import DPSGD, NET, TREE, config

Settings = Callable[..., Config]
KILLED = -9
MANIFEST = 11
"""Of three clients: the manifest is made durable then, after the configuration and four salts."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return lambda *models, **changes: config(tmp_path, *models, **changes)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Forks of a process that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tests.engine.killed"])
    return context


@contextmanager
def durable_calls(stop_at: int | None = None) -> Iterator[list[int]]:
    """Count what is made durable, and interrupt before the ``stop_at``-th is."""
    real, calls = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == stop_at:
            raise KeyboardInterrupt
        real(descriptor)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        yield calls


def outcome(folder: Path) -> dict[str, Any]:
    """All of a finished run but times, keys and salts."""
    lines = [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in read_lines(folder / "metrics.jsonl")
    ]
    files = [*folder.glob("models/*"), *folder.glob("views/*.safetensors")]
    assert not [*folder.glob("models/.*"), *folder.glob("views/.*")]
    assert len(list(folder.glob("views/*.messages"))) == len(lines)
    bodies = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {"result": read_json(folder / "result.json"), "lines": lines, **bodies}


def whole(settings: Config, folder: Path) -> tuple[dict[str, Any], int]:
    """A run that nobody interrupts: what it comes to, and how often it makes something durable."""
    with durable_calls() as calls:
        run(settings, folder)
    return outcome(folder), calls[0]


# Each has clients of every kind that a checkpoint must bring back, and state of its own.
PLAYED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "coded deltas, dual distillation": (("mlp", TREE, NET), {"name": "cfd", "bits": 2, "queries": 20}),
    "a cache, nothing asked": (("mlp", TREE, "logistic"), {"name": "dsfl-power", "queries": 24}),
    "anchors": (("mlp", "logistic", TREE), {"name": "fd"}),
    "rehearsal": (("mlp", TREE, "mlp"), {"name": "balanced"}),
}


@pytest.mark.parametrize(("models", "changes"), PLAYED.values(), ids=list(PLAYED))
def test_interrupted_anywhere(
    tmp_path: Path, settings: Settings, models: tuple[str, ...], changes: dict[str, Any]
) -> None:
    """Ctrl-C at every point where something becomes durable, from the manifest on."""
    chosen = settings(*models, **changes)
    expected, total = whole(chosen, tmp_path / "whole")
    for point in range(MANIFEST, total + 1):
        folder = tmp_path / str(point)
        with durable_calls(point), pytest.raises(KeyboardInterrupt):
            run(chosen, folder)
        if not (folder / "result.json").exists():
            with pytest.raises(RunError, match=r"isn't finished"):
                load_run(folder)
        with locked(folder):  # it is free again
            pass
        run(chosen, folder)
        assert outcome(folder) == expected, f"interrupted at {point} of {total}"


def test_killed_anywhere(tmp_path: Path, settings: Settings, processes: ForkServerContext) -> None:
    """SIGKILL to a process of its own, at every point where something becomes durable."""
    chosen = settings("mlp", TREE, "mlp", name="balanced", sealing=SealingConfig(kind="masked"))
    expected, total = whole(chosen, tmp_path / "whole")
    text = to_toml(chosen)
    for point in range(1, total + 1):
        folder = tmp_path / str(point)
        process = processes.Process(target=killed.play, args=(text, str(folder), point))
        process.start()
        process.join()
        assert process.exitcode == KILLED
        run(chosen, folder)
        assert outcome(folder) == expected, f"killed at {point} of {total}"


def test_killed_at_any_moment_until_it_is_done(
    tmp_path: Path, settings: Settings, processes: ForkServerContext
) -> None:
    """Killed again and again, a little later each time; every attempt goes on from the one before."""
    chosen = settings("mlp", "forest", TREE, name="cfd", bits=3, rounds=4)
    expected, _ = whole(chosen, tmp_path / "whole")
    rng = np.random.default_rng(0)
    text, folder, kills = to_toml(chosen), tmp_path / "run", 0
    for attempt in range(20):
        process = processes.Process(target=killed.play, args=(text, str(folder)))
        process.start()
        process.join(0.2 + 0.1 * attempt * rng.random())
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == KILLED
        kills += 1
    assert kills > 0
    run(chosen, folder)
    assert outcome(folder) == expected


def test_a_second_process_is_refused_while_the_first_works(
    tmp_path: Path, settings: Settings, processes: ForkServerContext
) -> None:
    chosen = settings(rounds=200)
    folder = tmp_path / "run"
    first = processes.Process(target=killed.play, args=(to_toml(chosen), str(folder)))
    first.start()
    try:
        while not (folder / "metrics.jsonl").exists():
            assert first.is_alive()
        with pytest.raises(RunError, match="in use by another process"):
            run(chosen, folder)
    finally:
        first.kill()
        first.join()
    with locked(folder):
        pass


def private_state(folder: Path) -> dict[int, tuple[int, bytes, bytes]]:
    """What each client has stored of its private model, and its ledger."""
    found = {}
    for path in folder.glob("clients/*/private.safetensors"):
        parts = int(read_arrays(path)["parts"][0])
        found[int(path.parent.name)] = (parts, path.read_bytes(), (path.parent / "ledger.jsonl").read_bytes())
    return found


def test_with_noise_what_is_stored_is_sent_again_and_what_is_lost_is_paid_again(
    tmp_path: Path, settings: Settings
) -> None:
    chosen = settings(
        "mlp", "logistic", "logistic", name="balanced", local_steps=2, privacy={**DPSGD, "epsilon": 4.0}
    )
    with durable_calls() as calls:
        run(chosen, tmp_path / "whole")
    lost = 0
    for point in range(3, calls[0] + 1, 4):
        folder = tmp_path / str(point)
        with durable_calls(point), pytest.raises(KeyboardInterrupt):
            run(chosen, folder)
        before = private_state(folder)
        counts = {path: path.read_bytes() for path in folder.glob("clients/*/counts.safetensors")}
        views = {path: path.read_bytes() for path in folder.glob("views/round-*.safetensors")}
        rounds = [int(path.stem[-4:]) for path in folder.glob("models/round-*")]
        done = run(chosen, folder)
        after = private_state(folder)
        for client, (parts, model, ledger) in before.items():
            assert after[client][2].startswith(ledger), "a ledger only grows"
            assert after[client][0] >= parts
            if parts == 2:
                assert after[client][1] == model, "noise is never drawn again"
        assert all(path.read_bytes() == content for path, content in counts.items())
        if rounds:  # the release of a finished round is what it was
            assert all(
                path.read_bytes() == views[path] for path in views if int(path.stem[-3:]) <= max(rounds)
            )
        spent = [claim.guarantee for claim in done.claims if claim.subject == "records"]
        assert spent
        assert all(guarantee is not None and 1.0 < guarantee.epsilon <= 4.0 for guarantee in spent)
        short = [client for client, (parts, _, _) in after.items() if parts < 2]
        assert len(done.notes) == len(short) <= 1
        lost += len(short)
    assert lost > 0, "an interruption between paying and storing was among them"


def test_notes_survive_a_later_interruption(tmp_path: Path, settings: Settings) -> None:
    """A client that could not train to its end is still told of when the run is resumed after that round."""
    chosen = settings("mlp", "mlp", "mlp", local_steps=2, rounds=1, privacy={**DPSGD, "noise": 2.0})
    run(chosen, tmp_path / "whole")
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patched.setattr("securefd.private.DpSgdPlan.train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(chosen, folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("securefd.federation.Federations.finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(chosen, folder)
    assert list(folder.glob("models/round-0001*"))
    (note,) = run(chosen, folder).notes
    assert note.startswith("client 0 trained 1 of 2 parts")


def test_a_partial_file_is_no_file(tmp_path: Path, settings: Settings) -> None:
    chosen = settings()
    expected, _ = whole(chosen, tmp_path / "whole")
    folder = tmp_path / "run"
    with durable_calls(20), pytest.raises(KeyboardInterrupt):
        run(chosen, folder)
    for name in ("models/.round-0009.safetensors", "views/.round-001.safetensors", ".result.json"):
        (folder / f"{name}.partial").write_bytes(b"half")
    run(chosen, folder)
    assert json.loads((folder / "result.json").read_text()) == expected["result"]


def test_a_line_too_many_is_a_round_that_was_not_stored(tmp_path: Path, settings: Settings) -> None:
    chosen = settings(rounds=3)
    expected, _ = whole(chosen, tmp_path / "whole")
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:

        def interrupted(path: Path, arrays: dict[str, Any]) -> None:
            if path.name == "round-0002.safetensors":
                raise KeyboardInterrupt
            real(path, arrays)

        from securefd import runner

        real = runner.write_arrays
        patched.setattr(runner, "write_arrays", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(chosen, folder)
    assert len(read_lines(folder / "metrics.jsonl")) == 2
    assert [path.name for path in folder.glob("models/*")] == ["round-0001.safetensors"]
    run(chosen, folder)
    assert outcome(folder) == expected
