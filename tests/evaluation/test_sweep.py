import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w

from securefd.cli import main
from securefd.config import parse_config
from securefd.errors import ConfigError, RunError, RunLocked, RunMismatch
from securefd.evaluation.policy import parse_policy
from securefd.evaluation.sweep import CELLS, FILE, KILLED, sweep
from securefd.evaluation.sweep_config import load_sweep
from securefd.evaluation.sweep_lines import begun, told
from securefd.folder import locked, make
from securefd.runner import run
from tests.evaluation.sweep_samples import BROKEN, DEADLY, DPSGD, tiny
from tests.evaluation.test_html import Page

GRID = f"""
[[grid]]
methods = ["dsfl", "fedmd"]
seeds = 2
[[grid]]
methods = ["median"]
sealing = ["masked"]
[[grid]]
privacy = [{DPSGD}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def done(folder):
    return sweep(tiny(folder, GRID), folder / "out")


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    """What is written anew has another inode and time."""
    files = out.glob(f"{CELLS}/*/result.json")
    return {file.parent.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


class TestResults:
    def test_a_row_a_cell(self, done) -> None:
        assert [row["status"] for row in done.rows] == ["done"] * 4 + ["refused", "done"]
        assert done.counts == {"done": 5, "failed": 0, "refused": 1, "pending": 0}
        assert "sealing.kind must be plain" in done.rows[4]["reason"]
        assert [(row["method.name"], row["seed"]) for row in done.rows[:4]] == [
            ("dsfl", 5),
            ("dsfl", 6),
            ("fedmd", 5),
            ("fedmd", 6),
        ]

    def test_a_cell_is_the_run_that_it_would_be_alone(self, done, folder) -> None:
        settings = done.path / CELLS / done.rows[1]["cell"] / "config.toml"
        alone = run(parse_config(settings.read_text()), folder / "alone")
        row = done.rows[1]
        for name in ("student.accuracy", "clients.accuracy", "local.accuracy"):
            assert row[name] == alone.metrics[name]
        assert row["student.ece"] == alone.metrics["student.utility"]["calibration error"]
        worst = min(each["accuracy"] for each in alone.metrics["student.utility"]["classes"])
        assert row["student.worst_class"] == worst
        assert row["bytes"] == sum(line["bytes.up"] + line["bytes.down"] for line in alone.rounds)

    def test_promises_are_rows_too(self, done) -> None:
        plain, private = done.rows[0], done.rows[5]
        assert plain["release.epsilon"] is None
        assert 3.5 < private["release.epsilon"] <= 4
        assert (private["release.unit"], private["release.relation"]) == ("record", "add-or-remove")
        assert done.settings[-1]["frontier"]
        assert not any(row["frontier"] for row in done.settings[:-1])

    def test_files_hold_the_same(self, done) -> None:
        for stem, table in (("results", done.rows), ("summary", done.settings)):
            assert pq.read_table(done.path / f"{stem}.parquet").to_pylist() == list(table)
            with (done.path / f"{stem}.csv").open(newline="") as file:
                read = list(csv.DictReader(file))
            assert read == [{k: "" if v is None else str(v) for k, v in row.items()} for row in table]

    def test_a_setting_has_the_mean_over_its_seeds(self, done) -> None:
        assert [row["done"] for row in done.settings] == [2, 2, 0, 1]
        two = [row["student.accuracy"] for row in done.rows[:2]]
        assert done.settings[0]["student.accuracy"] == pytest.approx(sum(two) / 2)
        assert done.settings[0]["cells"].split() == [row["cell"] for row in done.rows[:2]]

    def test_the_page_stands_alone_and_holds_every_setting(self, done) -> None:
        text = (done.path / "index.html").read_text()
        page = Page(text)
        assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe"}
        assert "http" not in text.replace("http-equiv", "")
        assert len(page.tables[0]) == 1 + len(done.settings)
        assert all(row["reason"] in page.text for row in done.rows if row["status"] == "refused")
        assert len(page.named("svg")) == 1 + text.count('class="key"')

    def test_the_command_says_it_too(self, done, folder) -> None:
        plan = tiny(folder, GRID)
        assert begun(plan, done.path) == "6 cells: 5 finished before, 0 to run, 1 refused"
        lines = told(done, plan, None)
        assert lines[0] == "5 done, 1 refused"
        assert any("epsilon 4, delta 0.001 per record, add-or-remove" in line for line in lines)


class TestAgain:
    def test_what_is_finished_is_not_run_again(self, done, folder) -> None:
        before = stamps(done.path)
        again = sweep(tiny(folder, GRID), done.path)
        assert stamps(done.path) == before
        assert again.again == 5
        assert again.rows == done.rows

    def test_more_cells_may_be_asked_for(self, tmp_path) -> None:
        first = sweep(tiny(tmp_path, "[grid]\nseeds = 1"), tmp_path / "out")
        before = stamps(first.path)
        more = sweep(tiny(tmp_path, '[grid]\nskew = ["iid", 0.9]\nseeds = 1'), tmp_path / "out")
        assert (more.again, len(more.rows)) == (1, 2)
        assert before.items() <= stamps(more.path).items()

    def test_finished_cells_may_not_be_left_out(self, done, folder) -> None:
        results = (done.path / "results.csv").read_bytes()
        with pytest.raises(RunMismatch, match="holds 3 finished cells that this sweep doesn't ask for"):
            sweep(tiny(folder, '[grid]\nmethods = ["dsfl"]\nseeds = 2'), done.path)
        assert (done.path / "results.csv").read_bytes() == results

    def test_a_cell_that_was_begun_goes_on(self, tmp_path, monkeypatch) -> None:
        plan = tiny(tmp_path, "[grid]\nseeds = 1")
        place = tmp_path / "out" / CELLS / plan.cells[0].name

        def stop(*given: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("securefd.runner._Runner._result", stop)
            with pytest.raises(KeyboardInterrupt):
                sweep(plan, tmp_path / "out")
        rounds = (place / "metrics.jsonl").read_bytes()
        assert not (place / "result.json").exists()
        done = sweep(plan, tmp_path / "out")
        assert done.counts["done"] == 1
        assert (place / "metrics.jsonl").read_bytes() == rounds

    def test_a_cell_of_another_configuration_is_no_result(self, tmp_path) -> None:
        plan = tiny(tmp_path, "[grid]\nseeds = 2")
        first = sweep(plan, tmp_path / "out")
        one, two = (first.path / CELLS / row["cell"] for row in first.rows)
        (one / "config.toml").write_text((two / "config.toml").read_text())
        row = sweep(plan, tmp_path / "out").rows[0]
        assert row["status"] == "failed"
        assert "holds a run of another configuration" in row["reason"]

    def test_two_at_once_are_refused(self, tmp_path) -> None:
        make(tmp_path / "out")
        with locked(tmp_path / "out"), pytest.raises(RunLocked):
            sweep(tiny(tmp_path, "[grid]\nseeds = 1"), tmp_path / "out")
        assert not (tmp_path / "out" / FILE).exists()


class TestFailures:
    def test_a_cell_that_fails_is_a_row_and_is_tried_again(self, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        plan = tiny(tmp_path, f'[grid]\n"student.model" = ["{BROKEN}", "mlp"]')
        first = sweep(plan, "out")
        assert [row["status"] for row in first.rows] == ["failed", "done"]
        assert "ZeroDivisionError" in first.rows[0]["reason"]
        assert "\n" not in first.rows[0]["reason"]
        Path("repaired").touch()
        again = sweep(plan, "out")
        assert [row["status"] for row in again.rows] == ["done", "done"]
        assert again.again == 1

    def test_a_lock_that_stays_is_a_reason(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr("securefd.evaluation.sweep.SECONDS_FOR_LOCK", 0.0)
        plan = tiny(tmp_path, "[grid]\nseeds = 1")
        place = tmp_path / "out" / CELLS / plan.cells[0].name
        make(place)
        with locked(place):
            (row,) = sweep(plan, tmp_path / "out").rows
        assert (row["status"], "in use by another process" in row["reason"]) == ("failed", True)

    def test_a_process_that_is_killed_is_a_row_and_costs_no_other(self, tmp_path) -> None:
        plan = tiny(tmp_path, f'[grid]\n"student.model" = ["mlp", "{DEADLY}"]\nseeds = 2')
        done = sweep(plan, tmp_path / "out", workers=2)
        assert {(row["student.model"], row["status"]) for row in done.rows} == {
            ("mlp", "done"),
            (DEADLY, "failed"),
        }
        assert all(KILLED in row["reason"] for row in done.rows if row["status"] == "failed")

    def test_what_else_is_there_is_left_alone(self, tmp_path) -> None:
        plan = tiny(tmp_path, "[grid]\nseeds = 1")
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match="is a file"):
            sweep(plan, tmp_path / "file")
        with pytest.raises(RunError, match=r"isn't empty and holds no sweep \(found 'file'\)"):
            sweep(plan, tmp_path)

    def test_an_unknown_backend(self, tmp_path) -> None:
        with pytest.raises(ConfigError, match="backend 'looky'"):
            sweep(tiny(tmp_path, "[grid]\nseeds = 1"), tmp_path / "out", backend="looky")
        assert not (tmp_path / "out").exists()


def test_backends_agree(tmp_path) -> None:
    plan = tiny(tmp_path, "[grid]\nseeds = 2")
    found = [
        [row["student.accuracy"] for row in sweep(plan, tmp_path / name, workers=2, backend=name).rows]
        for name in ("threading", "loky")
    ]
    assert found[0] == found[1]


def test_a_worker_ends_with_its_sweep() -> None:
    """The worker holds a pipe, whose end comes when it is gone: so this waits for as long as it takes."""
    worker = (
        "import os, time; from securefd.evaluation.sweep import _end_with; "
        "_end_with(os.getppid()); print('up', flush=True); time.sleep(600)"
    )
    parent = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {worker!r}], stdout=subprocess.PIPE, text=True); "
        "child.stdout.readline()"
    )
    reading, writing = os.pipe()
    subprocess.run([sys.executable, "-c", parent], stderr=writing, check=True)
    os.close(writing)
    with os.fdopen(reading) as end:
        assert end.read() == ""


def test_audits_and_a_policy_are_columns(tmp_path) -> None:
    audit = '[base.audit]\nobservers = ["release"]\nshadows = 6\ncandidates = 40\n'
    plan = tiny(tmp_path, "[grid]\nseeds = 1", "audit = true", audit)
    rules = parse_policy('name = "lab"\n[federation]\nclients = 3\n')
    done = sweep(plan, tmp_path / "out", policy=rules)
    (row,) = done.rows
    assert row["status"] == "done"
    assert 0 <= row["audit.release.auc"] <= 1
    assert row["audit.judgement"] == "INCONCLUSIVE"
    # Six shadow federations are too few for a whole audit, and what can't be told doesn't pass.
    assert (row["policy"], done.cheapest) == ("inconclusive", None)
    assert f"none; {row['cell']} is nearest: violations" in told(done, plan, rules)[-2]
    strict = parse_policy('name = "strict"\n[federation]\nclients = 4\n')
    again = sweep(plan, tmp_path / "out", policy=strict)
    assert (again.again, again.rows[0]["policy"]) == (1, "fail")
    assert "federation" in again.rows[0]["policy.reason"]


class TestCommand:
    def test_exit_codes(self, tmp_path, monkeypatch, capsys) -> None:
        monkeypatch.chdir(tmp_path)
        plan = tiny(tmp_path, f'[grid]\n"student.model" = ["{BROKEN}", "mlp"]')
        Path("sweep.toml").write_text(tomli_w.dumps(dict(plan.tables)))
        assert main(["sweep", "sweep.toml", "-o", "out", "--workers", "1", "--json"]) == 0
        out, err = capsys.readouterr()
        assert "2 cells: 0 finished before, 2 to run, 0 refused" in err
        assert json.loads(out)["counts"] == {"done": 1, "failed": 1, "refused": 0, "pending": 0}
        assert main(["sweep", "sweep.toml", "-o", "out", "--quiet"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("1 done, 1 failed\n")
        assert err == ""
        assert main(["sweep", "sweep.toml", "-o", "sweep.toml"]) == 2
        assert main(["sweep", "nothing.toml", "-o", "out"]) == 2
        assert main(["sweep", "sweep.toml", "-o", "out", "--policy", "nothing.toml"]) == 2

    def test_a_copy_of_the_sweep_in_its_folder_is_the_same_sweep(self, done, folder) -> None:
        assert load_sweep(done.path / FILE).cells == tiny(folder, GRID).cells
