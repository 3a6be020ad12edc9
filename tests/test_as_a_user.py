"""The command line as a user types it, on real files; nothing is replaced."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import securefd
from securefd.cli import main
from securefd.template import TEMPLATE

ROOT = Path(securefd.__file__).parent.parent

FEDERATION = """
name = "session"
seed = 3
data = { source = "digits", public = 60, test = 30 }
student = { model = "logistic", steps = 20 }

[[clients]]
count = 3
model = "logistic"

[method]
name = "dsfl"
rounds = 40
queries = 50
local_steps = 5
digest_steps = 5

[sealing]
kind = "masked"
"""


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@dataclass
class Done:
    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The one sentence that a command ended with."""
        assert (self.code, self.out) == (2, "")
        (sentence,) = [line for line in self.err.splitlines() if line.startswith("securefd: ")]
        assert self.err.splitlines()[-1] == sentence
        assert "Traceback" not in self.err
        assert "internal error" not in self.err
        return sentence


@pytest.fixture
def typed(capfd):
    """What a command typed here would do, without the seconds that a new process takes to load libraries."""

    def call(*arguments: object) -> Done:
        code = main([str(argument) for argument in arguments])
        return Done(code, *capfd.readouterr())

    return call


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    path = tmp_path / "federation.toml"
    path.write_text(FEDERATION)
    return path


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, which Ctrl-C reaches even where the tests run in the background and ignore it."""
    command = [sys.executable, "-m", "securefd", *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_init_plan_run(typed, tmp_path: Path) -> None:
    """What the template describes, cut short."""
    path = Path(json.loads(typed("init", tmp_path / "clinic", "--json").out)["path"])
    text = path.read_text()
    assert text == TEMPLATE
    for long, cut in [
        ("# rounds = 5", "rounds = 1"),
        ("# local_steps = 100", "local_steps = 2"),
        ("# steps = 500", "steps = 2"),
    ]:
        assert long in text
        text = text.replace(long, cut)
    path.write_text(text)
    planned = json.loads(typed("plan", path, "--json").out)
    done = typed("run", path, "-o", tmp_path / "run", "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert result["bytes"] == planned["bytes"]
    assert result["claims"] == planned["claims"]
    assert result["path"] == str(tmp_path / "run")
    assert {"student.accuracy", "local.accuracy", "clients.accuracy"} <= result.keys()


def test_ctrl_c_ends_a_run_that_then_goes_on(typed, federation: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "stopped", tmp_path / "whole"
    with started("run", federation, "-o", out) as process:
        end = time.monotonic() + 60
        while not (out / "metrics.jsonl").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        second = typed("run", federation, "-o", out)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        stdout, stderr = process.communicate(timeout=30)
    assert "is in use by another process" in second.refused()
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1].startswith("securefd: interrupted; a run that was started goes on")
    assert "Traceback" not in stderr
    assert not (out / "result.json").exists()
    assert "isn't finished" in typed("audit", out).refused()
    assert typed("run", federation, "-o", out).code == typed("run", federation, "-o", whole).code == 0
    students = [(folder / "models" / "student.safetensors").read_bytes() for folder in (out, whole)]
    assert students[0] == students[1]


@pytest.mark.parametrize("seconds", [0.6, 1.2])
def test_ctrl_c_while_libraries_load(federation: Path, tmp_path: Path, seconds: float) -> None:
    """An exception thrown into native code that is being imported would abort the process."""
    with started("run", federation, "-o", tmp_path / "run") as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGINT)  # the latter before the first line of ours has run
    assert "terminate called" not in stderr


def test_places_that_are_no_run(typed, federation: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    for out, why in [
        (federation, "is a file; name a folder"),
        (tmp_path / "other", "holds no run (found 'thesis.txt')"),
        (federation / "run", "can't be made: Not a directory"),
    ]:
        assert why in typed("run", federation, "-o", out).refused()
    assert [entry.name for entry in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_own_functions_are_found_in_the_current_folder(federation: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def small(shape, n_classes, seed):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, n_classes))\n"
    )
    federation.write_text(FEDERATION.replace('"logistic"\n', '"mine:small"\n'))
    script = "import sys; sys.path.pop(0); from securefd.cli import main; sys.exit(main())"  # as if installed
    done = subprocess.run(
        [sys.executable, "-c", script, "plan", str(federation)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "client 2: mine:small of 650 weights" in done.stdout
