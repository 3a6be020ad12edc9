"""The examples run as they are."""

import os
import subprocess
import sys
from pathlib import Path

import securefd

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


def test_a_model_that_was_never_federated_is_audited(tmp_path: Path) -> None:
    from securefd.evaluation.any_model import load_scores

    path = tmp_path / "scores.npz"
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "audit_sklearn.py"), str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    lines = done.stdout.splitlines()
    assert any(line.startswith("lira on scores: AUC 0.") for line in lines)
    assert lines[-2].startswith("epsilon is at least ")
    assert lines[-1] == "judgement: INCONCLUSIVE"
    assert load_scores(path)["shadows"].shape == (32, 569, 2)
