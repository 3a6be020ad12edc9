"""What votes that agree cost: bounds against exact divergences over all neighbours, and what is printed."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm

from securefd.defenses import data_dependent
from securefd.defenses.confident import Confident
from securefd.defenses.data_dependent import Costs, Figure, best, leading, log_tail
from securefd.errors import PrivacyError
from tests.defenses.test_confident import noise_of, outcomes

BOTH = ("add-or-remove", "replace-one")
ORDERS = (1.3, 2.0, 5.0, 20.0)


def mechanism(**changes):
    given = {"classes": 3, "threshold": 4, "check_variance": 3.0, "answer_variance": 1.0}
    return Confident(**given | changes)


def costs(relation="replace-one", order=5.0, most=7, **changes):
    return Costs(mechanism=mechanism(**changes), relation=relation, order=order, most=most)


def histograms(clients, classes=3):
    """All that ``clients`` votes can make."""
    return [h for h in itertools.product(range(clients + 1), repeat=classes) if sum(h) == clients]


def neighbours(histogram, relation):
    """All that one client's being another, or being there or not, can make of it."""
    found = []
    for k in range(len(histogram)):
        if relation == "add-or-remove":
            found.append(tuple(n + (j == k) for j, n in enumerate(histogram)))
        if histogram[k]:
            fewer = tuple(n - (j == k) for j, n in enumerate(histogram))
            if relation == "add-or-remove":
                found.append(fewer)
            else:
                found += [
                    tuple(n + (j == other) for j, n in enumerate(fewer)) for other in range(len(histogram))
                ]
    return found


def apart(one, other, relation):
    """How many clients have to be others, or come and go."""
    difference = int(np.abs(np.subtract(one, other)).sum())
    return difference // 2 if relation == "replace-one" else difference


def divergence(p, q, order):
    return math.log(np.sum(p**order * q ** (1 - order))) / (order - 1)


class TestTail:
    @pytest.mark.parametrize("variance", [0.2, 1.0, 30.0])
    def test_sums(self, variance):
        x, mass = noise_of(variance, 200)
        for k in (-9, -2, 0, 1, 2, 5):
            direct = float(np.log(mass[x >= k].sum()))
            assert float(log_tail(variance, np.array([k]))[0]) == pytest.approx(direct, rel=1e-9, abs=1e-15)

    def test_far_tails_are_bounded_from_above(self):
        """As logarithms, where probabilities would be zero: between one term and a series of them."""
        far = float(log_tail(4.0, np.array([500]))[0])
        first = -(500**2) / 8 - math.log(math.sqrt(8 * math.pi))
        assert first <= far <= first + 1e-6


class TestOneQuery:
    @pytest.mark.parametrize("relation", BOTH)
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("variance", [0.4, 1.0, 3.0])
    def test_no_neighbour_of_any_histogram_is_farther(self, relation, order, variance):
        made = costs(relation, order, answer_variance=variance)
        known = {}

        def exactly(histogram):
            if histogram not in known:
                known[histogram] = outcomes(made.mechanism, histogram)
            return known[histogram]

        for histogram in histograms(5):
            bound = float(made.of(np.array([histogram]))[0])
            assert bound <= made.largest(1) * (1 + 1e-6)
            for neighbour in neighbours(histogram, relation):
                assert divergence(exactly(histogram), exactly(neighbour), order) <= bound

    def test_two_classes_far_apart(self):
        """Where agreement is large, exact divergences are tiny, and the bound is small."""
        made = costs(order=4.0, most=31, classes=2, threshold=16, check_variance=400.0, answer_variance=16.0)
        p, q = (_two(16.0, gap) for gap in (30, 28))
        exact = divergence(p, q, 4.0)
        bound = float(made.answer[30])
        assert exact <= bound <= 40 * exact
        assert bound < 1e-4 * 4.0 / 16.0

    def test_it_is_the_papers_where_the_paper_has_one(self):
        """Papernot et al. 2018, Theorem 6 and Proposition 7, worked out again for a Gaussian."""
        sigma, order = 40.0, 8.0
        made = costs(order=order, most=300, classes=10, threshold=150, answer_variance=sigma**2)
        for gap in (200, 240, 280):
            q = 9 * norm.sf((gap - 0.5) / (math.sqrt(2) * sigma))
            second = sigma * math.sqrt(-math.log(q))
            first = second + 1
            e1, e2 = first / sigma**2, second / sigma**2
            allowed = math.exp((second - 1) * e2) / (first / (first - 1) * second / (second - 1)) ** second
            assert q <= allowed
            a = (1 - q) / (1 - (q * math.exp(e2)) ** ((second - 1) / second))
            b = math.exp(e1) / q ** (1 / (first - 1))
            papers = math.log((1 - q) * a ** (order - 1) + q * b ** (order - 1)) / (order - 1)
            assert 0.5 * papers < made.answer[gap] < 1.1 * papers

    def test_the_check_is_the_divergence_of_two_coins(self):
        made = costs(order=3.0, most=7)
        x, mass = noise_of(3.0)
        for top in range(7):
            coins = [np.array([mass[m + x >= 4].sum(), mass[m + x < 4].sum()]) for m in range(-1, 9)]
            exact = max(divergence(coins[top + 1], coins[other], 3.0) for other in (top, top + 2))
            assert made.check[top] == pytest.approx(exact, rel=1e-6)

    def test_a_query_that_is_hardly_answered_costs_little(self):
        made = costs(most=101, threshold=90, check_variance=9.0, answer_variance=9.0)
        rare, usual = made.of(np.array([[40, 35, 25], [95, 5, 0]]))
        assert rare < 1e-3 * made.largest(1)
        doubtful = made.of(np.array([[95, 94, 0]]))[0]
        assert doubtful > 0.5 * made.largest(1) > usual

    def test_tables_are_monotone(self):
        made = costs(order=10.0, most=60, threshold=30, check_variance=20.0, answer_variance=9.0)
        assert (np.diff(made.answer) <= 0).all()
        assert (np.diff(made.answered) >= 0).all()


