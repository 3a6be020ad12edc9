"""Inversion against fractions, near the entries of its table, and beyond its end."""

from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate
from random import Random

import numpy as np
import pytest
from scipy import stats

from securefd.defenses.csprng import Stream
from securefd.defenses.inversion import MORE, Inversion, Weights, _cumulated

LEVEL = 1e-5


def key(*parts: object) -> bytes:
    return repr(parts).encode().ljust(32, b".")[:32]


def known(*weights: int) -> Weights:
    """Weights without doubt."""
    return lambda bits: (list(weights), list(weights))


def halving(bits: int) -> tuple[list[int], list[int]]:
    """1/2, 1/4, 1/8, ...: without end, and listed as far as is asked for."""
    weights = [1 << (bits - k) for k in range(bits + 1)]
    return weights, weights


def doubtful(until: int) -> Weights:
    """1/2, 1/4, 1/4, of which little is known before ``until`` bits are asked for."""

    def weights(bits: int) -> tuple[list[int], list[int]]:
        doubt = 1 if bits > until else 1 << (bits // 8)
        return (
            [(2 << bits) - doubt, (1 << bits) - doubt, (1 << bits) - doubt],
            [(2 << bits) + doubt, (1 << bits) + doubt, (1 << bits) + doubt],
        )

    return weights


@pytest.mark.parametrize("bits", [8, 128, 300])
def test_bounds_hold_the_probabilities(bits: int) -> None:
    random = Random(bits)
    for _ in range(50):
        weights = [random.randrange(1, 1000) for _ in range(random.randrange(1, 12))]
        low, high = _cumulated(known(*weights), bits)
        for below, above, sum_ in zip(low, high, accumulate(weights), strict=True):
            exact = Fraction(sum_ << bits, sum(weights))
            assert below <= exact <= above <= below + 3
        assert high[-1] == 1 << bits


def test_bounds_hold_whatever_isnt_known() -> None:
    """Every choice among the bounds of weights, and of what isn't listed, has sums within the result's."""
    random, bits = Random(1), 10
    smallest = [random.randrange(1, 50) for _ in range(6)]
    largest = [each + random.randrange(20) for each in smallest]
    low, high = _cumulated(lambda _: (smallest, largest), bits)
    for turn in range(500):
        weights = [random.choice(pair) for pair in zip(smallest, largest, strict=True)]
        rest = Fraction(sum(weights), 2**bits - 1) * (turn % 2)
        for below, above, sum_ in zip(low, high, accumulate(weights), strict=True):
            assert below <= Fraction(sum_ << bits) / (sum(weights) + rest) <= above


def test_draws_are_those_of_fractions() -> None:
    random = Random(2)
    for turn in range(40):
        weights = [random.randrange(1, 10**6) for _ in range(random.randrange(1, 300))]
        ends = [Fraction(sum_, sum(weights)) for sum_ in accumulate(weights)]
        words = Stream(_key=key("fractions", turn)).words(200)
        drawn = Inversion.of(known(*weights)).draw(words, Stream())
        assert drawn.tolist() == [bisect_right(ends, Fraction(int(word), 2**64)) for word in words]


@pytest.mark.parametrize("distance", [-1, 0, 1, 2])
def test_a_word_next_to_an_entry(distance: int) -> None:
    """Below the boundary the draw is 1, above it 2, and where it is in the word both come, rightly often."""
    weights = (3, 5, 7, 2)
    table = Inversion.of(known(*weights))
    boundary = Fraction(8 << 64, sum(weights))
    word = int(boundary) + distance
    drawn = table.draw(np.full(2_000, word, dtype=np.uint64), Stream(_key=key("next")))
    if distance:
        assert set(drawn.tolist()) == {1 if distance < 0 else 2}
    else:
        share = float(boundary - int(boundary))
        assert 0.05 < share < 0.95
        assert stats.binomtest(int((drawn == 1).sum()), 2_000, share).pvalue > LEVEL


class Planned(Stream):
    """Gives what it was told to."""

    def __init__(self, parts: list[int]) -> None:
        self.parts = parts

    def number(self, bits: int) -> int:
        assert bits == MORE
        return self.parts.pop(0)


@pytest.mark.parametrize(("moved", "drawn"), [(-(1 << 100), 1), (1 << 100, 2)])
@pytest.mark.parametrize("rounds", [2, 3])
def test_bits_are_drawn_until_they_decide(rounds: int, moved: int, drawn: int) -> None:
    """u begins as a boundary does, and differs from it only among the last of its bits."""
    weights, bits = (3, 5, 7, 2), 64 + rounds * MORE
    u = (8 << bits) // sum(weights) + moved
    stream = Planned([u >> (bits - 64 - n * MORE) & (1 << MORE) - 1 for n in range(1, rounds + 1)])
    word = np.array([u >> (bits - 64)], dtype=np.uint64)
    assert Inversion.of(known(*weights)).draw(word, stream).tolist() == [drawn]
    assert stream.parts == []


def test_nothing_is_cut_off() -> None:
    """All of 64 bits are 1: at least 64 halvings, and as many more as in any draw."""
    table = Inversion.of(halving)
    assert len(table.coarse) <= 65
    drawn = table.draw(np.full(1_000, 2**64 - 1, dtype=np.uint64), Stream(_key=key("end"))) - 64
    assert drawn.min() == 0
    assert drawn.max() > 5
    counts = np.bincount(np.minimum(drawn, 5), minlength=6)
    assert stats.chisquare(counts, 1_000 / 2.0 ** np.array([1, 2, 3, 4, 5, 5])).pvalue > LEVEL


def test_one_outcome_takes_all() -> None:
    words = np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64)
    assert Inversion.of(known(5)).draw(words, Stream()).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("until", [0, 256, 1_000])
def test_what_little_is_known_is_enough_in_the_end(until: int) -> None:
    asked: list[int] = []

    def weights(bits: int) -> tuple[list[int], list[int]]:
        asked.append(bits)
        return doubtful(until)(bits)

    table = Inversion.of(weights)
    drawn = table.draw(Stream(_key=key("doubt")).words(4_000), Stream())
    assert stats.chisquare(np.bincount(drawn, minlength=3), [2_000, 1_000, 1_000]).pvalue > LEVEL
    # Half is 1 followed by zeros; only the bits after those decide.
    drawn = table.draw(np.full(500, 2**63, dtype=np.uint64), Stream(_key=key("doubt", 2)))
    assert set(drawn.tolist()) == {1}
    assert max(asked) > 128
    assert set(asked) <= {128, *range(256, max(asked) + 1, 192)}


def test_a_wide_doubt_is_decided_by_more_bits() -> None:
    """Bounds that tell nothing at 128 bits leave every word to be decided."""

    def weights(bits: int) -> tuple[list[int], list[int]]:
        return ([1, 1], [1000, 1000]) if bits <= 128 else ([1, 3], [1, 3])

    table = Inversion.of(weights)
    drawn = table.draw(Stream(_key=key("wide")).words(4_000), Stream())
    assert stats.binomtest(int((drawn == 0).sum()), 4_000, 0.25).pvalue > LEVEL
