"""A run's folder against a policy: by its small files, quickly, and never from files that were edited."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from securefd.cli import main
from securefd.config import config_hash, parse_config, to_toml
from securefd.errors import AuditError, RunError, RunMismatch
from securefd.evaluation.checking import check, lines
from securefd.evaluation.findings import Audit, Control, Finding
from securefd.evaluation.findings_json import to_json
from securefd.evaluation.policy import load_policy
from securefd.evaluation.statistics import Rate
from securefd.result import load_run

CONFIG = """
name = "made up"
seed = 3
[data]
source = "digits"
[[clients]]
count = 4
model = "mlp"
[method]
name = "balanced"
rounds = 1
[sealing]
kind = "masked"
threshold = 3
[privacy]
unit = "record"
route = "dpsgd"
relation = "add-or-remove"
epsilon = 8.0
delta = 1e-4
[audit]
observers = ["server"]
"""
POLICY = """
name = "test"
[[privacy]]
observers = ["server"]
unit = "record"
relation = "add-or-remove"
epsilon = 8.0
delta = 1e-4
[federation]
threshold = 3
[[attacks]]
observers = ["server"]
fpr = 0.01
tpr = 0.05
[accuracy]
student = 0.8
[dependencies]
torch = "2.6"
"""
GUARANTEE = {"epsilon": 7.9, "delta": 1e-4, "unit": "record", "relation": "add-or-remove"}
RESULT = {
    "metrics": {
        "student.accuracy": 0.9,
        "clients.accuracy": 0.8,
        "local.accuracy": None,
        "test.records": 300,
        "bytes": {"up": 1, "down": 1},
    },
    "claims": [
        {
            "observer": "server",
            "subject": "records",
            "guarantee": GUARANTEE,
            "assumption": None,
            "reason": "DP-SGD",
        }
    ],
    "notes": [],
}
MANIFEST = {
    "versions": {"securefd": "0.1.0", "python": "3.11.9", "torch": "2.13.0"},
    "public set": {"sha256": "ab" * 32, "inputs": 500},
    "classes": ["0", "1"],
    "input shape": [1, 8, 8],
}


def found(**changes: object) -> Finding:
    fields = {
        "subject": "the recipe",
        "observer": "server",
        "attack": "lira on total",
        "n_in": 200,
        "n_out": 200,
        "auc": 0.55,
        "auc_interval": (0.5, 0.6),
        "tpr": {0.01: Rate(0.02, (0.01, 0.04))},
        "delta": 1e-4,
        "judgement": "INCONCLUSIVE",
        "reason": "turns bound nothing",
    }
    return Finding(**(fields | changes))


def audit(*findings: Finding, passed: bool = True) -> Audit:
    return Audit(
        outcomes=findings or (found(),),
        controls=tuple(
            Control(kind=kind, attack="lira", measured="as it should", passed=passed)
            for kind in ("null", "positive")
        ),
        error_level=0.05,
        federations=8,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run, all of whose small files are there, and an audit."""
    run = tmp_path / "run"
    (run / "audit").mkdir(parents=True)
    config = parse_config(CONFIG)
    (run / "config.toml").write_text(to_toml(config))
    (run / "manifest.json").write_text(json.dumps({**MANIFEST, "configuration": config_hash(config)}))
    (run / "metrics.jsonl").write_text('{"bytes.up": 1, "bytes.down": 1}\n')
    (run / "result.json").write_text(json.dumps(RESULT))
    (run / "audit" / "findings.json").write_text(to_json(audit()))
    (tmp_path / "policy.toml").write_text(POLICY)
    return run


