"""The soft-label cache: what is asked, what is served, and for how long."""

import numpy as np
import pytest

from securefd.cache import NEVER, Cache
from securefd.errors import ProtocolError

TWO = np.array([[0.25, 0.75], [1.0, 0.0]])


def filled(duration: int) -> Cache:
    return Cache.empty(6, 2, duration).store(np.array([4, 1]), TWO, 3)


def test_an_empty_cache_misses_everything_in_the_order_asked() -> None:
    assert Cache.empty(6, 2, 5).missing(np.array([5, 0, 2]), 0).tolist() == [5, 0, 2]


def test_an_entry_of_round_3_with_duration_2_serves_rounds_4_and_5() -> None:
    queries = np.array([0, 1, 4])
    cache = filled(2)
    assert [cache.missing(queries, now).tolist() for now in (4, 5, 6)] == [[0], [0], [0, 1, 4]]


def test_duration_0_caches_nothing() -> None:
    assert filled(0).missing(np.array([1, 4]), 4).tolist() == [1, 4]


def test_lookup_returns_what_was_stored_in_the_order_asked() -> None:
    np.testing.assert_array_equal(filled(2).lookup(np.array([1, 4])), TWO[::-1])


def test_a_fresh_answer_replaces_the_old_one_and_its_age() -> None:
    again = filled(2).store(np.array([1]), np.array([[0.5, 0.5]]), 6)
    assert again.missing(np.array([1, 4]), 7).tolist() == [4]
    np.testing.assert_array_equal(again.lookup(np.array([1])), [[0.5, 0.5]])


def test_storing_leaves_the_old_cache_as_it_was() -> None:
    cache = Cache.empty(6, 2, 2)
    cache.store(np.array([4, 1]), TWO, 3)
    assert (cache.made == NEVER).all()
    assert not cache.consensus.any()


def test_the_two_arrays_are_the_whole_state() -> None:
    cache = filled(2)
    read = Cache(duration=2, consensus=cache.consensus.copy(), made=cache.made.copy())
    queries = np.arange(6)
    assert read.missing(queries, 5).tolist() == cache.missing(queries, 5).tolist() == [0, 2, 3, 5]
    np.testing.assert_array_equal(read.lookup(np.array([4])), cache.lookup(np.array([4])))


def test_misuse_is_refused() -> None:
    with pytest.raises(ProtocolError, match="public input 0 must be stored"):
        filled(2).lookup(np.array([1, 0]))
    with pytest.raises(ProtocolError, match="shape"):
        filled(2).store(np.array([1]), TWO, 4)
    with pytest.raises(ProtocolError, match="duration"):
        Cache.empty(6, 2, -1)
    with pytest.raises(ProtocolError, match="arrays"):
        Cache(duration=1, consensus=np.zeros((5, 2)), made=np.zeros(6, dtype=np.int64))
