import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
import tenseal
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tenseal import sealapi

from securefd.defenses import homomorphic
from securefd.defenses.homomorphic import (
    CIPHERTEXT_PRIMES,
    FIELDS,
    FRESH_NOISE,
    MAX_CLIENTS,
    PLAIN_MODULUS,
    SLOTS,
    SPECIAL_PRIME,
    HomomorphicClient,
    HomomorphicServer,
    KeyHolder,
    pack,
    unpack,
    value_bits,
)
from securefd.defenses.identity import Identity, Place, cohort_hash, sign_message
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import Ciphertexts, KeyContext, Signed, decode, encode

SESSION = b"session-of-tests"
IDENTITIES = [Identity.generate() for _ in range(5)]
SERVER, HOLDER = Identity.generate(), Identity.generate()
PER_PART = SLOTS * FIELDS


class Federation:
    """All parties of one round, after the clients' uploads; every test bends one thing."""

    def __init__(self, n: int = 3, size: int = 20, bits: int = 14) -> None:
        self.pinned = [identity.public for identity in IDENTITIES[:n]]
        self.size, self.bits = size, bits
        self.holder = KeyHolder(HOLDER, SERVER.public, n)
        self.server = HomomorphicServer(SERVER, self.pinned, HOLDER.public)
        self.clients = [HomomorphicClient(IDENTITIES[k], self.pinned, HOLDER.public) for k in range(n)]
        rng = np.random.default_rng([n, size, bits])
        self.vectors = [rng.integers(0, 1 << bits, size) for _ in range(n)]
        self.context = self.holder.context(SESSION, 2)
        self.uploads = [self.upload(k) for k in range(n)]

    def upload(self, client: int) -> bytes:
        return self.clients[client].upload(
            self.context, self.vectors[client], session=SESSION, round=2, bits=self.bits
        )

    def add(self, uploads: Sequence[bytes] | None = None, size: int | None = None) -> bytes:
        return self.server.add(
            self.context,
            self.uploads if uploads is None else uploads,
            session=SESSION,
            round=2,
            size=size or self.size,
        )

    @property
    def expected(self) -> NDArray[np.int64]:
        return np.asarray(np.sum(self.vectors, axis=0, dtype=np.int64))

    def resigned(self, client: int, body: bytes) -> bytes:
        """What a lying client would send: any body, under its own good signature."""
        key = hashlib.sha256(self.context + cohort_hash(self.pinned)).digest()
        return sign_message(IDENTITIES[client], place("upload", key), client, body)

    def signed_sum(self, body: bytes, signer: Identity = SERVER) -> bytes:
        return sign_message(signer, place("sum", hashlib.sha256(self.context).digest()), 0, body)


def place(stage: str, roster: bytes, number: int = 2) -> Place:
    return Place(protocol=homomorphic.PROTOCOL, session=SESSION, round=number, stage=stage, roster=roster)


def body_of(message: bytes) -> Ciphertexts:
    return decode(decode(message, Signed).body, Ciphertexts)


@pytest.fixture
def federation() -> Federation:
    return Federation()


class TestSum:
    @pytest.mark.parametrize("n", [2, 3, 5])
    @pytest.mark.parametrize("size", [1, PER_PART, PER_PART + 1, 2 * PER_PART + 500])
    def test_equals_the_plain_sum(self, n: int, size: int) -> None:
        federation = Federation(n, size, value_bits(n))
        total = federation.holder.open(federation.add(), federation.bits)
        assert total.dtype == np.int64
        assert np.array_equal(total, federation.expected)

    def test_largest_values_of_all_clients(self) -> None:
        federation = Federation(4, PER_PART, 14)
        federation.context = federation.holder.context(SESSION + b"2", 2)
        federation.vectors = [np.full(PER_PART, 2**14 - 1)] * 4
        uploads = [
            client.upload(federation.context, vector, session=SESSION + b"2", round=2, bits=14)
            for client, vector in zip(federation.clients, federation.vectors, strict=True)
        ]
        message = federation.server.add(
            federation.context, uploads, session=SESSION + b"2", round=2, size=PER_PART
        )
        assert (federation.holder.open(message, 14) == 4 * (2**14 - 1)).all()

    def test_uploads_in_any_order(self, federation: Federation) -> None:
        message = federation.add(federation.uploads[::-1])
        assert np.array_equal(federation.holder.open(message, federation.bits), federation.expected)

    def test_nothing_is_printed(self, capfd: pytest.CaptureFixture[str]) -> None:
        federation = Federation(2, 2 * PER_PART, 15)
        federation.holder.open(federation.add(), 15)
        assert capfd.readouterr() == ("", "")

    def test_a_new_key_every_round(self) -> None:
        holder = KeyHolder(HOLDER, SERVER.public, 3)
        first, second = (decode(holder.context(SESSION, number), Signed).body for number in (0, 1))
        assert first != second


