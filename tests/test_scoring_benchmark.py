"""Scoring is measured in processes of their own, and judged by what they took."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def from_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))


def rows_of(text, start):
    return [line for line in text.splitlines() if line.startswith(f"| {start}")]


def test_a_small_target_is_scored_alike_by_all(tmp_path):
    from benchmarks import scoring

    place = tmp_path / "scoring.json"
    scoring.measure(models=130, records=150, population=50, repeats=1, place=place)
    found = json.loads(place.read_text())
    assert {"LiRA", "naive LiRA", "RMIA", "naive RMIA"} <= set(found["rows"])
    assert all(of["MiB"]["highest"] > 1 for of in found["rows"].values())
    assert found["apart"]["naive LiRA"] < 1e-6
    assert found["apart"]["naive RMIA"] < 1e-6
    text = scoring.section(found)
    assert "130 shadows" in text
    assert rows_of(text, "RMIA")


@pytest.mark.parametrize(("seconds", "verdict"), [(4.0, True), (6.0, False)])
def test_it_is_judged_by_the_median_time_and_the_highest_peak(seconds, verdict):
    from benchmarks import scoring

    one = {"seconds": {"median": seconds, "highest": 9.0}, "MiB": {"median": 10.0, "highest": 3000.0}}
    rows = scoring.targets({"rows": {"LiRA": one, "RMIA": one}})
    assert [met for *_, met in rows] == [verdict, False, verdict, False]


def test_what_was_not_run_is_said_so():
    from benchmarks import report, scoring

    assert all(found is None and met is None for _, _, found, _, met in scoring.targets(None))
    text = report.text(None, None, None, None, None, None, [])
    assert "## Scoring a large target" in text
