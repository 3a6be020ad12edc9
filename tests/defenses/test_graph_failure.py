"""Failure probabilities against exact fractions, simulated graphs and an adversary that tries everything."""

import dataclasses
import math
import random
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefd.defenses import graph_failure, tails
from securefd.defenses.graph_failure import Cohort, Failure, failure
from securefd.errors import SealingError
from tests.defenses.graphs import draw_graphs, make_cohort, terms

SIZES = [
    # n, t, c, degree, share_threshold
    (10, 8, 1, 3, 2),
    (30, 22, 5, 8, 4),
    (60, 48, 10, 15, 9),
    (100, 70, 20, 47, 21),
    (100, 100, 30, 20, 18),
    (300, 201, 50, 60, 25),
    (1000, 700, 200, 140, 67),
]


def tail(k: int, population: int, marked: int, drawn: int) -> Fraction:
    """P(at least k marked) by counting."""
    ways = sum(
        math.comb(marked, x) * math.comb(population - marked, drawn - x)
        for x in range(max(k, 0), min(marked, drawn) + 1)
    )
    return Fraction(ways, math.comb(population, drawn))


def capped(value: Fraction) -> float:
    return float(min(value, Fraction(1)))


# --- the terms, against exact fractions ---


@pytest.mark.parametrize(("n", "t", "c", "degree", "k"), SIZES)
def test_colluding_holders_exactly(n: int, t: int, c: int, degree: int, k: int) -> None:
    for share_threshold in {1, k - 1, k, k + 1, degree}:
        exact = capped((n - c) * tail(share_threshold, n - 1, c, degree))
        assert terms(n, t, c, degree, share_threshold).colluding_holders == pytest.approx(
            exact, rel=1e-8, abs=0
        )


def test_far_tails_exactly() -> None:
    for n, t, c, degree, k in ((1000, 700, 200, 150, 130), (10_000, 7000, 1000, 100, 95)):
        exact = (n - c) * tail(k, n - 1, c, degree)
        assert exact < Fraction(1, 10**60)
        assert terms(n, t, c, degree, k).colluding_holders == pytest.approx(float(exact), rel=1e-8, abs=0)


@pytest.mark.parametrize(("n", "t", "c", "degree", "k"), SIZES)
def test_unneeded_abort_exactly(n: int, t: int, c: int, degree: int, k: int) -> None:
    for share_threshold in {1, k - 1, k, k + 1, degree}:
        survivor = 1 - tail(share_threshold, n - 1, t - 1, degree)
        gone = 1 - tail(share_threshold, n - 1, t, degree) if n > t else Fraction(0)
        exact = capped(t * survivor + (n - t) * gone)
        assert terms(n, t, c, degree, share_threshold).unneeded_abort == pytest.approx(exact, rel=1e-8, abs=0)


