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
    from benchmarks import (
        audits,
        calibration,
        client,
        communication,
        fleet,
        homomorphic,
        mnist,
        noise,
        pairs,
        record,
        report,
        scale,
        scoring,
        sealing,
        sweep,
    )

    asked = []
    monkeypatch.setattr(audits, "DEMO", tmp_path / "demo.json")
    monkeypatch.setattr(audits, "measure_demo", lambda: asked.append(("demo",)))
    for part in (
        fleet,
        communication,
        sealing,
        homomorphic,
        noise,
        calibration,
        scoring,
        pairs,
        scale,
        sweep,
    ):
        name = part.__name__.removeprefix("benchmarks.")
        monkeypatch.setattr(part, "PLACE", tmp_path / f"{name}.json")
        monkeypatch.setattr(part, "measure", lambda *given, name=name: asked.append((name, *given)))
    for part in (mnist, client, record, audits):
        name = part.__name__.removeprefix("benchmarks.")
        monkeypatch.setattr(part, "RESULTS", tmp_path / name)
        monkeypatch.setattr(part, "measure", lambda *given, name=name: asked.append((name, *given)))
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


def written(cells=(), fleet=None, communication=None, scale=None, sealing=None, homomorphic=None, noise=None):
    from benchmarks import report

    return report.text(fleet, communication, scale, sealing, homomorphic, noise, list(cells))


def lines(text, *starts):
    return [line for line in text.splitlines() if line.startswith(tuple(f"| {start}" for start in starts))]


@pytest.mark.parametrize("only", [None, "scale", "client", "record", "mnist", "mnist:balanced"])
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
    without = ["fleet", "communication", "sealing", "homomorphic", "noise", "calibration", "scoring"]
    without += ["pairs", "sweep", "demo"]
    on_mnist = [(part, folder) for part in ("scale", "audits", "client", "record")]
    on_mnist.append(("mnist", folder, None))
    assert bench.asked == [*((part,) for part in without), *on_mnist]
    assert (bench.place / "RESULTS.md").exists()


