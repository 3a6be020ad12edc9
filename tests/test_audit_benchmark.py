"""The benchmarks of audits at sizes that take seconds: their code runs, and tables say what was found."""

import json

import numpy as np
import pytest

from benchmarks import audits, pairs
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


def test_a_protection_is_audited_once_and_told_by_observer(images, tmp_path, monkeypatch):
    sizes = {"CLIENTS": 3, "RECORDS": 60, "PUBLIC": 60, "TEST": 60, "FEDERATIONS": 12, "CANDIDATES": 100}
    for name, value in sizes.items():
        monkeypatch.setattr(audits, name, value)
    monkeypatch.setattr(audits, "METHOD", audits.METHOD | {"queries": 60, "local_steps": 10})
    monkeypatch.setattr(audits, "STUDENT", {"model": "mlp", "steps": 10})
    monkeypatch.setattr(audits, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(audits, "CACHE", tmp_path / "cache")
    audits.measure(images, ("plain", "masked"))
    found = audits.results()
    assert set(found) == {"plain", "masked"}
    assert not (tmp_path / "cache").exists()
    assert found["plain"]["divergence"] is not None
    assert found["masked"]["divergence"] is None
    release = [each["observers"]["release"] for each in found.values()]
    assert release[0] == release[1], "masks change nothing for whoever has the student"
    text = audits.section(found)
    assert text.index("| server |") < text.index("| peer |") < text.index("| release |")
    assert "`dpsgd` | not run" in text
    assert "member" not in json.dumps(found)
    monkeypatch.setattr(audits, "_audited", lambda name: pytest.fail("audited again"))
    monkeypatch.setattr(audits, "_write_data", lambda folder: pytest.fail("data written again"))
    audits.measure(images, ("plain", "masked"))


def test_a_rate_that_can_not_be_measured_is_said_to_be():
    assert audits._rate([None, None]) == "not measurable"
    assert audits._rate([0.0, [0.0, 0.05]]) == "0.0% [0.0%, 5.0%]"


def test_the_demos_audit_has_a_target():
    assert audits.targets(None)[0][2] is None
    assert audits.targets({"seconds": 170.0})[0][-1] is True
    assert audits.targets({"seconds": 181.0})[0][-1] is False