class TestSmoothness:
    @pytest.mark.parametrize("relation", BOTH)
    @pytest.mark.parametrize("beta", [0.02, 0.3, 1.5])
    def test_one_client_changes_a_smooth_bound_by_no_more_than_a_factor(self, relation, beta):
        made = costs(relation, answer_variance=0.5)
        every = histograms(5)
        if relation == "add-or-remove":
            every = [h for clients in range(8) for h in histograms(clients)]
        smooth = dict(zip(every, made.smooth(np.array(every), beta), strict=True))
        for one in every:
            for other in neighbours(one, relation):
                if other in smooth:
                    assert smooth[other] <= math.exp(beta) * smooth[one] * (1 + 1e-12)

    @pytest.mark.parametrize("relation", BOTH)
    @pytest.mark.parametrize("beta", [0.02, 0.3, 1.5])
    def test_it_covers_what_costs_are_elsewhere(self, relation, beta):
        """The definition, word by word: the largest over all histograms, less the farther they are."""
        made = costs(relation, answer_variance=0.5)
        every = histograms(5) if relation == "replace-one" else [h for n in range(8) for h in histograms(n)]
        bounds = made.of(np.array(every))
        for one, found in zip(every, made.smooth(np.array(every), beta), strict=True):
            naive = max(
                math.exp(-beta * apart(one, other, relation)) * bound
                for other, bound in zip(every, bounds, strict=True)
            )
            assert found >= naive
            if beta == 1.5:
                assert found <= 3 * naive

    @pytest.mark.parametrize("relation", BOTH)
    def test_one_client_moves_a_level_by_one_at_most(self, relation):
        rng = np.random.default_rng(5)
        made = Figure(costs=costs(relation, most=31, threshold=18), beta=0.1, variance=9.0, delta=1e-3)
        moves = set()
        for _ in range(300):
            votes = rng.integers(0, 3, size=(30, 6)) * (rng.random((30, 6)) < 0.4)
            other = votes.copy()
            other[0] = rng.integers(0, 3, size=6)
            if relation == "add-or-remove":
                other = votes[1:]
            levels = [
                made._exact(float(made.costs.smooth(counted(v), made.beta).sum())) for v in (votes, other)
            ]
            moves.add(abs(levels[0] - levels[1]))
        assert moves == {0, 1}


def counted(votes):
    """``(n, m)`` classes to ``(m, 3)`` counts."""
    return np.stack([np.bincount(column, minlength=3) for column in votes.T])


def _two(variance, gap):
    """P(class 0), P(class 1) where the first of two has ``gap`` votes more, ties going to the second."""
    _, mass = noise_of(variance, 80)
    difference = np.convolve(mass, mass)
    right = difference[np.arange(-160, 161) + gap > 0].sum()
    wrong = difference[np.arange(-160, 161) + gap <= 0].sum()
    return np.array([right, wrong])


