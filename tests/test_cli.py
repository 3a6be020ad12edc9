"""The command line: exit codes, one sentence for whatever goes wrong, and only results on stdout."""

import json
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import securefd
from securefd.cli import main
from securefd.config import TABLES, Config, PrivacyConfig, load_config, parse_config
from securefd.errors import DataError, RunLocked
from securefd.evaluation.findings import Audit, Control, Finding, Skipped
from securefd.evaluation.policy import Policy
from securefd.progress import Progress
from securefd.template import TEMPLATE


@dataclass
class Outputs:
    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The one sentence, after checking that it is one and that there is nothing else."""
        assert self.code == 2
        assert self.out == ""
        assert self.err.startswith("securefd: ")
        assert self.err.count("\n") == 1
        assert "Traceback" not in self.err
        return self.err.strip()


@pytest.fixture
def cli(capfd):
    def call(*arguments: str) -> Outputs:
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outputs(code, captured.out, captured.err)

    return call


@pytest.fixture
def face(monkeypatch):
    """Put a function in the place of a public one."""

    def put(name: str, function) -> None:
        monkeypatch.setitem(vars(securefd), name, function)

    return put


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    path = tmp_path / "federation.toml"
    path.write_text(TEMPLATE)
    return path


def finished_run(config: Config, out: Path, progress: Progress) -> SimpleNamespace:
    with progress.stage("training", 2) as advance:
        advance(2)
    metrics = {"student.accuracy": np.float64(0.75), "bytes": {"up": 4000}, "clients.accuracies": [0.5, 0.25]}
    return SimpleNamespace(metrics=metrics, claims=("server: none",), notes=("client 1 stopped",), path=out)


def an_audit(judgement: str, *, control: bool = True) -> Audit:
    finding = Finding(
        subject="the recipe",
        observer="release",
        attack="lira",
        n_in=32,
        n_out=32,
        auc=0.61,
        auc_interval=(0.5, 0.7),
        tpr={},
        bound_method="one record",
        epsilon_bound=0.4,
        claim_epsilon=8.0,
        delta=1e-5,
        judgement=judgement,  # type: ignore[arg-type]
        reason="because",
    )
    null = Control(kind="null", attack="lira", measured="nothing", passed=control)
    return Audit(outcomes=(finding,), controls=(null,), error_level=0.05, federations=8)


# --- what needs no federation ------------------------------------------------------------------


def test_version(cli) -> None:
    assert cli("--version") == Outputs(0, f"securefd {securefd.__version__}\n", "")


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from securefd.cli import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"demo", "init", "plan", "run", "audit", "report", "check", "schema"} <= set(
        re.findall(r"\w+", done.stdout)
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["run"],
        ["run", "federation.toml"],
        ["--nothing"],
        ["plan", "a.toml", "b.toml"],
        ["schema", "nothing"],
        ["check", "run"],
    ],
)
def test_usage_errors(cli, arguments) -> None:
    assert "--help" in cli(*arguments).refused()


def test_schema_of_a_policy(cli) -> None:
    done = cli("schema", "policy")
    assert done.code == 0
    assert set(json.loads(done.out)["properties"]) == set(Policy.model_fields)


def test_schema_is_a_json_schema(cli) -> None:
    done = cli("schema", "config")
    schema = json.loads(done.out)
    assert done.code == 0
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Config.model_fields)


def test_a_reader_that_closes_early_sees_no_traceback() -> None:
    command = f"{sys.executable} -m securefd schema config | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True)
    assert done.returncode in (0, 2)  # 0 where all of it went into the pipe before the reader left
    assert done.stderr == ""


# --- init --------------------------------------------------------------------------------------


def test_init_writes_a_configuration_that_loads(cli, tmp_path) -> None:
    done = cli("init", tmp_path / "new" / "folder", "--json")
    path = Path(json.loads(done.out)["path"])
    assert path == tmp_path / "new" / "folder" / "federation.toml"
    assert load_config(path).method.name == "balanced"
    assert Path(json.loads(done.out)["policy"]) == path.with_name("policy.toml")
    assert securefd.load_policy(path.with_name("policy.toml")).name == "clinic"


def test_init_never_overwrites(cli, federation) -> None:
    before = federation.read_text()
    assert "exists already" in cli("init", federation.parent).refused()
    assert federation.read_text() == before
    assert not federation.with_name("policy.toml").exists()


def test_init_keeps_a_policy_and_writes_nothing_beside_it(cli, tmp_path) -> None:
    (tmp_path / "policy.toml").write_text("mine")
    assert "policy.toml exists already" in cli("init", tmp_path).refused()
    assert [path.name for path in tmp_path.iterdir()] == ["policy.toml"]
    assert (tmp_path / "policy.toml").read_text() == "mine"


def test_template_names_every_key() -> None:
    keys = {
        name
        for path, table in TABLES.items()
        if path[:2] != ("data", "partition")
        for name in table.model_fields
    }
    tables = {"data", "clients", "method", "sealing", "privacy", "student", "audit", "performance"}
    assert {key for key in keys - tables if not re.search(rf"\b{key} = ", TEMPLATE)} == set()
    assert {table for table in tables if not re.search(rf"^(# )?\[{{1,2}}{table}\]", TEMPLATE, re.M)} == set()


def test_template_states_the_true_defaults() -> None:
    """With every commented line of a table switched on, nothing changes."""
    of_other_methods = ("power", "cache_rounds", "bits", "logit_bound", "distance_weight", "trim", "eta")
    without_one = ("degree", "groups")
    lines, table = TEMPLATE.splitlines(), ""
    for index, line in enumerate(lines):
        table = line if re.match(r"(# )?\[", line) else table
        key = re.match(r"# (\w+) = ", line)
        if key and key[1] not in of_other_methods + without_one and not table.startswith("# [privacy]"):
            lines[index] = line.removeprefix("# ")
    assert len([line for line in lines if line.startswith("shadows")]) == 1
    assert parse_config("\n".join(lines)) == parse_config(TEMPLATE)


def test_template_privacy_table_loads() -> None:
    start = TEMPLATE.index("# [privacy]")
    end = TEMPLATE.index("[student]")
    table = re.sub(r"^# ", "", TEMPLATE[start:end], flags=re.M)
    config = parse_config(TEMPLATE[:start] + table + TEMPLATE[end:])
    assert config.privacy == PrivacyConfig(
        unit="record", route="dpsgd", relation="add-or-remove", epsilon=8.0, delta=1e-5
    )


# --- plan, run, audit, report ------------------------------------------------------------------


def test_plan_prints_every_default(cli, face, federation) -> None:
    face("plan", lambda config: SimpleNamespace(lines=lambda: ["hopeless"], to_dict=lambda: {"epsilon": 8.0}))
    done = cli("plan", federation)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("hopeless\n")
    assert "honest_minimum = 2" in done.out
    result = json.loads(cli("plan", federation, "--json").out)
    assert result["epsilon"] == 8.0
    assert result["config"]["student"] == {"model": "mlp", "steps": 500, "self_training": 0}


def test_run_prints_metrics_claims_and_path(cli, face, federation, tmp_path) -> None:
    face("run", finished_run)
    done = cli("run", federation, "-o", tmp_path / "run", "--json")
    assert done.code == 0
    assert json.loads(done.out) == {
        "student.accuracy": 0.75,
        "bytes": {"up": 4000},
        "clients.accuracies": [0.5, 0.25],
        "claims": ["server: none"],
        "notes": ["client 1 stopped"],
        "path": str(tmp_path / "run"),
    }
    assert "training" in done.err
    plain = cli("run", federation, "-o", tmp_path / "run", "--quiet")
    assert plain.err == ""
    assert [line.split(maxsplit=1) for line in plain.out.splitlines()] == [
        ["student.accuracy", "0.7500"],
        ["bytes.up", "4000"],
        ["clients.accuracies", "0.5000 0.2500"],
        ["claims", "server: none"],
        ["notes", "client 1 stopped"],
        ["path", str(tmp_path / "run")],
    ]


@pytest.mark.parametrize(("judgement", "code"), [("CONSISTENT", 0), ("VIOLATED", 1), ("INCONCLUSIVE", 3)])
def test_audit_ends_with_its_judgement(cli, face, judgement, code) -> None:
    face("load_run", lambda path: path)
    face("audit", lambda run, **_: an_audit(judgement))
    done = cli("audit", "somewhere")
    assert done.code == code
    assert done.out.splitlines()[-1] == f"judgement: {judgement}"
    parsed = cli("audit", "somewhere", "--json")
    assert parsed.code == code
    assert json.loads(parsed.out)["judgement"] == judgement


def test_audit_shows_what_was_skipped_and_what_failed(cli, face) -> None:
    skipped = Skipped(subject="this run", observer="peer", attack="loss", reason="no view was kept")
    face("load_run", lambda path: path)
    face("audit", lambda run, **_: an_audit("CONSISTENT", control=False).including([skipped]))
    done = cli("audit", "somewhere")
    assert done.code == 3
    assert "this run, peer, loss: SKIPPED (no view was kept)" in done.out
    assert "FAILED" in done.out


def test_report_writes_the_formats_that_were_asked_for(cli, face) -> None:
    written = []

    @dataclass
    class Made:
        verdict: str = "inconclusive"
        asked: list[str] = field(default_factory=list)

        def write(self, stem: Path, formats: list[str], key: Path | None) -> tuple[Path, ...]:
            assert key is None
            written.extend(formats)
            return tuple(stem.with_suffix(f".{name}") for name in formats)

    face("load_run", lambda path: path)
    face("report", lambda run: Made())
    done = cli("report", "somewhere", "-o", "out/stem", "--formats", "json, html", "--json")
    assert written == ["json", "html"]
    assert json.loads(done.out) == {"verdict": "inconclusive", "paths": ["out/stem.json", "out/stem.html"]}


def test_a_report_needs_a_name(cli) -> None:
    assert "--out must end in a name for the files, got '.'" in cli("report", "somewhere", "-o", "").refused()


# --- whatever goes wrong -----------------------------------------------------------------------


def raiser(error: BaseException):
    def raise_it(*arguments: object, **named: object) -> None:
        raise error

    return raise_it


def test_a_missing_configuration(cli, tmp_path) -> None:
    assert "doesn't exist" in cli("plan", tmp_path / "nothing.toml").refused()


def test_a_bad_configuration(cli, federation, tmp_path) -> None:
    federation.write_text(TEMPLATE.replace("seed = 7", "seeds = 7"))
    sentence = cli("run", federation, "-o", tmp_path / "run").refused()
    assert "seeds isn't a known key, got 7; did you mean seed?" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RunLocked("RUN is in use; wait"), "securefd: RUN is in use; wait"),
        (DataError("two\nlines"), "securefd: two lines"),
        (
            PermissionError(13, "Permission denied", "/run"),
            "securefd: /run can't be used (Permission denied); check",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
        (
            ZeroDivisionError("division by zero"),
            "internal error (ZeroDivisionError: division by zero); set SECUREFD_DEBUG=1",
        ),
        (MemoryError(), "internal error (MemoryError)"),
    ],
)
def test_errors_of_a_command(cli, face, federation, error, sentence) -> None:
    face("run", raiser(error))
    assert sentence in cli("run", federation, "-o", "RUN").refused()


def test_a_traceback_only_where_it_is_asked_for(cli, face, federation, monkeypatch) -> None:
    monkeypatch.setenv("SECUREFD_DEBUG", "1")
    face("run", raiser(ZeroDivisionError("division by zero")))
    done = cli("run", federation, "-o", "RUN")
    assert done.code == 2
    assert "Traceback" in done.err


def test_ctrl_c_says_how_to_go_on(cli, face, federation) -> None:
    face("run", raiser(KeyboardInterrupt()))
    done = cli("run", federation, "-o", "RUN")
    assert done.code == 130
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert "goes on with the same command" in done.err


def test_warnings_of_libraries_stay_away(cli, face, federation, monkeypatch) -> None:
    def warning_run(config: Config, out: Path, progress: Progress) -> SimpleNamespace:
        warnings.warn("advice to programmers", stacklevel=1)
        return finished_run(config, out, progress)

    monkeypatch.setattr(sys, "warnoptions", [])
    face("run", warning_run)
    assert cli("run", federation, "-o", "RUN", "--quiet").err == ""


def test_numbers_that_json_lacks_become_null(cli, face, federation) -> None:
    face(
        "run",
        lambda config, out, progress: SimpleNamespace(
            metrics={"a": float("nan")}, claims=(), notes=(), path=out
        ),
    )
    assert json.loads(cli("run", federation, "-o", "RUN", "--json").out)["a"] is None


def test_a_plan_tells_what_is_promised_to_a_person_with_several_records(cli, tmp_path: Path) -> None:
    federation = tmp_path / "federation.toml"
    federation.write_text(
        """
name = "persons"
seed = 1
data = { source = "digits", public = 50, test = 50 }
clients = [{ count = 3, model = "logistic" }]
method = { name = "dsfl", rounds = 1, queries = 20 }
privacy = { unit = "record", route = "dpsgd", relation = "replace-one", epsilon = 0.5, delta = 1e-9 }
"""
    )
    text = cli("plan", str(federation), "--group", "3").out
    assert "what is promised to 3 records together, such as those of one person" in text
    assert "server: (epsilon = 1.5, delta = " in text
    found = json.loads(cli("plan", str(federation), "--group", "3", "--json").out)["group"]
    assert found["peer"]["epsilon"] == pytest.approx(1.5)
    assert found["peer"]["unit"] == "record"
    assert "group" not in json.loads(cli("plan", str(federation), "--json").out)
    assert "nothing" in cli("plan", str(federation), "--group", "1000").out
