import numpy as np
import pytest

from securefd.defenses.robust import expguard
from securefd.errors import AuditError
from securefd.evaluation.poisoned import combined, poisoned
from securefd.runner import run
from tests.evaluation.runs import config


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> np.ndarray:
    """What six real clients answer."""
    folder = tmp_path_factory.mktemp("poisoned")
    done = run(config(folder, *["mlp"] * 6, method="feddf", rounds=1, local_steps=60), folder / "run")
    return done.view("server").rounds[0].answers


@pytest.fixture(scope="module")
def rows(honest):
    return {(r.rule, r.attack, r.fraction): r for r in poisoned(honest, np.random.default_rng(0))}


def test_every_attack_meets_every_rule(rows):
    assert len(rows) == 6 * 5 * 4
    assert {rule for rule, _, _ in rows} == {"mean", "median", "trimmed", "geometric", "cronus", "expguard"}
    for row in rows.values():
        assert 0 <= row.agreement <= 1
        assert 0 <= row.shift <= 2
    assert [rows["mean", "random", fraction].liars for fraction in (0.1, 0.2, 0.3, 0.4)] == [1, 2, 3, 4]


def test_a_mean_breaks_where_a_median_holds(rows):
    mean, median = (rows[rule, "one-hot opposite", 0.4] for rule in ("mean", "median"))
    assert mean.agreement < 0.75
    assert median.agreement > mean.agreement + 0.1
    assert mean.shift > median.shift


def test_lies_with_a_plan_do_more_than_lies_without(rows):
    planned, random = (rows["mean", attack, 0.4] for attack in ("one-hot opposite", "random"))
    assert planned.agreement < random.agreement


def test_more_liars_move_a_mean_farther_and_no_farther_than_their_share(rows):
    shifts = [rows["mean", "one-hot opposite", fraction] for fraction in (0.1, 0.2, 0.3, 0.4)]
    assert [row.shift for row in shifts] == sorted(row.shift for row in shifts)
    for row in shifts:
        assert row.shift <= 2 * row.liars / (6 + row.liars)


def test_lies_within_the_spread_of_honest_answers_are_borne_best_by_a_mean(rows):
    """Rules that leave out what strays leave out honest clients instead."""
    agreements = {rule: rows[rule, "colluding", 0.4].agreement for rule in ("mean", "median", "geometric")}
    assert agreements["mean"] > max(agreements["median"], agreements["geometric"])
    for rule in ("median", "geometric", "cronus"):
        assert rows[rule, "colluding", 0.4].agreement < rows[rule, "one-hot opposite", 0.4].agreement


def test_expguard_does_better_in_later_rounds(honest, rows):
    def after(rounds: int) -> float:
        found = poisoned(
            honest, np.random.default_rng(0), rules=("expguard",), fractions=(0.4,), rounds=rounds
        )
        return next(row.shift for row in found if row.attack == "one-hot opposite")

    assert after(5) < after(1) / 2
    assert after(1) == rows["expguard", "one-hot opposite", 0.4].shift


def test_rounds_hand_on_the_methods_own_weights(honest):
    weights = np.full(len(honest), 1 / len(honest))
    for _ in range(3):
        weights, expected = expguard(honest, weights, 2.0)
    np.testing.assert_allclose(combined("expguard", honest, 3), expected)
    np.testing.assert_array_equal(combined("median", honest, 3), combined("median", honest))
    with pytest.raises(AuditError, match="rounds must be at least 1, got 0"):
        combined("mean", honest, 0)


def test_rules_are_the_methods_own(honest):
    np.testing.assert_allclose(combined("mean", honest), honest.mean(axis=0))
    with pytest.raises(AuditError, match="combines answers one by one, got 'dsfl'"):
        combined("dsfl", honest)


@pytest.mark.parametrize(
    ("answers", "fractions", "match"),
    [
        (np.full((2, 3, 4), 0.25), (0.1,), "3 clients or more"),
        (np.full((3, 4), 0.25), (0.1,), "3 clients or more"),
        (np.full((4, 3, 4), 0.25), (1.0,), "between 0 and 1, got 1.0"),
        (np.full((4, 3, 4), np.nan), (0.1,), "finite"),
    ],
)
def test_what_can_not_be_poisoned_is_refused(answers, fractions, match):
    with pytest.raises(AuditError, match=match):
        list(poisoned(answers, np.random.default_rng(0), rules=("mean",), fractions=fractions))
