"""The examples for compliance teams run as they are, on a small federation."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import securefd
from securefd.cli import main
from securefd.config import load_config
from securefd.evaluation.policy import load_policy
from securefd.evaluation.report_json import from_json
from tests.evaluation.runs import DPSGD, config, tossed

ROOT = Path(securefd.__file__).parent.parent
EXAMPLES = ROOT / "examples"
POLICY = """
name = "small"
[[privacy]]
observers = ["server", "peer", "release"]
unit = "record"
relation = "add-or-remove"
epsilon = 8.0
delta = 1e-4
[federation]
sealing = ["masked"]
clients = 3
[[audits]]
observers = ["server", "release"]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Sealed, private, and audited on the way: its coins are fixed, so that the controls pass."""
    folder = tmp_path_factory.mktemp("compliance")
    settings = config(
        folder,
        "logistic",
        "logistic",
        "logistic",
        sealing="masked",
        privacy=DPSGD,
        shadows=12,
        observers=("server", "release"),
    )
    return tossed(settings, folder / "run").path


def judged(run: Path, text: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    policy = run.parent / "policy.toml"
    policy.write_text(text)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "compliance.py"), str(run), str(policy)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done, policy


def test_it_is_short():
    assert len((EXAMPLES / "compliance.py").read_text().splitlines()) <= 30


@pytest.mark.parametrize(
    ("text", "verdict", "code"),
    [
        (POLICY, "pass", 0),
        (POLICY.replace("clients = 3", "clients = 4"), "fail", 1),
        (f"{POLICY}power = 5.0\n", "inconclusive", 3),
    ],
)
def test_it_judges_writes_the_report_and_agrees_with_check(run, capfd, text, verdict, code):
    done, policy = judged(run, text)
    assert done.returncode == code, done.stderr
    rules = load_policy(policy)
    assert f"{verdict} by policy 'small', SHA-256 {rules.sha256}" in done.stdout
    report = from_json((run.parent / "report.json").read_text())
    assert (report.verdict, report.policy.sha256) == (verdict, rules.sha256)
    assert (run.parent / "report.html").exists()
    for each in report.policy.results:
        assert f"{each.result:12}  {each.rule}, small: {each.requires}" in done.stdout
        assert each.reason in done.stdout
    assert main(["check", str(run), "--policy", str(policy), "--json"]) == code
    checked = json.loads(capfd.readouterr().out)
    assert checked["results"] == report.policy.model_dump(mode="json")["results"]
    assert main(["report", str(run), "-o", str(run.parent / "again"), "--policy", str(policy)]) == 0
    assert f"verdict: {verdict}" in capfd.readouterr().out
    again = from_json((run.parent / "again.json").read_text())
    assert again.policy == report.policy
    assert again.summary.startswith("Policy small: ")


def test_a_policy_with_a_mistake_stops_it_before_the_audit(run):
    done, _ = judged(run, POLICY.replace("[federation]", "[federatoin]"))
    assert done.returncode != 0
    assert "federatoin isn't a known key" in done.stderr


def test_the_policy_of_the_clinics_fits_their_federation():
    policy, clinics = load_policy(EXAMPLES / "policy.toml"), load_config(EXAMPLES / "federation.toml")
    assert clinics.privacy is not None
    for rule in policy.privacy:
        assert (rule.unit, rule.relation) == (clinics.privacy.unit, clinics.privacy.relation)
        assert (rule.epsilon, rule.delta) == (clinics.privacy.epsilon, clinics.privacy.delta)
    assert clinics.sealing.kind in policy.federation.sealing
    assert sum(group.count for group in clinics.clients) >= policy.federation.clients
    assert clinics.sealing.threshold >= policy.federation.threshold
    for rule in (*policy.attacks, *policy.audits):
        assert set(rule.observers) <= set(clinics.audit.observers)


def test_the_workflow_calls_commands_that_exist_and_ends_with_the_verdict():
    flow = yaml.safe_load((EXAMPLES / "github-workflow.yml").read_text())
    assert flow["permissions"] == {"contents": "read"}
    assert set(flow[True]) == {"pull_request", "push"}  # YAML 1.1 reads the key "on" as true
    steps = flow["jobs"]["policy"]["steps"]
    commands = [
        line.split(" || ")[0].split()
        for step in steps
        for line in step.get("run", "").splitlines()
        if line.startswith("securefd ")
    ]
    assert [command[1] for command in commands] == ["plan", "run", "audit", "report", "check"]
    for command in commands:  # every option is one that the command has
        done = subprocess.run(
            [sys.executable, "-m", "securefd", command[1], "--help"],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
            check=True,
        )
        assert all(word in done.stdout for word in command if word.startswith("-"))
    assert commands[-1] == steps[-1]["run"].split()
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    setup = next(step for step in steps if "setup-python" in step.get("uses", ""))
    assert setup["with"]["python-version"] == pinned.removeprefix(">=")


def test_the_workflow_never_uploads_a_run():
    flow = yaml.safe_load((EXAMPLES / "github-workflow.yml").read_text())
    uploads = [s["with"]["path"] for s in flow["jobs"]["policy"]["steps"] if "upload" in s.get("uses", "")]
    assert [path.split() for path in uploads] == [["report.json", "report.html"]]
