"""The benchmarks of audits at sizes that take seconds: their code runs, and tables say what was found."""

import numpy as np
import pytest

from benchmarks import audits, audits_report, pairs
from benchmarks.store import kept


def test_students_and_teachers_are_attacked_by_the_same_coins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pairs, "PLACE", tmp_path / "pairs.json")
    pairs.measure(pairs=8, steps=0.5)
    found = kept(tmp_path / "pairs.json")
    teacher, student = (found["found"][who]["auc"] for who in ("teacher", "student"))
    assert teacher["lira"]["value"] > 0.55
    assert student["lira"]["value"] > 0.5
    assert "pairs: on the student lira 0." in capsys.readouterr().out
    assert "| teacher (" in pairs.section(found)
    ((_, _, gap, _, met),) = pairs.targets(found)
    assert met == (gap >= pairs.MARGIN)
    assert gap == student["lira"]["value"] - student["loss"]["value"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """As few images as MNIST's files could hold, of three kinds of stripes."""
    import struct

    folder = tmp_path_factory.mktemp("mnist")
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 200), ("t10k", 160)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        pictures = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for picture, label in zip(pictures, labels, strict=True):
            picture[2 * label : 2 * label + 4] += 150
        for name, array in (
            (f"{prefix}-images-idx3-ubyte", pictures),
            (f"{prefix}-labels-idx1-ubyte", labels),
        ):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / name).write_bytes(header + array.tobytes())
    return folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    sizes = {"CLIENTS": 3, "RECORDS": 40, "PUBLIC": 60, "TEST": 60, "FEDERATIONS": 12, "SAMPLE": 6}
    for name, value in sizes.items():
        monkeypatch.setattr(audits, name, value)
    monkeypatch.setattr(audits, "WORKERS", 1)
    monkeypatch.setattr(audits, "METHOD", audits.METHOD | {"queries": 60, "local_steps": 10})
    monkeypatch.setattr(audits, "STUDENT", {"model": "mlp", "steps": 10})
    monkeypatch.setattr(audits, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(audits, "CACHE", tmp_path / "cache")


def test_a_protection_is_audited_once_and_told_by_observer(images, small, monkeypatch):
    audits.measure(images, ("plain", "masked"))
    found = audits.results()
    assert set(found) == {"plain", "masked"}
    assert not audits.CACHE.exists()
    assert found["plain"]["divergence"]["baseline"] > 0
    assert found["masked"]["divergence"] is None
    release = [each["observers"]["release"] for each in found.values()]
    assert release[0] == release[1], "masks change nothing for whoever has the student"
    text = audits_report.section(found)
    assert text.index("| server |") < text.index("| peer |") < text.index("| release |")
    assert [line for line in text.splitlines() if "`masked`" in line and "none told apart" in line]
    assert "ε = 8 | not run" in text
    assert max(_lengths(found)) <= audits.CLIENTS, "nothing is kept about single records"
    monkeypatch.setattr(audits, "_audited", lambda name: pytest.fail("audited again"))
    monkeypatch.setattr(audits, "_write_data", lambda folder: pytest.fail("data written again"))
    audits.measure(images, ("plain", "masked"))


def _lengths(found):
    """Of all arrays in what was found."""
    if isinstance(found, dict):
        return [length for each in found.values() for length in _lengths(each)]
    if isinstance(found, list):
        return [len(found), *(length for each in found for length in _lengths(each))]
    return []


def test_records_that_nfdp_draws_are_told_beside_all_of_them():
    def cell(auc):
        return {
            "controls": [],
            "observers": {
                "server": {
                    "attack": "lira on answers",
                    "auc": auc,
                    "auc interval": [auc - 0.01, auc + 0.01],
                    "tpr": {"0.01": [0.1, [0.05, 0.2]], "0.001": [None, None]},
                    "bound": 0.1,
                    "power": 4.0,
                    "claim": None,
                    "judgement": "INCONCLUSIVE",
                }
            },
            "accuracy": 0.5,
            "divergence": {"value": 0.4, "interval": [0.3, 0.5], "baseline": 0.7},
            "sizes": [120, 480],
        }

    text = audits_report.section({"nfdp": cell(0.57), "drawn": cell(0.8)})
    assert "about 20% of records are drawn" in text
    assert "AUC of 0.570, and whether a record was trained on with 0.800" in text
    assert "0.560 is to be expected of the former" in text
    assert "δ = 0.50 for the smallest client, of 120 records" in text
    assert "| 10.0% [5.0%, 20.0%] | not measurable | 0.10 | 4.00 | none | 0.40 [0.30, 0.50]; of" in text
    assert "by is chance" not in audits_report.section({"nfdp": cell(0.57)})


def test_all_claims_are_of_one_relation(small):
    claims = [audits.configured(name).privacy for name in audits.PROTECTIONS]
    assert {each.relation for each in claims if each is not None} == {"add-or-remove"}
    assert [None if each is None else each.epsilon for each in claims] == [None, None, 2.0, 8.0, None, None]


def test_a_failed_control_is_told():
    failed = {"kind": "positive", "attack": "a model", "measured": "AUC 0.510", "passed": False}
    cell = {"controls": [failed], "observers": {}, "accuracy": 0.5, "divergence": None}
    text = audits_report.section({"head": cell})
    assert "The positive control of `head` failed (a model: AUC 0.510)" in text
    assert "failed" not in audits_report.section({"head": cell | {"controls": [failed | {"passed": True}]}})
    null = audits_report.section({"head": cell | {"controls": [failed | {"kind": "null"}]}})
    assert "none of its bounds can be trusted" in null


def _finding(**given):
    from securefd.evaluation.findings import Finding
    from securefd.evaluation.statistics import Rate

    plain = {
        "subject": "the recipe",
        "observer": "server",
        "attack": "lira on answers",
        "n_in": 200,
        "n_out": 200,
        "auc": 0.6,
        "auc_interval": (0.5, 0.7),
        "tpr": {0.01: Rate(0.1, (0.05, 0.2)), 0.001: Rate(None, None)},
        "delta": 1e-5,
        "judgement": "INCONCLUSIVE",
        "reason": "",
    }
    return Finding(**(plain | given))


def test_a_row_has_the_strongest_attack_and_the_largest_bound():
    bound = {"bound_method": "one record", "epsilon_power": 3.0, "claim_epsilon": 2.0}
    row = audits._row(
        [
            _finding(),
            _finding(attack="loss on student", auc=0.7),
            _finding(**bound, auc=0.9, epsilon_bound=0.1, judgement="INCONCLUSIVE"),
            _finding(**bound | {"epsilon_power": 2.5}, epsilon_bound=0.4, judgement="CONSISTENT"),
        ]
    )
    assert (row["attack"], row["attacks"], row["auc"]) == ("loss on student", 2, 0.7)
    assert (row["bound"], row["power"], row["claim"]) == (0.4, 3.0, 2.0)
    assert row["judgement"] == "CONSISTENT"
    alone = audits._row([_finding()])
    assert (alone["bound"], alone["claim"], alone["judgement"]) == (None, None, "INCONCLUSIVE")
    assert audits_report._shown(alone["bound"]) == "not measurable"


def test_a_rate_that_can_not_be_measured_is_said_to_be():
    assert audits_report._rate([None, None]) == "not measurable"
    assert audits_report._rate([0.0, [0.0, 0.05]]) == "0.0% [0.0%, 5.0%]"


def test_the_demos_audit_has_a_target():
    assert audits_report.targets(None)[0][2] is None
    assert audits_report.targets({"seconds": 170.0})[0][-1] is True
    assert audits_report.targets({"seconds": 181.0})[0][-1] is False
    found = {"seconds": 170.4, "federations": 64, "attacks": 102}
    assert "64 shadow federations" in audits_report.demo(found)
    assert "170 s" in audits_report.demo(found)
    assert "not run" in audits_report.demo(None)
