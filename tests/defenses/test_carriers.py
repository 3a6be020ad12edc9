"""Words of a ring as carrier: against whole numbers, and every upload or sum that can't be one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefd.defenses.carriers import RingAdder, RingSealer, check_sum
from securefd.defenses.masks import apply_masks
from securefd.defenses.ring import tail
from securefd.defenses.terms import Terms
from securefd.errors import ProtocolError, SealingError
from tests.defenses.masked_parties import make_graph, make_terms

BITS = {1: 6, 2: 14, 4: 30, 8: 32}
"""Of a word's width in bytes: bits of a value, so that sums of four just fit."""
KEYS = [bytes([k]) * 32 for k in range(4)]


def terms_of(width: int, noise: float = 0.0) -> Terms:
    return make_terms(make_graph(4, 3), bits=BITS[width], noise_deviation=noise)


class TestSealer:
    @pytest.mark.parametrize("width", BITS)
    def test_without_masks(self, width: int) -> None:
        """Little-endian words of the ring's width; negative values, from noise, wrap."""
        terms = terms_of(width)
        vector = np.array([0, 1, 2 ** BITS[width] - 1, -1, -5])
        sealed = RingSealer(terms=terms).seal(vector, [], [])
        expected = [(int(value) % (1 << 8 * width)).to_bytes(width, "little") for value in vector]
        assert sealed == b"".join(expected)
        assert vector.tolist() == [0, 1, 2 ** BITS[width] - 1, -1, -5]

    @pytest.mark.parametrize("width", BITS)
    def test_with_masks(self, width: int) -> None:
        vector = np.arange(20)
        words = vector.astype(f"<u{width}")
        apply_masks(words, KEYS[:1], KEYS[1:3])
        assert RingSealer(terms=terms_of(width)).seal(vector, KEYS[:1], KEYS[1:3]) == words.tobytes()

    def test_size_decides_about_the_ring_too(self) -> None:
        """Noise has a longer tail over more values: a vector is sealed in the ring for its own size."""
        terms = make_terms(make_graph(4, 3), bits=13, noise_deviation=1840.0)
        assert [terms.ring(size).bits for size in (1, 10**6)] == [16, 32]
        assert len(RingSealer(terms=terms).seal(np.zeros(1, np.int64), [], [])) == 2
        assert len(RingSealer(terms=terms).seal(np.zeros(10**6, np.int64), [], [])) == 4 * 10**6

    def test_name(self) -> None:
        assert RingSealer(terms=terms_of(2)).name == RingAdder(terms_of(2), 3).name == "ring"


class TestAdder:
    @settings(max_examples=40, deadline=None)
    @given(
        st.sampled_from(sorted(BITS)),
        st.integers(1, 50),
        st.integers(1, 4),
        st.sampled_from([0.0, 1.0, 20.0]),
        st.integers(0, 2**32 - 1),
    )
    def test_sums(self, width: int, size: int, n: int, noise: float, seed: int) -> None:
        """Of up to as many clients as were agreed on, with noise of either sign, under masks."""
        terms = terms_of(width, noise)
        rng, adder = np.random.default_rng(seed), RingAdder(terms, size)
        most = tail(noise, size)
        total = np.zeros(size, np.int64)
        for client in range(n):
            vector = rng.integers(0, 2 ** BITS[width], size)
            if client == 0 and noise:
                vector += rng.integers(-most, most + 1, size)
            total += vector
            adder.add(RingSealer(terms=terms).seal(vector, [KEYS[client]], [KEYS[(client + 1) % 4]]))
        left = ([KEYS[n % 4]], [KEYS[0]])
        opened = adder.open(*left, range(n))
        assert opened.dtype == np.int64
        assert np.array_equal(opened, total)
        assert np.array_equal(adder.open(*left, range(n)), total)  # nothing was used up

    @pytest.mark.parametrize("width", BITS)
    def test_other_lengths(self, width: int) -> None:
        adder = RingAdder(terms_of(width), 5)
        assert adder.most_bytes == 5 * width
        adder.add(RingSealer(terms=terms_of(width)).seal(np.arange(5), [], []))
        for length in {0, 1, 5 * width - 1, 5 * width + 1, 10 * width, 4 * width, 6 * width}:
            with pytest.raises(ProtocolError, match=f"5 words of {width} bytes, got {length} bytes"):
                adder.add(bytes(length))
        assert adder.open([], [], range(1)).tolist() == [0, 1, 2, 3, 4]

    def test_out_of_bounds(self) -> None:
        """Two clients of six bits: up to 126."""
        terms = terms_of(1)
        for value, fine in ((126, True), (127, False), (255, False)):
            adder = RingAdder(terms, 2)
            adder.add(bytes([0, value]))
            if fine:
                assert adder.open([], [], range(2)).tolist() == [0, value]
            else:
                with pytest.raises(SealingError, match=rf"sums must be in 0\.\.126, got 0\.\.{value}"):
                    adder.open([], [], range(2))

    def test_out_of_bounds_with_noise(self) -> None:
        """As far below zero as the noise's tail, and as far beyond the largest sum, but no further."""
        terms = terms_of(2, noise=20.0)
        most, largest = tail(20.0, 1), 4 * (2**14 - 1)
        assert terms.ring(1).bits == 32
        for value in (-most, -1, 0, largest, largest + most):
            adder = RingAdder(terms, 1)
            adder.add(RingSealer(terms=terms).seal(np.array([value]), [], []))
            assert adder.open([], [], range(4)).tolist() == [value]
        for value in (-most - 1, largest + most + 1, 2**31):
            adder = RingAdder(terms, 1)
            adder.add(RingSealer(terms=terms).seal(np.array([value]), [], []))
            with pytest.raises(SealingError, match=rf"sums must be in -{most}\.\.{largest + most}"):
                adder.open([], [], range(4))

    def test_a_missing_mask(self) -> None:
        adder = RingAdder(terms_of(4), 100)
        adder.add(RingSealer(terms=terms_of(4)).seal(np.arange(100), KEYS[:2], []))
        with pytest.raises(SealingError, match="sums must be in"):
            adder.open([], KEYS[:1], range(1))
        assert adder.open([], KEYS[:2], range(1)).tolist() == list(range(100))


@pytest.mark.parametrize("values", [[0], [5], [0, 5, 3]])
def test_sums_within_their_bounds(values: list[int]) -> None:
    check_sum(np.array(values), 0, 5)


@pytest.mark.parametrize("values", [[-1], [6], [0, 6], [-1, 3], [-1, 6]])
def test_sums_beyond_their_bounds(values: list[int]) -> None:
    with pytest.raises(SealingError, match=rf"in 0\.\.5, got {min(values)}\.\.{max(values)}: a client left"):
        check_sum(np.array(values), 0, 5)