@pytest.fixture
def policy(tmp_path: Path, folder: Path) -> Path:
    return tmp_path / "policy.toml"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("finding", "rules", "verdict", "code"),
    [
        (found(), POLICY, "pass", 0),
        (found(tpr={0.01: Rate(0.02, (0.01, 0.06))}), POLICY, "fail", 1),
        (found(tpr={0.01: Rate(None, None)}), POLICY, "inconclusive", 3),
        (found(), POLICY.replace("add-or-remove", "replace-one"), "inconclusive", 3),
        (found(), POLICY.replace("epsilon = 8.0", "epsilon = 7.0"), "fail", 1),
    ],
)
def test_the_exit_code_is_the_verdict(folder, policy, capfd, finding, rules, verdict, code):
    (folder / "audit" / "findings.json").write_text(to_json(audit(finding)))
    policy.write_text(rules)
    assert main(["check", str(folder), "--policy", str(policy), "--json"]) == code
    done = json.loads(capfd.readouterr().out)
    assert done["verdict"] == verdict
    assert (done["name"], done["sha256"]) == ("test", load_policy(policy).sha256)
    assert [each["rule"] for each in done["results"]] == [
        "violations",
        "privacy[0]",
        "federation.threshold",
        "attacks[0]",
        "accuracy.student",
        "dependencies.torch",
    ]
    assert main(["check", str(folder), "--policy", str(policy)]) == code
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.splitlines()[-1] == f"verdict: {verdict}"
    for each in done["results"]:
        assert f"{each['result'].upper():12}  {each['rule']}, made up: {each['requires']}" in said.out
        assert f"measured: {each['measured']} ({each['uncertainty']})" in said.out
        assert f"why: {each['reason']}" in said.out


def test_the_worst_comes_first(folder, policy):
    policy.write_text(POLICY.replace("student = 0.8", "student = 0.99"))
    (folder / "audit" / "findings.json").unlink()
    told = list(lines(check(load_run(folder), load_policy(policy))))
    assert [line.split()[0] for line in told[:-2:3]] == [
        "FAIL",
        "INCONCLUSIVE",
        "INCONCLUSIVE",
        "PASS",
        "PASS",
        "PASS",
    ]


def test_an_audit_at_hand_goes_before_the_one_in_the_folder(folder, policy):
    rules, run = load_policy(policy), load_run(folder)
    assert check(run, rules).verdict == "pass"
    assert check(run, rules, audit(passed=False)).verdict == "inconclusive"


