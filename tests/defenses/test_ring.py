"""Rings against exhaustive decoding, brute-force widths and the exact tails of the noise they are for."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ive

from securefd.defenses.ring import BITS, WRAP, Ring, narrowest, tail
from securefd.errors import SealingError


def naive_decode(word: int, bits: int, low: int) -> int:
    """The integer in [low, low + 2**bits) that equals the word modulo 2**bits."""
    return next(value for value in range(low, low + (1 << bits)) if value % (1 << bits) == word)


def skellam_tail(deviation: float, a: int) -> float:
    """P(|X| > a): pmf(k) = exp(-variance) * I_k(variance)."""
    k = np.arange(a + 1, a + 400)
    return float(2 * np.sum(ive(k, deviation**2)))


def gaussian_tail(deviation: float, a: int) -> float:
    """P(|X| > a) of the discrete Gaussian."""
    k = np.arange(1, a + 1 + math.ceil(40 * deviation) + 40)
    weights = np.exp(-(k**2) / (2 * deviation**2))
    return float(2 * np.sum(weights[a:]) / (1 + 2 * np.sum(weights)))


@pytest.mark.parametrize(("bits", "dtype"), [(8, "|u1"), (16, "<u2"), (32, "<u4"), (64, "<u8")])
def test_words(bits: int, dtype: str) -> None:
    ring = Ring(bits=bits)
    assert ring.width == ring.dtype.itemsize == bits // 8
    assert ring.dtype.str == dtype
    assert ring.span == min(2**bits, 2**63)


@pytest.mark.parametrize("low", [0, -1, -5, -127, -128, -255, -256, -1000])
def test_every_word_of_8_bits(low: int) -> None:
    found = Ring(bits=8).decode(np.arange(256, dtype=np.uint8), low=low)
    assert found.dtype == np.int64
    assert found.tolist() == [naive_decode(word, 8, low) for word in range(256)]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("low", [0, -1, -77, -(2**20), -(2**62)])
def test_the_whole_span_survives_the_ring(bits: int, low: int) -> None:
    ring = Ring(bits=bits)
    high = low + ring.span - 1
    inner = np.random.default_rng(bits).integers(low, high, 1000, endpoint=True)
    values = np.concatenate([[low, low + 1, high - 1, high], inner])
    assert np.array_equal(ring.decode(values.astype(ring.dtype), low=low), values)
    if bits < 64:
        beyond = np.array([low - 1, high + 1])
        assert ring.decode(beyond.astype(ring.dtype), low=low).tolist() == [high, low]


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_shapes_are_kept(shape: tuple[int, ...]) -> None:
    assert Ring(bits=16).decode(np.zeros(shape, dtype=np.uint16), low=-1).shape == shape


@given(
    bits=st.integers(1, 32),
    n_clients=st.integers(1, 40),
    deviation=st.floats(0, 1e6),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_with_noise_up_to_the_tail_come_back(
    bits: int, n_clients: int, deviation: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    size = 4
    a = tail(deviation, size)
    ring = narrowest(bits=bits, n_clients=n_clients, size=size, noise_deviation=deviation)
    values = rng.integers(0, 2**bits, (n_clients, size))
    values[:, :2] = [0, 2**bits - 1]
    noise = np.array([-a, a, *rng.integers(-a, a, 2, endpoint=True)])
    masks = rng.integers(0, 2**63, (n_clients, size)).astype(ring.dtype)
    masked = values.astype(ring.dtype) + masks
    masked[0] += noise.astype(ring.dtype)
    total: NDArray[np.uint64] = masked.sum(axis=0, dtype=ring.dtype) - masks.sum(axis=0, dtype=ring.dtype)
    assert np.array_equal(ring.decode(total, low=-a), values.sum(axis=0) + noise)


@pytest.mark.parametrize("bits", [1, 2, 7, 8])
@pytest.mark.parametrize("a", [0, 1, 20])
def test_no_narrower_ring_would_do(monkeypatch: pytest.MonkeyPatch, bits: int, a: int) -> None:
    monkeypatch.setattr("securefd.defenses.ring.tail", lambda deviation, size: a)
    for n_clients in range(1, 3 + 600 // 2**bits):
        sums = range(-a, n_clients * (2**bits - 1) + a + 1)
        fitting = next(width for width in (8, 16, 32) if len({x % 2**width for x in sums}) == len(sums))
        assert narrowest(bits=bits, n_clients=n_clients).bits == fitting


@pytest.mark.parametrize(
    ("bits", "n_clients", "ring"),
    [
        (1, 255, 8),
        (1, 256, 16),
        (8, 1, 8),
        (8, 2, 16),
        (8, 257, 16),
        (8, 258, 32),
        (32, 1, 32),
        (32, 2, 64),
        (32, 2**31, 64),
    ],
)
def test_edges_without_noise(bits: int, n_clients: int, ring: int) -> None:
    assert narrowest(bits=bits, n_clients=n_clients, size=10**9).bits == ring


def test_noise_widens() -> None:
    assert narrowest(bits=8, n_clients=100).bits == 16
    assert narrowest(bits=8, n_clients=100, size=1000, noise_deviation=1000).bits == 16
    assert narrowest(bits=8, n_clients=100, size=1000, noise_deviation=10_000).bits == 32
    assert narrowest(bits=8, n_clients=100, size=1000, noise_deviation=1e12).bits == 64


@pytest.mark.parametrize("size", [1, 1000, 10**7])
@pytest.mark.parametrize("deviation", [0.05, 0.5, 1.0, 3.0, 30.0, 400.0])
def test_the_exact_tail_is_within_the_bound_and_near_it(deviation: float, size: int) -> None:
    a = tail(deviation, size)
    for exact in (skellam_tail, gaussian_tail):
        assert size * exact(deviation, a) <= WRAP
    if deviation >= 30:
        for exact in (skellam_tail, gaussian_tail):
            assert size * exact(deviation, int(0.85 * a)) > WRAP


def test_skellam_needs_more_than_a_sub_gaussian_bound() -> None:
    s = math.log(2 / WRAP)
    narrow = math.ceil(math.sqrt(2 * s))
    assert gaussian_tail(1.0, narrow) <= WRAP < skellam_tail(1.0, narrow)
    assert narrow < tail(1.0, 1)


@pytest.mark.parametrize("deviation", [0.05, 0.3, 1.0, 8.0])
def test_logarithms_of_moments_are_as_the_proof_says(deviation: float) -> None:
    x = np.arange(-2000, 2001)
    weights = np.exp(-(x**2) / (2 * deviation**2))
    for t in np.linspace(-2.99, 2.99, 100):
        allowed = deviation**2 * t**2 / 2
        moment = np.sum(np.exp(t * x - x**2 / (2 * deviation**2))) / np.sum(weights)
        assert np.log(moment) <= allowed + 1e-12
        assert deviation**2 * (math.cosh(t) - 1) <= allowed / (1 - abs(t) / 3) + 1e-12


def test_tail_grows_with_deviation_and_size() -> None:
    assert tail(0.0, 10**9) == 0
    tails = [tail(deviation, 100) for deviation in (0.01, 1, 2, 50, 1e4)]
    assert all(one < next_ for one, next_ in pairwise(tails))
    assert tail(10.0, 1) < tail(10.0, 1000) < tail(10.0, 10**6)
    # deviation * sqrt(2 * 41 * ln 2) + 41 * ln 2 / 3 = 753.90... + 9.47...
    assert tail(100.0, 1) == 764


@pytest.mark.parametrize("bits", [0, 7, 24, 128, -8])
def test_other_rings_are_refused(bits: int) -> None:
    with pytest.raises(SealingError, match=f"8, 16, 32 or 64 bits, got {bits}"):
        Ring(bits=bits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0, "n_clients": 2}, "bits must be in 1..32, got 0"),
        ({"bits": 33, "n_clients": 2}, "bits must be in 1..32, got 33"),
        ({"bits": 8, "n_clients": 0}, "n_clients must be >= 1, got 0"),
        ({"bits": 8, "n_clients": 2, "size": 0}, "size must be >= 1, got 0"),
        ({"bits": 8, "n_clients": 2, "noise_deviation": -1.0}, "noise_deviation must be in"),
        ({"bits": 8, "n_clients": 2, "noise_deviation": math.nan}, "noise_deviation must be in .*got nan"),
        ({"bits": 8, "n_clients": 2, "noise_deviation": math.inf}, "noise_deviation must be in .*got inf"),
        ({"bits": 8, "n_clients": 2, "noise_deviation": 1e18}, "lower the bits or the noise"),
        ({"bits": 32, "n_clients": 2**31 + 1}, r"at most 2\*\*63 are there"),
    ],
)
def test_narrowest_refuses(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(SealingError, match=message):
        narrowest(**arguments)  # type: ignore[arg-type]


def test_decode_refuses() -> None:
    ring = Ring(bits=16)
    with pytest.raises(SealingError, match="must be uint16, got uint32"):
        ring.decode(np.zeros(3, dtype=np.uint32), low=0)
    with pytest.raises(SealingError, match="must be uint16, got int16"):
        ring.decode(np.zeros(3, dtype=np.int16), low=0)
    for low in (1, -(2**62) - 1):
        with pytest.raises(SealingError, match="low must be in"):
            ring.decode(np.zeros(3, dtype=np.uint16), low=low)