class TestFigure:
    @pytest.mark.parametrize("relation", BOTH)
    @pytest.mark.parametrize("histogram", [(5, 0, 0), (4, 1, 0), (2, 2, 1)])
    def test_what_is_printed_holds_but_for_delta(self, relation, histogram):
        """Exactly, of everything that is released: the outcome of two queries, and the figure about them."""
        delta = 0.05
        made = Figure(costs=costs(relation, order=3.0), beta=0.2, variance=4.0, delta=delta)
        x, mass = noise_of(4.0, 60)

        def released(counts):
            one = outcomes(made.costs.mechanism, counts)
            smooth = made.costs.smooth(np.array([counts, counts]), made.beta).sum()
            levels = np.zeros(4001)
            levels[2000 + made._exact(float(smooth)) + x] = mass
            return np.multiply.outer(np.multiply.outer(one, one), levels)

        epsilons = np.array([made.epsilon(level, 2) for level in range(-2000, 2001)])
        p = released(histogram)
        for neighbour in neighbours(histogram, relation):
            q = released(neighbour)
            with np.errstate(divide="ignore", invalid="ignore"):
                beyond = (p > 0) & (np.log(p) - np.log(q) > epsilons)
            assert p[beyond].sum() <= delta

    def test_the_lift_is_the_least_that_covers_its_part_of_delta(self):
        made = Figure(costs=costs(), beta=0.2, variance=25.0, delta=1e-3)
        x, mass = noise_of(25.0, 200)
        lift = made._lift
        assert mass[x < -lift].sum() <= 0.25e-3 < mass[x < -lift + 1].sum()

    def test_it_is_never_more_than_the_worst_case_and_grows_with_the_level(self):
        made = Figure(costs=costs(), beta=0.2, variance=25.0, delta=1e-3)
        found = [made.epsilon(level, 10) for level in range(-100, 100)]
        assert found == sorted(found)
        beside = made.costs.order / 50 - math.log(0.75e-3) / (made.costs.order - 1)
        assert found[-1] == pytest.approx(made.costs.largest(10) + beside)
        assert found[0] == pytest.approx(beside, rel=1e-3)

    def test_levels_are_noised(self):
        made = Figure(costs=costs(), beta=0.2, variance=25.0, delta=1e-3)
        drawn = np.array([made.level(1.0) for _ in range(2000)])
        assert abs(drawn.mean()) < 1
        assert drawn.std() == pytest.approx(5, rel=0.1)

    def test_agreement_of_many_clients_is_worth_it(self):
        """A thousand clients, of whom 95% agree: half the guarantee's epsilon, printed."""
        from securefd.defenses import accounting

        many = mechanism(classes=10, threshold=600, check_variance=160.0**2, answer_variance=80.0**2)
        squared = many.charge(300).squared("replace-one")
        made = best(many, "replace-one", clients=1000, queries=300, variance=1 / (0.02 * squared), delta=1e-5)
        counts = np.zeros((300, 10), dtype=np.int64)
        counts[:, :2] = 950, 50
        promised = accounting.spent([many.charge(300, made.variance)], 1e-5, "replace-one")
        assert made.expected(counts) < 0.5 * promised

    @pytest.mark.parametrize(
        "changes", [{"beta": 0.0}, {"beta": math.nan}, {"variance": 0.0}, {"delta": 1.0}, {"delta": math.nan}]
    )
    def test_a_figure_that_cant_be(self, changes):
        given = {"costs": costs(), "beta": 0.1, "variance": 1.0, "delta": 0.1}
        with pytest.raises(PrivacyError, match="must be"):
            Figure(**given | changes)

    @pytest.mark.parametrize(
        "changes", [{"order": 1.0}, {"order": math.nan}, {"most": 0}, {"check_variance": 1e11}]
    )
    def test_costs_that_cant_be(self, changes):
        with pytest.raises(PrivacyError, match="must"):
            costs(**changes)


def test_leading_counts():
    top, gap = leading(np.array([[1, 5, 3], [2, 2, 0]]))
    assert top.tolist() == [5, 2]
    assert gap.tolist() == [2, 0]


def test_the_cells_reach_far_down():
    """The last one, down to zero, must not be what decides: each is a share of the one before."""
    assert data_dependent._CELLS[0] == 1.0
    assert data_dependent._CELLS[-1] < 0.02
    assert (np.diff(data_dependent._CELLS) < 0).all()
