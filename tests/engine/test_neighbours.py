"""Answers averaged over inputs that look alike, and the inputs that stand for others."""

from __future__ import annotations

import numpy as np
import pytest

from securefd import neighbours
from securefd.errors import DataError
from securefd.neighbours import REACHES, Neighbours
from securefd.selection import representative
from tests.engine.samples import points

X, Y = points(300, seed=1)
EVERY = np.arange(300)
ONE_HOT = np.eye(3)[Y]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def exact(graph: Neighbours, values: np.ndarray, known: np.ndarray, reach: float) -> np.ndarray:
    """The definition, by a dense inverse: walks that go on with probability ``reach``."""
    dense = graph.weights.toarray()
    walk = dense / dense.sum(axis=1, keepdims=True)
    everywhere = (1 - reach) * np.linalg.inv(np.eye(len(walk)) - reach * walk)
    stops = everywhere[:, known]
    return np.asarray(stops @ values / stops.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("known", [EVERY, np.arange(0, 300, 7)], ids=["all", "some"])
def test_averages_are_those_of_random_walks(reach: float, known: np.ndarray) -> None:
    graph, values = Neighbours.of(X), rng().normal(size=(len(known), 3))
    assert np.allclose(graph.averaged(values, known, reach), exact(graph, values, known, reach), atol=2e-2)


def test_each_has_its_nearest_and_those_whose_nearest_it_is() -> None:
    directions = X / np.linalg.norm(X, axis=1, keepdims=True)
    likeness = directions @ directions.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1)[:, :4]
    expected = np.zeros((300, 300), dtype=bool)
    expected[np.repeat(EVERY, 4), nearest.ravel()] = True
    assert np.array_equal(Neighbours.of(X, 4).weights.toarray() > 0, expected | expected.T)


@pytest.mark.parametrize("deviation", [0.0, 0.5, 2.0])
def test_noise_is_averaged_out(deviation: float) -> None:
    noisy = ONE_HOT + deviation * rng().normal(size=ONE_HOT.shape)
    settled = Neighbours.of(X).settled(noisy, EVERY, rng())
    assert (settled.argmax(axis=1) == Y).mean() > 0.97
    assert np.square(settled - ONE_HOT).mean() <= 0.1 * deviation**2 + 0.01


def test_more_noise_is_averaged_over_more_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, errors = Neighbours.of(X), {}
    for deviation in (0.0, 2.0):
        noisy = ONE_HOT + deviation * rng().normal(size=ONE_HOT.shape)
        by_reach = [np.square(graph.averaged(noisy, EVERY, reach) - ONE_HOT).mean() for reach in REACHES]
        chosen = graph.settled(noisy, EVERY, rng())
        monkeypatch.setattr(neighbours, "PROBES", 200)
        errors[deviation] = (np.square(chosen - ONE_HOT).mean(), min(by_reach), int(np.argmin(by_reach)))
    assert errors[0.0][2] < errors[2.0][2]
    for found, best, _ in errors.values():  # the score chooses about as well as knowing the truth would
        assert found <= 1.3 * best + 1e-3


def test_few_known_inputs_are_enough() -> None:
    known = representative(X, 12, seed=3)
    settled = Neighbours.of(X).settled(ONE_HOT[known], known, rng())
    assert (settled.argmax(axis=1) == Y).mean() > 0.95


def test_an_input_that_no_walk_leads_from_gets_the_mean() -> None:
    apart = np.concatenate([np.eye(2)[[0] * 6], -np.eye(2)[[1] * 6]])
    known = np.arange(6)
    settled = Neighbours.of(apart, 2).averaged(np.eye(2)[[0, 0, 0, 0, 1, 1]], known, 0.9)
    assert np.allclose(settled[6:], [4 / 6, 2 / 6])


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.zeros(3), np.full((4, 2), np.nan)])
def test_what_cannot_be_compared_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="must be"):
        Neighbours.of(bad)


def test_inputs_without_any_direction_have_neighbours_too() -> None:
    assert Neighbours.of(np.zeros((8, 3)), 2).weights.sum() > 0


@pytest.mark.parametrize("count", [1, 5, 40, 299])
def test_representatives_are_that_many_and_the_same_for_a_seed(count: int) -> None:
    chosen = representative(X, count, seed=4)
    assert len(set(chosen.tolist())) == count
    assert np.array_equal(chosen, np.sort(chosen))
    assert np.array_equal(chosen, representative(X, count, seed=4))


def test_representatives_of_all_are_all() -> None:
    assert np.array_equal(representative(X, 300, seed=1), EVERY)
    assert np.array_equal(representative(np.zeros((5, 2)), 3, seed=1).shape, (3,))


def test_representatives_stand_for_more_than_random_inputs_do() -> None:
    directions = X / np.linalg.norm(X, axis=1, keepdims=True)

    def distance(rows: np.ndarray) -> float:
        return float((1 - directions @ directions[rows].T).min(axis=1).mean())

    drawn = rng()
    at_random = [distance(drawn.choice(300, 10, replace=False)) for _ in range(9)]
    assert distance(representative(X, 10, seed=4)) < min(at_random)
