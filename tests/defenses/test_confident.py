"""Confident votes: the mechanism against its distribution, and its cost against sums that share no code."""

import math

import numpy as np
import pytest
from scipy.stats import chisquare, norm

from securefd.defenses import accounting, confident, rdp
from securefd.defenses.charges import ConfidentVotes
from securefd.defenses.confident import Answered, Confident, one_hot
from securefd.errors import PrivacyError

BOTH = ("add-or-remove", "replace-one")


def small(**changes):
    given = {"classes": 3, "threshold": 4, "check_variance": 3.0, "answer_variance": 2.0}
    return Confident(**given | changes)


def noise_of(variance, reach=40):
    x = np.arange(-reach, reach + 1)
    mass = np.exp(-(x**2) / (2 * variance))
    return x, mass / mass.sum()


def outcomes(mechanism, counts, row=0):
    """By enumeration: the probabilities of each class, and of no answer, for one histogram."""
    x, mass = noise_of(mechanism.check_variance)
    passed = mass[max(counts) + x >= mechanism.threshold].sum()
    x, mass = noise_of(mechanism.answer_variance, 14)
    found = np.zeros(len(counts))
    noisy = np.meshgrid(*(count + x for count in counts), indexing="ij")
    weights = np.ones(noisy[0].shape)
    for axis in range(len(counts)):
        weights = weights * mass.reshape([-1 if k == axis else 1 for k in range(len(counts))])
    turns = [(row + k) % len(counts) for k in range(len(counts))]
    top = np.argmax([each * len(counts) + turn for each, turn in zip(noisy, turns, strict=True)], axis=0)
    for k in range(len(counts)):
        found[k] = weights[top == k].sum()
    return np.append(passed * found / found.sum(), 1 - passed)


@pytest.mark.parametrize("histogram", [(5, 0, 0), (2, 2, 1), (0, 3, 2)])
def test_outcomes_have_the_probabilities_of_their_formula(histogram):
    trials = 60_000
    mechanism = small()
    answered = mechanism(np.tile(np.array(histogram), (trials, 1)))
    for row in range(3):
        # ties are decided by the row, modulo three
        rows = answered.rows % 3 == row
        seen = np.bincount(answered.classes[rows], minlength=3)
        seen = np.append(seen, trials // 3 - seen.sum())
        assert chisquare(seen, outcomes(mechanism, histogram, row) * trials / 3).pvalue > 1e-4


def test_equal_counts_are_decided_by_turns(monkeypatch):
    monkeypatch.setattr(confident, "discrete_gaussian", lambda variance, size: np.zeros(size, np.int64))
    answered = small(threshold=1)(np.ones((6, 3), dtype=np.int64))
    assert answered.classes.tolist() == [2, 1, 0, 2, 1, 0]


def test_the_threshold_is_reached_by_as_many_votes(monkeypatch):
    monkeypatch.setattr(confident, "discrete_gaussian", lambda variance, size: np.zeros(size, np.int64))
    answered = small(threshold=4)(np.array([[3, 2, 0], [4, 1, 0], [0, 0, 5]]))
    assert answered.rows.tolist() == [1, 2]
    assert answered.classes.tolist() == [0, 2]


def test_answers_have_noise_of_their_own_and_draws_differ():
    """Were the check's noise used again, whoever is answered would be right more often."""
    mechanism = small(check_variance=1e6, answer_variance=1e6, threshold=1)
    counts = np.tile(np.array([1, 0, 0]), (3000, 1))
    one, other = mechanism(counts), mechanism(counts)
    assert one.rows.tolist() != other.rows.tolist()
    assert 0.28 < (one.classes == 0).mean() < 0.39


def test_nothing_is_asked():
    assert not len(small()(np.empty((0, 3), dtype=np.int64)).rows)


def test_rows_that_arent_answered_are_zeros():
    rows = one_hot(Answered(rows=np.array([0, 2]), classes=np.array([1, 2])), 4, 3, value=7)
    assert rows.tolist() == [[0, 7, 0], [0, 0, 0], [0, 0, 7], [0, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"classes": 1}, "classes must be at least 2"),
        ({"threshold": 0}, "threshold must be at least 1"),
        ({"check_variance": 0.0}, "check_variance must be > 0"),
        ({"answer_variance": math.nan}, "answer_variance must be > 0"),
        ({"answer_variance": math.inf}, "answer_variance must be > 0"),
    ],
)
def test_a_mechanism_that_cant_be(changes, sentence):
    with pytest.raises(PrivacyError, match=sentence):
        small(**changes)


