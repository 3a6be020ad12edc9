"""Integer noise against closed forms, naive samplers, and its own rare branches."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from random import Random

import numpy as np
import pytest
from mpmath import mp
from numpy.typing import NDArray
from scipy import special, stats

from securefd.defenses import samplers
from securefd.defenses.csprng import Stream
from securefd.defenses.inversion import MORE
from securefd.defenses.samplers import discrete_gaussian, discrete_laplace, skellam
from securefd.errors import PrivacyError

MANY = 1_000_000
LEVEL = 1e-5
"""Of each test: keys are fixed, so that a test passes always or never."""
LIMIT = float(stats.norm.isf(LEVEL / 2))
"""As many standard errors."""
Vector = NDArray[np.int64]
Floats = NDArray[np.float64]
Sampler = Callable[..., Vector]


def key(*parts: object) -> bytes:
    return repr(parts).encode().ljust(32, b".")[:32]


def gaussian_mass(variance: float, x: Vector) -> Floats:
    weights = np.exp(-(x.astype(float) ** 2) / (2 * variance))
    return np.asarray(weights / weights.sum())


def laplace_mass(scale: float, x: Vector) -> Floats:
    return math.tanh(1 / (2 * scale)) * np.exp(-np.abs(x) / scale)


def skellam_mass(variance: float, x: Vector) -> Floats:
    return np.asarray(special.ive(np.abs(x), variance))


@dataclass(frozen=True)
class Case:
    """A distribution: how it is drawn, what it should be, and how far beyond that nothing is expected."""

    sampler: Sampler
    mass: Callable[[float, Vector], Floats]
    parameter: float
    reach: float

    @cached_property
    def x(self) -> Vector:
        end = 40 + int(self.reach)
        return np.arange(-end, end + 1)

    @cached_property
    def probability(self) -> Floats:
        return self.mass(self.parameter, self.x)

    def moment(self, order: int) -> float:
        return float((self.probability * self.x.astype(float) ** order).sum())

    @cached_property
    def drawn(self) -> Vector:
        found = self.sampler(self.parameter, MANY, _key=key(self.sampler.__name__, self.parameter))
        assert found.dtype == np.int64
        assert found.shape == (MANY,)
        return found

    def __str__(self) -> str:
        return f"{self.sampler.__name__}-{self.parameter:g}"


CASES = [
    *(
        Case(discrete_gaussian, gaussian_mass, variance, 14 * math.sqrt(variance))
        for variance in (0.04, 0.25, 1.0, 1.1, 7.3, 100.0, 1e6, 1e8)
    ),
    *(Case(discrete_laplace, laplace_mass, scale, 40 * scale) for scale in (0.2, 1.0, 3.7, 1000.0)),
    *(
        Case(skellam, skellam_mass, variance, 14 * math.sqrt(variance))
        for variance in (0.1, 1.0, 7.3, 400.0, 1e6, 1e8)
    ),
]


@pytest.fixture(params=CASES, ids=str, scope="module")
def drawn(request: pytest.FixtureRequest) -> Case:
    """One after the other: what was drawn is kept while its tests run."""
    return Case(**vars(request.param))


def cells(expected: Floats, least: float) -> NDArray[np.intp]:
    """Which cell each value is put in: neighbours together until ``least`` are expected."""
    labels, held, cell = np.zeros(len(expected), dtype=np.intp), 0.0, 0
    ends = np.cumsum(expected)
    start = 0
    while start < len(expected):
        stop = min(int(np.searchsorted(ends, held + least)) + 1, len(expected))
        if ends[-1] - ends[stop - 1] < least:
            stop = len(expected)
        labels[start:stop] = cell
        start, held, cell = stop, ends[stop - 1], cell + 1
    return labels


class TestDistribution:
    """Each of the three, the same tests at 10^6 draws."""

    def test_its_probabilities_add_up(self, drawn: Case) -> None:
        """Of the test itself: what is expected is a distribution."""
        assert drawn.probability.sum() == pytest.approx(1, abs=1e-12)

    def test_chi_square(self, drawn: Case) -> None:
        assert np.abs(drawn.drawn).max() <= drawn.x[-1]
        expected = drawn.probability * MANY
        labels = cells(expected, max(25, MANY / 400))
        means = np.bincount(labels, expected)
        observed = np.bincount(labels[drawn.drawn - drawn.x[0]], minlength=len(means))
        if len(means) > 1:
            assert stats.chi2.sf(((observed - means) ** 2 / means).sum(), len(means) - 1) > LEVEL

    def test_single_probabilities(self, drawn: Case) -> None:
        """Of the ten likeliest values."""
        for index in np.argsort(-drawn.probability)[:10]:
            found = int((drawn.drawn == drawn.x[index]).sum())
            share = min(1.0, float(drawn.probability[index]))
            assert stats.binomtest(found, MANY, share).pvalue > LEVEL

    def test_kolmogorov_smirnov(self, drawn: Case) -> None:
        """Conservative for distributions with atoms."""
        below = np.cumsum(drawn.probability)
        found = np.searchsorted(np.sort(drawn.drawn), drawn.x, side="right") / MANY
        assert np.abs(found - below).max() < math.sqrt(-math.log(LEVEL / 2) / 2 / MANY)

    def test_moments(self, drawn: Case) -> None:
        draws = drawn.drawn.astype(float)
        # Of draws that are almost always 0, a mean of powers isn't near enough to normal.
        for order in (1, 2, 3) if drawn.moment(2) > 0.01 else ():
            spread = math.sqrt((drawn.moment(2 * order) - drawn.moment(order) ** 2) / MANY)
            assert abs((draws**order).mean() - drawn.moment(order)) < LIMIT * spread

    def test_tails(self, drawn: Case) -> None:
        """As many draws beyond 2, 3 and 4 deviations as there should be, on either side."""
        for deviations in (2, 3, 4):
            far = drawn.x > deviations * math.sqrt(drawn.moment(2))
            for sign in (-1, 1):
                found = int((sign * drawn.drawn > deviations * math.sqrt(drawn.moment(2))).sum())
                share = float(drawn.probability[far].sum())
                assert stats.binomtest(found, MANY, share).pvalue > LEVEL

    def test_draws_are_independent_of_those_before(self, drawn: Case) -> None:
        """Of their neighbours, and of those a part further; in value, in sign and in size."""
        for draws in (drawn.drawn, np.sign(drawn.drawn), np.abs(drawn.drawn), drawn.drawn & 1):
            centred = draws - draws.mean()
            # Of draws that are almost always the same, a mean of products isn't near enough to normal.
            for lag in (1, 2, 3, samplers._PART) if drawn.moment(2) > 0.01 else ():
                products = centred[lag:] * centred[:-lag]
                assert abs(products.mean()) < LIMIT * centred.var() / math.sqrt(MANY)

    def test_calls_are_independent(self, drawn: Case) -> None:
        """The same key gives the same draws, and no two calls without one have the same or similar ones."""
        once = drawn.sampler(drawn.parameter, 1_000, _key=key("again"))
        assert np.array_equal(once, drawn.sampler(drawn.parameter, 1_000, _key=key("again")))
        first, second = (drawn.sampler(drawn.parameter, 200_000) for _ in range(2))
        if drawn.moment(2) > 0.1:  # else all draws may well be 0
            assert not np.array_equal(first, second)
            # Keys aren't fixed here: 7 standard errors.
            assert abs((first * second).mean()) < 7 * drawn.moment(2) / math.sqrt(200_000)


# --- naive samplers ----------------------------------------------------------------------------


def naive_bernoulli_exp(gamma: Fraction, random: Random) -> bool:
    """True with probability exp(-gamma): Canonne, Kamath, Steinke 2020, Algorithm 1, word for word."""
    while gamma > 1:
        if not naive_bernoulli_exp(Fraction(1), random):
            return False
        gamma -= 1
    k = 1
    while random.randrange(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1


def naive_laplace(scale: Fraction, random: Random) -> int:
    """Canonne, Kamath, Steinke 2020, Algorithm 2, for the scale t / s, word for word."""
    t, s = scale.numerator, scale.denominator
    while True:
        u = random.randrange(t)
        if not naive_bernoulli_exp(Fraction(u, t), random):
            continue
        v = 0
        while naive_bernoulli_exp(Fraction(1), random):
            v += 1
        x, negative = (u + t * v) // s, random.randrange(2) == 1
        if not (negative and x == 0):
            return -x if negative else x


def naive_gaussian(variance: Fraction, random: Random) -> int:
    """Canonne, Kamath, Steinke 2020, Algorithm 3, word for word."""
    t = math.isqrt(math.floor(variance)) + 1
    while True:
        x = naive_laplace(Fraction(t), random)
        if naive_bernoulli_exp((abs(x) - variance / t) ** 2 / (2 * variance), random):
            return x


def naive_poisson(mean: float, random: Random) -> int:
    """Knuth 1969: how many uniform numbers can be multiplied before their product falls below exp(-mean)."""
    k, product = 0, random.random()
    while product > math.exp(-mean):
        k, product = k + 1, product * random.random()
    return k


def naive_skellam(variance: Fraction, random: Random) -> int:
    return naive_poisson(float(variance) / 2, random) - naive_poisson(float(variance) / 2, random)


@pytest.mark.parametrize(
    ("naive", "sampler", "parameter"),
    [
        (naive_gaussian, discrete_gaussian, 0.25),
        (naive_gaussian, discrete_gaussian, 7.3),
        (naive_laplace, discrete_laplace, 0.75),
        (naive_laplace, discrete_laplace, 3.7),
        (naive_skellam, skellam, 5.0),
    ],
)
def test_a_naive_sampler_draws_the_same(
    naive: Callable[[Fraction, Random], int], sampler: Sampler, parameter: float
) -> None:
    random = Random(f"naive {parameter}")
    slow = np.array([naive(Fraction(parameter), random) for _ in range(10_000)])
    fast = sampler(parameter, 200_000, _key=key("naive", parameter))
    values = np.arange(min(slow.min(), fast.min()), max(slow.max(), fast.max()) + 1)
    counts = np.array([[(each == value).sum() for value in values] for each in (slow, fast)])
    assert stats.chi2_contingency(counts[:, counts.sum(axis=0) > 100]).pvalue > LEVEL


@pytest.mark.parametrize("deviation", [2.0**20, 1e9, 2.0**31])
def test_large_deviations_keep_their_lowest_bits(deviation: float) -> None:
    for found, law in (
        (discrete_gaussian(deviation**2, MANY, _key=key(deviation)), "norm"),
        (discrete_laplace(deviation, MANY, _key=key(deviation)), "laplace"),
    ):
        assert stats.kstest(found / deviation, law).pvalue > LEVEL
        for shift in (0, 6, 12):
            counts = np.bincount((found >> shift) & 63, minlength=64)
            assert stats.chisquare(counts).pvalue > LEVEL


@pytest.mark.parametrize("sampler", [discrete_gaussian, discrete_laplace, skellam])
def test_noise_too_small_to_see_is_0(sampler: Sampler) -> None:
    for parameter in (5e-324, 1e-300, 1e-12):
        assert not sampler(parameter, 1_000).any()


# --- what exactness rests on -------------------------------------------------------------------

SHAPES = [
    *(samplers._Gaussian(variance=variance) for variance in (0.01, 0.7, 1.0, 2.0, 1e4 + 0.1, 3e17, 2.0**62)),
    *(samplers._Laplace(scale=scale) for scale in (0.01, 1.0, 3.7, 1e6 + 0.1, 2.0**31)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
class TestBlocks:
    def test_each_begins_where_the_one_before_ends(self, shape: samplers._Shape) -> None:
        """By exact arithmetic. start(k) is the least i with e(i) >= E_k; the first block is the longest."""
        blocks = samplers._Blocks.of(shape)
        assert blocks.starts[0] == 0
        assert len(blocks.starts) == samplers._BLOCKS + 1
        for k, start in enumerate(blocks.starts.tolist()):
            assert start == shape.start(k)
            assert shape.exactly(start, k) >= 0
            assert start == 0 or shape.exactly(start - 1, k) < 0
        assert np.diff(blocks.starts).max() <= blocks.starts[1]

    def test_floats_are_as_near_as_is_said(self, shape: samplers._Shape) -> None:
        """Excess within 2^-39, and exp() of it, and so a probability, far within the band."""
        blocks, random = samplers._Blocks.of(shape), np.random.default_rng(1)
        for k in range(samplers._BLOCKS):
            first, end = (int(each[0]) for each in blocks.places(np.array([k])))
            i = (
                np.unique(np.concatenate([random.integers(first, end, 5), [first, end - 1]]))
                if first < end
                else []
            )
            for place in map(int, i):
                (excess,) = shape.excess(np.array([place]), np.array([k]))
                exact = shape.exactly(place, k)
                assert abs(Fraction(float(excess)) - exact) <= Fraction(1, 2**39)
                with mp.workprec(200):
                    likely = mp.exp(-mp.mpf(exact.numerator) / exact.denominator)
                    assert abs(mp.mpf(float(np.exp(-excess))) / likely - 1) < samplers._BAND / 4

    def test_blocks_beyond_the_table(self, shape: samplers._Shape) -> None:
        blocks = samplers._Blocks.of(shape)
        far = np.array([3, 100, 10_000])
        first, end = blocks.places(far)
        assert first.tolist() == [shape.start(k) for k in far.tolist()]
        assert end.tolist() == [shape.start(k + 1) for k in far.tolist()]

    def test_weights_are_within_their_bounds(self, shape: samplers._Shape) -> None:
        for bits in (64, 128, 320):
            low, high = samplers._falling(shape)(bits)
            with mp.workprec(bits + 300):
                edges = [
                    mp.mpf(each.numerator) / each.denominator
                    for each in map(shape.edge, range(len(low) + 200))
                ]
                exact = [mp.ldexp(mp.exp(-each), bits + 16) for each in edges]
                for below, above, value in zip(low, high, exact, strict=False):
                    assert below <= value <= above <= below + 3
                assert sum(exact[len(low) :]) < mp.ldexp(sum(exact), -bits)


@pytest.mark.parametrize("variance", [1e-9, 0.3, 50.0, 1234.5])
@pytest.mark.parametrize("bits", [64, 128, 320])
def test_bessel_functions_are_within_their_bounds(variance: float, bits: int) -> None:
    low, high = samplers._bessel(variance, bits)
    with mp.workprec(bits + 200):
        first, scale = mp.besseli(0, mp.mpf(variance)), mp.exp(mp.mpf(variance))
        listed = range(len(low)) if len(low) < 100 else range(0, len(low), len(low) // 50)
        for k in listed:
            value = mp.ldexp((2 if k else 1) * mp.besseli(k, mp.mpf(variance)) / first, bits + 32)
            assert low[k] <= value <= high[k]
        # All of them are e^variance, so that little is left out, and bounds are near.
        unit = mp.ldexp(1 / first, bits + 32)
        assert sum(high) >= (1 - mp.ldexp(1, -bits)) * scale * unit
        assert sum(high) - sum(low) < mp.ldexp(scale * unit, -bits)


@pytest.mark.parametrize("variance", [1e-9, 7.3, 1e4, 1e8, samplers.LARGEST_SKELLAM**2])
def test_tables_leave_little_open(variance: float) -> None:
    assert samplers._skellam(variance).slack <= 2


def test_powers_of_e_are_within_their_bounds() -> None:
    random = Random(3)
    for bits in (63, 255, 1_000):
        for _ in range(50):
            exponent = Fraction(random.randrange(10**6), random.randrange(1, 10**6))
            with mp.workprec(2_000):
                exact = mp.ldexp(mp.exp(-mp.mpf(exponent.numerator) / exponent.denominator), bits)
                assert -1 < exact - samplers._exp(exponent, bits) < 2


class Planned(Stream):
    """Gives what it was told to."""

    def __init__(self, parts: list[int]) -> None:
        self.parts = parts

    def number(self, bits: int) -> int:
        assert bits == MORE
        return self.parts.pop(0)


class TestRareBranches:
    """One in 2^35 draws or fewer comes here; constants are bent so that all of them do."""

    @pytest.mark.parametrize(("name", "value"), [("_BAND", 1e30), ("_BLOCKS", 1)])
    @pytest.mark.parametrize("variance", [0.3, 40.0])
    def test_decisions_by_exact_arithmetic(
        self, name: str, value: float, variance: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All of them, or all but those of the first block; the distribution is the same."""
        decided: list[Fraction] = []
        real = samplers._decide

        def decide(word: int, exponent: Fraction, stream: Stream) -> bool:
            decided.append(exponent)
            return real(word, exponent, stream)

        monkeypatch.setattr(samplers, "_decide", decide)
        monkeypatch.setattr(samplers, name, value)
        blocks = samplers._Blocks.of(samplers._Gaussian(variance=variance))
        found = samplers._draw(blocks, 10_000, Stream(_key=key("exact", name)))
        assert len(decided) > 2_000
        assert min(decided) >= 0
        reach = np.arange(-60, 61)
        expected = gaussian_mass(variance, reach) * len(found)
        labels = cells(expected, 25)
        counts = np.bincount(labels[found + 60], minlength=labels[-1] + 1)
        assert (
            stats.chisquare(counts, np.bincount(labels, expected) * len(found) / expected.sum()).pvalue
            > LEVEL
        )

    def test_exact_arithmetic_agrees_with_floats(self) -> None:
        shape, words = (
            samplers._Gaussian(variance=40.0),
            Stream(_key=key("agree")).words(2_000) >> np.uint64(1),
        )
        i = np.arange(2_000) % 7
        by_floats = samplers._bernoulli(shape, i, np.zeros_like(i), words, Stream())
        exactly = [
            samplers._decide(int(word), shape.exactly(int(place), 0), Stream())
            for word, place in zip(words, i, strict=True)
        ]
        assert by_floats.tolist() == exactly

    def test_a_word_that_the_probability_is_in_is_decided_by_more_bits(self) -> None:
        """exp(-1/2) lies within one of 2^63 parts; below it yes, above it no, in it as often as it should."""
        exponent = Fraction(1, 2)
        with mp.workprec(300):
            likely = mp.ldexp(mp.exp(-mp.mpf(1) / 2), 63)
            word, share = int(mp.floor(likely)), float(likely - mp.floor(likely))
        stream = Stream(_key=key("more"))
        assert samplers._decide(word - 1, exponent, stream)
        assert not samplers._decide(word + 1, exponent, stream)
        found = sum(samplers._decide(word, exponent, stream) for _ in range(3_000))
        assert stats.binomtest(found, 3_000, share).pvalue > LEVEL
        # So do floats: they leave it open.
        i, k = np.full(3_000, 2), np.ones(3_000, dtype=np.int64)
        shape = samplers._Gaussian(variance=2.0)
        assert shape.exactly(2, 1) == exponent
        taken = samplers._bernoulli(shape, i, k, np.full(3_000, word, dtype=np.uint64), stream)
        assert stats.binomtest(int(taken.sum()), 3_000, share).pvalue > LEVEL

    @pytest.mark.parametrize(("moved", "taken"), [(-(1 << 100), True), (1 << 100, False)])
    @pytest.mark.parametrize("rounds", [2, 3])
    def test_bits_are_drawn_until_they_decide(self, rounds: int, moved: int, taken: bool) -> None:
        """u begins as exp(-1/2) does, and differs from it only among the last of its bits."""
        bits = 63 + rounds * MORE
        with mp.workprec(2_000):
            u = int(mp.floor(mp.ldexp(mp.exp(-mp.mpf(1) / 2), bits))) + moved
        stream = Planned([u >> (bits - 63 - n * MORE) & (1 << MORE) - 1 for n in range(1, rounds + 1)])
        assert samplers._decide(u >> (bits - 63), Fraction(1, 2), stream) is taken
        assert stream.parts == []

    def test_a_probability_of_1_is_taken(self) -> None:
        assert samplers._decide(2**63 - 1, Fraction(0), Stream())
        assert samplers._decide(0, Fraction(0), Stream())

    def test_what_is_rarer_than_a_word_isnt_taken_for_it(self) -> None:
        """exp(-60) is far below 2^-63: a word of 0 must not be enough."""
        shape, i, k = samplers._Gaussian(variance=1.0), np.full(2_000, 60), np.full(2_000, 59)
        assert shape.exactly(60, 59) == Fraction(119, 2)
        zeros = np.zeros(2_000, dtype=np.uint64)
        assert not samplers._bernoulli(shape, i, k, zeros, Stream(_key=key("rare"))).any()

    @pytest.mark.parametrize("scale", [0.3, 7.5])
    def test_far_blocks(self, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where a word is at the table's end, and where all that are drawn are beyond the usual blocks."""
        blocks = samplers._Blocks.of(samplers._Laplace(scale=scale))
        chosen = blocks.choice.draw(np.full(50, 2**64 - 1, dtype=np.uint64), Stream(_key=key("far")))
        # exp(-44) is about 2^-64
        assert chosen.min() >= 44
        monkeypatch.setattr(
            type(blocks.choice), "draw", lambda self, words, stream: np.arange(len(words)) % 9 + 70
        )
        far = np.abs(samplers._accepted(blocks, 3_000, Stream(_key=key("far"))))
        assert len(far) > 300
        assert far.min() == blocks.shape.start(70)
        assert far.max() == blocks.shape.start(79) - 1


@pytest.mark.parametrize("sampler", [discrete_gaussian, discrete_laplace, skellam])
class TestBadInput:
    @pytest.mark.parametrize("parameter", [0.0, -1.0, math.nan, math.inf, -math.inf, 2.0**70])
    def test_parameters(self, sampler: Sampler, parameter: float) -> None:
        with pytest.raises(
            PrivacyError, match=rf"must be > 0 and at most .*, got {re.escape(str(parameter))}; lower"
        ):
            sampler(parameter, 3)

    @pytest.mark.parametrize("size", [-1, 2.5, "3"])
    def test_sizes(self, sampler: Sampler, size: object) -> None:
        with pytest.raises(PrivacyError, match="size"):
            sampler(1.0, size)

    @pytest.mark.parametrize("size", [0, 1, 7, samplers._PART, samplers._PART + 1])
    def test_as_many_as_are_asked_for(self, sampler: Sampler, size: int) -> None:
        found = sampler(4.0, size)
        assert found.shape == (size,)
        assert found.dtype == np.int64
