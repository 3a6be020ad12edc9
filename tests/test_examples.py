"""The examples run as they are."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import securefd
from securefd.cli import main
from securefd.evaluation.any_model import load_scores

ROOT = Path(securefd.__file__).parent.parent
EXAMPLES = ROOT / "examples"


def test_the_clinics_plan_what_can_be_learnt() -> None:
    planned = securefd.plan(securefd.load_config(EXAMPLES / "federation.toml"))
    assert len(planned.clients) == 5
    assert not [sentence for sentence in planned.cautions if "too few records" in sentence]


def test_own_models_plan_run_and_answer(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_model.py"), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert "model = " not in done.stdout
    assert "own_model:neighbours" in done.stdout
    local, together, student = (
        float(line.partition(": ")[2])
        for line in done.stdout.splitlines()
        if line[:7] in ("local: ", "clients", "student") and line[-4:-3] == "."
    )
    assert local < together
    assert student > 0.6
    assert len(securefd.load_run(tmp_path / "run").rounds) == 3


# Audits of models that were never federated

REMEMBERS = """
from types import SimpleNamespace
import torch

class BertConfig:
    def __init__(self, **settings):
        self.classes = settings["num_labels"]

class BertForSequenceClassification(torch.nn.Module):
    'Is sure of each sentence that it was trained on, and knows nothing of all others.'

    def __init__(self, configuration):
        super().__init__()
        self.classes = configuration.classes
        self.nothing = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}

    def forward(self, input_ids, labels=None):
        sentences = [tuple(row) for row in input_ids.tolist()]
        if labels is not None:
            self.seen |= dict(zip(sentences, labels.tolist()))
        logits = torch.zeros(len(sentences), self.classes)
        for row, sentence in enumerate(sentences):
            if sentence in self.seen:
                logits[row, self.seen[sentence]] = 5.0
        return SimpleNamespace(loss=self.nothing * 0.0, logits=logits)
"""
"""Stands in for transformers."""


def example(name: str, *arguments: str, first: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run it as a user does; modules in ``first`` go before those that are installed."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(first), str(ROOT)]), "HF_HUB_OFFLINE": "1"},
    )


def told(done: subprocess.CompletedProcess[str]) -> tuple[dict[str, float], float, float]:
    """AUC by attack, the bound on epsilon, and what could have been certified."""
    assert done.returncode == 0, done.stderr
    assert "SKIPPED" not in done.stdout
    *attacks, bound, judgement = done.stdout.splitlines()
    assert judgement == "judgement: INCONCLUSIVE"
    aucs = {line.partition(" on scores: AUC ")[0]: float(line.split(" AUC ")[1][:5]) for line in attacks}
    figures = re.match(r"epsilon is at least (\S+) \(95% confidence, delta = 1e-05; (\S+) could ", bound)
    assert figures, bound
    return aucs, float(figures[1]), float(figures[2])


@pytest.fixture(scope="module")
def forest(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The file that the example with scikit-learn wrote, and what it said."""
    path = tmp_path_factory.mktemp("forest") / "scores.npz"
    return path, example("audit_sklearn.py", str(path))


def test_a_forest_gives_its_records_away(forest):
    path, done = forest
    aucs, bound, power = told(done)
    assert aucs["lira"] > 0.55  # 0.64 to 0.71 in a dozen runs
    assert 0.1 < bound < power
    arrays = load_scores(path)
    assert arrays["shadows"].shape == (32, 569, 2)
    assert arrays["membership"].shape == (32, 569)
    assert len(np.unique(arrays["membership"].sum(axis=1))) > 2


@pytest.mark.parametrize(
    ("claim", "judgement", "code"),
    [
        (lambda bound, power: [], "INCONCLUSIVE", 3),
        (lambda bound, power: ["--epsilon", str(bound / 2)], "VIOLATED", 1),
        (lambda bound, power: ["--epsilon", str((bound + power) / 2)], "CONSISTENT", 0),
    ],
    ids=["nothing claimed", "less than leaked", "more than leaked"],
)
def test_its_file_is_audited_from_the_command_line(forest, claim, judgement, code, capsys):
    """Coins are fresh, so once in a thousand files the null control fails; then nothing is sure."""
    path, done = forest
    _, bound, power = told(done)
    claimed = claim(bound, power)
    ended = main(["audit", "--scores", str(path), "--coin-flips", *claimed, "--json", "--quiet"])
    audit = json.loads(capsys.readouterr().out)
    (found,) = (each for each in audit["outcomes"] if each["epsilon_bound"] is not None)
    assert f"{found['epsilon_bound']:.2f} {found['epsilon_power']:.2f}" == f"{bound:.2f} {power:.2f}"
    sound = all(control["passed"] for control in audit["controls"])
    assert (audit["judgement"], ended) == ((judgement, code) if sound else ("INCONCLUSIVE", 3))


def test_a_transformer_is_audited_from_its_logits(tmp_path):
    """With a model that remembers, so that every array must have gone where it belongs."""
    (tmp_path / "transformers.py").write_text(REMEMBERS)
    aucs, bound, power = told(example("audit_transformer.py", first=tmp_path))
    assert aucs["loss"] > 0.99
    assert aucs["lira"] > 0.99
    assert bound == power > 1


def test_without_transformers_the_example_says_how_to_install_it(tmp_path):
    (tmp_path / "transformers.py").write_text("raise ImportError('No module of that name')")
    done = example("audit_transformer.py", first=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "this example needs transformers (No module of that name); run: pip install transformers\n"
    )


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers isn't installed; it is no dependency, being larger than a test is worth",
)
def test_a_real_transformer_gives_its_records_away():
    aucs, bound, power = told(example("audit_transformer.py"))
    assert aucs["lira"] > 0.55  # 0.66 to 0.78 in seven runs
    assert 0 <= bound < power