class TestWorstCase:
    """The proof in the module's docstring, held to what TenSEAL does."""

    def test_parameters_are_what_tenseal_chose(self) -> None:
        """SEAL names parameters by a hash over the primes themselves; ``context`` compares it."""
        for prime in (*CIPHERTEXT_PRIMES, SPECIAL_PRIME, PLAIN_MODULUS):
            assert prime % (2 * SLOTS) == 1
        Federation().holder.context(SESSION, 3)

    def test_bound(self) -> None:
        modulus = CIPHERTEXT_PRIMES[0] * CIPHERTEXT_PRIMES[1]
        errors = (2 * 21 * SLOTS + 21) / SPECIAL_PRIME
        assert errors + (1 + SLOTS) / 2 + 0.5 + 1 / (2 * PLAIN_MODULUS) < FRESH_NOISE
        assert modulus / (2 * PLAIN_MODULUS) * 0.98 > MAX_CLIENTS * FRESH_NOISE
        assert PLAIN_MODULUS > 1 << FIELDS * homomorphic.FIELD_BITS

    def test_the_most_additions(self) -> None:
        """One ciphertext added to itself: noise adds up without cancelling, as in no sum of fresh ones."""
        federation = Federation(2, PER_PART, 15)
        context = federation.holder._context
        decryptor = sealapi.Decryptor(context.seal_context().data, context.secret_key().data)
        values = np.random.default_rng(0).integers(0, 1 << value_bits(MAX_CLIENTS), PER_PART)
        values[:9] = (1 << value_bits(MAX_CLIENTS)) - 1
        fresh = tenseal.bfv_vector(context, pack(values)[0].tolist())
        total = fresh.copy()
        budgets = {1: decryptor.invariant_noise_budget(total.ciphertext()[0])}
        for count in range(2, MAX_CLIENTS + 1):
            total.add_(fresh)
            if count in (1000, MAX_CLIENTS):
                budgets[count] = decryptor.invariant_noise_budget(total.ciphertext()[0])
                slots = np.array([total.decrypt()]) % PLAIN_MODULUS
                assert np.array_equal(unpack(slots, PER_PART, 2**16 - 1), count * values)
        # In the worst case 10, 1 and 0 bits are left; real noise is far below it.
        assert budgets[1] >= 10
        assert budgets[1000] >= 1
        assert budgets[MAX_CLIENTS] >= 1


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
        assert np.array_equal(unpack(pack(values), size, 2**16 - 1), values)

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


def foreign_context() -> tenseal.Context:
    return tenseal.context(
        tenseal.SCHEME_TYPE.BFV,
        poly_modulus_degree=SLOTS,
        plain_modulus=PLAIN_MODULUS,
        coeff_mod_bit_sizes=[36, 36, 37],
    )


def encrypted(context: tenseal.Context, values: NDArray[np.int64]) -> bytes:
    part: bytes = tenseal.bfv_vector(context, pack(values)[0].tolist()).serialize()
    return encode(Ciphertexts(size=values.size, parts=(part,)))


