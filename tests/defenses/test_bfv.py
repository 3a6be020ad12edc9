from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import tenseal
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tenseal import sealapi

from securefd.defenses import bfv
from securefd.defenses.bfv import (
    CIPHERTEXT_PRIMES,
    FIELD_BITS,
    FIELDS,
    FRESH_NOISE,
    MAX_CLIENTS,
    PARAMETERS,
    PART_BYTES,
    PER_PART,
    PLAIN_MODULUS,
    SLOTS,
    SPECIAL_PRIME,
    CiphertextSum,
    PublicKey,
    SecretKey,
    n_parts,
    pack,
    read_parts,
    unpack,
    value_bits,
    write_words,
)
from securefd.errors import MessageError, SealingError

Q = CIPHERTEXT_PRIMES[0] * CIPHERTEXT_PRIMES[1]
T = PLAIN_MODULUS
LIMIT = Fraction(Q, 2 * T)
"""Decryption is right while noise is below it."""
Integers = NDArray[np.object_]
"""Python's, so that nothing overflows."""
ALL_ONES = np.ones(PER_PART, dtype=np.int64)
LARGEST = ALL_ONES * ((1 << value_bits(MAX_CLIENTS)) - 1)


def centred(values: Integers, modulus: int) -> Integers:
    """Residues as integers in (-modulus / 2, modulus / 2]."""
    reduced = values % modulus
    return np.asarray(np.where(reduced > modulus // 2, reduced - modulus, reduced))


def times(polynomial: Integers, ternary: NDArray[np.int64], moduli: tuple[int, ...]) -> Integers:
    """The product modulo x**SLOTS + 1 and the product of ``moduli``, each of at most 37 bits."""
    residues = []
    for modulus in moduli:
        full = np.convolve((polynomial % modulus).astype(np.int64), ternary)
        low = full[:SLOTS].copy()
        low[: full.size - SLOTS] -= full[SLOTS:]
        residues.append(low.astype(object) % modulus)
    return compose(residues, moduli)


def compose(residues: list[Integers], moduli: tuple[int, ...]) -> Integers:
    """The Chinese remainder theorem."""
    whole = int(np.prod(np.array(moduli, dtype=object)))
    total = np.zeros(SLOTS, dtype=object)
    for residue, modulus in zip(residues, moduli, strict=True):
        rest = whole // modulus
        total += residue.astype(object) * (rest * pow(rest, -1, modulus))
    return total % whole


class Laboratory:
    """A key, its secret polynomial, and ciphertexts made by hand with it."""

    def __init__(self) -> None:
        self.key = SecretKey.generate()
        self.public = PublicKey.load(self.key.public)
        self.seal = self.key.context.seal_context().data
        self.decryptor = sealapi.Decryptor(self.seal, self.key.context.secret_key().data)
        self.secret = self._secret()

    def _secret(self) -> NDArray[np.int64]:
        """What one opening of a crafted ciphertext discloses: q / t times the key, and no noise.

        Why a server that doesn't follow the protocol is outside what homomorphic sums promise.
        """
        x = np.zeros(SLOTS, dtype=object)
        x[0] = Q // T
        plain = self.coefficients(self.words(np.zeros(SLOTS, dtype=object), x))
        return centred(plain, T).astype(np.int64)

    def words(self, c0: Integers, c1: Integers) -> NDArray[np.uint64]:
        """Two polynomials modulo q, as bfv holds them."""
        return np.array(
            [[(c % prime).astype(np.uint64) for prime in CIPHERTEXT_PRIMES] for c in (c0, c1)],
            dtype=np.uint64,
        )

    def loaded(self, words: NDArray[np.uint64]) -> object:
        vector = tenseal.bfv_vector_from(self.key.context, self.key._header + words.tobytes())
        return vector.ciphertext()[0]

    def coefficients(self, words: NDArray[np.uint64]) -> Integers:
        """The plaintext polynomial that SEAL decrypts ``words`` to, before slots are formed of it."""
        plain = sealapi.Plaintext()
        self.decryptor.decrypt(self.loaded(words), plain)
        found = [plain[index] for index in range(plain.coeff_count())]
        return np.array(found + [0] * (SLOTS - len(found)), dtype=object)

    def encoded(self, slots: NDArray[np.int64]) -> Integers:
        """The plaintext polynomial of one part's ``slots``."""
        plain = sealapi.Plaintext()
        sealapi.BatchEncoder(self.seal).encode(slots.tolist(), plain)
        return np.array([plain[index] for index in range(SLOTS)], dtype=object)

    def phase(self, words: NDArray[np.uint64]) -> Integers:
        """c0 + c1 s modulo q."""
        c0, c1 = (
            compose([residue.astype(object) for residue in polynomial], CIPHERTEXT_PRIMES)
            for polynomial in words
        )
        return np.asarray((c0 + times(c1, self.secret, CIPHERTEXT_PRIMES)) % Q)

    def noise(self, words: NDArray[np.uint64]) -> Integers:
        """t times v, exact; v is what ``words`` hold beside q / t times the plaintext."""
        return centred(T * self.phase(words), Q)

    def with_noise(self, plain: Integers, noise: Integers) -> NDArray[np.uint64]:
        """A ciphertext whose noise is as given, up to 1/2 + 1 / (2 t) of rounding."""
        rng = np.random.default_rng(0)
        c1 = compose(
            [rng.integers(0, prime, SLOTS).astype(object) for prime in CIPHERTEXT_PRIMES], CIPHERTEXT_PRIMES
        )
        scaled = (Q * plain + (T + 1) // 2) // T
        return self.words(scaled + noise - times(c1, self.secret, CIPHERTEXT_PRIMES), c1)


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    return Laboratory()


def sum_of(ciphertext: bytes, count: int) -> bytes:
    """One ciphertext added to itself: its noise adds up without cancelling, as in no sum of fresh ones."""
    total = CiphertextSum(PER_PART)
    for _ in range(count):
        total.add(ciphertext)
    return total.total()


class TestWorstCase:
    """The proof in the module's docstring, step by step, held to what SEAL does."""

    def test_parameters_are_what_tenseal_chose(self, laboratory: Laboratory) -> None:
        """SEAL names parameters by a hash over the primes themselves."""
        assert tuple(laboratory.seal.key_parms_id()) == PARAMETERS
        primes = [modulus.value() for modulus in laboratory.seal.key_context_data().parms().coeff_modulus()]
        assert tuple(primes) == (*CIPHERTEXT_PRIMES, SPECIAL_PRIME)
        assert laboratory.seal.key_context_data().parms().plain_modulus().value() == PLAIN_MODULUS

    def test_plain_modulus(self) -> None:
        """The largest prime below 2**49 that slots allow."""
        candidates = (n for n in range(2**49 - (2**49 - 1) % (2 * SLOTS), 0, -2 * SLOTS))
        assert next(n for n in candidates if all(pow(base, n - 1, n) == 1 for base in (2, 3, 5, 7))) == T
        assert 1 << FIELDS * FIELD_BITS < T < 1 << 49

    def test_the_standards_limit(self) -> None:
        """109 bits at degree 4096; SEAL refuses more."""
        assert (
            (Q * SPECIAL_PRIME).bit_length()
            == 109
            == sealapi.CoeffModulus.MaxBitCount(SLOTS, sealapi.SEC_LEVEL_TYPE.TC128)
        )

    def test_bound(self) -> None:
        errors = Fraction(21 + 2 * 21 * SLOTS, SPECIAL_PRIME)
        fresh = errors + Fraction(1 + SLOTS, 2) + Fraction(1, 2) + Fraction(1, 2 * T)
        assert FRESH_NOISE - 2 < fresh < FRESH_NOISE
        smallest_gamma = 1 << 60
        assert LIMIT * (1 - Fraction(6, smallest_gamma)) > MAX_CLIENTS * FRESH_NOISE
        assert 2045 * FRESH_NOISE < LIMIT < 2046 * FRESH_NOISE

    def test_the_secret_is_ternary(self, laboratory: Laboratory) -> None:
        """Step 1; and that the laboratory has found it: another one would leave huge noise."""
        assert set(laboratory.secret.tolist()) == {-1, 0, 1}
        (words,) = read_parts(laboratory.public.encrypt(pack(ALL_ONES)), 1)
        assert abs(laboratory.noise(words)).max() < Q // 1000

    def test_the_bound_on_fresh_noise_is_reached(self) -> None:
        """Steps 1 to 4 in plain integers, with the worst that the random choices can be.

        s is all ones in absolute value, errors are 21, and residues modulo p are half of it, with the signs
        that add up in one coefficient.
        """
        moduli = (*CIPHERTEXT_PRIMES, SPECIAL_PRIME)
        p, half = SPECIAL_PRIME, SPECIAL_PRIME // 2
        rng = np.random.default_rng(0)
        secret = rng.choice([-1, 1], SLOTS)
        # With u = 1, c1 is a + e1. Coefficient n - 1 of r1 s is the sum of r1[i] s[n - 1 - i].
        e = e0 = e1 = np.full(SLOTS, 21, dtype=object)
        wanted = np.where(secret[::-1] > 0, half, -half).astype(object)
        c1 = wanted + p * rng.integers(0, 1 << 62, SLOTS).astype(object)
        b = -(times(c1 - e1, secret, moduli) + e)
        divided = [(c - centred(c, p)) // p for c in ((b + e0) % (Q * p), c1 % (Q * p))]
        noise = centred(divided[0] + times(divided[1], secret, CIPHERTEXT_PRIMES), Q)
        assert FRESH_NOISE - 4 < abs(noise[-1]) == abs(noise).max() <= FRESH_NOISE

    @pytest.mark.parametrize(
        "slots",
        [
            np.zeros((1, SLOTS), dtype=np.int64),
            pack(ALL_ONES),
            pack(LARGEST),
            pack(np.full(PER_PART, (1 << FIELD_BITS) - 1)),
            np.full((1, SLOTS), T - 1),
            np.arange(SLOTS)[None] * (T // SLOTS),
            np.where(np.arange(SLOTS) % 2, T - 1, 0)[None],
        ],
        ids=["zeros", "ones", "largest", "full fields", "largest slots", "ramp", "alternating"],
    )
    def test_fresh_noise(self, laboratory: Laboratory, slots: NDArray[np.int64]) -> None:
        """Measured exactly, with the secret key: whatever the plaintext, far below the worst case."""
        (words,) = read_parts(laboratory.public.encrypt(slots), 1)
        assert np.array_equal(laboratory.coefficients(words), laboratory.encoded(slots[0]))
        assert 0 < Fraction(abs(laboratory.noise(words)).max(), T) < FRESH_NOISE / 4

    def test_noise_adds_up_and_wrapping_adds_none(self, laboratory: Laboratory) -> None:
        """Slots of t - 1 wrap with every addition."""
        ciphertext = laboratory.public.encrypt(np.full((1, SLOTS), T - 1))
        (one,), (many,) = read_parts(ciphertext, 1), read_parts(sum_of(ciphertext, 1000), 1)
        assert np.array_equal(laboratory.noise(many), 1000 * laboratory.noise(one))

    @pytest.mark.parametrize("vector", [ALL_ONES, LARGEST], ids=["ones", "largest"])
    @pytest.mark.parametrize("sign", ["plus", "minus", "alternating"])
    def test_the_most_clients_with_the_worst_noise(
        self, laboratory: Laboratory, vector: NDArray[np.int64], sign: str
    ) -> None:
        """Every coefficient of every ciphertext at the proven bound, with signs that add up."""
        signs = {"plus": 1, "minus": -1, "alternating": (-1) ** np.arange(SLOTS)}[sign]
        noise = np.full(SLOTS, FRESH_NOISE, dtype=object) * signs
        plain = laboratory.encoded(pack(vector)[0])
        ciphertext = write_words(laboratory.with_noise(plain, noise))
        total = read_parts(sum_of(ciphertext, MAX_CLIENTS), 1)
        assert Fraction(abs(laboratory.noise(total[0])).min(), T) > MAX_CLIENTS * (FRESH_NOISE - 1)
        opened = unpack(laboratory.key.decrypt(total), PER_PART, (1 << FIELD_BITS) - 1)
        assert np.array_equal(opened, MAX_CLIENTS * vector)

    def test_beyond_the_proof_sums_are_wrong(self, laboratory: Laboratory) -> None:
        """So that the test above could fail."""
        noise = np.full(SLOTS, FRESH_NOISE * (MAX_CLIENTS + 50), dtype=object)
        plain = laboratory.encoded(pack(LARGEST)[0])
        words = laboratory.with_noise(plain, noise)
        assert not np.array_equal(laboratory.coefficients(words), plain)

    @pytest.mark.parametrize("plain", [0, 1, T // 2, T - 1])
    def test_decryption_is_exact_up_to_its_limit(self, laboratory: Laboratory, plain: int) -> None:
        """Step 5: q / (2 t) is 4,194,284.5, and SEAL's approximate scaling costs nothing one can see."""
        polynomial = np.full(SLOTS, plain, dtype=object)
        rounding = abs(Fraction((Q * plain + (T + 1) // 2) // T) - Fraction(Q * plain, T)) * 2
        largest = int(LIMIT - rounding)
        for noise in (largest, -largest):
            words = laboratory.with_noise(polynomial, np.full(SLOTS, noise, dtype=object))
            assert np.array_equal(laboratory.coefficients(words), polynomial)
        for noise in (largest + 2, -largest - 2):
            words = laboratory.with_noise(polynomial, np.full(SLOTS, noise, dtype=object))
            assert (laboratory.coefficients(words) != polynomial).all()

    def test_budget(self, laboratory: Laboratory) -> None:
        """SEAL's own measure, log2 of q / (2 t v): 10 and 0 in the worst case of one and of the most."""
        ciphertext = laboratory.public.encrypt(pack(LARGEST))
        budgets = {
            count: laboratory.decryptor.invariant_noise_budget(
                laboratory.loaded(read_parts(sum_of(ciphertext, count), 1)[0])
            )
            for count in (1, 1000, MAX_CLIENTS)
        }
        assert budgets[1] >= 10
        assert budgets[1000] >= 1
        assert budgets[MAX_CLIENTS] >= 1

    def test_many_different_clients(self, laboratory: Laboratory) -> None:
        rng = np.random.default_rng(0)
        vectors = rng.integers(0, 1 << value_bits(40), (40, PER_PART + 5))
        total = CiphertextSum(PER_PART + 5)
        for vector in vectors:
            total.add(laboratory.public.encrypt(pack(vector)))
        opened = laboratory.key.decrypt(read_parts(total.total(), 2))
        assert np.array_equal(unpack(opened, PER_PART + 5, (1 << 16) - 1), vectors.sum(axis=0))


class TestPacking:
    @given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=50))
    def test_against_a_naive_packing(self, values: list[int]) -> None:
        slots = pack(np.array(values)).ravel().tolist()
        padded = values + [0] * (PER_PART - len(values))
        for slot in range(len(values) // 3 + 1):
            low, middle, high = padded[3 * slot : 3 * slot + 3]
            assert slots[slot] == low + middle * 2**16 + high * 2**32
        assert not any(slots[len(values) // 3 + 1 :])

    @given(st.integers(1, 3 * PER_PART), st.integers(0, 2**32 - 1))
    def test_round_trip(self, size: int, seed: int) -> None:
        values = np.random.default_rng(seed).integers(0, 1 << 16, size)
        slots = pack(values)
        assert len(slots) == n_parts(size)
        assert slots.max() < T
        assert np.array_equal(unpack(slots, size, 2**16 - 1), values)

    @pytest.mark.parametrize(
        ("slot", "value"), [(0, 1 << 48), (0, 101), (1, 1 << 16), (5, 1), (SLOTS - 1, 1 << 32)]
    )
    def test_what_cant_be_a_sum(self, slot: int, value: int) -> None:
        slots = pack(np.full(4, 100))
        slots[0, slot] = value
        with pytest.raises(SealingError, match="can't be a sum"):
            unpack(slots, 4, 100)

    @pytest.mark.parametrize(("n", "bits"), [(2, 15), (3, 14), (4, 14), (5, 13), (1000, 6), (1025, 5)])
    def test_value_bits(self, n: int, bits: int) -> None:
        assert value_bits(n) == bits
        assert n * (2**bits - 1) < 2**16

    @pytest.mark.parametrize("n", [0, 1, MAX_CLIENTS + 1])
    def test_numbers_of_clients(self, n: int) -> None:
        with pytest.raises(SealingError, match="clients"):
            value_bits(n)


def random_words(seed: int = 0) -> NDArray[np.uint64]:
    rng = np.random.default_rng(seed)
    primes = np.array(CIPHERTEXT_PRIMES)[None, :, None]
    return rng.integers(0, primes, (2, 2, SLOTS)).astype(np.uint64)


class TestForm:
    """How a ciphertext travels."""

    def test_against_a_naive_writer(self) -> None:
        words = random_words()
        flat = [int(word) for word in words.ravel()]
        low = b"".join((word % 2**32).to_bytes(4, "little") for word in flat)
        high = bytes(
            first >> 32 | second >> 32 << 4 for first, second in zip(flat[::2], flat[1::2], strict=True)
        )
        assert write_words(words) == low + high
        assert len(low + high) == PART_BYTES == 2 * 2 * SLOTS * 36 // 8

    def test_round_trip(self) -> None:
        parts = [random_words(seed) for seed in range(3)]
        read = read_parts(b"".join(map(write_words, parts)), 3)
        assert all(np.array_equal(one, other) for one, other in zip(parts, read, strict=True))

    @pytest.mark.parametrize("prime", [0, 1])
    @pytest.mark.parametrize("polynomial", [0, 1])
    def test_coefficients_are_below_their_primes(self, prime: int, polynomial: int) -> None:
        words = random_words()
        words[polynomial, prime, 7] = CIPHERTEXT_PRIMES[prime] - 1
        read_parts(write_words(words), 1)
        words[polynomial, prime, 7] += np.uint64(1)
        with pytest.raises(MessageError, match="below its prime"):
            read_parts(write_words(words), 1)

    @pytest.mark.parametrize("change", [-PART_BYTES, -1, 1, PART_BYTES])
    def test_lengths(self, change: int) -> None:
        data = write_words(random_words()) * 2
        with pytest.raises(MessageError, match="must have 147456 bytes"):
            read_parts((data + data)[: len(data) + change], 2)

    def test_what_tenseal_wrote(self, laboratory: Laboratory) -> None:
        """The same coefficients as SEAL shows, one by one, and the same decryption."""
        slots = np.random.default_rng(0).integers(0, T, SLOTS)
        vector = tenseal.bfv_vector(laboratory.public.context, slots.tolist())
        header, words = bfv._unwrap(vector.serialize())
        raw = vector.ciphertext()[0]
        assert [raw[index] for index in range(words.size)] == words.ravel().tolist()
        assert header == laboratory.key._header
        back = tenseal.bfv_vector_from(laboratory.key.context, header + words.tobytes())
        whole = tenseal.bfv_vector_from(laboratory.key.context, vector.serialize())
        assert back.decrypt() == whole.decrypt()
        assert np.array_equal(laboratory.key.decrypt([words])[0], slots)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[:-1],
            lambda data: data + b"\0",
            lambda data: b"\x0b" + data[1:],
            lambda data: data[:8] + b"\0" + data[9:],
            lambda data: data[:13] + b"\0" + data[14:],
            lambda data: data[:24],
        ],
    )
    def test_another_writer(self, laboratory: Laboratory, damage: Callable[[bytes], bytes]) -> None:
        """A TenSEAL that writes otherwise is noticed before anything is sent."""
        written = tenseal.bfv_vector(laboratory.public.context, [1] * SLOTS).serialize()
        with pytest.raises(SealingError, match=r"use tenseal 0\.3\.18"):
            bfv._unwrap(damage(written))

    @pytest.mark.parametrize("name", ["_FIELDS", "_COUNT"])
    def test_other_fields(self, laboratory: Laboratory, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        written = tenseal.bfv_vector(laboratory.public.context, [1] * SLOTS).serialize()
        monkeypatch.setattr(bfv, name, getattr(bfv, name) * 2)
        with pytest.raises(SealingError, match=r"use tenseal 0\.3\.18"):
            bfv._unwrap(written)


class TestCiphertextSum:
    def test_against_tenseal(self, laboratory: Laboratory) -> None:
        """Adding coefficients is what SEAL's evaluator does."""
        rng = np.random.default_rng(0)
        context = laboratory.public.context
        vectors = [tenseal.bfv_vector(context, rng.integers(0, T, SLOTS).tolist()) for _ in range(5)]
        total = CiphertextSum(PER_PART)
        for vector in vectors:
            total.add(write_words(bfv._unwrap(vector.serialize())[1]))
        expected = vectors[0]
        for vector in vectors[1:]:
            expected.add_(vector)
        assert total.total() == write_words(bfv._unwrap(expected.serialize())[1])

    def test_a_refusal_changes_nothing(self) -> None:
        good, bad = write_words(random_words(0)), random_words(1)
        bad[1, 1, -1] = CIPHERTEXT_PRIMES[1]
        total = CiphertextSum(PER_PART + 1)
        total.add(good + good)
        for wrong in (good + write_words(bad), good, good * 3, b""):
            with pytest.raises(MessageError):
                total.add(wrong)
        assert total.count == 1
        assert total.total() == good + good

    def test_no_more_than_was_proven(self) -> None:
        total = CiphertextSum(1)
        total.count = MAX_CLIENTS
        with pytest.raises(SealingError, match="at most 2000 clients"):
            total.add(write_words(random_words()))

    def test_largest_coefficients(self) -> None:
        """2,000 of the largest: no overflow before the one reduction."""
        words = random_words()
        words[:] = np.array(CIPHERTEXT_PRIMES, dtype=np.uint64)[None, :, None] - np.uint64(1)
        (found,) = read_parts(sum_of(write_words(words), MAX_CLIENTS), 1)
        for index, prime in enumerate(CIPHERTEXT_PRIMES):
            assert (found[:, index] == prime - MAX_CLIENTS).all()

    @pytest.mark.parametrize("size", [0, -1])
    def test_sizes(self, size: int) -> None:
        with pytest.raises(SealingError, match="at least 1 value"):
            CiphertextSum(size)


class TestKeys:
    @pytest.mark.parametrize(
        "wrong",
        [
            np.array([[T] * SLOTS]),
            np.array([[-1] * SLOTS]),
            np.zeros((1, SLOTS + 1), dtype=np.int64),
            np.zeros(SLOTS, dtype=np.int64),
            np.zeros((0, SLOTS), dtype=np.int64),
            np.zeros((1, SLOTS)),
            np.zeros((1, SLOTS), dtype=bool),
            np.full((1, SLOTS), np.nan),
        ],
        ids=["too large", "negative", "too long", "a row", "empty", "floats", "bools", "nan"],
    )
    def test_refused_slots(self, laboratory: Laboratory, wrong: NDArray[np.int64]) -> None:
        with pytest.raises(SealingError, match="slots must be"):
            laboratory.public.encrypt(wrong)

    def test_the_whole_range(self, laboratory: Laboratory) -> None:
        slots = np.random.default_rng(0).integers(0, T, (2, SLOTS))
        slots[0, :4] = 0, 1, T - 1, T // 2
        data = laboratory.public.encrypt(slots)
        assert np.array_equal(laboratory.key.decrypt(read_parts(data, 2)), slots)

    def test_encryption_is_random(self, laboratory: Laboratory) -> None:
        slots = pack(ALL_ONES)
        assert laboratory.public.encrypt(slots) != laboratory.public.encrypt(slots)

    def test_keys_are_new(self) -> None:
        assert SecretKey.generate().public != SecretKey.generate().public

    def test_nothing_secret_is_shown(self, laboratory: Laboratory) -> None:
        assert repr(laboratory.key) == "SecretKey()"
        assert not laboratory.public.context.has_secret_key()

    @pytest.mark.parametrize("change", ["parameters", "form"])
    def test_another_tenseal(self, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Other primes, or a header that is read but means something else, end before a key is used."""
        if change == "parameters":
            monkeypatch.setattr(bfv, "_PRIME_BITS", (36, 35, 37))
        else:
            unwrap = bfv._unwrap
            monkeypatch.setattr(bfv, "_unwrap", lambda data: (unwrap(data)[0], unwrap(data)[1][::-1]))
        with pytest.raises(SealingError, match=r"use tenseal 0\.3\.18"):
            SecretKey.generate()
