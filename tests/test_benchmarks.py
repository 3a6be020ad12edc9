"""What ``python -m benchmarks`` selects, refuses and writes; nothing is measured here."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """The command, with nothing kept yet and every measurement replaced by a note that it was asked for."""
    from benchmarks import __main__ as command
    from benchmarks import communication, fleet, mnist, report, scale

    asked = []
    for part in (fleet, communication, scale):
        name = part.__name__.removeprefix("benchmarks.")
        monkeypatch.setattr(part, "PLACE", tmp_path / f"{name}.json")
        monkeypatch.setattr(part, "measure", lambda *given, name=name: asked.append((name, *given)))
    monkeypatch.setattr(mnist, "RESULTS", tmp_path / "mnist")
    monkeypatch.setattr(mnist, "measure", lambda *given: asked.append(("mnist", *given)))
    monkeypatch.setattr(report.write, "__defaults__", (tmp_path / "RESULTS.md",))
    command.asked, command.place = asked, tmp_path
    yield command
    del command.asked, command.place


def cell(method, alpha, seed, student=None, clients=None, up=40_000):
    from benchmarks import mnist

    return {
        "method": method,
        "alpha": alpha,
        "seed": seed,
        "settings": mnist.settings(),
        "student.accuracy": student,
        "clients.accuracy": clients,
        "bytes.up": up,
        "bytes.up.total": 8 * up,
        "student.accuracy by round": [student] * 8,
    }


def written(cells=(), fleet=None, communication=None, scale=None):
    from benchmarks import report

    return report.text(fleet, communication, scale, list(cells))


def lines(text, *starts):
    return [line for line in text.splitlines() if line.startswith(tuple(f"| {start}" for start in starts))]


@pytest.mark.parametrize("only", [None, "scale", "mnist", "mnist:balanced"])
def test_without_mnist_it_says_what_it_needs(bench, only, capsys):
    assert bench.main([] if only is None else ["--only", only]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "MNIST=folder" in line
    assert bench.asked == []
    assert not (bench.place / "RESULTS.md").exists()


@pytest.mark.parametrize("only", ["mnits", "mnist:sgd", "fleet:cnn", "report:x", ""])
def test_what_it_doesnt_know_is_refused(bench, only, capsys):
    assert bench.main(["--only", only, "--mnist", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert repr(only) in line
    assert "mnist" in line
    assert bench.asked == []


def test_all_parts_are_measured_in_turn(bench):
    assert bench.main(["--mnist", "data"]) == 0
    folder = Path("data")
    assert bench.asked == [("fleet",), ("communication",), ("scale", folder), ("mnist", folder, None)]
    assert (bench.place / "RESULTS.md").exists()


@pytest.mark.parametrize(
    ("only", "asked"),
    [
        ("fleet", ("fleet",)),
        ("communication", ("communication",)),
        ("scale", ("scale", Path("data"))),
        ("mnist", ("mnist", Path("data"), None)),
        ("mnist:fedavg", ("mnist", Path("data"), "fedavg")),
    ],
)
def test_one_part_alone(bench, only, asked):
    assert bench.main(["--only", only, "--mnist", "data"]) == 0
    assert bench.asked == [asked]


def test_the_report_alone_measures_nothing(bench):
    assert bench.main(["--only", "report"]) == 0
    assert bench.asked == []
    assert "not run" in (bench.place / "RESULTS.md").read_text()


def test_an_interruption_is_no_traceback(bench, monkeypatch):
    from benchmarks import fleet

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(fleet, "measure", interrupted)
    assert bench.main(["--only", "fleet"]) == 130


def test_a_folder_without_mnist_is_refused_in_one_sentence(bench, monkeypatch, tmp_path, capsys):
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(ROOT))
    assert bench.main(["--only", "scale", "--mnist", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line


def test_results_are_kept_with_where_they_were_found(tmp_path):
    from benchmarks.store import keep, kept

    place = tmp_path / "new" / "found.json"
    assert kept(place) is None
    keep(place, {"ratio": 2.0})
    found = kept(place)
    assert found["ratio"] == 2.0
    assert set(found["where"]) == {"machine", "system", "versions", "day"}
    assert [path.name for path in place.parent.iterdir()] == ["found.json"]


def test_cells_cover_every_method_and_the_main_ones_three_times():
    from benchmarks import mnist
    from securefd.methods import METHODS

    assert set(mnist.METHODS) == set(METHODS)
    found = list(mnist.cells())
    assert len(found) == len(set(found))
    for method in (*mnist.METHODS, *mnist.BASELINES):
        seeds = 3 if method in mnist.THREE_SEEDS else 1
        assert sum(each.method == method for each in found) == seeds * len(mnist.ALPHAS)
        assert list(mnist.cells(method)) == [each for each in found if each.method == method]


def test_every_cell_can_be_configured(tmp_path):
    from benchmarks import mnist
    from securefd.rules import n_clients

    for each in mnist.cells():
        config = mnist.configured(each, tmp_path)
        assert n_clients(config) == 10
        assert len({group.model for group in config.clients}) == 5
        assert config.method.rounds <= 20


def test_the_benchmarks_own_architectures_learn_from_images():
    import torch

    from benchmarks import mnist
    from securefd.models import ModelSpec

    for name in mnist.MODELS:
        spec = ModelSpec(name=name, shape=(1, 28, 28), n_classes=10)
        assert spec.network(0)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_an_empty_report_says_so_everywhere():
    text = written()
    assert lines(text, "`balanced`") == ["| `balanced` | not run | not run | 0 |"] * 2
    assert text.count("\nnot run\n") == 3
    assert "met" not in text.replace("method", "")
    assert "missed" not in text.replace("misses", "")


def test_means_spreads_and_seeds_are_those_of_the_cells():
    cells = [
        cell("balanced", 0.1, seed, found, found - 0.1) for seed, found in ((3, 0.98), (1, 0.97), (2, 0.96))
    ]
    cells += [cell("local", 0.1, 1, None, 0.31), cell("fedavg", 0.5, 1, 0.955, None)]
    text = written(cells)
    assert (
        lines(text, "`balanced`")[0]
        == "| `balanced` | 97.00% (96.00% to 98.00%) | 87.00% (86.00% to 88.00%) | 3 |"
    )
    assert lines(text, "`local`")[0] == "| `local` | – | 31.00% | 1 |"
    assert lines(text, "`fedavg` ")[1] == "| `fedavg` | 95.50% | – | 1 |"


@pytest.mark.parametrize(
    ("best", "fedavg", "verdicts"),
    [
        (0.971, 0.96, ("met", "met")),
        (0.969, 0.96, ("**missed**", "met")),
        (0.97, 0.97, ("met", "**missed**")),
    ],
)
def test_targets_of_the_best_student(best, fedavg, verdicts):
    cells = [cell("dsfl", 0.1, 1, 0.9), cell("balanced", 0.1, 1, best), cell("fedavg", 0.1, 1, fedavg)]
    text = written(cells)
    first, lead = lines(text, "student of the best method (balanced), α = 0.1", "lead of the best")
    assert first.split(" | ")[1:] == ["≥ 97%", f"{best:.1%}", f"{verdicts[0]} |"]
    assert lead.split(" | ")[1:] == ["> 0", f"{100 * (best - fedavg):.1f}", f"{verdicts[1]} |"]


def test_cfd_is_compared_on_the_same_seed_and_by_what_it_uploads():
    cells = [cell("dsfl", 0.1, seed, found, up=400_000) for seed, found in ((1, 0.95), (2, 0.5))]
    text = written([*cells, cell("cfd", 0.1, 1, 0.935, up=10_000)])
    near, share = lines(text, "cfd with 1 bit behind dsfl, α = 0.1", "cfd's upload")
    assert near.split(" | ")[1:] == ["≤ 1", "1.5", "**missed** |"]
    assert share.split(" | ")[1:] == ["≥ 30", "40", "met |"]


def test_other_settings_are_named():
    other = cell("feddf", 0.5, 1, 0.9)
    other["settings"] = {**other["settings"], "rounds": 1}
    assert "Run under other settings" not in written([cell("dsfl", 0.5, 1, 0.9)])
    assert "`feddf-0.5-1`" in written([cell("dsfl", 0.5, 1, 0.9), other])


def test_ratios_and_seconds_stand_beside_their_targets():
    row = {"model": "mlp", "inputs": "digits", "target": 5.0, "ratio": 4.5, "fleet ms": 0.1}
    row |= {"loop ms, 1 thread": 0.45, "loop ms, all cores": 0.6}
    fleet = {"rows": [row], "models": 32, "batch": 64, "workers": 2}
    scale = {"clients": 250, "records": 240, "model": "cnn", "steps": 150, "batch": 64, "epochs": 40.0}
    scale |= {"training seconds": 100.0, "answering seconds": 8.0, "seconds": 108.0, "target seconds": 180.0}
    scale |= {"queries": 1000, "workers": 2, "accuracy alone": 0.9}
    text = written(fleet=fleet, scale=scale)
    assert lines(text, "mlp")[0].endswith("| 0.100 | 0.450 | 0.600 | 4.5 | 5 | **missed** |")
    assert lines(text, "250 clients")[0].endswith("| ≤ 180 | 108 | met |")


def test_uploads_come_from_the_messages_that_travel():
    from benchmarks import communication

    assert communication.weight_bytes() - 4 * 106_122 in range(200)
    plain, masked = (communication.upload("dsfl", sealing, 100) for sealing in ("plain", "masked"))
    assert 4 * 100 * 10 < plain < masked < 4 * 100 * 10 + 1000


def test_coded_uploads_come_from_the_runs():
    communication = {"rows": [], "weights": 424_000, "model": "cnn", "clients": 10, "queries": 10_000}
    text = written([cell("cfd", 0.5, 1, 0.9, up=4240)], communication=communication)
    assert lines(text, "`cfd` | plain") == [
        "| `cfd` | plain, coded; mean of the run, α = 0.5 | 4,240 | 0.0100 |"
    ]


def test_a_small_scale_run(monkeypatch, tmp_path):
    from benchmarks import scale
    from securefd.data.dataset import Dataset
    from securefd.data.splits import Split

    random = np.random.default_rng(0)

    def dataset(n):
        names = tuple(map(str, range(10)))
        return Dataset(
            x=random.random((n, 1, 28, 28), dtype=np.float32), y=random.integers(0, 10, n), class_names=names
        )

    split = Split(
        clients=(dataset(500),), public=np.zeros((0, 1, 28, 28), np.float32), test=dataset(20), encoder=None
    )
    monkeypatch.setattr("securefd.data.splits.load_split", lambda *_: split)
    scale.measure(tmp_path, clients=2, steps=1, place=tmp_path / "scale.json")
    found = json.loads((tmp_path / "scale.json").read_text())
    assert found["clients"] == 2
    assert found["seconds"] >= found["training seconds"] > 0


def test_it_is_a_command():
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("benchmarks: scale and mnist must be given")
