"""What is chosen for a cohort: it meets both targets, as cheaply as can be; and what is said and refused."""

import dataclasses
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefd.defenses.graph_failure import Failure, failure
from securefd.defenses.neighbourhood import ABORT, SECRECY, Neighbourhood, choose, say, usual_minimum
from securefd.errors import SealingError
from tests.defenses.graphs import draw_graphs, make_cohort, terms

FIELDS = tuple(field.name for field in dataclasses.fields(Neighbourhood))


# --- what is chosen ---


@pytest.mark.parametrize(
    ("n", "t", "c", "spare"),
    [
        (100, 70, 20, 40),
        (100, 90, 10, 30),
        (200, 140, 20, 20),
        (500, 350, 50, 100),
        (1000, 700, 200, 200),
        (1000, 1000, 100, 2),
        (4000, 3000, 400, 300),
    ],
)
def test_a_choice_meets_the_targets_and_none_is_smaller(n: int, t: int, c: int, spare: int) -> None:
    cohort = make_cohort(n, t, c, max(2, t - c - spare))
    found = choose(**dataclasses.asdict(cohort))
    assert not found.is_complete
    assert 2 * found.degree <= n - 1
    check_choice(found)
    for degree in range(max(1, found.degree - 3), found.degree):
        with pytest.raises(SealingError, match=f"set degree to {found.degree}, or leave it out"):
            choose(**dataclasses.asdict(cohort), degree=degree)
    assert choose(**dataclasses.asdict(cohort), degree=found.degree) == found


def check_choice(found: Neighbourhood) -> None:
    """Both targets are met, and neither number could be better."""
    cohort = make_cohort(found.n_clients, found.threshold, found.colluders, found.honest_minimum)

    def at(k: int, checked: int) -> Failure:
        return failure(**dataclasses.asdict(cohort), degree=found.degree, share_threshold=k, checked=checked)

    these = at(found.share_threshold, found.checked)
    assert these.secrecy <= found.secrecy_failure <= SECRECY
    assert these.unneeded_abort == found.unneeded_abort <= ABORT
    if found.share_threshold < found.degree:
        assert at(found.share_threshold + 1, found.checked).unneeded_abort > ABORT
    assert at(found.share_threshold, found.checked - 1).secrecy > SECRECY


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_cohort_has_a_choice(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 120))
    t = data.draw(st.integers(n // 2 + 1, n))
    c = data.draw(st.integers(0, min(2 * t - n - 1, t - 2)))
    cohort = make_cohort(n, t, c, data.draw(st.integers(2, t - c)))
    found = choose(**dataclasses.asdict(cohort))
    check_choice(found)
    if n <= 40:
        assert found.is_complete


@pytest.mark.parametrize(
    ("n", "t", "c"), [(3, 2, 0), (3, 3, 1), (4, 3, 1), (10, 7, 2), (60, 41, 10), (1000, 600, 199)]
)
def test_the_complete_graph_fails_by_signatures_only(n: int, t: int, c: int) -> None:
    found = choose(n_clients=n, threshold=t, colluders=c, honest_minimum=t - c, degree=n - 1)
    assert found.is_complete
    assert found.share_threshold == t - 1
    assert found.unneeded_abort == 0
    these = terms(n, t, c, n - 1, t - 1, t, t - c)
    assert these == Failure(colluding_holders=0, opened_part=0, forged_list=0, unneeded_abort=0)


def test_a_degree_that_saves_too_little_gives_the_complete_graph() -> None:
    assert choose(n_clients=60, threshold=41, colluders=15, honest_minimum=2).is_complete
    asked = choose(n_clients=30, threshold=30, colluders=1, honest_minimum=2, degree=8)
    assert not asked.is_complete
    assert choose(n_clients=30, threshold=30, colluders=1, honest_minimum=2).is_complete


@pytest.mark.parametrize(
    ("t", "c", "taken"), [(2, 0, 2), (3, 1, 2), (3, 0, 2), (4, 0, 3), (10, 0, 9), (90, 5, 76), (900, 50, 765)]
)
def test_nine_tenths_of_the_honest_survivors_are_promised(t: int, c: int, taken: int) -> None:
    assert usual_minimum(t, c) == taken
    n = max(3, t)
    assert choose(n_clients=n, threshold=t, colluders=c).honest_minimum == taken


@pytest.mark.parametrize("n", [50, 100, 250, 1000])
@pytest.mark.parametrize("stays", [0.8, 0.9])
def test_what_is_promised_usually_is_nearly_free(n: int, stays: float) -> None:
    """Beside the least that can be promised; all honest survivors would cost far more."""
    t, c = round(stays * n), n // 20
    usual, least, most = (
        choose(n_clients=n, threshold=t, colluders=c, honest_minimum=minimum) for minimum in (None, 2, t - c)
    )
    assert usual.degree == least.degree
    assert most.degree >= 2 * usual.degree


@pytest.mark.parametrize(
    ("n", "t", "c", "more"), [(50, 45, 0, 1), (50, 50, 2, 3), (50, 50, 0, 4), (100, 100, 0, 3)]
)
def test_what_it_costs_where_few_holders_collude_and_drop(n: int, t: int, c: int, more: int) -> None:
    usual, least = (choose(n_clients=n, threshold=t, colluders=c, honest_minimum=m) for m in (None, 2))
    assert usual.degree - least.degree == more


def test_degrees_grow_with_colluders_and_dropouts() -> None:
    by_colluders = [
        choose(n_clients=500, threshold=400, colluders=c, honest_minimum=2).degree
        for c in (0, 25, 50, 100, 150)
    ]
    by_dropouts = [
        choose(n_clients=500, threshold=t, colluders=50, honest_minimum=2).degree
        for t in (480, 440, 400, 350)
    ]
    assert by_colluders == sorted(by_colluders)
    assert by_dropouts == sorted(by_dropouts)


def test_every_honest_survivor_is_in_the_sum_only_on_a_complete_graph() -> None:
    """Whoever chose one client can be called dropped, and then the others' sum opens without it."""
    assert choose(n_clients=200, threshold=160, colluders=10, honest_minimum=150).is_complete
    assert not choose(n_clients=200, threshold=160, colluders=10, honest_minimum=100).is_complete


# --- what is said ---


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (0.0, "impossible"),
        (1.0, "2^0.0"),
        (2.0**-40, "2^-40.0"),
        (2.0**-43.14, "2^-43.1"),
        (2.0**-43.16, "2^-43.1"),
        (2.0**-43.01, "2^-43.0"),
        (math.ulp(0.0), "2^-1074.0"),
    ],
)
def test_say_rounds_up(probability: float, words: str) -> None:
    assert say(probability) == words


