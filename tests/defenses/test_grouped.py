"""Grouped sealing: the server sees group sums and nothing else; groups that change would show everything."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from securefd.defenses.grouped import GroupedSealing, Groups, cut, group_sizes
from securefd.defenses.identity import Identity
from securefd.defenses.neighbourhood import choose
from securefd.defenses.sealed import Attends, MaskedSealing, make_sealing
from securefd.defenses.sealing import Opened, PlainSealing, Sealing
from securefd.defenses.terms import Terms
from securefd.errors import ProtocolError, SealingError

SESSION = b"session-of-tests"
BITS = 10
GROUPS: Groups = ((1, 4, 9), (0, 2, 6), (3, 5, 7, 8))
N = 10


def everyone(stage: str, client: int) -> bool:
    return True


def masked(size: int, threshold: int | None = None, attends: Attends = everyone) -> MaskedSealing:
    identities = [Identity.generate() for _ in range(size)]
    graph = choose(n_clients=size, threshold=threshold or size, colluders=0, honest_minimum=2)
    pinned = tuple(identity.public for identity in identities)
    return MaskedSealing(identities, Terms(pinned=pinned, neighbourhood=graph, bits=BITS), attends=attends)


MAKERS: dict[str, Callable[[int], Sealing]] = {
    "plain": lambda size: PlainSealing(),
    "masked": masked,
    "homomorphic": lambda size: make_sealing("homomorphic", size, BITS),
}


def grouped(kind: str, groups: Groups = GROUPS) -> GroupedSealing:
    return GroupedSealing(groups, lambda members: MAKERS[kind](len(members)))


def make_vectors(n: int = N, size: int = 50, seed: int = 0) -> list[NDArray[np.int64]]:
    return list(np.random.default_rng(seed).integers(0, 1 << BITS, (n, size)))


# --- cutting -----------------------------------------------------------------------------------


@given(n=st.integers(1, 200), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_every_client_is_in_one_group_and_groups_are_nearly_equal(
    n: int, seed: int, data: st.DataObject
) -> None:
    n_groups = data.draw(st.integers(1, n))
    groups = cut(np.random.default_rng(seed).permutation(n), n_groups)
    assert len(groups) == n_groups
    assert sorted(client for group in groups for client in group) == list(range(n))
    sizes = [len(group) for group in groups]
    assert (min(sizes), max(sizes)) == group_sizes(n, n_groups)
    assert max(sizes) - min(sizes) <= 1
    assert all(list(group) == sorted(group) for group in groups)


def test_the_order_decides() -> None:
    order = np.array([4, 0, 3, 1, 2])
    assert cut(order, 2) == ((0, 3, 4), (1, 2))
    assert cut(order[::-1], 2) == ((1, 2, 3), (0, 4))


def test_every_client_is_as_likely_to_be_beside_any_other() -> None:
    """Pairs among 9 clients in 3 groups: 9 of 36 are together."""
    rng, together = np.random.default_rng(0), np.zeros((9, 9))
    for _ in range(4000):
        for group in cut(rng.permutation(9), 3):
            together[np.ix_(group, group)] += 1
    pairs = together[np.triu_indices(9, 1)] / 4000
    assert np.abs(pairs - 9 / 36).max() < 5 * (0.25 * 0.75 / 4000) ** 0.5


@pytest.mark.parametrize("n_groups", [0, 6])
def test_impossible_numbers_of_groups(n_groups: int) -> None:
    with pytest.raises(SealingError, match=f"groups must be 1 to the number of clients, 5, got {n_groups}"):
        cut(np.arange(5), n_groups)


@pytest.mark.parametrize("groups", [(), ((0, 1), ()), ((0, 1), (1, 2)), ((0, 1), (3,)), ((0, 1), (0, 2))])
def test_groups_that_are_none(groups: Groups) -> None:
    with pytest.raises(SealingError, match="every client must be in exactly one group, and no group empty"):
        grouped("plain", groups)


# --- rounds ------------------------------------------------------------------------------------


def check_sums(opened: Opened, vectors: list[NDArray[np.int64]], clients: list[tuple[int, ...]]) -> None:
    assert opened.groups is not None
    assert [part.clients for part in opened.groups] == clients
    for part in opened.groups:
        assert part.total.dtype == np.int64
        np.testing.assert_array_equal(part.total, sum(vectors[client] for client in part.clients))
    assert opened.clients == tuple(sorted(client for group in clients for client in group))
    np.testing.assert_array_equal(opened.total, sum(vectors[client] for client in opened.clients))
    assert opened.parts == opened.groups


@pytest.mark.parametrize("kind", MAKERS)
def test_the_server_gets_the_sum_of_each_group(kind: str) -> None:
    sealing = grouped(kind)
    for number in range(2):
        vectors = make_vectors(size=20 + number, seed=number)
        opened = sealing.run_round(SESSION, number, vectors, BITS)
        check_sums(opened, vectors, list(GROUPS))
        assert opened.individual is None


@pytest.mark.parametrize("kind", ["masked", "homomorphic"])
def test_no_single_vector_is_seen(kind: str) -> None:
    opened = grouped(kind).run_round(SESSION, 0, make_vectors(), BITS)
    assert all(len(part.clients) >= 3 for part in opened.parts)


def test_what_each_client_sent_and_received_is_its_own() -> None:
    """In a group of four a client hears of one more: it is client 3, 5, 7 and 8."""
    opened = grouped("masked").run_round(SESSION, 0, make_vectors(), BITS)
    larger = {client for client, size in enumerate(opened.down) if size > min(opened.down)}
    assert larger == {3, 5, 7, 8}
    alone = masked(4).run_round(SESSION, 0, make_vectors(4), BITS)
    assert opened.down[3] == alone.down[0]
    assert opened.up[3] == alone.up[0]
    assert len(opened.up) == len(opened.down) == N


def test_who_drops_out_is_in_no_sum() -> None:
    """By position in the group: client 5 is the second of the last one, which may lose one."""

    def gone(stage: str, client: int) -> bool:
        return (stage, client) != ("upload", 1)

    def make(members: tuple[int, ...]) -> Sealing:
        return masked(len(members), 3, gone if len(members) == 4 else everyone)

    vectors = make_vectors()
    opened = GroupedSealing(GROUPS, make).run_round(SESSION, 0, vectors, BITS)
    check_sums(opened, vectors, [(1, 4, 9), (0, 2, 6), (3, 7, 8)])


def test_a_group_that_loses_too_many_ends_the_round() -> None:
    def gone(stage: str, client: int) -> bool:
        return (stage, client) != ("upload", 1)

    def make(members: tuple[int, ...]) -> Sealing:
        return masked(len(members), None, gone if len(members) == 4 else everyone)

    with pytest.raises(ProtocolError):
        GroupedSealing(GROUPS, make).run_round(SESSION, 0, make_vectors(), BITS)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("n", [0, 9, 11])
def test_every_client_must_be_there(kind: str, n: int) -> None:
    with pytest.raises(ProtocolError, match=f"the vectors of all 10 clients, got {n}"):
        grouped(kind).run_round(SESSION, 0, make_vectors(n), BITS)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_vector_that_does_not_fit(kind: str) -> None:
    vectors = make_vectors()
    vectors[7] = vectors[7] + (1 << BITS)
    with pytest.raises(SealingError, match="must be in"):
        grouped(kind).run_round(SESSION, 0, vectors, BITS)


@pytest.mark.parametrize("kind", ["masked", "homomorphic"])
def test_a_round_is_not_played_twice(kind: str) -> None:
    sealing = grouped(kind)
    sealing.run_round(SESSION, 1, make_vectors(), BITS)
    with pytest.raises(ProtocolError, match="can't follow round 1"):
        sealing.run_round(SESSION, 1, make_vectors(), BITS)


def test_the_question_reaches_every_group() -> None:
    asked: list[bytes] = []

    class Spy(PlainSealing):
        def run_round(self, *arguments: object) -> Opened:
            asked.append(arguments[4])  # type: ignore[arg-type]
            return super().run_round(*arguments)  # type: ignore[arg-type]

    GroupedSealing(GROUPS, lambda members: Spy()).run_round(SESSION, 0, make_vectors(), BITS, b"q" * 32)
    assert asked == [b"q" * 32] * 3


# --- why groups are fixed ----------------------------------------------------------------------


def equations(groups: Groups, n: int) -> NDArray[np.float64]:
    """One row a group: whose answers are in its sum."""
    return np.array([[float(client in group) for client in range(n)] for group in groups])


def test_groups_that_change_show_every_answer() -> None:
    """Nine clients whose answers stay the same, in three new groups each round: four rounds at the least
    (1 + 2 a round makes 9) give away everything. Sums of fixed groups say in all rounds what they say in one.
    """
    n, rng = 9, np.random.default_rng(0)
    answers = rng.dirichlet(np.ones(4), n)
    rows: list[NDArray[np.float64]] = []
    while np.linalg.matrix_rank(np.concatenate([np.zeros((1, n)), *rows])) < n:
        rows.append(equations(cut(rng.permutation(n), 3), n))
    assert 4 <= len(rows) <= 8
    system = np.concatenate(rows)
    solved = np.linalg.lstsq(system, system @ answers, rcond=None)[0]
    np.testing.assert_allclose(solved, answers, atol=1e-9)

    fixed = equations(cut(rng.permutation(n), 3), n)
    assert np.linalg.matrix_rank(np.concatenate([fixed] * 100)) == 3
    # nobody's answers follow from them: no client's unit vector is a combination of their rows
    for client in range(n):
        assert np.linalg.matrix_rank(np.concatenate([fixed, np.eye(n)[[client]]])) == 4