class TestClient:
    @pytest.mark.parametrize("wrong", [[1 << 14], [-1], [0.5], [], [[1]]], ids=repr)
    def test_values_that_tenseal_would_wrap_or_truncate(self, wrong: list[object]) -> None:
        federation = Federation()
        context = federation.holder.context(SESSION, 3)
        with pytest.raises(SealingError):
            federation.clients[0].upload(context, np.array(wrong), session=SESSION, round=3, bits=14)
        federation.clients[0].upload(context, federation.vectors[0], session=SESSION, round=3, bits=14)

    @pytest.mark.parametrize("bits", [0, 15, 20])
    def test_fields_too_narrow(self, bits: int) -> None:
        federation = Federation()
        context = federation.holder.context(SESSION, 3)
        with pytest.raises(SealingError, match=r"1\.\.14"):
            federation.clients[0].upload(context, federation.vectors[0], session=SESSION, round=3, bits=bits)
        with pytest.raises(SealingError, match=r"1\.\.14"):
            federation.holder.open(context, bits)

    def test_second_use(self, federation: Federation) -> None:
        with pytest.raises(ProtocolError, match="can't follow round 2"):
            federation.upload(0)

    @pytest.mark.parametrize(
        "bend",
        [
            {"session": b"another-session!"},
            {"round": 4},
        ],
        ids=repr,
    )
    def test_contexts_of_other_rounds(self, federation: Federation, bend: dict[str, object]) -> None:
        context = federation.holder.context(SESSION, 3)
        fields = {"session": SESSION, "round": 3, **bend}
        with pytest.raises(ProtocolError, match="another"):
            federation.clients[0].upload(context, federation.vectors[0], bits=14, **fields)  # type: ignore[arg-type]

    def test_contexts_of_others(self, federation: Federation) -> None:
        stranger = KeyHolder(Identity.generate(), SERVER.public, 3).context(SESSION, 3)
        genuine = federation.holder.context(SESSION, 3)
        swapped = msgspec.structs.replace(decode(genuine, Signed), body=decode(stranger, Signed).body)
        for bad in (stranger, encode(swapped), genuine[:-1], federation.uploads[0]):
            with pytest.raises(ProtocolError):
                federation.clients[0].upload(bad, federation.vectors[0], session=SESSION, round=3, bits=14)
        federation.clients[0].upload(genuine, federation.vectors[0], session=SESSION, round=3, bits=14)

    @pytest.mark.parametrize("bad", ["garbage", "weak", "secret", "ckks"])
    def test_contexts_that_arent_what_was_proven(self, federation: Federation, bad: str) -> None:
        weak = tenseal.context(tenseal.SCHEME_TYPE.BFV, 4096, 1032193, [36, 36, 37])
        ckks = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[36, 36, 37])
        context = {
            "garbage": b"nonsense",
            "weak": weak.serialize(save_galois_keys=False, save_relin_keys=False),
            "secret": foreign_context().serialize(
                save_secret_key=True, save_galois_keys=False, save_relin_keys=False
            ),
            "ckks": ckks.serialize(save_galois_keys=False, save_relin_keys=False),
        }[bad]
        roster = cohort_hash((HOLDER.public,))
        signed = sign_message(HOLDER, place("context", roster, 3), 0, encode(KeyContext(context=context)))
        with pytest.raises((MessageError, SealingError), match="context"):
            federation.clients[0].upload(signed, federation.vectors[0], session=SESSION, round=3, bits=14)

    def test_rosters(self) -> None:
        publics = [identity.public for identity in IDENTITIES]
        for wrong in ([], publics[:1], publics[:1] * 2):
            with pytest.raises(SealingError):
                HomomorphicClient(IDENTITIES[0], wrong, HOLDER.public)
        with pytest.raises(SealingError, match="own identity"):
            HomomorphicClient(IDENTITIES[0], publics[1:], HOLDER.public)