@pytest.mark.parametrize(
    "counts",
    [np.ones((2, 4), dtype=np.int64), np.ones((2, 3)), np.ones(3, dtype=np.int64), np.array([[1, -1, 2]])],
)
def test_what_isnt_a_histogram_is_refused(counts):
    with pytest.raises(PrivacyError, match="counts must be"):
        small()(counts)


@pytest.mark.parametrize(
    "changes",
    [{"queries": 0}, {"classes": 1}, {"check_variance": math.nan}, {"figure_variance": 0.0}],
)
def test_a_charge_that_cant_be(changes):
    given = {"check_variance": 1.0, "answer_variance": 1.0, "queries": 1, "classes": 2}
    with pytest.raises(PrivacyError):
        ConfidentVotes(**given | changes)


class TestCost:
    @pytest.mark.parametrize("relation", BOTH)
    def test_in_the_limit_of_much_noise_it_is_a_gaussians(self, relation):
        charge = small(check_variance=80.0**2, answer_variance=40.0**2).charge(100, figure_variance=50.0)
        counts = 2 if relation == "replace-one" else 1
        mu = math.sqrt(100 / 80**2 + 100 * counts / 40**2 + 1 / 50)
        epsilon = accounting.spent([charge], 1e-4, relation)
        second = math.exp(epsilon + norm.logcdf(-epsilon / mu - mu / 2))
        assert norm.cdf(-epsilon / mu + mu / 2) - second == pytest.approx(1e-4, rel=0.02)

    @pytest.mark.parametrize("relation", BOTH)
    def test_with_little_noise_it_is_that_of_all_noisy_counts(self, relation):
        """Two queries: two largest counts move by one, and two or four counts do; by enumeration."""
        charge = small(check_variance=9.0, answer_variance=4.0).charge(2)
        moved = 4 if relation == "replace-one" else 2

        def losses(variance, times):
            _, mass = noise_of(variance, 60)
            total = mass
            for _ in range(times - 1):
                total = np.convolve(total, mass)
            sums = np.arange(-60 * times, 60 * times + 1)
            return (times + 2 * sums) / (2 * variance), total

        (first, p), (second, q) = losses(9.0, 2), losses(4.0, moved)
        loss, weight = (first[:, None] + second).ravel(), (p[:, None] * q).ravel()

        def delta(epsilon):
            return float(np.sum(weight * np.maximum(0, -np.expm1(epsilon - loss))))

        epsilon = accounting.spent([charge], 1e-4, relation)
        assert delta(epsilon) <= 1e-4 < delta(0.99 * epsilon)

    @pytest.mark.parametrize("relation", BOTH)
    @pytest.mark.parametrize("order", [1.5, 2.0, 9.0])
    def test_no_neighbour_is_farther_than_the_curve(self, relation, order):
        mechanism = small()
        bound = rdp.curve(mechanism.charge(1), relation)[int(np.argmin(np.abs(np.array(rdp.ORDERS) - order)))]
        nearest = rdp.ORDERS[int(np.argmin(np.abs(np.array(rdp.ORDERS) - order)))]
        pairs = [((4, 1, 0), (3, 2, 0)), ((3, 1, 1), (2, 1, 2)), ((2, 2, 1), (1, 3, 1))]
        if relation == "add-or-remove":
            pairs = [((4, 1, 0), (3, 1, 0)), ((2, 2, 1), (2, 2, 2)), ((0, 0, 0), (1, 0, 0))]
        for one, other in pairs:
            p, q = outcomes(mechanism, one), outcomes(mechanism, other)
            for a, b in ((p, q), (q, p)):
                assert math.log(np.sum(a**nearest * b ** (1 - nearest))) / (nearest - 1) <= bound

    @pytest.mark.parametrize("deviation", [0.3, 0.5, 0.8, 1.3])
    def test_hardly_any_noise_still_has_a_price(self, deviation):
        """Where a shift is longer than a distribution used to be cut at, it said infinity."""
        charge = small(check_variance=4 * deviation**2, answer_variance=deviation**2).charge(80)
        by_curve = rdp.epsilon(rdp.total([charge], "replace-one"), 1e-3)
        assert 0.5 * by_curve < accounting.spent([charge], 1e-3, "replace-one") < 1.1 * by_curve

    def test_a_charge_names_its_noise(self):
        assert "top classes of 5 histograms" in str(small().charge(5))
