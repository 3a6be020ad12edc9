"""Integer noise against closed forms, a naive sampler, and its own rare branches."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from random import Random

import numpy as np
import pytest
from mpmath import mp
from numpy.typing import NDArray
from scipy import stats

from securefd.defenses import samplers
from securefd.defenses.csprng import Stream
from securefd.defenses.samplers import _Table, discrete_gaussian, discrete_laplace, skellam
from securefd.errors import PrivacyError

MANY = 1_000_000
LEVEL = 1e-5
"""Of each test: keys are fixed, so that a test passes always or never."""
Sampler = Callable[..., NDArray[np.int64]]


def key(*parts: object) -> bytes:
    return repr(parts).encode().ljust(32, b".")[:32]


def normalised(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return weights / weights.sum()


def gaussian_mass(variance: float, x: NDArray[np.int64]) -> NDArray[np.float64]:
    reach = np.arange(-(40 + int(40 * math.sqrt(variance))), 41 + int(40 * math.sqrt(variance)))
    return np.exp(-(x**2) / (2 * variance)) / np.exp(-(reach**2) / (2 * variance)).sum()


def laplace_mass(scale: float, x: NDArray[np.int64]) -> NDArray[np.float64]:
    return math.tanh(1 / (2 * scale)) * np.exp(-np.abs(x) / scale)


def skellam_mass(variance: float, x: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(stats.skellam.pmf(x, variance / 2, variance / 2))


CASES = [
    *((discrete_gaussian, gaussian_mass, variance) for variance in (0.04, 0.25, 1.0, 7.3, 100.0, 1e6)),
    *((discrete_laplace, laplace_mass, scale) for scale in (0.2, 1.0, 3.7, 1000.0)),
    *((skellam, skellam_mass, variance) for variance in (0.1, 1.0, 7.3, 400.0, 1e6)),
]
IDS = [f"{sampler.__name__}-{parameter:g}" for sampler, _, parameter in CASES]


@lru_cache(maxsize=1)
def drawn_once(sampler: Sampler, parameter: float) -> NDArray[np.int64]:
    return sampler(parameter, MANY, _key=key(sampler.__name__, parameter))


@pytest.mark.parametrize(("sampler", "mass", "parameter"), CASES, ids=IDS)
class TestDistribution:
    def draw(self, sampler: Sampler, parameter: float) -> NDArray[np.int64]:
        drawn = drawn_once(sampler, parameter)
        assert drawn.dtype == np.int64
        assert drawn.shape == (MANY,)
        return drawn

    def test_chi_square_tails_and_moments(
        self, sampler: Sampler, mass: Callable[..., NDArray[np.float64]], parameter: float
    ) -> None:
        """Cells of at least 20 expected draws in the middle, and everything beyond them as two more."""
        drawn = self.draw(sampler, parameter)
        reach = int(60 * max(1.0, drawn.std()))
        x = np.arange(-reach, reach + 1)
        probability = mass(parameter, x)
        width = max(1, int(drawn.std() / 25))
        edges = np.arange(-reach, reach + width, width) if width > 1 else x
        cells = np.searchsorted(edges, x, side="right") - 1
        expected = np.bincount(cells, probability, len(edges)) * MANY
        observed = np.bincount(np.searchsorted(edges, drawn, side="right") - 1, minlength=len(edges))
        inner = np.flatnonzero(expected >= 20)
        low, high = inner[0], inner[-1] + 1
        counts = np.array([observed[:low].sum(), *observed[low:high], observed[high:].sum()], float)
        means = np.array([expected[:low].sum(), *expected[low:high], expected[high:].sum()])
        kept = means > 1e-9
        assert counts[~kept].sum() == 0
        statistic = ((counts[kept] - means[kept]) ** 2 / np.maximum(means[kept], 1.0)).sum()
        assert statistic < stats.chi2.ppf(1 - LEVEL, kept.sum())
        variance = float((probability * x.astype(float) ** 2).sum())
        fourth = float((probability * x.astype(float) ** 4).sum())
        assert abs(drawn.mean()) < 4.5 * math.sqrt(variance / MANY)
        assert abs((drawn.astype(float) ** 2).mean() - variance) < 4.5 * math.sqrt(
            (fourth - variance**2) / MANY
        )

    def test_kolmogorov_smirnov(
        self, sampler: Sampler, mass: Callable[..., NDArray[np.float64]], parameter: float
    ) -> None:
        """Conservative for distributions with atoms."""
        drawn = self.draw(sampler, parameter)
        reach = int(60 * max(1.0, drawn.std()))
        x = np.arange(-reach, reach + 1)
        below = np.cumsum(mass(parameter, x))
        found = np.searchsorted(np.sort(drawn), x, side="right") / MANY
        assert np.abs(found - below).max() < math.sqrt(-math.log(LEVEL / 2) / 2 / MANY)

    def test_draws_are_independent(
        self, sampler: Sampler, mass: Callable[..., NDArray[np.float64]], parameter: float
    ) -> None:
        """Of their neighbours, of those a part further, and of other calls."""
        drawn = self.draw(sampler, parameter).astype(float)
        if drawn.std() == 0:
            pytest.skip("no draw of these differs from 0")
        scaled = (drawn - drawn.mean()) / drawn.std()
        for lag in (1, 2, 3, 65_536):
            assert abs((scaled[lag:] * scaled[:-lag]).mean()) < 4.5 / math.sqrt(MANY)
        first, second = (sampler(parameter, MANY) for _ in range(2))
        assert not np.array_equal(first, second)


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


def naive_gaussian(variance: Fraction, random: Random) -> int:
    """Canonne, Kamath, Steinke 2020, Algorithms 2 and 3, word for word."""
    t = math.isqrt(math.floor(variance)) + 1
    while True:
        u = random.randrange(t)
        if not naive_bernoulli_exp(Fraction(u, t), random):
            continue
        v = 0
        while naive_bernoulli_exp(Fraction(1), random):
            v += 1
        x, negative = u + t * v, random.randrange(2) == 1
        if negative and x == 0:
            continue
        if naive_bernoulli_exp((x - variance / t) ** 2 / (2 * variance), random):
            return -x if negative else x


@pytest.mark.parametrize("variance", [0.25, 7.3])
def test_a_naive_sampler_draws_the_same(variance: float) -> None:
    random = Random(f"naive {variance}")
    naive = np.array([naive_gaussian(Fraction(variance), random) for _ in range(20_000)])
    ours = discrete_gaussian(variance, 200_000, _key=key("naive", variance))
    values = np.arange(min(naive.min(), ours.min()), max(naive.max(), ours.max()) + 1)
    table = np.array([[(each == value).sum() for value in values] for each in (naive, ours)])
    assert stats.chi2_contingency(table[:, table.sum(axis=0) > 20]).pvalue > LEVEL


@pytest.mark.parametrize("deviation", [2.0**20, 2.0**31])
def test_large_deviations_keep_their_lowest_bits(deviation: float) -> None:
    drawn = discrete_gaussian(deviation**2, MANY, _key=key(deviation))
    assert drawn.std() == pytest.approx(deviation, rel=5e-3)
    assert stats.kstest(drawn / deviation, "norm").pvalue > LEVEL
    assert stats.chisquare(np.bincount(drawn & 63, minlength=64)).pvalue > LEVEL


class TestRareBranches:
    """One in 2^40 draws or fewer comes here; bands and words are bent so that all of them do."""

    @pytest.mark.parametrize("variance", [0.3, 40.0])
    def test_every_decision_by_exact_arithmetic(
        self, variance: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quick = discrete_gaussian(variance, 2000, _key=key("exact"))
        exact = samplers._gaussian_blocks(variance).exactly
        decided: list[Fraction] = []
        monkeypatch.setattr(samplers, "_BAND", 1e30)
        monkeypatch.setattr(
            samplers, "_exp", lambda e, bits, real=samplers._exp: decided.append(e) or real(e, bits)
        )
        slow = discrete_gaussian(variance, 2000, _key=key("exact"))
        assert len(decided) >= 2000
        assert min(decided) >= 0
        assert exact(3, 1) == Fraction(9) / (2 * Fraction(variance)) - Fraction(1, 2)
        # The same words give the same first part, until more random bits were drawn.
        tries = min(_first_part(quick), _first_part(slow))
        assert tries > 500
        assert np.array_equal(quick[:tries], slow[:tries])

    @pytest.mark.parametrize("step", [-1, 0, 1])
    def test_a_word_next_to_an_entry(self, step: int) -> None:
        """Below it the answer is one, above it the other, and on it both come, by 192 bits more."""
        table = _Table.of([3, 5, 7, 2])
        word = (int(table.coarse[1]) + step) % 2**64
        found = table.look_up(np.full(400, word, dtype=np.uint64), Stream(_key=key("next")))
        share = (table.fine[1] & (2**192 - 1)) / 2**192
        if step:
            assert set(found.tolist()) == {1 if step < 0 else 2}
        else:
            assert set(found.tolist()) == {1, 2}
            assert stats.binomtest(int((found == 1).sum()), 400, share).pvalue > LEVEL

    def test_the_last_entry_catches_all(self) -> None:
        table = _Table.of([1, 1])
        assert table.look_up(np.array([2**64 - 1, 0], dtype=np.uint64), Stream()).tolist() == [1, 0]

    def test_few_places_favour_none(self) -> None:
        words = np.array([0, 5, 2**64 - 1, 2**64 - 2], dtype=np.uint64)
        places, kept = samplers._below(3, words)
        assert kept.tolist() == [True, True, False, True]
        assert places[kept].tolist() == [0, 2, 2]
        assert samplers._below(1, words)[1].all()
        assert samplers._below(4, words)[0].tolist() == [0, 1, 3, 2]


def _first_part(drawn: NDArray[np.int64]) -> int:
    return len(drawn) // 3


@pytest.mark.parametrize("variance", [0.01, 0.7, 1.0, 2.0, 1e4 + 0.1, 3e17])
def test_blocks_end_where_the_next_begins(variance: float) -> None:
    """By exact arithmetic: i is in block k if and only if k^2 <= i^2 / variance < (k + 1)^2."""
    blocks, exact = samplers._gaussian_blocks(variance), Fraction(variance)
    assert blocks.starts[0] == 0
    assert (blocks.starts[1:] == blocks.ends[:-1]).all()
    for k, start in enumerate(blocks.starts[1:].tolist(), start=1):
        assert (start - 1) ** 2 < k * k * exact <= start**2
    assert blocks.longest >= (blocks.ends - blocks.starts).max()


@pytest.mark.parametrize("variance", [0.3, 50.0])
def test_a_skellam_table_is_what_bessel_functions_give(variance: float) -> None:
    table = samplers._skellam_table(variance)
    with mp.workdps(80):
        total = mp.mpf(0)
        for k in range(min(len(table.fine), 60)):
            total += (1 if k == 0 else 2) * mp.exp(-mp.mpf(variance)) * mp.besseli(k, mp.mpf(variance))
            assert abs(mp.mpf(table.fine[k]) / 2**256 - total) < mp.mpf(2) ** -190


@pytest.mark.parametrize("sampler", [discrete_gaussian, discrete_laplace, skellam])
class TestBadInput:
    @pytest.mark.parametrize("parameter", [0.0, -1.0, math.nan, math.inf, 2.0**70])
    def test_parameters(self, sampler: Sampler, parameter: float) -> None:
        with pytest.raises(PrivacyError, match="must be > 0"):
            sampler(parameter, 3)

    @pytest.mark.parametrize("size", [-1, 2.5, "3"])
    def test_sizes(self, sampler: Sampler, size: object) -> None:
        with pytest.raises(PrivacyError, match="size"):
            sampler(1.0, size)

    def test_nothing(self, sampler: Sampler) -> None:
        assert sampler(1.0, 0).shape == (0,)