class TestServer:
    def test_refused_uploads(self, federation: Federation) -> None:
        good = federation.uploads
        flipped = bytearray(good[2])
        flipped[len(flipped) // 2] ^= 1
        foreign = Federation().uploads[2]
        short = encode(msgspec.structs.replace(body_of(good[2]), size=19))
        for bad in (
            good[:2],
            [],
            [*good, good[0]],
            [*good[:2], good[1]],
            [*good[:2], good[2][:-1]],
            [*good[:2], bytes(flipped)],
            [*good[:2], good[2] + bytes(500_000)],
            [*good[:2], foreign],
            [*good[:2], federation.context],
            [*good[:2], federation.resigned(2, b"nonsense")],
            [*good[:2], federation.resigned(2, short)],
            [*good[:2], federation.resigned(4, short)],
        ):
            with pytest.raises(ProtocolError):
                federation.add(bad)
        assert np.array_equal(federation.holder.open(federation.add(), federation.bits), federation.expected)

    def test_signatures_come_before_the_parser(
        self, federation: Federation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def parser(*_: object) -> None:
            raise AssertionError("the parser saw bytes that nobody signed")

        flipped = bytearray(federation.uploads[2])
        flipped[len(flipped) // 2] ^= 1
        monkeypatch.setattr(tenseal, "bfv_vector_from", parser)
        with pytest.raises(ProtocolError, match="signature"):
            federation.add([*federation.uploads[:2], bytes(flipped)])

    def test_ciphertexts_of_liars(self, federation: Federation) -> None:
        """Signed by their sender, and still not what a ciphertext must be."""
        context = foreign_context()
        part = body_of(federation.uploads[2]).parts[0]
        narrow = tenseal.bfv_vector(context, [1, 2, 3]).serialize()
        context.auto_relin = False
        product = tenseal.bfv_vector(context, [1] * SLOTS)
        product = product * product
        assert product.ciphertext()[0].size() == 3
        whole = tenseal.bfv_vector(context, [1] * SLOTS).serialize()
        weak = tenseal.context(tenseal.SCHEME_TYPE.BFV, 4096, 1032193, [36, 36, 37])
        for parts in (
            (),
            (part, part),
            (b"",),
            (part[:-10],),
            (narrow,),
            (tenseal.bfv_vector(weak, [1] * SLOTS).serialize(),),
            (product.serialize(),),
            (whole[:1000],),
        ):
            lie = federation.resigned(2, encode(Ciphertexts(size=20, parts=parts)))
            with pytest.raises(ProtocolError):
                federation.add([*federation.uploads[:2], lie])
        assert np.array_equal(federation.holder.open(federation.add(), federation.bits), federation.expected)

    def test_second_use(self, federation: Federation) -> None:
        federation.add()
        with pytest.raises(ProtocolError, match="can't follow round 2"):
            federation.add()

    def test_wrong_size(self, federation: Federation) -> None:
        with pytest.raises(ProtocolError, match="every upload must hold 21 values"):
            federation.add(size=21)


class TestKeyHolder:
    def test_a_second_opening(self, federation: Federation) -> None:
        message = federation.add()
        federation.holder.open(message, federation.bits)
        with pytest.raises(ProtocolError, match="second opening"):
            federation.holder.open(message, federation.bits)

    def test_before_a_key(self) -> None:
        with pytest.raises(ProtocolError, match="after context"):
            KeyHolder(HOLDER, SERVER.public, 3).open(b"", 14)

    def test_rounds_only_go_up(self, federation: Federation) -> None:
        for number in (2, 1):
            with pytest.raises(ProtocolError, match="can't follow round 2"):
                federation.holder.context(SESSION, number)
        assert np.array_equal(federation.holder.open(federation.add(), federation.bits), federation.expected)

    def test_refused_sums(self, federation: Federation) -> None:
        message = federation.add()
        body = decode(message, Signed).body
        flipped = bytearray(message)
        flipped[len(flipped) // 2] ^= 1
        for bad in (
            message[:-1],
            bytes(flipped),
            federation.uploads[0],
            federation.signed_sum(body, signer=IDENTITIES[0]),
            sign_message(SERVER, place("sum", bytes(32)), 0, body),
            federation.signed_sum(b"nonsense"),
            federation.signed_sum(encode(Ciphertexts(size=20, parts=(b"x",)))),
        ):
            with pytest.raises(ProtocolError):
                federation.holder.open(bad, federation.bits)
        assert np.array_equal(federation.holder.open(message, federation.bits), federation.expected)

    def test_a_foreign_key(self, federation: Federation) -> None:
        """TenSEAL opens it to garbage without a word."""
        body = encrypted(foreign_context(), np.arange(20))
        with pytest.raises(SealingError, match="can't be a sum"):
            federation.holder.open(federation.signed_sum(body), federation.bits)
        with pytest.raises(ProtocolError, match="second opening"):
            federation.holder.open(federation.add(), federation.bits)

    def test_a_liar_with_a_foreign_key(self, federation: Federation) -> None:
        lie = federation.resigned(2, encrypted(foreign_context(), federation.vectors[2]))
        with pytest.raises(SealingError, match="can't be a sum"):
            federation.holder.open(federation.add([*federation.uploads[:2], lie]), federation.bits)

    def test_a_liar_beyond_the_bound(self, federation: Federation) -> None:
        public = homomorphic._load_context(
            decode(decode(federation.context, Signed).body, KeyContext).context
        )
        lie = federation.resigned(2, encrypted(public, np.full(20, 60_000)))
        with pytest.raises(SealingError, match="can't be a sum"):
            federation.holder.open(federation.add([*federation.uploads[:2], lie]), federation.bits)

    def test_the_public_context_cant_decrypt(self, federation: Federation) -> None:
        context = homomorphic._load_context(
            decode(decode(federation.context, Signed).body, KeyContext).context
        )
        assert not context.has_secret_key()
        vector = homomorphic._load_ciphertext(context, body_of(federation.uploads[0]).parts[0])
        with pytest.raises(ValueError, match="secret_key"):
            vector.decrypt()

    def test_the_key_is_gone_after_the_opening(self, federation: Federation) -> None:
        assert federation.holder._context is not None
        federation.holder.open(federation.add(), federation.bits)
        assert federation.holder._context is None
