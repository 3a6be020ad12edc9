"""A bound may exceed the truth in 5% of experiments; the benchmark of the same name runs more of them."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
SEEDS, TRIALS = 150, 400


@pytest.fixture
def calibration(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import calibration

    return calibration


def test_no_bound_that_is_offered_exceeds_the_truth_more_often_than_it_may(calibration):
    offered = [each for each in calibration.OFFERS if not each.refused]
    pairs = [each for each in product(offered, calibration.MECHANISMS) if calibration.applies(*each)]
    assert len(pairs) == 4 * 6 + 2 * 2
    for offer, mechanism in pairs:
        share = calibration.share_above(offer, mechanism, seeds=SEEDS, trials=TRIALS)
        assert share <= calibration.allowed(calibration.ALPHA, SEEDS), (offer.name, mechanism.name)


@pytest.mark.parametrize(
    ("bound", "mechanism"),
    [
        ("one run, best number of guesses", "nothing"),
        ("one run, best number of guesses", "nothing, tied"),
        ("one run, best number of guesses", "Laplace"),
        ("μ of a Gaussian", "Laplace"),
        ("μ of a Gaussian", "randomised response"),
        ("one run of a Gaussian", "Laplace"),
        ("one run of a Gaussian", "randomised response"),
    ],
)
def test_what_is_refused_does(calibration, bound, mechanism):
    """So the test above can fail: a naive bound, and one for another mechanism, are found out."""
    (offer,) = (each for each in calibration.OFFERS if each.name == bound and each.refused)
    (found,) = (each for each in calibration.MECHANISMS if each.name == mechanism)
    share = calibration.share_above(offer, found, seeds=SEEDS, trials=TRIALS)
    assert share > calibration.allowed(calibration.ALPHA, SEEDS) + 0.02


def test_the_best_of_all_thresholds_exceeds_the_truth_too_often(calibration):
    """Laplace noise is as private at every threshold in its tails, and many trials reach far into them."""

    def sample(member, rng):
        return np.round(4 * (member + rng.laplace(0, 1, len(member)))) / 4

    mechanism = calibration.Mechanism(name="", epsilon=1.0, delta=0.0, threshold=1.125, sample=sample)
    offers = {each.name: each for each in calibration.OFFERS}
    shares = [
        calibration.share_above(offers[f"Clopper-Pearson, {rule}"], mechanism, seeds=400, trials=100_000)
        for rule in ("best of all thresholds", "threshold given", "Bonferroni")
    ]
    allowed = calibration.allowed(calibration.ALPHA, 400)
    assert shares[0] > allowed
    assert max(shares[1:]) <= allowed


def test_the_truths_are_those_of_the_mechanisms(calibration):
    """From a million coins: at its threshold each is as private as is said, but for a gap it may have."""
    for mechanism in calibration.MECHANISMS:
        coins, noise = np.random.default_rng(0), np.random.default_rng(1)
        member = coins.random(1_000_000) < 0.5
        above = mechanism.sample(member, noise) > mechanism.threshold
        hit, miss = above[member].mean(), above[~member].mean()
        found = max(0.0, math.log((hit - mechanism.delta) / miss))
        assert found <= mechanism.epsilon + 0.02
        if "Gaussian" not in mechanism.name:
            assert found >= mechanism.epsilon - 0.02


def test_it_is_kept_and_told(calibration, monkeypatch, tmp_path, capsys):
    from benchmarks.store import kept

    assert calibration.section(None).endswith("not run\n")
    assert calibration.targets(None) == []
    calibration.measure(seeds=3, trials=300, place=tmp_path / "calibration.json")
    assert "calibration: " in capsys.readouterr().out
    found = kept(tmp_path / "calibration.json")
    text = calibration.section(found)
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(calibration.OFFERS)
    assert sum("not offered" in row for row in rows) == 4
    ((_, asked, worst, _, met),) = calibration.targets(found)
    assert asked == "≤ 42.7"
    assert met is (worst <= 42.7)
    for row in found["rows"]:
        row["above"] = 0.0 if row["refused"] else 0.5
    assert calibration.targets(found)[0][2:] == (50.0, ".1f", False)
