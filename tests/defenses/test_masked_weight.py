"""What a round is said to weigh, against the bytes of rounds that were played."""

from collections.abc import Sequence

import numpy as np
import pytest

from securefd.defenses.masked_weight import masked_weight
from securefd.defenses.neighbourhood import Neighbourhood, choose
from securefd.defenses.terms import Terms
from tests.defenses.masked_parties import SESSION, Federation, make_graph, make_terms

LONG_SESSION = bytes(64)


def played(terms: Terms, *, session: bytes, number: int, size: int) -> tuple[list[int], list[int]]:
    """Bytes that each client sent and received in a round with everyone."""
    f = Federation(terms, session=session, number=number, size=size)
    f.finish()
    up = [sum(len(sent[k]) for sent in f.sent.values()) for k in f.everyone]
    down = [sum(len(given[k]) for given in f.given.values() if given) for k in f.everyone]
    return up, down


def said(terms: Terms, *, session: bytes, number: int, size: int) -> tuple[int, int]:
    return masked_weight(terms, session=session, round=number, values=size * terms.ring(size).width)


def graphs(n: int) -> Sequence[Neighbourhood]:
    """Complete ones: with and without dropouts allowed."""
    return [choose(n_clients=n, threshold=t, colluders=0, honest_minimum=2) for t in {n, n // 2 + 1}]


@pytest.mark.parametrize("n", range(3, 11))
@pytest.mark.parametrize("number", [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1])
def test_exact_in_a_complete_graph(n: int, number: int) -> None:
    for graph in graphs(n):
        for size in (1, 6, 40):
            terms = make_terms(graph)
            up, down = played(terms, session=SESSION, number=number, size=size)
            assert said(terms, session=SESSION, number=number, size=size) == (max(up), max(down))


@pytest.mark.parametrize("size", [1, 100, 125, 127, 128, 20_000, 32_700, 33_000, 70_000])
@pytest.mark.parametrize("bits", [1, 6, 14, 30, 32])
def test_exact_for_every_size(size: int, bits: int) -> None:
    """Over all widths at which lengths are written: of 1, 2 and 4 bytes."""
    terms = make_terms(make_graph(4, 3), bits=bits)
    up, down = played(terms, session=LONG_SESSION, number=7, size=size)
    assert said(terms, session=LONG_SESSION, number=7, size=size) == (max(up), max(down))


@pytest.mark.parametrize("length", [16, 17, 31, 32, 33, 64])
def test_exact_for_every_session(length: int) -> None:
    terms = make_terms(make_graph(3, 2))
    up, down = played(terms, session=bytes(length), number=0, size=3)
    assert said(terms, session=bytes(length), number=0, size=3) == (max(up), max(down))


def test_noise_widens_the_ring() -> None:
    terms = make_terms(make_graph(4, 3), bits=14, noise_deviation=100.0)
    assert terms.ring(6).width == 4
    up, down = played(terms, session=SESSION, number=0, size=6)
    assert said(terms, session=SESSION, number=0, size=6) == (max(up), max(down))


def test_on_average_in_a_random_graph() -> None:
    """Over many rounds, the mean client sends and receives about what is said, for it stands for the mean."""
    terms = make_terms(make_graph(9, 6, degree=4, share_threshold=2))
    f, ups, downs = None, [], []
    for number in range(60):
        f = Federation(terms, number=number, before=f)
        f.finish()
        ups += [sum(len(sent[k]) for sent in f.sent.values()) for k in f.everyone]
        downs += [sum(len(given[k]) for given in f.given.values() if given) for k in f.everyone]
    for weights, expected in zip((ups, downs), said(terms, session=SESSION, number=30, size=6), strict=True):
        assert abs(np.mean(weights) / expected - 1) < 0.002
