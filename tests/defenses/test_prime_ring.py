import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from securefd.defenses import prime_ring
from securefd.defenses.bfv import PLAIN_MODULUS
from securefd.defenses.prime_ring import CHUNK, MOST, apply, expand
from securefd.errors import SealingError

KEYS = [bytes([number]) * 32 for number in range(6)]
OFTEN_REJECTED = (1 << 20) + 1
"""Just above a power of two: every other word is passed over."""
MODULI = (2, 3, 97, OFTEN_REJECTED, PLAIN_MODULUS, MOST)


def naive(key: bytes, size: int, modulus: int) -> list[int]:
    """Word by word, in Python's integers."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    found: list[int] = []
    while len(found) < size:
        word = int.from_bytes(stream.update(bytes(8)), "little") % 2 ** (modulus - 1).bit_length()
        if word < modulus:
            found.append(word)
    return found


def values(size: int, modulus: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, modulus, size)


class TestExpand:
    @pytest.mark.parametrize("modulus", MODULI)
    @pytest.mark.parametrize("size", [1, 2, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
    def test_against_a_naive_expansion(self, size: int, modulus: int) -> None:
        mask = expand(KEYS[1], size, modulus)
        assert mask.dtype == np.int64
        assert mask.tolist() == naive(KEYS[1], size, modulus)

    @pytest.mark.parametrize("modulus", [OFTEN_REJECTED, PLAIN_MODULUS])
    def test_chunks_change_nothing(self, modulus: int, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = expand(KEYS[2], 5000, modulus)
        for chunk in (1, 7, 1000):
            monkeypatch.setattr(prime_ring, "CHUNK", chunk)
            assert np.array_equal(expand(KEYS[2], 5000, modulus), whole)

    def test_a_longer_mask_starts_with_a_shorter_one(self) -> None:
        assert np.array_equal(
            expand(KEYS[3], 9000, OFTEN_REJECTED)[:5000], expand(KEYS[3], 5000, OFTEN_REJECTED)
        )

    def test_vectors(self) -> None:
        """AES-256 of the zero key and zero block is dc95c078a2408989ad48a21492842087 (NIST, CAVP)."""
        first, second = 0x898940A278C095DC, 0x8720849214A248AD
        cut = (1 << 49) - 1
        assert expand(bytes(32), 2, PLAIN_MODULUS).tolist() == [first & cut, second & cut]

    @pytest.mark.parametrize("modulus", [97, OFTEN_REJECTED, PLAIN_MODULUS])
    def test_uniform(self, modulus: int) -> None:
        """Keys are fixed, so this fails only if expansion changes. A tail of 1e-6 on both sides."""
        cells, size = 97, 200_000
        mask = expand(KEYS[4], size, modulus)
        counts = np.bincount((mask.astype(object) * cells // modulus).astype(int), minlength=cells)
        edges = [-(-cell * modulus // cells) for cell in range(cells + 1)]
        expected = size * np.diff(edges) / modulus
        statistic = float(((counts - expected) ** 2 / expected).sum())
        assert chi2.ppf(1e-6, cells - 1) < statistic < chi2.ppf(1 - 1e-6, cells - 1)

    def test_reduction_instead_of_rejection_would_show(self) -> None:
        """The statistic above is one that a biased mask fails."""
        words = np.random.default_rng(0).integers(0, 128, 200_000) % 97
        counts = np.bincount(words, minlength=97)
        expected = 200_000 / 97
        assert float(((counts - expected) ** 2 / expected).sum()) > chi2.ppf(1 - 1e-6, 96)


class TestApply:
    @pytest.mark.parametrize("modulus", MODULI)
    def test_against_integers(self, modulus: int) -> None:
        start = values(300, modulus)
        changed = start.copy()
        apply(changed, KEYS[:3], KEYS[3:5], modulus)
        expected = [int(value) for value in start]
        for sign, keys in ((1, KEYS[:3]), (-1, KEYS[3:5])):
            for key in keys:
                expected = [
                    (value + sign * word) % modulus
                    for value, word in zip(expected, naive(key, 300, modulus), strict=True)
                ]
        assert changed.tolist() == expected

    @pytest.mark.parametrize("modulus", MODULI)
    def test_largest_values_dont_overflow(self, modulus: int) -> None:
        for start in (0, modulus - 1):
            changed = np.full(CHUNK + 5, start, dtype=np.int64)
            apply(changed, KEYS[:2], KEYS[2:4], modulus)
            assert changed.min() >= 0
            assert changed.max() < modulus
            apply(changed, KEYS[2:4], KEYS[:2], modulus)
            assert (changed == start).all()

    @given(
        st.sampled_from(MODULI), st.integers(1, 2 * CHUNK + 3), st.integers(2, 5), st.integers(0, 2**32 - 1)
    )
    def test_pairwise_masks_cancel(self, modulus: int, size: int, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        keys = {(low, high): rng.bytes(32) for high in range(n) for low in range(high)}
        vectors = [rng.integers(0, modulus, size) for _ in range(n)]
        total = np.zeros(size, dtype=object)
        for client, vector in enumerate(vectors):
            masked = vector.copy()
            apply(
                masked,
                added=[key for (low, _), key in keys.items() if low == client],
                subtracted=[key for (_, high), key in keys.items() if high == client],
                modulus=modulus,
            )
            total = (total + masked.astype(object)) % modulus
        expected = np.sum([vector.astype(object) for vector in vectors], axis=0) % modulus
        assert total.tolist() == expected.tolist()

    def test_shapes(self) -> None:
        flat = values(600, PLAIN_MODULUS)
        shaped = flat.reshape(2, 300).copy()
        apply(flat, KEYS[:1], [], PLAIN_MODULUS)
        apply(shaped, KEYS[:1], [], PLAIN_MODULUS)
        assert np.array_equal(shaped.ravel(), flat)

    def test_without_keys(self) -> None:
        start = values(10, 97)
        changed = start.copy()
        apply(changed, [], [], 97)
        assert np.array_equal(changed, start)

    @pytest.mark.parametrize(
        "wrong",
        [
            np.array([-1]),
            np.array([97]),
            np.array([0.5]),
            np.array([1], dtype=np.uint64),
            np.array([1], dtype=np.int32),
            np.zeros(0, dtype=np.int64),
            np.zeros((4, 4), dtype=np.int64)[:, :2],
        ],
        ids=repr,
    )
    def test_refused_values(self, wrong: NDArray[np.int64]) -> None:
        before = wrong.copy()
        with pytest.raises(SealingError, match="values to mask"):
            apply(wrong, KEYS[:1], [], 97)
        assert np.array_equal(wrong, before)

    @pytest.mark.parametrize("modulus", [-1, 0, 1, MOST + 1])
    def test_refused_moduli(self, modulus: int) -> None:
        with pytest.raises(SealingError, match="a modulus must be"):
            expand(KEYS[0], 3, modulus)

    @pytest.mark.parametrize("length", [0, 16, 31, 33])
    def test_refused_keys(self, length: int) -> None:
        changed = values(3, 97)
        before = changed.copy()
        with pytest.raises(SealingError, match="32 bytes"):
            apply(changed, [KEYS[0]], [bytes(length)], 97)
        assert np.array_equal(changed, before)