def test_describe() -> None:
    sparse = choose(n_clients=1000, threshold=700, colluders=200, honest_minimum=2)
    assert sparse.describe() == (
        "Each of 1000 clients shares its secrets among 140 random others, any 67 of which recover them, "
        "has 260 mask partners, and verifies 192 of 700 signatures. With up to 200 colluders, and as "
        "long as the cryptography holds, probability of a secrecy failure: 2^-40.1;"
        " of an unneeded abort when 300 random clients drop: 2^-20.2."
    )
    complete = choose(n_clients=10, threshold=7, colluders=2, honest_minimum=2)
    assert complete.describe() == (
        "Each of 10 clients shares its secrets among 9 others, all there are, any 6 of which recover them, "
        "has 9 mask partners, and verifies 7 of 7 signatures. With up to 2 colluders, and as "
        "long as the cryptography holds, probability of a secrecy failure: impossible;"
        " of an unneeded abort when 3 random clients drop: impossible."
    )


def test_partners_by_simulation() -> None:
    n, degree = 40, 12
    graph = next(iter(draw_graphs(n, degree, 1, random.Random(5))))
    found = sum(v in graph[u] or u in graph[v] for u in range(n) for v in range(n) if u != v) / n
    chosen = Neighbourhood(
        **dataclasses.asdict(make_cohort(n, n, 1)),
        degree=degree,
        share_threshold=degree,
        checked=n,
        secrecy_failure=0.0,
        unneeded_abort=0.0,
    )
    assert chosen.partners == pytest.approx(found, abs=1)


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_clients": 2}, "n_clients must be at least 3 to seal a sum, got 2; add clients"),
        ({"n_clients": -5}, "n_clients must be at least 3"),
        ({"threshold": 11}, "threshold must be at most the 10 clients, got 11; lower it"),
        ({"colluders": -1}, "colluders must be at least 0"),
        ({"colluders": 6}, r"below 2 \* threshold - n_clients = 6, got 6; raise the threshold"),
        ({"threshold": 5}, r"below 2 \* threshold - n_clients = 0, got 2"),
        ({"honest_minimum": 1}, "honest_minimum must be in 2..threshold - colluders = 6, got 1"),
        ({"honest_minimum": 7}, "honest_minimum must be in 2..threshold - colluders = 6, got 7; raise"),
        ({"n_clients": 10.0}, "n_clients must be a whole number, got 10.0"),
        ({"threshold": math.nan}, "threshold must be a whole number, got nan"),
        ({"colluders": "2"}, "colluders must be a whole number, got '2'"),
        ({"honest_minimum": True}, "honest_minimum must be a whole number, got True"),
        (
            {"honest_minimum": None, "threshold": "8"},
            "threshold must be a whole number, got '8'; give an int",
        ),
        ({"honest_minimum": None, "colluders": math.nan}, "colluders must be a whole number, got nan"),
        ({"honest_minimum": None, "threshold": 6, "colluders": 1, "n_clients": 4}, "at most the 4 clients"),
        ({"n_clients": np.int64(10)}, "n_clients must be a whole number, got .*10.*; give an int"),
        ({"degree": 0}, r"degree must be in 1\.\.9, got 0"),
        ({"degree": 10}, r"degree must be in 1\.\.9, got 10"),
        ({"degree": 3.0}, "degree must be a whole number, got 3.0"),
    ],
)
def test_choose_refuses(change: dict[str, int], message: str) -> None:
    good = {"n_clients": 10, "threshold": 8, "colluders": 2, "honest_minimum": 2}
    assert choose(**good).is_complete
    with pytest.raises(SealingError, match=message):
        choose(**{**good, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_clients": 2}, "n_clients must be at least 3"),
        ({"threshold": 11}, "threshold must be at most the 10 clients"),
        ({"colluders": 6}, "colluders must be at least 0 and below"),
        ({"honest_minimum": 7}, "honest_minimum must be in"),
        *(
            ({name: wrong}, f"{name} must be a whole number, got .*; give an int")
            for name in FIELDS[:7]
            for wrong in (True, np.int64(3), 3.0, math.nan, "3", None)
        ),
        ({"degree": 10}, r"degree must be in 1\.\.9, got 10; give"),
        ({"share_threshold": 6}, r"share_threshold must be in 1\.\.5, got 6; give"),
        ({"checked": 9}, r"checked must be in 0\.\.8, got 9; give"),
        *(
            ({name: wrong}, rf"{name} must be a probability in \[0, 1\], got .*; let choose compute it")
            for name in FIELDS[7:]
            for wrong in (math.nan, -0.1, 1.1, math.inf, True, "0", None, np.float32(0.5))
        ),
    ],
)
def test_a_neighbourhood_refuses(change: dict[str, Any], message: str) -> None:
    good = dict(zip(FIELDS, (10, 8, 2, 2, 5, 4, 8, 0.5, 0.5), strict=True))
    assert Neighbourhood(**good).partners > 5  # type: ignore[arg-type]
    with pytest.raises(SealingError, match=message):
        Neighbourhood(**{**good, **change})


@pytest.mark.parametrize("honest_minimum", [2, 500])
def test_a_degree_that_meets_no_two_targets_is_refused_with_both_figures(honest_minimum: int) -> None:
    with pytest.raises(SealingError) as refused:
        choose(n_clients=1000, threshold=700, colluders=200, honest_minimum=honest_minimum, degree=100)
    message = str(refused.value)
    working = choose(n_clients=1000, threshold=700, colluders=200, honest_minimum=honest_minimum)
    for words in (
        "secrecy failure <= 2^-40.0",
        "unneeded abort <= 2^-20.0, got 100 for 1000 clients with 200 colluding and 300 dropping",
        f"set degree to {working.degree}, or leave it out",
    ):
        assert words in message
    if honest_minimum == 2:
        assert "share_threshold 43 keeps aborts rare, but a secrecy failure has 2^-15.6" in message
        assert "share_threshold 55 keeps secrecy, but an unneeded abort has 2^-1.8" in message


def test_a_hopeless_degree_says_so() -> None:
    with pytest.raises(SealingError, match="no share_threshold keeps aborts rare, no share_threshold keeps"):
        choose(n_clients=1000, threshold=700, colluders=200, honest_minimum=2, degree=3)