@pytest.mark.parametrize(("n", "t", "c"), [(10, 8, 1), (60, 48, 10), (1000, 700, 200)])
def test_forged_list_exactly(n: int, t: int, c: int) -> None:
    forged = math.ceil((2 * t - n - c) / 2)
    for checked in (0, 1, t // 3, t - forged, t - forged + 1, t):
        exact = capped(Fraction((n - c) * math.comb(t - forged, checked), math.comb(t, checked)))
        found = graph_failure.forged_list(make_cohort(n, t, c), checked)
        assert found == pytest.approx(exact, rel=1e-8, abs=0)
        assert (found == 0) == (checked > t - forged)


@pytest.mark.parametrize(("t", "forged", "checked"), [(6, 1, 3), (7, 2, 4), (8, 3, 1), (5, 2, 4)])
def test_forged_list_by_trying_all_samples(t: int, forged: int, checked: int) -> None:
    samples = list(combinations(range(t), checked))
    fooled = sum(min(sample, default=forged) >= forged for sample in samples)
    cohort = make_cohort(n=t, t=t, c=t - 2 * forged)
    assert cohort.forgeries == forged
    found = graph_failure.forged_list(cohort, checked)
    assert found == pytest.approx(min(1, cohort.honest * fooled / len(samples)))


def chernoff(most: int, trials: int, missed: Fraction) -> Fraction:
    """exp(-M KL(g / M, 1 - q)) without logarithms."""
    if Fraction(most, trials) >= 1 - missed:
        return Fraction(1)
    rest = trials - most
    ways = Fraction(trials**trials, most**most * rest**rest)
    return ways * (1 - missed) ** most * missed**rest


def geometric(k: int, population: int, marked: int, drawn: int) -> Fraction:
    """The first term of the tail over one minus the ratio of the second to the first."""
    first = tail(k, population, marked, drawn) - tail(k + 1, population, marked, drawn)
    second = tail(k + 1, population, marked, drawn) - tail(k + 2, population, marked, drawn)
    if k <= max(0, drawn - (population - marked)) or (second >= first > 0):
        return Fraction(1)
    return min(Fraction(1), first / (1 - second / first)) if first else Fraction(0)


def counts(cohort: Cohort, degree: int, k: int, s: int) -> tuple[Fraction, Fraction]:
    """Return ``opened`` and ``rest`` of the docstring."""
    n, t, c, h = cohort.n_clients, cohort.threshold, cohort.colluders, cohort.honest
    g = min(n - t, h - 2 * s)
    linked = chernoff(g, h - s, (1 - Fraction(degree, n - 1)) ** s)
    opened = math.comb(h, s) * min(linked, geometric(k, n - 1, c + s - 1, degree) ** s)
    rest = math.comb(h, s) * chernoff(g, h - s, 1 - tail(1, n - 1, s, degree))
    apart = s >= t - c - cohort.honest_minimum + 1
    return opened if s > 1 else Fraction(0), rest if apart else Fraction(0)


COHORTS = [*SIZES[:3], (40, 30, 6, 20, 10), (50, 50, 5, 6, 6), (30, 20, 0, 10, 4), (12, 8, 0, 2, 1)]


@pytest.mark.parametrize(("n", "t", "c", "degree", "k"), COHORTS)
@pytest.mark.parametrize("spare", [0, 1, 3, 50])
def test_opened_part_exactly(n: int, t: int, c: int, degree: int, k: int, spare: int) -> None:
    cohort = make_cohort(n, t, c, max(2, t - c - spare))
    total = Fraction(0)
    for s in range(1, cohort.honest // 2 + 1):
        opened, rest = counts(cohort, degree, k, s)
        total += opened + rest
        sizes = np.array([s])
        (log_opened,) = graph_failure._log_opened(cohort, degree, k, sizes)
        (log_rest,) = graph_failure._log_rest(cohort, degree, sizes)
        assert math.exp(log_opened) == pytest.approx(float(opened), rel=1e-6, abs=0)
        assert math.exp(log_rest) == pytest.approx(float(rest), rel=1e-6, abs=0)
    found = graph_failure.opened_part(cohort, degree, k)
    assert found == pytest.approx(capped(total), rel=1e-6, abs=0)


def test_the_geometric_bound_is_above_the_tail_and_near_it_when_far_out() -> None:
    for population, marked, drawn in (
        (9, 3, 4),
        (9, 7, 5),
        (60, 12, 20),
        (300, 60, 40),
        (20, 20, 3),
        (20, 0, 3),
    ):
        for k in range(-2, drawn + 1):
            logs = tails.log_tail(np.array([k]), population, np.array([marked]), drawn)
            exact = tail(k, population, marked, drawn)
            assert math.exp(logs[0]) >= float(exact) * (1 - 1e-9)
            if exact and exact < Fraction(1, 10**4):
                assert math.exp(logs[0]) <= 1.5 * float(exact)


# --- the terms, against simulation ---


def noise(rate: float, count: int) -> float:
    """Four standard errors, at least."""
    return 4 * math.sqrt(max(rate, 1 / count) / count)


@pytest.mark.parametrize(("n", "t", "c", "degree", "k"), [(30, 24, 6, 8, 5), (50, 40, 10, 6, 5)])
def test_simulated_colluding_holders(n: int, t: int, c: int, degree: int, k: int) -> None:
    count = 4000
    hits = sum(
        any(sum(v >= n - c for v in holders) >= k for holders in graph[: n - c])
        for graph in draw_graphs(n, degree, count, random.Random(1))
    )
    bound = terms(n, t, c, degree, k).colluding_holders
    assert 20 < hits < count / 4
    assert hits / count - noise(hits / count, count) <= bound <= 1.3 * (hits / count) + noise(bound, count)


@pytest.mark.parametrize(("n", "t", "degree", "k"), [(30, 24, 8, 4), (40, 30, 12, 5)])
def test_simulated_abort(n: int, t: int, degree: int, k: int) -> None:
    count, rng = 4000, random.Random(2)
    hits = 0
    for graph in draw_graphs(n, degree, count, rng):
        alive = set(rng.sample(range(n), t))
        hits += any(len(holders & alive) < k for holders in graph)
    bound = terms(n, t, 0, degree, k).unneeded_abort
    assert 20 < hits < count / 4
    assert hits / count - noise(hits / count, count) <= bound <= 1.3 * (hits / count) + noise(bound, count)


def reached(graph: list[set[int]], start: int, named: set[int]) -> frozenset[int]:
    """``start``, its named holders, theirs, and so on: each of them masked with the next."""
    found, frontier = {start}, [start]
    while frontier:
        new = (graph[frontier.pop()] & named) - found
        found |= new
        frontier += new
    return frozenset(found)


def can_be_broken(graph: list[set[int]], cohort: Cohort, k: int) -> bool:
    """Whether a server that sees the graph gets two sums, or one of fewer than honest_minimum honest clients.

    It tries every set of honest clients to leave unnamed, names all colluders, and keeps back whichever boxes
    it likes: a client masks with all its holders, and with those that chose it only if the server wants.
    """
    honest = set(range(cohort.honest))
    colluding = set(range(cohort.honest, cohort.n_clients))
    for e in range(cohort.dropped + 1):
        for unnamed in combinations(honest, e):
            named = honest - set(unnamed)
            recovered = {u for u in named if len(graph[u] & (named | colluding)) >= k}
            parts = {reached(graph, u, named) for u in recovered}
            opened = [part for part in parts if part <= recovered]
            if any(len(part) < cohort.honest_minimum for part in opened):
                return True
            if any(not one & other for one, other in combinations(opened, 2)):
                return True
    return False


@pytest.mark.parametrize(
    ("n", "t", "c", "degree", "k"),
    [
        (9, 7, 1, 2, 2),
        (10, 9, 1, 2, 2),
        (10, 8, 1, 3, 2),
        (8, 8, 0, 1, 1),
        (12, 12, 0, 1, 1),
        (9, 8, 0, 2, 1),
    ],
)
def test_no_server_breaks_more_graphs_than_the_bound_says(
    n: int, t: int, c: int, degree: int, k: int
) -> None:
    count, broken = 150, 0
    graphs = [
        graph
        for graph in draw_graphs(n, degree, count, random.Random(n + c))
        if not any(sum(v >= n - c for v in holders) >= k for holders in graph[: n - c])
    ]
    for honest_minimum in (2, t - c - 1, t - c):
        cohort = make_cohort(n, t, c, honest_minimum)
        hits = sum(can_be_broken(graph, cohort, k) for graph in graphs)
        rate = hits / count
        assert rate - noise(rate, count) <= graph_failure.opened_part(cohort, degree, k)
        broken += hits
    # the adversary is no straw man
    assert broken > 0


@pytest.mark.parametrize(("n", "degree", "s", "z"), [(20, 3, 3, 0), (20, 3, 3, 3), (30, 5, 2, 1)])
def test_simulated_links_are_within_chernoffs_bound(n: int, degree: int, s: int, z: int) -> None:
    """Links to a set of s clients, drawn outside or by z of them, all clients honest."""
    cohort, count = make_cohort(n, n, 0), 4000
    linked = [
        sum(any(v in graph[u] for u in range(z)) or bool(graph[v] & set(range(s))) for v in range(s, n))
        for graph in draw_graphs(n, degree, count, random.Random(4))
    ]
    missed = graph_failure._log_drawn_by_none(cohort, degree, s) + z * graph_failure._log_undrawn(
        cohort, degree
    )
    mean = (n - s) * -math.expm1(missed)
    assert np.mean(linked) == pytest.approx(mean, abs=4 * float(np.std(linked)) / math.sqrt(count))
    for most in range(int(mean) + 1):
        rate = float(np.mean(np.array(linked) <= most))
        bound = math.exp(tails.log_at_most(most, n - s, missed))
        assert rate - noise(rate, count) <= bound


# --- what holds for all parameters ---


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_terms_are_probabilities_for_all_parameters(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 60))
    t = data.draw(st.integers(n // 2 + 1, n))
    c = data.draw(st.integers(0, min(2 * t - n - 1, t - 2)))
    degree = data.draw(st.integers(1, n - 1))
    k = data.draw(st.integers(1, degree))
    found = terms(n, t, c, degree, k, data.draw(st.integers(0, t)), data.draw(st.integers(2, t - c)))
    assert all(0 <= value <= 1 for value in (*dataclasses.astuple(found), found.secrecy))


def test_the_terms_move_the_right_way() -> None:
    def falls(values: Iterable[float]) -> bool:
        return all(one >= two for one, two in pairwise(values))

    secrecy: Callable[[Failure], float] = lambda found: found.colluding_holders + found.opened_part  # noqa: E731
    by_threshold = [terms(200, 140, 20, 50, k) for k in range(1, 51)]
    assert falls(map(secrecy, by_threshold))
    assert falls(found.unneeded_abort for found in reversed(by_threshold))
    assert falls(secrecy(terms(200, 140, c, 50, 22)) for c in range(70, -1, -5))
    assert falls(terms(200, t, 0, 50, 22).unneeded_abort for t in range(101, 201, 9))
    assert falls(terms(200, 140, 20, 50, 22, checked).forged_list for checked in range(141))
    assert falls(terms(200, 140, 20, 50, 22, 70, h).secrecy for h in range(120, 1, -7))


def test_tiny_probabilities_are_not_called_impossible() -> None:
    these = terms(1000, 1000, 600, 500, 499)
    assert 0 < these.colluding_holders < 1e-100
    assert tails.from_log(-1e6) == math.ulp(0.0) > 0
    assert tails.from_log(-math.inf) == 0
    assert tails.from_log(3.0) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degree": 10}, r"degree must be in 1\.\.9"),
        ({"share_threshold": 0}, r"share_threshold must be in 1\.\.5, got 0"),
        ({"share_threshold": 6}, r"share_threshold must be in 1\.\.5, got 6"),
        ({"checked": -1}, r"checked must be in 0\.\.8, got -1"),
        ({"checked": 9}, r"checked must be in 0\.\.8, got 9"),
        ({"checked": 1.5}, "checked must be a whole number, got 1.5"),
        ({"colluders": 6}, "colluders must be"),
    ],
)
def test_failure_refuses(change: dict[str, int], message: str) -> None:
    good = {
        "n_clients": 10,
        "threshold": 8,
        "colluders": 2,
        "honest_minimum": 2,
        "degree": 5,
        "share_threshold": 4,
        "checked": 8,
    }
    assert failure(**good).secrecy > 0
    with pytest.raises(SealingError, match=message):
        failure(**{**good, **change})