def test_an_unaudited_run_is_inconclusive_and_told_how_to_audit_it(folder, policy):
    shutil.rmtree(folder / "audit")
    done = check(load_run(folder), load_policy(policy))
    assert done.verdict == "inconclusive"
    reasons = [each.reason for each in done.results if each.result != "pass"]
    assert len(reasons) == 2
    assert all("securefd audit" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        (
            "config.toml",
            "threshold = 3",
            "threshold = 4",
            "isn't the configuration whose hash is in manifest",
        ),
        (
            "config.toml",
            "epsilon = 8.0",
            "epsilon = 3.0",
            "isn't the configuration whose hash is in manifest",
        ),
        ("config.toml", "seed = 3", "seed = nan", "seed must be"),
        ("config.toml", 'name = "made up"', "", "name is required"),
        ("manifest.json", '"configuration": "', '"configuration": "0', "isn't the configuration whose hash"),
        ("manifest.json", '"configuration"', '"configured"', "configuration is missing"),
        ("manifest.json", '"versions"', '"version"', "versions is missing"),
        ("manifest.json", "{", "[", "manifest.json isn't the file that a run writes"),
        ("result.json", '"claims"', '"promises"', "result.json: claims is missing"),
        (
            "result.json",
            '"claims": [{',
            '"claims": ["server", {',
            "result.json: claims.0 isn't what a run writes",
        ),
        ("result.json", '"observer": "server"', '"observer": "boss"', "claims.0.observer isn't what a run"),
        ("result.json", '"subject": "records"', '"subject": "all"', "claims.0.subject isn't what a run"),
        ("result.json", '"epsilon": 7.9', '"epsilon": NaN', "claims hold a guarantee that can't be: epsilon"),
        ("result.json", '"epsilon": 7.9', '"epsilon": -1', "claims hold a guarantee that can't be: epsilon"),
        ("result.json", '"epsilon": 7.9', '"epsilon": "low"', "claims.0.guarantee.epsilon isn't what a run"),
        (
            "result.json",
            '"student.accuracy": 0.9',
            '"student.accuracy": NaN',
            "metrics.student.accuracy must be",
        ),
        (
            "result.json",
            '"student.accuracy": 0.9',
            '"student.accuracy": 90',
            "metrics.student.accuracy must be",
        ),
        ("result.json", '"student.accuracy"', '"accuracy"', "metrics.student.accuracy is missing"),
        ("result.json", '"test.records": 300', '"test.records": 0', "metrics.test.records must be a count"),
        ("result.json", '"test.records": 300', '"test.records": "many"', "metrics.test.records must be"),
        ("audit/findings.json", '"controls"', '"checks"', "findings.json isn't what an audit wrote"),
        ("audit/findings.json", '"subject": "the recipe"', '"subject": "ours"', "isn't what an audit wrote"),
        ("audit/findings.json", '"INCONCLUSIVE"', '"CONSISTENT"', "CONSISTENT needs a bound within a claim"),
        ("audit/findings.json", "0.55", "NaN", "isn't what an audit wrote"),
        ("audit/findings.json", "0.55", "0.95", "value must lie in its interval"),
    ],
)
def test_an_edited_run_is_refused_in_one_sentence(folder, policy, capfd, name, old, new, said):
    edit(folder / name, old, new)
    assert main(["check", str(folder), "--policy", str(policy)]) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.startswith("securefd: ")
    assert told.err.count("\n") == 1
    assert said in told.err
    assert str(folder) in told.err
    assert "internal error" not in told.err


def test_the_errors_are_typed(folder, policy):
    rules = load_policy(policy)
    edit(folder / "config.toml", "threshold = 3", "threshold = 4")
    with pytest.raises(RunMismatch):
        check(load_run(folder), rules)
    edit(folder / "config.toml", "threshold = 4", "threshold = 3")
    (folder / "audit" / "findings.json").write_text("[]")
    with pytest.raises(AuditError):
        check(load_run(folder), rules)
    (folder / "result.json").write_text("{}")
    with pytest.raises(RunError, match="metrics is missing"):
        load_run(folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "RUN"], "Missing option '--policy'"),
        (["check", "RUN", "--policy", "absent.toml"], "absent.toml doesn't exist; `securefd init DIR`"),
        (["check", "nowhere", "--policy", "POLICY"], "nowhere is not a run folder"),
        (["check", "RUN", "--policy", "BAD"], "isn't a known key"),
        (["report", "RUN", "-o", "OUT", "--policy", "BAD"], "isn't a known key"),
        (["report", "RUN", "-o", "OUT", "--policy", "absent.toml"], "absent.toml doesn't exist"),
    ],
)
def test_what_cannot_be_read_leaves_nothing_behind(folder, policy, tmp_path, capfd, arguments, said):
    bad = tmp_path / "bad.toml"
    bad.write_text(POLICY + "\n[ledger]\nheads = 1\n")
    places = {"RUN": folder, "POLICY": policy, "BAD": bad, "OUT": tmp_path / "out" / "report"}
    assert main([str(places.get(each, each)) for each in arguments]) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert said in told.err
    assert not (tmp_path / "out").exists()


def test_it_imports_nothing_heavy(folder, policy):
    code = (
        "import sys\nfrom securefd.cli import main\n"
        f"code = main(['check', {str(folder)!r}, '--policy', {str(policy)!r}, '--json'])\n"
        "heavy = {'torch', 'sklearn', 'opacus', 'dp_accounting', 'matplotlib', 'scipy.stats', 'jinja2'}\n"
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0 []"
    assert json.loads(done.stdout)["verdict"] == "pass"