@pytest.mark.parametrize(
    ("only", "asked"),
    [
        ("fleet", ("fleet",)),
        ("communication", ("communication",)),
        ("sealing", ("sealing",)),
        ("homomorphic", ("homomorphic",)),
        ("scoring", ("scoring",)),
        ("scale", ("scale", Path("data"))),
        ("client", ("client", Path("data"))),
        ("record", ("record", Path("data"))),
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


def test_cells_cover_every_method_that_takes_a_mean_and_the_main_ones_several_times():
    from benchmarks import mnist
    from securefd.methods import METHODS

    assert set(mnist.METHODS) == {name for name, row in METHODS.items() if not row.individual}
    found = list(mnist.table())
    assert len(found) == len(set(found))
    for method in (*mnist.METHODS, *mnist.BASELINES):
        for alpha in mnist.ALPHAS:
            seeds = 6 if (method, alpha) in mnist.SIX_SEEDS else 3 if method in mnist.THREE_SEEDS else 1
            assert [e.seed for e in found if (e.method, e.alpha) == (method, alpha)] == [*range(1, seeds + 1)]
        assert list(mnist.table(method)) == [each for each in found if each.method == method]


def test_every_cell_can_be_configured(tmp_path):
    from benchmarks import mnist
    from securefd.rules import n_clients

    for each in mnist.table():
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
    assert text.count("\nnot run\n") == 14
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
    row |= {"loop ms, 1 thread": 0.45, "loop ms, all cores": 0.6, "ratio at most": 6.0}
    fleet = {"rows": [row], "models": 32, "batch": 64, "workers": 2}
    scale = {"clients": 250, "records": 240, "model": "cnn", "steps": 150, "batch": 64, "epochs": 40.0}
    scale |= {"training seconds": 100.0, "answering seconds": 8.0, "seconds": 108.0, "target seconds": 180.0}
    scale |= {"queries": 1000, "workers": 2, "accuracy alone": 0.9}
    text = written(fleet=fleet, scale=scale)
    assert lines(text, "mlp")[0].endswith("| 0.100 | 0.450 | 0.600 | 4.5 | 6.0 | 5 | **missed** |")
    assert lines(text, "250 clients")[0].endswith("| ≤ 180 | 108 | met |")


def test_uploads_come_from_the_messages_that_travel():
    from benchmarks import communication

    assert communication.weight_bytes() - 4 * 106_122 in range(200)
    plain, masked = (communication.upload("dsfl", sealing, 100) for sealing in ("plain", "masked"))
    # Under masks, nine shares of two secrets travel in boxes of 80 bytes, and those of one secret openly.
    assert 4 * 100 * 10 < plain < 4 * 100 * 10 + 200
    assert 4 * 100 * 10 + 9 * (80 + 32) < masked < 4 * 100 * 10 + 2500


def test_coded_uploads_come_from_the_runs():
    communication = {"rows": [], "weights": 424_000, "model": "cnn", "clients": 10, "queries": 10_000}
    text = written([cell("cfd", 0.5, 1, 0.9, up=4240)], communication=communication)
    assert lines(text, "`cfd` | plain") == [
        "| `cfd` | plain, coded; mean of the run, α = 0.5 | 4,240 | 0.0100 |"
    ]


def test_a_small_scale_run(monkeypatch, tmp_path):
    from benchmarks import scale

    written_idx(tmp_path)
    monkeypatch.setattr(scale, "QUERIES", 100)
    scale.measure(tmp_path, clients=2, steps=1, place=tmp_path / "scale.json")
    found = json.loads((tmp_path / "scale.json").read_text())
    assert (found["clients"], found["queries"]) == (2, 100)
    assert found["seconds"] >= found["training seconds"] > 0


SPREAD = ("median", "lowest", "highest")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A small measurement of masked sums, where neither Flower nor PyCryptodome is installed."""
    place = tmp_path_factory.mktemp("sealing") / "sealing.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        for package in ("flwr", "Crypto"):
            patch.setitem(sys.modules, package, None)
        from benchmarks import sealing
        from benchmarks.masked_round import Case

        cases = {Case(clients=41, values=100_000): 1, Case(clients=41, values=100_000, degree=40): 2}
        cases |= {Case(clients=n, values=100_000, degree=25): 1 for n in (60, 64)}
        sealing.measure(masks={1000: 2}, cases=cases, repeats=2, place=place)
    return json.loads(place.read_text())


@pytest.fixture
def compared(sealed):
    """The same, as if both were installed; times are made up."""
    found = json.loads(json.dumps(sealed))
    spread = dict.fromkeys(SPREAD, 30.0)
    (masking,) = found["masking"]
    masking |= {"ns": dict.fromkeys(SPREAD, 2.0), "flower ns": spread, "flower added ns": spread}
    masking |= {"keystream ns": dict.fromkeys(SPREAD, 1.25), "most times faster": 24.0}
    masking |= {"times faster": 15.0, "times faster, added": 15.0}
    found["sharing"] |= {"split ms": dict.fromkeys(SPREAD, 2.0), "recover ms": dict.fromkeys(SPREAD, 2.5)}
    found["sharing"] |= {"pycryptodome split ms": spread, "pycryptodome recover ms": spread}
    for row, ms in zip(found["rounds"], (15.0, 15.1, 15.0, 30.0), strict=True):
        row["client ms"], row["server ms"] = (
            dict.fromkeys(SPREAD, ms),
            dict.fromkeys(SPREAD, 10 * row["clients"]),
        )
    return found


def test_what_is_compared_with_and_missing_is_named(sealed):
    assert not {"flower ns", "most times faster"} & sealed["masking"][0].keys()
    assert "pycryptodome split ms" not in sealed["sharing"]
    text = written(sealing=sealed)
    (line,) = lines(text, "masking against Flower's generator")
    assert line.endswith("| ≥ 15 × | flwr was not installed |  |")
    assert lines(text, "PyCryptodome") == ["| PyCryptodome | – | – | – |"]


def test_spreads_hold_what_was_measured(sealed):
    spreads = [
        sealed["masking"][0]["ns"],
        sealed["masking"][0]["keystream ns"],
        sealed["sharing"]["split ms"],
    ]
    spreads += [row[key] for row in sealed["rounds"] for key in ("client ms", "stayed ms", "server ms")]
    for spread in spreads:
        assert 0 < spread["lowest"] <= spread["median"] <= spread["highest"]


def test_a_round_drops_a_tenth_and_counts_every_stage(sealed):
    complete = next(row for row in sealed["rounds"] if row["complete"])
    assert (complete["dropped"], complete["threshold"], complete["colluders"]) == (4, 37, 2)
    assert complete["repeats"] == 2
    assert complete["stage bytes"]["upload"] > 2 * complete["values"]
    assert complete["bytes"] >= sum(complete["stage bytes"].values()) - 1
    # 40 boxes of 80 bytes to share, and 40 shares of 32 bytes at the end
    assert complete["bytes"] - complete["stage bytes"]["upload"] > 40 * (80 + 32)
    for row in sealed["rounds"]:
        for who in ("client stages ms", "server stages ms"):
            assert set(row[who]) == {"advertise", "share", "upload", "confirm", "unmask"}


def test_a_round_whose_sum_is_wrong_is_not_measured(monkeypatch):
    from benchmarks.masked_round import Case, play
    from securefd.defenses.masked_server import MaskedServer, OpenedSum

    opens = MaskedServer.open_sum

    def wrong(self):
        opened = opens(self)
        return OpenedSum(total=opened.total + 1, clients=opened.clients)

    case = Case(clients=10, values=5)
    play(case, case.graph())
    monkeypatch.setattr(MaskedServer, "open_sum", wrong)
    with pytest.raises(RuntimeError, match="isn't the sum"):
        play(case, case.graph())


def test_masks_and_sharing_stand_beside_their_targets(compared):
    text = written(sealing=compared)
    assert [
        line.split(" | ")[1:]
        for line in lines(text, "masking, ns", "masking against", "splitting", "recovering a secret")
    ] == [
        ["≤ 1", "2.00", "**missed** |"],
        ["≥ 15 ×", "15.0", "met |"],
        ["≤ 2", "2.00", "met |"],
        ["≤ 2", "2.50", "**missed** |"],
    ]
    assert lines(text, "masking against")[0].split(" | ")[0].endswith("bare keystream it would be 24.0 ×")
    assert lines(text, "1,000 | ") == [
        "| 1,000 | 2.00 (2.00 to 2.00) | 1.25 (1.25 to 1.25) | 30.00 (30.00 to 30.00) | 15.0 | 24.0 "
        "| 30.00 (30.00 to 30.00) | 15.0 |"
    ]


def test_rounds_stand_beside_their_targets(compared):
    text = written(sealing=compared)
    found = [line.split(" | ")[1:] for line in lines(text, "a masked sum's round, ms a client")]
    assert found == [["≤ 15", "15.0", "met |"], ["≤ 15", "15.1", "**missed** |"]]
    (large,) = lines(text, "a client's time among 64, sparse graph of degree 25, by that among 41")
    assert large.split(" | ")[1:] == ["≤ 1.5 ×", f"{30 / 15.1:.2f}", "**missed** |"]
    (linear,) = lines(text, "the server's time a client among 64 by that among 60")
    assert linear.split(" | ")[1:] == ["≤ 1.25 ×", "1.00", "met |"]
    uploads = lines(text, "a masked sum's upload")
    assert len(uploads) == 2
    for line, row in zip(uploads, compared["rounds"], strict=False):
        assert line.split(" | ")[1:] == ["≤ 0.55", f"{row['bytes'] / 400_000:.3f}", "met |"]


def test_the_bare_keystream_is_that_of_the_masks(monkeypatch):
    """As many bytes a key, by the same cipher, in as large pieces: masks on zeros are these bytes."""
    import numpy as np
    from cryptography.hazmat.primitives.ciphers import base

    from benchmarks import sealing
    from securefd.defenses import masks

    monkeypatch.setattr(masks, "CHUNK", 64)
    keys, words, drawn = [bytes([k] * 32) for k in range(2)], np.zeros(35, dtype="<u4"), []
    cipher = base.Cipher.encryptor

    class Recorded:
        def __init__(self, stream):
            self.stream, self.bytes = stream, b""
            drawn.append(self)

        def update_into(self, data, buffer):
            count = self.stream.update_into(data, buffer)
            self.bytes += bytes(buffer[:count])
            return count

    monkeypatch.setattr(base.Cipher, "encryptor", lambda self: Recorded(cipher(self)))
    sealing._keystream(words.nbytes, keys)()
    masks.apply_masks(words, keys, [])
    bare, real = drawn[:2], drawn[2:]
    assert [stream.bytes for stream in bare] == [stream.bytes for stream in real]
    assert words.tobytes() == sum(np.frombuffer(s.bytes, dtype="<u4") for s in bare).tobytes()


def test_flower_and_pycryptodome_are_called_where_they_are(monkeypatch):
    from types import ModuleType, SimpleNamespace

    from benchmarks import sealing

    calls = []
    package = "flwr.common.secure_aggregation"
    parts = {
        f"{package}.secaggplus_utils": {
            "pseudo_rand_gen": lambda seed, modulus, shapes: calls.append((len(seed), modulus, shapes)) or [1]
        },
        f"{package}.ndarrays_arithmetic": {"parameters_addition": lambda one, other: calls.append(other)},
        "Crypto.Protocol.SecretSharing": {
            "Shamir": SimpleNamespace(
                split=lambda threshold, holders, half: [(1, half)] * holders,
                combine=lambda shares: calls.append(shares),
            )
        },
    }
    parents = ("flwr", "flwr.common", package, "Crypto", "Crypto.Protocol")
    for name in (*parents, *parts):
        module = ModuleType(name)
        vars(module).update(parts.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    row = sealing._masking(values=7, masks=1, repeats=1)
    assert calls == [(32, 1 << 32, [(7,)]), (32, 1 << 32, [(7,)]), [1]] * 2
    assert row["times faster"] == row["flower ns"]["median"] / row["ns"]["median"]
    assert row["most times faster"] == row["flower ns"]["median"] / row["keystream ns"]["median"]
    calls.clear()
    sealing._masking(values=7, masks=3, repeats=1)
    assert calls == [*[(32, 1 << 32, [(7,)])] * 3, *[(32, 1 << 32, [(7,)]), [1]] * 3] * 2
    calls.clear()
    works = sealing._pycryptodome(bytes(range(32)), holders=5, threshold=3)
    works["pycryptodome recover ms"]()
    assert calls == [[(1, bytes(range(16)))] * 3, [(1, bytes(range(16, 32)))] * 3]


def test_homomorphic_figures_stand_beside_their_targets():
    from benchmarks import homomorphic

    times = (
        "encrypt ns",
        "CKKS encrypt ns",
        "whole upload ns",
        "add ns",
        "write sum ns",
        "open ns",
        "new key ns",
    )
    row = {name: dict.fromkeys(SPREAD, 251.0) for name in times}
    row |= {"bytes": 6.6, "CKKS bytes": 82.8, "times smaller": 12.5, "times faster": 3.98}
    found = {"row": row, "targets": homomorphic.TARGETS, "values": 100, "clients": 100, "repeats": 3}
    text = written(homomorphic={**found, "packages": {"tenseal": "0"}, "ckks": homomorphic.CKKS})
    verdicts = [
        line.split(" | ")[1:] for line in lines(text, "homomorphic upload", "encrypting", "smaller", "faster")
    ]
    assert verdicts == [
        ["≤ 8", "6.60", "met |"],
        ["≤ 250", "251", "**missed** |"],
        ["≥ 7 ×", "12.5", "met |"],
        ["≥ 3 ×", "4.0", "met |"],
    ]
    assert lines(text, "upload, bytes") == ["| upload, bytes a value | 6.60 | 82.8 | 12.5 times smaller |"]


def test_it_is_a_command():
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("benchmarks: scale, audits, client, record, mnist must be given")


def test_noise_is_measured_beside_opendp_where_it_is_installed(tmp_path):
    pytest.importorskip("opendp")
    from benchmarks import noise

    place = tmp_path / "noise.json"
    noise.measure(deviations=(2.0,), values=2_000, fewer=50, repeats=1, place=place)
    found = json.loads(place.read_text())
    (row,) = found["draws"]
    assert row["times faster"] == row["opendp us"]["median"] / row["gaussian us"]["median"]
    assert set(found["accounting"]) == {"shares of discrete Gaussians", "Skellam", "DP-SGD"}
    assert lines(written(noise=found), "2 |")


@pytest.mark.parametrize(("us", "verdict"), [(0.5, "met"), (1.5, "**missed**")])
def test_noise_is_judged_by_its_slowest(us, verdict):
    one = {name: {"median": 0.1} for name in ("gaussian us", "laplace us", "skellam us", "opendp us")}
    rows = [
        {"deviation": 1.0, **one, "times faster": 9.0},
        {"deviation": 10.0, **one, "gaussian us": {"median": us}, "times faster": 12.0},
    ]
    found = {
        "draws": rows,
        "accounting": {"Skellam": {"median": 0.2}},
        "values": 100,
        "fewer": 10,
        "repeats": 3,
        "rounds": 1000,
        "packages": {"opendp": "0.16.0"},
    }
    text = written(noise=found)
    assert verdict in lines(text, "discrete Gaussian, µs")[0]
    assert "| 9 | met |" in lines(text, "discrete Gaussian, times")[0]
    assert "not run" in lines(written(), "discrete Gaussian, µs")[0]


# --- record level ----------------------------------------------------------------------------------

RECORD_LEVEL = [(row, epsilon) for row in ("head", "dpsgd", "dp-fedavg") for epsilon in (0.5, 1, 2, 4, 8)]


def planned_charges(row, epsilon):
    """What each of 10 clients of 5,000 MNIST records is to pay, as kept; nothing is trained."""
    from benchmarks import cells, record
    from securefd import baselines
    from securefd.defenses.claims import Guarantee
    from securefd.private import charges_of, plan_private
    from securefd.recipe import Recipe

    cell = record.Cell(row=row, epsilon=epsilon, seed=1)
    config = record.configured(cell, Path("mnist"))
    recipe, sizes = Recipe.of(config, (1, 28, 28), 10), [record.RECORDS] * record.CLIENTS
    if row == "dp-fedavg":
        promise = Guarantee(epsilon=epsilon, delta=record.DELTA, unit="record", relation="replace-one")
        step = record.settings(cell)["step"]
        steps = baselines.dp_fedavg_steps(recipe, sizes, promise, clip=step["clip"])
        charges = {(each.charge,) for each in steps}
    else:
        charges = {tuple(charges_of(plan)) for plan in plan_private(config.privacy, recipe, sizes)}
    (same,) = charges
    return cells.written(same)


def independent_epsilon(charges):
    """Of the one charge of a client, for one record replaced: the closed form, or brute force."""
    import math

    from tests.defenses.test_accounting import gaussian_epsilon, oracle_epsilon

    (charge,) = charges
    if charge["type"] == "poisson_gaussian":
        rate, noise, steps = (charge[key] for key in ("sampling_rate", "noise_multiplier", "steps"))
        return oracle_epsilon(rate, noise, steps, 1e-5, "replace-one")
    # Noise a million steps of the grid wide: whole numbers make no difference.
    assert charge["type"] == "discrete_gaussian"
    assert charge["variance"] > 1e12
    return gaussian_epsilon(math.sqrt(charge["sensitivity"]["replaced"] / charge["variance"]), 1e-5)


@pytest.mark.parametrize(("row", "epsilon"), RECORD_LEVEL)
def test_epsilon_of_one_record_by_an_independent_accountant(row, epsilon):
    """Loss distributions are as good as exact; Renyi curves, which `head` is counted by, a tenth above."""
    exact = independent_epsilon(planned_charges(row, epsilon))
    assert (0.85 if row == "head" else 0.985) * epsilon < exact < 1.002 * epsilon


def test_kept_cells_were_paid_for_as_planned_today():
    from benchmarks import record

    for found in record.results():
        cell = record.Cell(**{key: found[key] for key in ("row", "epsilon", "seed")})
        if found["settings"] == record.settings(cell):
            assert set(found["records"]) == {5_000}
            planned = [] if cell.epsilon is None else planned_charges(cell.row, cell.epsilon)
            for paid, due in zip(found["charges"], planned, strict=True):
                assert paid == {
                    key: pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
                    for key, value in due.items()
                }


def test_cells_of_the_record_level():
    from benchmarks import record
    from securefd.rules import n_clients

    found = list(record.table())
    assert len(found) == len(set(found)) == len({each.name for each in found}) == 3 * 6 * 3
    assert {each.seed for each in found} == {1, 2, 3}
    assert {(each.row, each.epsilon) for each in found} == {
        *RECORD_LEVEL,
        *((row, None) for row in record.ROWS),
    }
    for each in found:
        config = record.configured(each, Path("mnist"))
        assert (n_clients(config), config.data.public, config.data.test) == (10, 10_000, "")
        promise = config.privacy
        if each.epsilon is None or each.row == "dp-fedavg":
            assert promise is None
        else:
            assert (promise.route, promise.epsilon, promise.delta) == (each.row, each.epsilon, 1e-5)
            assert (promise.unit, promise.relation) == ("record", "replace-one")


def written_idx(folder):
    """MNIST's files, with digits of 8 x 8."""
    import struct

    from sklearn.datasets import load_digits

    digits = load_digits()
    for part, rows in (("train", slice(0, 600)), ("t10k", slice(600, 900))):
        for name, values in (
            ("images-idx3", digits.images[rows] * 15),
            ("labels-idx1", digits.target[rows]),
        ):
            raw = values.astype(np.uint8)
            head = bytes((0, 0, 8, raw.ndim)) + struct.pack(f">{raw.ndim}I", *raw.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(head + raw.tobytes())


@pytest.fixture
def small_record(monkeypatch, tmp_path):
    from benchmarks import record
    from securefd import features

    for name, value in {
        "RESULTS": tmp_path / "results",
        "CACHE": tmp_path / "cache",
        "CLIENTS": 2,
        "PUBLIC": 200,
        "STUDENT": {"model": "encoder", "steps": 60, "self_training": 2},
        "DPSGD": {"batch_size": 20, "local_steps": 6},
        "DPSGD_PLAIN": {"local_steps": 100},
        "SHARED": {"batch_size": 20, "rounds": 2, "local_steps": 2},
        "SHARED_PLAIN": {"rounds": 2, "local_steps": 60},
    }.items():
        monkeypatch.setattr(record, name, value)
    monkeypatch.setitem(features.learn.__kwdefaults__, "steps", 3)
    written_idx(tmp_path)
    return record


@pytest.mark.parametrize("row", ["head", "dpsgd", "dp-fedavg"])
def test_a_small_cell_with_and_without_noise(small_record, tmp_path, row, monkeypatch):
    from securefd import features

    small_record.learn_features(1, tmp_path)
    monkeypatch.setattr(features, "learn", None)  # once is enough
    for epsilon in (8.0, None):
        cell = small_record.Cell(row=row, epsilon=epsilon, seed=1)
        assert not small_record._done(cell)
        assert small_record.run_cell(cell, tmp_path).startswith(f"{cell.name}: ")
        assert small_record._done(cell)
        (found,) = (each for each in small_record.results() if each["epsilon"] == epsilon)
        assert found["records"] == [200, 200]
        if epsilon is None:
            assert found["charges"] == []
            assert found["student.accuracy"] > 0.5
            assert found.get("mean.accuracy", 1.0) >= found.get("alone.accuracy", 0.0)
        else:
            assert 6.5 < independent_epsilon(found["charges"]) < 8.02
        if row != "dp-fedavg":
            words = found["claims"]["release"]
            number = words.removeprefix("(epsilon = ").split(",")[0]
            assert words == "none" if epsilon is None else 7.9 < float(number) <= 8
            assert words.endswith(") for one record, replace-one") == (epsilon is not None)
    assert not list((tmp_path / "cache").glob(f"{row}*"))


def record_cell(row, epsilon, seed, student, **figures):
    from benchmarks import record

    cell = record.Cell(row=row, epsilon=epsilon, seed=seed)
    found = {"row": row, "epsilon": epsilon, "seed": seed, "settings": record.settings(cell)}
    return {**found, "student.accuracy": student, **figures}


def record_text(cells):
    from benchmarks import report

    return report.text(None, None, None, None, None, None, [], of_record=cells)


@pytest.mark.parametrize(("middle", "verdict"), [(0.975, "met"), (0.974, "**missed**")])
def test_the_student_of_heads_stands_beside_its_targets(middle, verdict):
    beside = {"mean.accuracy": 0.9, "alone.accuracy": 0.8}
    cells = [
        record_cell("head", 2.0, seed, middle + off, **beside)
        for seed, off in ((1, 0.0), (2, 0.001), (3, -0.001))
    ]
    text = record_text([*cells, record_cell("dp-fedavg", None, 1, 0.99)])
    # Student's t with two degrees of freedom: 4.3027 * 0.001 / sqrt(3) = 0.0025
    (at_two,) = lines(text, "record level: student of `head`, ε = 2 ")
    assert at_two.split(" | ")[1:] == ["≥ 97.5%", f"{middle:.2%} ± 0.25", f"{verdict} |"]
    (at_one,) = lines(text, "record level: student of `head`, ε = 1 ")
    assert at_one.split(" | ")[1:] == ["≥ 96.0%", "not run", " |"]
    (student,) = lines(text, "`head`: student")
    assert student.split(" | ")[1:4] == ["not run", "not run", f"{middle:.2%} ± 0.25"]
    (alone,) = lines(text, "`head`: a client alone")
    assert alone.split(" | ")[3] == "80.00% ± 0.00"
    (shared,) = lines(text, "DP-FedAvg")
    assert shared.split(" | ")[1:] == [*["not run"] * 5, "99.00% (1 of 3 seeds) |"]


def test_record_cells_of_other_settings_are_named_and_not_counted():
    beside = {"mean.accuracy": 0.9, "alone.accuracy": 0.8}
    old = record_cell("head", 2.0, 1, 0.99, **beside)
    old["settings"] = {**old["settings"], "clients": 3}
    text = record_text([old, record_cell("head", 1.0, 1, 0.97, **beside)])
    assert "not counted: `head-2-1`." in text
    assert "not run" in lines(text, "record level: student of `head`, ε = 2 ")[0]


class TestSweep:
    def test_what_is_lost_or_written_again_is_counted(self):
        from benchmarks.sweep import FIGURES, compared

        def row(name, accuracy=0.5):
            return {"cell": name, **dict.fromkeys(FIGURES, accuracy)}

        ended = {"cells": [row("a"), row("b")], "counts": {"done": 2}, "finished before": 1}
        sound, again = {"a": (1, 1, b"x")}, {"a": (1, 2, b"x")}
        found = compared([sound], sound | {"b": (2, 3, b"y")}, ended, {"cells": [row("a")]})
        assert [found[key] for key in ("lost", "done twice", "folders too many", "other figures")] == [0] * 4
        found = compared([sound], again | {"c": (3, 3, b"z")}, ended, {"cells": [row("a", 0.6)]})
        assert [found[key] for key in ("lost", "done twice", "folders too many", "other figures")] == [1] * 4

    @pytest.mark.slow
    def test_killed_once_nothing_is_lost_or_done_twice(self, tmp_path):
        from benchmarks import sweep

        sweep.measure(tmp_path / "killed.json", killed_at=(3,), grids=sweep.PLAIN)
        found = json.loads((tmp_path / "killed.json").read_text())
        assert (found["cells"], found["done"], found["kills"]) == (12, 12, 1)
        assert found["not run again at the end"] >= 3
        assert [found[key] for key in ("lost", "done twice", "folders too many", "other figures")] == [0] * 4
