import hashlib
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
import pytest
import tenseal
from numpy.typing import NDArray

from securefd.defenses import bfv, homomorphic, slots
from securefd.defenses.bfv import PART_BYTES, PER_PART, PLAIN_MODULUS, SLOTS, PublicKey, pack, value_bits
from securefd.defenses.homomorphic import HomomorphicClient, HomomorphicServer, KeyHolder
from securefd.defenses.identity import OVERHEAD, Identity, Place, cohort_hash, sign_message
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import Ciphertexts, EncryptedSum, KeyContext, Opening, Signed, decode, encode

SESSION = b"session-of-tests"
QUESTION = bytes(range(32))


def at(number: int, session: bytes = SESSION, question: bytes = QUESTION) -> dict[str, Any]:
    return {"session": session, "round": number, "question": question}


IDENTITIES = [Identity.generate() for _ in range(5)]
SERVER, HOLDER, STRANGER = (Identity.generate() for _ in range(3))


class Federation:
    """All parties of one round, after the clients' uploads; every test bends one thing."""

    def __init__(self, n: int = 3, size: int = 20, bits: int = 14, threshold: int | None = None) -> None:
        self.pinned = [identity.public for identity in IDENTITIES[:n]]
        self.size, self.bits = size, bits
        self.holder = KeyHolder(HOLDER, SERVER.public, n, threshold)
        self.server = HomomorphicServer(SERVER, self.pinned, HOLDER.public, threshold)
        self.clients = [
            HomomorphicClient(identity, self.pinned, HOLDER.public, threshold) for identity in IDENTITIES[:n]
        ]
        rng = np.random.default_rng([n, size, bits])
        self.vectors = [rng.integers(0, 1 << bits, size) for _ in range(n)]
        self.context = self.holder.context(SESSION, 2, QUESTION)
        self.uploads = [self.upload(k) for k in range(n)]

    def upload(self, client: int) -> bytes:
        return self.clients[client].upload(self.context, self.vectors[client], **at(2), bits=self.bits)

    def add(self, uploads: Sequence[bytes] | None = None, size: int | None = None) -> bytes:
        return self.server.add(
            self.context,
            self.uploads if uploads is None else uploads,
            **at(2),
            size=size or self.size,
        )

    def check(self) -> None:
        """The round still goes on as if nothing had been tried."""
        opened = self.holder.open(self.add(), self.bits)
        assert np.array_equal(opened.total, self.expected)

    @property
    def expected(self) -> NDArray[np.int64]:
        return self.sum_of(range(len(self.vectors)))

    def sum_of(self, clients: Sequence[int]) -> NDArray[np.int64]:
        return np.asarray(np.sum([self.vectors[k] for k in clients], axis=0, dtype=np.int64))

    def resigned(self, client: int, body: bytes) -> bytes:
        """What a lying client would send: any body, under its own good signature."""
        key = hashlib.sha256(self.context + cohort_hash(self.pinned)).digest()
        return sign_message(IDENTITIES[client], place("upload", key), client, body)

    def signed_sum(self, body: bytes, signer: Identity = SERVER) -> bytes:
        return sign_message(signer, place("sum", hashlib.sha256(self.context).digest()), 0, body)

    def bent_sum(self, **changes: object) -> bytes:
        """What a server with a fault would send: the sum of all, under its good signature."""
        uploads = [body_of(upload).parts for upload in self.uploads]
        total = bfv.CiphertextSum(self.size)
        for parts in uploads:
            total.add(parts)
        fields = {"contributors": tuple(range(len(uploads))), "size": self.size, "parts": total.total()}
        return self.signed_sum(encode(EncryptedSum(**{**fields, **changes})))  # type: ignore[arg-type]


def place(stage: str, roster: bytes, number: int = 2) -> Place:
    return Place(protocol=homomorphic.PROTOCOL, session=SESSION, round=number, stage=stage, roster=roster)


class TestOpening:
    """What the key holder tells the server: signed, for one sum only, and heard once."""

    def test_the_server_reads_what_was_opened(self, federation: Federation) -> None:
        opened = federation.holder.open(federation.add(), federation.bits)
        read = federation.server.read(opened.message, federation.bits)
        assert np.array_equal(read.total, federation.expected)
        assert read.contributors == opened.contributors == (0, 1, 2)
        assert 8 * SLOTS < len(opened.message) < 8 * SLOTS + OVERHEAD

    def test_after_dropouts(self) -> None:
        federation = Federation(5, PER_PART + 1, 13, threshold=3)
        asked = federation.add([federation.uploads[k] for k in (4, 0, 2)])
        read = federation.server.read(federation.holder.open(asked, 13).message, 13)
        assert read.contributors == (0, 2, 4)
        assert np.array_equal(read.total, federation.sum_of((0, 2, 4)))

    def forged(
        self, asked: bytes, by: Identity = HOLDER, number: int = 2, sender: int = 0, **changes: object
    ) -> bytes:
        fields = {"contributors": (0, 1, 2), "size": 20, "slots": bytes(8 * SLOTS), **changes}
        body = encode(Opening(**fields))  # type: ignore[arg-type]
        where = place("opening", hashlib.sha256(asked).digest(), number)
        return sign_message(by, where, sender, body)

    def test_forgeries(self, federation: Federation) -> None:
        """By somebody else, for another sum or round, of other clients or sizes, out of the slots' range."""
        asked = federation.add()
        good = federation.holder.open(asked, federation.bits).message
        flipped = bytearray(good)
        flipped[len(flipped) // 2] ^= 1
        for bad in (
            self.forged(asked, SERVER),
            self.forged(asked, SERVER, sender=1),
            self.forged(asked, sender=1),
            self.forged(asked, IDENTITIES[0]),
            self.forged(asked, STRANGER),
            self.forged(asked + b"0"),
            self.forged(asked, number=3),
            self.forged(asked, contributors=(0, 1)),
            self.forged(asked, contributors=(0, 1, 3)),
            self.forged(asked, size=21),
            self.forged(asked, slots=b""),
            self.forged(asked, slots=bytes(8 * SLOTS + 8)),
            self.forged(asked, slots=bytes(2 * 8 * SLOTS)),
            self.forged(asked, slots=np.full(SLOTS, PLAIN_MODULUS, "<i8").tobytes()),
            self.forged(asked, slots=np.full(SLOTS, -1, "<i8").tobytes()),
            bytes(flipped),
            good[:-1],
            asked,
            federation.context,
            federation.uploads[0],
            b"",
        ):
            with pytest.raises(ProtocolError):
                federation.server.read(bad, federation.bits)
        read = federation.server.read(good, federation.bits)
        assert np.array_equal(read.total, federation.expected)

    def test_a_sum_beyond_its_bound(self, federation: Federation) -> None:
        """Signed or not: the server believes no sum that as many values couldn't have."""
        asked = federation.add()
        slots = np.full(SLOTS, PLAIN_MODULUS - 1, "<i8").tobytes()
        with pytest.raises(SealingError, match="can't be a sum"):
            federation.server.read(self.forged(asked, slots=slots), federation.bits)
        with pytest.raises(SealingError, match=r"1\.\.14"):
            federation.server.read(self.forged(asked), 15)
        federation.server.read(self.forged(asked), federation.bits)

    def test_before_a_sum_and_twice(self, federation: Federation) -> None:
        with pytest.raises(ProtocolError, match="after add"):
            federation.server.read(self.forged(b""), federation.bits)
        message = federation.holder.open(federation.add(), federation.bits).message
        federation.server.read(message, federation.bits)
        with pytest.raises(ProtocolError, match="a second answer"):
            federation.server.read(message, federation.bits)

    @pytest.mark.parametrize("where", [at(3), at(2, b"another-session!"), at(3, question=bytes(32))])
    def test_too_late(self, federation: Federation, where: dict[str, Any]) -> None:
        """The server is in the next round, session or question already, where the very same sum is added."""
        late = federation.holder.open(federation.add(), federation.bits).message
        context = federation.holder.context(*where.values())
        uploads = [
            client.upload(context, vector, **where, bits=14)
            for client, vector in zip(federation.clients, federation.vectors, strict=True)
        ]
        asked = federation.server.add(context, uploads, **where, size=20)
        with pytest.raises(ProtocolError, match=r"another (round|session)"):
            federation.server.read(late, 14)
        read = federation.server.read(federation.holder.open(asked, 14).message, 14)
        assert np.array_equal(read.total, federation.expected)

    def test_nothing_is_signed_that_cant_be_a_sum(
        self, federation: Federation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lie = federation.resigned(2, encrypted(public_context(federation.context), np.full(20, 60_000)))
        asked = federation.add([*federation.uploads[:2], lie])

        def sign(*_: object) -> None:
            raise AssertionError("signed")

        monkeypatch.setattr(slots, "sign_message", sign)
        with pytest.raises(SealingError, match="can't be a sum"):
            federation.holder.open(asked, federation.bits)


def test_what_each_message_is_bound_to(federation: Federation) -> None:
    """Once more, from hashes alone: the question comes first, and each message holds the one before."""
    asked = federation.add()
    opening = federation.holder.open(asked, federation.bits).message
    pinned = hashlib.sha256(b"".join(federation.pinned)).digest()
    expected = [
        (federation.context, "context", HOLDER, HOLDER.public + QUESTION),
        *(
            (upload, "upload", IDENTITIES[k], federation.context + pinned)
            for k, upload in enumerate(federation.uploads)
        ),
        (asked, "sum", SERVER, federation.context),
        (opening, "opening", HOLDER, asked),
    ]
    for data, stage, signer, bound in expected:
        kind, session, number, found, sender, roster, body, signature = msgspec.msgpack.decode(data)
        assert (kind, session, number, found) == ("signed", SESSION, 2, stage)
        assert sender == (IDENTITIES.index(signer) if signer in IDENTITIES else 0)
        assert roster == hashlib.sha256(bound).digest()
        assert len(body) > 0
        numbers = [value.to_bytes(8, "big") for value in (number, sender)]
        digest = hashlib.sha256(body).digest()
        said = [b"securefd/homomorphic/3", session, numbers[0], stage.encode(), numbers[1], roster, digest]
        signed = b"".join(len(part).to_bytes(4, "big") + part for part in said)
        signer.private.public_key().verify(signature, signed)


def body_of(message: bytes) -> Ciphertexts:
    return decode(decode(message, Signed).body, Ciphertexts)


def public_context(message: bytes) -> bytes:
    return decode(decode(message, Signed).body, KeyContext).context


def encrypted(context: bytes, values: NDArray[np.int64]) -> bytes:
    parts = PublicKey.load(context).encrypt(pack(values))
    return encode(Ciphertexts(size=values.size, parts=parts))


@pytest.fixture
def federation() -> Federation:
    return Federation()


class TestSum:
    @pytest.mark.parametrize("n", [2, 3, 5])
    @pytest.mark.parametrize("size", [1, PER_PART, PER_PART + 1, 2 * PER_PART + 500])
    def test_equals_the_plain_sum(self, n: int, size: int) -> None:
        federation = Federation(n, size, value_bits(n))
        opened = federation.holder.open(federation.add(), federation.bits)
        assert opened.total.dtype == np.int64
        assert np.array_equal(opened.total, federation.expected)
        assert opened.contributors == tuple(range(n))

    def test_largest_values_of_all_clients(self) -> None:
        federation = Federation(4, PER_PART, 14)
        federation.context = federation.holder.context(SESSION + b"2", 2, QUESTION)
        federation.vectors = [np.full(PER_PART, 2**14 - 1)] * 4
        uploads = [
            client.upload(federation.context, vector, **at(2, SESSION + b"2"), bits=14)
            for client, vector in zip(federation.clients, federation.vectors, strict=True)
        ]
        message = federation.server.add(federation.context, uploads, **at(2, SESSION + b"2"), size=PER_PART)
        assert (federation.holder.open(message, 14).total == 4 * (2**14 - 1)).all()

    def test_uploads_in_any_order(self, federation: Federation) -> None:
        opened = federation.holder.open(federation.add(federation.uploads[::-1]), federation.bits)
        assert np.array_equal(opened.total, federation.expected)
        assert opened.contributors == (0, 1, 2)

    def test_a_new_key_every_round(self) -> None:
        holder = KeyHolder(HOLDER, SERVER.public, 3)
        first, second = (public_context(holder.context(SESSION, number, QUESTION)) for number in (0, 1))
        assert first != second

    def test_bytes(self, federation: Federation) -> None:
        """Six bytes a value where ciphertexts are full, and a short envelope."""
        for upload in federation.uploads:
            assert PART_BYTES < len(upload) < PART_BYTES + 350
        assert PART_BYTES == 6 * PER_PART


class TestDropouts:
    @pytest.mark.parametrize("clients", [c for k in (3, 4, 5) for c in combinations(range(5), k)])
    def test_every_subset_down_to_the_threshold(self, clients: tuple[int, ...]) -> None:
        federation = Federation(5, 40, 13, threshold=3)
        opened = federation.holder.open(federation.add([federation.uploads[k] for k in clients[::-1]]), 13)
        assert opened.contributors == clients
        assert np.array_equal(opened.total, federation.sum_of(clients))

    @pytest.mark.parametrize("clients", [(), (3,), (0, 4)])
    def test_below_the_threshold_nothing_is_handed_over(self, clients: tuple[int, ...]) -> None:
        federation = Federation(5, 40, 13, threshold=3)
        with pytest.raises(ProtocolError, match=f"at least 3 clients, got {len(clients)}"):
            federation.add([federation.uploads[k] for k in clients])
        federation.check()

    def test_by_default_every_client_must_be_present(self, federation: Federation) -> None:
        with pytest.raises(ProtocolError, match="at least 3 clients, got 2"):
            federation.add(federation.uploads[1:])
        federation.check()

    def test_the_key_holder_has_a_threshold_of_its_own(self) -> None:
        """A server that would hand over fewer gets nothing opened, and the key stays."""
        federation = Federation(5, 40, 13, threshold=4)
        hasty = HomomorphicServer(SERVER, federation.pinned, HOLDER.public, 2)
        message = hasty.add(federation.context, federation.uploads[:3], **at(2), size=40)
        with pytest.raises(ProtocolError, match="at least 4 clients, got 3"):
            federation.holder.open(message, 13)
        federation.check()

    @pytest.mark.parametrize(
        ("contributors", "rule"),
        [
            ((), "at least 3"),
            ((0, 1), "at least 3"),
            ((0, 1, 1), "once each"),
            ((0, 0, 1, 2), "once each"),
            ((2, 1, 0), "ascending"),
            ((0, 1, 5), r"in 0\.\.4"),
            ((0, 1, 65535), r"in 0\.\.4"),
        ],
    )
    def test_lists_of_contributors(self, contributors: tuple[int, ...], rule: str) -> None:
        federation = Federation(5, 40, 13, threshold=3)
        with pytest.raises(ProtocolError, match=rule):
            federation.holder.open(federation.bent_sum(contributors=contributors), 13)
        federation.check()

    def test_sums_are_bounded_by_their_contributors(self) -> None:
        """All five sums' values, said to be over three: more than three could give."""
        federation = Federation(5, 40, 13, threshold=3)
        federation.vectors = [np.full(40, 2**13 - 1)] * 5
        federation.context = federation.holder.context(SESSION, 3, QUESTION)
        uploads = [
            client.upload(federation.context, vector, **at(3), bits=13)
            for client, vector in zip(federation.clients, federation.vectors, strict=True)
        ]
        total = bfv.CiphertextSum(40)
        for upload in uploads:
            total.add(body_of(upload).parts)
        body = encode(EncryptedSum(contributors=(0, 1, 4), size=40, parts=total.total()))
        roster = hashlib.sha256(federation.context).digest()
        with pytest.raises(SealingError, match="can't be a sum"):
            federation.holder.open(sign_message(SERVER, place("sum", roster, 3), 0, body), 13)

    def test_a_client_refuses_a_key_holder_that_opens_less(self) -> None:
        context = KeyHolder(HOLDER, SERVER.public, 3, 2).context(SESSION, 3, QUESTION)
        pinned = [identity.public for identity in IDENTITIES[:3]]
        careful = HomomorphicClient(IDENTITIES[0], pinned, HOLDER.public)
        with pytest.raises(ProtocolError, match="opens sums over 2 of 3 clients, and at least 3 of 3"):
            careful.upload(context, np.arange(5), **at(3), bits=14)
        for agreed in (2, 3):
            stricter = KeyHolder(HOLDER, SERVER.public, 3, agreed).context(SESSION, 3, QUESTION)
            client = HomomorphicClient(IDENTITIES[0], pinned, HOLDER.public, 2)
            client.upload(stricter, np.arange(5), **at(3), bits=14)

    def test_a_client_refuses_a_key_holder_of_another_cohort(self, federation: Federation) -> None:
        context = KeyHolder(HOLDER, SERVER.public, 4).context(SESSION, 3, QUESTION)
        with pytest.raises(ProtocolError, match="4 of 4 clients"):
            federation.clients[0].upload(context, federation.vectors[0], **at(3), bits=14)

    @pytest.mark.parametrize("threshold", [-1, 0, 1, 4])
    def test_thresholds(self, threshold: int) -> None:
        pinned = [identity.public for identity in IDENTITIES[:3]]
        with pytest.raises(SealingError, match=r"threshold must be in 2\.\.3"):
            KeyHolder(HOLDER, SERVER.public, 3, threshold)
        with pytest.raises(SealingError, match="threshold"):
            HomomorphicServer(SERVER, pinned, HOLDER.public, threshold)
        with pytest.raises(SealingError, match="threshold"):
            HomomorphicClient(IDENTITIES[0], pinned, HOLDER.public, threshold)


class TestClient:
    @pytest.mark.parametrize("bits", [0, 15, 20])
    def test_fields_too_narrow(self, bits: int) -> None:
        federation = Federation()
        context = federation.holder.context(SESSION, 3, QUESTION)
        with pytest.raises(SealingError, match=r"1\.\.14"):
            federation.clients[0].upload(context, federation.vectors[0], **at(3), bits=bits)
        with pytest.raises(SealingError, match=r"1\.\.14"):
            federation.holder.open(context, bits)

    def test_second_use(self, federation: Federation) -> None:
        with pytest.raises(ProtocolError, match="can't follow round 2"):
            federation.upload(0)

    @pytest.mark.parametrize(
        "bend", [{"session": b"another-session!"}, {"round": 4}, {"question": bytes(32)}], ids=repr
    )
    def test_contexts_of_other_rounds_and_questions(
        self, federation: Federation, bend: dict[str, object]
    ) -> None:
        context = federation.holder.context(SESSION, 3, QUESTION)
        with pytest.raises(ProtocolError, match="another"):
            federation.clients[0].upload(context, federation.vectors[0], bits=14, **at(3) | bend)

    def test_a_question_is_a_hash(self, federation: Federation) -> None:
        for wrong in (b"", b"what is it?", bytes(33), "0" * 32, None):
            with pytest.raises(SealingError, match="hash of 32 bytes"):
                federation.holder.context(SESSION, 3, wrong)  # type: ignore[arg-type]

    def test_contexts_of_others(self, federation: Federation) -> None:
        stranger = KeyHolder(Identity.generate(), SERVER.public, 3).context(SESSION, 3, QUESTION)
        genuine = federation.holder.context(SESSION, 3, QUESTION)
        swapped = msgspec.structs.replace(decode(genuine, Signed), body=decode(stranger, Signed).body)
        for bad in (stranger, encode(swapped), genuine[:-1], federation.uploads[0]):
            with pytest.raises(ProtocolError):
                federation.clients[0].upload(bad, federation.vectors[0], **at(3), bits=14)
        federation.clients[0].upload(genuine, federation.vectors[0], **at(3), bits=14)

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
            [*good, good[0]],
            [*good[:2], good[1]],
            [*good[:2], good[2][:-1]],
            [*good[:2], bytes(flipped)],
            [*good[:2], good[2] + bytes(500_000)],
            [*good[:2], foreign],
            [*good, foreign],
            [*good[:2], federation.context],
            [*good[:2], federation.resigned(2, b"nonsense")],
            [*good[:2], federation.resigned(2, short)],
            [*good[:2], federation.resigned(4, short)],
        ):
            with pytest.raises(ProtocolError):
                federation.add(bad)
        federation.check()

    def test_signatures_come_before_the_parser(
        self, federation: Federation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def parser(*_: object) -> None:
            raise AssertionError("the parser saw bytes, and not all of them were signed")

        flipped = bytearray(federation.uploads[2])
        flipped[len(flipped) // 2] ^= 1
        monkeypatch.setattr(bfv, "read_words", parser)
        with pytest.raises(ProtocolError, match="signature"):
            federation.add([*federation.uploads[:2], bytes(flipped)])

    def test_ciphertexts_of_liars(self, federation: Federation) -> None:
        """Signed by their sender, and still not what a ciphertext must be."""
        part = body_of(federation.uploads[2]).parts
        for parts in (b"", part[:-1], part + b"\0", part * 2, b"\xff" * PART_BYTES):
            lie = federation.resigned(2, encode(Ciphertexts(size=20, parts=parts)))
            with pytest.raises(ProtocolError):
                federation.add([*federation.uploads[:2], lie])
        federation.check()

    def test_second_use(self, federation: Federation) -> None:
        federation.add()
        with pytest.raises(ProtocolError, match="can't follow round 2"):
            federation.add()

    def test_wrong_size(self, federation: Federation) -> None:
        with pytest.raises(ProtocolError, match="every upload must hold 21 values, and client 0 sent 20"):
            federation.add(size=21)
        federation.check()

    def test_it_needs_no_library(self, federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither contexts nor ciphertexts are parsed by TenSEAL here."""
        with monkeypatch.context() as patch:
            patch.setattr(bfv, "tenseal", None)
            message = federation.add()
        assert np.array_equal(federation.holder.open(message, 14).total, federation.expected)


class TestKeyHolder:
    def test_before_a_key(self) -> None:
        with pytest.raises(ProtocolError, match="after context"):
            KeyHolder(HOLDER, SERVER.public, 3).open(b"", 14)

    def test_rounds_only_go_up(self, federation: Federation) -> None:
        for number in (2, 1):
            with pytest.raises(ProtocolError, match="can't follow round 2"):
                federation.holder.context(SESSION, number, QUESTION)
        federation.check()

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
            federation.bent_sum(parts=b"x"),
            federation.bent_sum(size=PER_PART + 1),
            federation.bent_sum(parts=b"\xff" * PART_BYTES),
        ):
            with pytest.raises(ProtocolError):
                federation.holder.open(bad, federation.bits)
        assert np.array_equal(federation.holder.open(message, federation.bits).total, federation.expected)

    def test_a_liar_beyond_the_bound(self, federation: Federation) -> None:
        lie = federation.resigned(2, encrypted(public_context(federation.context), np.full(20, 60_000)))
        with pytest.raises(SealingError, match="can't be a sum"):
            federation.holder.open(federation.add([*federation.uploads[:2], lie]), federation.bits)
        with pytest.raises(ProtocolError, match="second opening"):
            federation.holder.open(federation.bent_sum(), federation.bits)

    def test_the_key_is_gone_after_the_opening(self, federation: Federation) -> None:
        assert federation.holder._slots._key is not None
        federation.holder.open(federation.add(), federation.bits)
        assert federation.holder._slots._key is None


def raw_context(**changes: object) -> tenseal.Context:
    """A context as TenSEAL makes it, with its secret key."""
    fields = {"poly_modulus_degree": SLOTS, "plain_modulus": PLAIN_MODULUS} | changes
    return tenseal.context(tenseal.SCHEME_TYPE.BFV, coeff_mod_bit_sizes=[36, 36, 37], **fields)


class TestWhatTensealLetsThrough:
    """First that TenSEAL 0.3.18 alone says nothing, then that here it ends in a typed refusal.

    If a newer TenSEAL refuses by itself, the first half of a test fails; the second must not.
    """

    @pytest.mark.parametrize(
        ("value", "found"), [(PLAIN_MODULUS + 5, 5), (2**63 - 1, 1_638_391), (2**48, 2**48 - PLAIN_MODULUS)]
    )
    def test_too_large_values_wrap(self, federation: Federation, value: int, found: int) -> None:
        assert tenseal.bfv_vector(raw_context(), [value]).decrypt() == [found]
        self.refuses_to_upload(federation, np.array([value]))

    def test_fields_carry_into_their_neighbours(self, federation: Federation) -> None:
        """To TenSEAL a packed slot is a number like any other."""
        context = raw_context()
        total = tenseal.bfv_vector(context, [40_000]) + tenseal.bfv_vector(context, [40_000])
        assert total.decrypt() == [(1 << 16) + 14_464]
        self.refuses_to_upload(federation, np.array([1 << 14]))

    @pytest.mark.parametrize("value", [-1, -(2**40)])
    def test_negative_values(self, federation: Federation, value: int) -> None:
        """TenSEAL takes them; in a packed slot they would borrow from the next field."""
        assert tenseal.bfv_vector(raw_context(), [value]).decrypt() == [value]
        self.refuses_to_upload(federation, np.array([value]))

    @pytest.mark.parametrize(("value", "found"), [(1.7, 1), (-0.9, 0), (True, 1)])
    def test_fractions_and_booleans(self, federation: Federation, value: float, found: int) -> None:
        assert tenseal.bfv_vector(raw_context(), [value]).decrypt() == [found]
        self.refuses_to_upload(federation, np.array([value]))

    def test_nan(self, federation: Federation) -> None:
        """A list with NaN is refused by TenSEAL; in an array it becomes some integer, with a warning."""
        with pytest.raises(TypeError):
            tenseal.bfv_vector(raw_context(), [float("nan")])
        with pytest.warns(RuntimeWarning, match="invalid value"):
            vector = tenseal.bfv_vector(raw_context(), np.array([float("nan")]))
        assert isinstance(vector.decrypt()[0], int)
        self.refuses_to_upload(federation, np.array([float("nan")]))

    @pytest.mark.parametrize("wrong", [np.zeros((1, 1), dtype=np.int64), np.zeros(0, dtype=np.int64)])
    def test_other_shapes(self, federation: Federation, wrong: NDArray[np.int64]) -> None:
        """Empty vectors and tensors TenSEAL refuses too, by errors of its own."""
        with pytest.raises((TypeError, ValueError)):
            tenseal.bfv_vector(raw_context(), wrong)
        self.refuses_to_upload(federation, wrong)

    def refuses_to_upload(self, federation: Federation, vector: NDArray[np.int64]) -> None:
        context = federation.holder.context(SESSION, 3, QUESTION)
        with pytest.raises(SealingError):
            federation.clients[0].upload(context, vector, **at(3), bits=14)
        federation.clients[0].upload(context, federation.vectors[0], **at(3), bits=14)

    def test_a_foreign_key(self, federation: Federation) -> None:
        ours, theirs = raw_context(), raw_context()
        foreign = tenseal.bfv_vector(theirs, [1, 2, 3]).serialize()
        opened = (tenseal.bfv_vector_from(ours, foreign) + tenseal.bfv_vector(ours, [0, 0, 0])).decrypt()
        assert opened != [1, 2, 3]

        lie = federation.resigned(2, encrypted(without_evaluation_keys(raw_context()), np.arange(20)))
        message = federation.add([*federation.uploads[:2], lie])
        with pytest.raises(SealingError, match="can't be a sum"):
            federation.holder.open(message, federation.bits)
        with pytest.raises(ProtocolError, match="second opening"):
            federation.holder.open(message, federation.bits)

    def test_a_sum_under_a_foreign_key(self, federation: Federation) -> None:
        foreign = decode(encrypted(without_evaluation_keys(raw_context()), np.arange(20)), Ciphertexts).parts
        with pytest.raises(SealingError, match="can't be a sum"):
            federation.holder.open(federation.bent_sum(parts=foreign), federation.bits)

    def test_single_flipped_bits(self, federation: Federation) -> None:
        context = raw_context()
        vector = tenseal.bfv_vector(context, [7] * SLOTS)
        header, words = bfv._unwrap(vector.serialize())
        silent = 0
        for index in range(0, words.size, 1024):
            flipped = words.copy()
            flipped[np.unravel_index(index, words.shape)] ^= np.uint64(1)
            silent += tenseal.bfv_vector_from(context, header + flipped.tobytes()).decrypt() != [7] * SLOTS
        assert silent == 16

        message = federation.bent_sum()
        rng = np.random.default_rng(0)
        for data, take in ((federation.uploads[2], self.add_as_third), (message, self.open_as_sum)):
            start, end = 8 * 200, 8 * (len(data) - 80)
            envelope = [*range(0, start, 7), *range(end, 8 * len(data), 7)]
            for bit in (*envelope, *rng.integers(start, end, 60).tolist()):
                changed = bytearray(data)
                changed[bit // 8] ^= 1 << bit % 8
                with pytest.raises(ProtocolError):
                    take(federation, bytes(changed))
        federation.check()

    def add_as_third(self, federation: Federation, upload: bytes) -> None:
        federation.add([*federation.uploads[:2], upload])

    def open_as_sum(self, federation: Federation, message: bytes) -> None:
        federation.holder.open(message, federation.bits)

    def test_flipped_bits_by_someone_who_can_sign(self, federation: Federation) -> None:
        """The sum's own form catches it, if nothing else does."""
        parts = bytearray(body_of(federation.uploads[2]).parts)
        parts[1000] ^= 1
        lie = federation.resigned(2, encode(Ciphertexts(size=20, parts=bytes(parts))))
        with pytest.raises(SealingError, match="can't be a sum"):
            federation.holder.open(federation.add([*federation.uploads[:2], lie]), federation.bits)

    def test_other_lengths_and_polynomials(self, federation: Federation) -> None:
        """TenSEAL adds a product, which has three polynomials, to a vector without a word, and opens it.

        Here a ciphertext has one length, so that there is no way to write one. Shorter vectors TenSEAL
        refuses to add, by a ValueError. A lower level doesn't exist under these parameters.
        """
        context = raw_context()
        context.auto_relin = False
        vector = tenseal.bfv_vector(context, [2] * SLOTS)
        product = vector * vector
        total = tenseal.bfv_vector_from(context, product.serialize()) + vector
        assert total.ciphertext()[0].size() == 3
        assert isinstance(total.decrypt(), list)
        with pytest.raises(ValueError, match="sizes"):
            tenseal.bfv_vector(context, [1, 2, 3]) + vector
        seal = context.seal_context().data
        assert tuple(seal.first_parms_id()) == tuple(seal.last_parms_id())

        for raw in (product.serialize(), vector.serialize(), tenseal.bfv_vector(context, [1]).serialize()):
            lie = federation.resigned(2, encode(Ciphertexts(size=20, parts=raw)))
            with pytest.raises(MessageError, match=r"must (be at most|have) \d+ bytes"):
                federation.add([*federation.uploads[:2], lie])
            with pytest.raises(MessageError, match="must have 73728 bytes"):
                federation.holder.open(federation.bent_sum(parts=raw), federation.bits)
        federation.check()

    def test_constants_added_by_the_network(self, federation: Federation) -> None:
        context = raw_context()
        public = tenseal.context_from(context.serialize(save_secret_key=False))
        passing = tenseal.bfv_vector_from(public, tenseal.bfv_vector(context, [1, 2, 3]).serialize())
        changed = passing.add_([10, 10, 10]).serialize()
        assert tenseal.bfv_vector_from(context, changed).decrypt() == [11, 12, 13]

        shifted = bfv.CiphertextSum(20)
        shifted.add(body_of(federation.uploads[2]).parts)
        shifted.add(PublicKey.load(public_context(federation.context)).encrypt(pack(np.full(20, 10))))
        upload = decode(federation.uploads[2], Signed)
        body = encode(Ciphertexts(size=20, parts=shifted.total()))
        with pytest.raises(ProtocolError, match="signature"):
            federation.add([*federation.uploads[:2], encode(msgspec.structs.replace(upload, body=body))])
        federation.check()

    def test_swapped_senders(self, federation: Federation) -> None:
        """TenSEAL's bytes name no sender at all."""
        context = raw_context()
        raw = tenseal.bfv_vector(context, [1]).serialize()
        twice = tenseal.bfv_vector_from(context, raw) + tenseal.bfv_vector_from(context, raw)
        assert twice.decrypt() == [2]

        first, second = (decode(upload, Signed) for upload in federation.uploads[:2])
        swapped = encode(msgspec.structs.replace(first, sender=1))
        in_place = encode(msgspec.structs.replace(first, body=second.body))
        for bad in (swapped, in_place):
            with pytest.raises(ProtocolError, match="signature"):
                federation.add([bad, *federation.uploads[1:]])
        with pytest.raises(ProtocolError, match="two messages"):
            federation.add([federation.uploads[0], federation.uploads[0], federation.uploads[2]])
        federation.check()

    def test_replays_of_another_round(self) -> None:
        """With TenSEAL's own bytes the sum is garbage; with one key for all rounds it would be plausible."""
        context = raw_context()
        old = tenseal.bfv_vector(context, [1]).serialize()
        assert tenseal.bfv_vector_from(context, old).decrypt() == [1]

        federation = Federation(3)
        old_uploads, old_sum = federation.uploads, federation.add()
        federation.context = federation.holder.context(SESSION, 3, QUESTION)
        uploads = [
            client.upload(federation.context, vector, **at(3), bits=14)
            for client, vector in zip(federation.clients, federation.vectors, strict=True)
        ]
        for bad in ([*uploads[:2], old_uploads[2]], old_uploads):
            with pytest.raises(ProtocolError, match="another round"):
                federation.server.add(federation.context, bad, **at(3), size=20)
        with pytest.raises(ProtocolError, match="another round"):
            federation.holder.open(old_sum, 14)
        message = federation.server.add(federation.context, uploads, **at(3), size=20)
        assert np.array_equal(federation.holder.open(message, 14).total, federation.expected)

    def test_a_second_opening(self, federation: Federation) -> None:
        context = raw_context()
        vector = tenseal.bfv_vector(context, [5])
        assert vector.decrypt() == vector.decrypt() == [5]

        message = federation.add()
        federation.holder.open(message, federation.bits)
        for again in (message, federation.bent_sum()):
            with pytest.raises(ProtocolError, match="second opening"):
                federation.holder.open(again, federation.bits)

    @pytest.mark.parametrize("bad", ["secret", "weak", "ckks", "garbage"])
    def test_contexts_that_arent_what_was_proven(self, federation: Federation, bad: str) -> None:
        """TenSEAL loads all but the last, and encrypts under them."""
        weak = raw_context(plain_modulus=1_032_193)
        ckks = tenseal.context(tenseal.SCHEME_TYPE.CKKS, SLOTS, coeff_mod_bit_sizes=[36, 36, 37])
        data = {
            "garbage": b"nonsense",
            "weak": without_evaluation_keys(weak),
            "secret": without_evaluation_keys(raw_context(), save_secret_key=True),
            "ckks": without_evaluation_keys(ckks),
        }[bad]
        if bad == "garbage":
            with pytest.raises(ValueError, match="parse"):
                tenseal.context_from(data)
        elif bad == "secret":
            vector = tenseal.bfv_vector(tenseal.context_from(data), [3])
            assert vector.decrypt() == [3]
        elif bad == "weak":
            vector = tenseal.bfv_vector(tenseal.context_from(data), [1_032_194])
            vector.link_context(weak)
            assert vector.decrypt() == [1]
        else:
            assert tenseal.context_from(data).has_public_key()

        context = self.signed_context(data)
        with pytest.raises((MessageError, SealingError), match="IND-CPA-D" if bad == "ckks" else "context"):
            federation.clients[0].upload(context, federation.vectors[0], **at(3), bits=14)
        good = federation.holder.context(SESSION, 3, QUESTION)
        federation.clients[0].upload(good, federation.vectors[0], **at(3), bits=14)

    def signed_context(self, data: bytes) -> bytes:
        body = encode(KeyContext(context=data, n_clients=3, threshold=3))
        return sign_message(HOLDER, place("context", cohort_hash((HOLDER.public, QUESTION)), 3), 0, body)

    def test_long_vectors_are_announced_on_stdout(self, capfd: pytest.CaptureFixture[str]) -> None:
        tenseal.bfv_vector(raw_context(), [1] * (SLOTS + 1))
        assert "WARNING" in capfd.readouterr().out

        federation = Federation(2, 2 * PER_PART + 1, 15)
        federation.holder.open(federation.add(), 15)
        assert capfd.readouterr() == ("", "")

    def test_a_public_context_cant_decrypt(self, federation: Federation) -> None:
        """Here TenSEAL refuses by itself."""
        public = PublicKey.load(public_context(federation.context)).context
        with pytest.raises(ValueError, match="secret_key"):
            tenseal.bfv_vector(public, [1]).decrypt()


def without_evaluation_keys(context: tenseal.Context, *, save_secret_key: bool = False) -> bytes:
    data: bytes = context.serialize(
        save_public_key=True, save_secret_key=save_secret_key, save_galois_keys=False, save_relin_keys=False
    )
    return data
