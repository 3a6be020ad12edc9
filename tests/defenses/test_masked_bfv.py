"""Masked values under encryption: sums, dropouts, what the key holder sees, and refusals of a mismatch."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from securefd.defenses import masked_bfv, prime_ring
from securefd.defenses.bfv import (
    PART_BYTES,
    PER_PART,
    PLAIN_MODULUS,
    SLOTS,
    SecretKey,
    n_parts,
    pack,
    read_parts,
    unpack,
    value_bits,
)
from securefd.defenses.homomorphic import KeyHolder
from securefd.defenses.identity import Identity, sign_message
from securefd.defenses.masked_bfv import BfvAdder, BfvSealer, quorum_of, under
from securefd.defenses.masked_client import MaskedClient
from securefd.defenses.masked_server import STAGES, MaskedServer
from securefd.defenses.masked_weight import masked_weight
from securefd.defenses.sealed import Attends, MaskedHomomorphicSealing, make_sealing
from securefd.defenses.slots import OpenedSlots, Quorum, SlotKeyHolder
from securefd.defenses.terms import Terms
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import KeyContext, Opening, Upload, encode
from tests.defenses.masked_parties import (
    IDENTITIES,
    QUESTION,
    SESSION,
    STRANGER,
    Federation,
    body_of,
    make_graph,
    make_terms,
)

SERVER, HOLDER = Identity.generate(), Identity.generate()
SEVERAL = 2 * PER_PART + 7
KEYS = [bytes([k + 1]) * 32 for k in range(4)]


def bfv_terms(n: int = 3, threshold: int | None = None, bits: int | None = None, **more: float) -> Terms:
    graph = make_graph(n, threshold or n)
    pinned = tuple(identity.public for identity in IDENTITIES[:n])
    return Terms(
        pinned=pinned,
        neighbourhood=graph,
        bits=bits or value_bits(n),
        carrier="bfv",
        **more,  # type: ignore[arg-type]
    )


def sealing(terms: Terms, attends: Attends | None = None) -> MaskedHomomorphicSealing:
    identities = IDENTITIES[: len(terms.pinned)]
    return MaskedHomomorphicSealing(
        identities, terms, SERVER, HOLDER, attends=attends or (lambda stage, client: True)
    )


def make_vectors(terms: Terms, size: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng([len(terms.pinned), size])
    return [rng.integers(0, 1 << terms.bits, size) for _ in terms.pinned]


class Round:
    """One round of a key holder, sealers and an adder, whose masks are given; keeps what was opened."""

    def __init__(self, terms: Terms | None = None, size: int = 5, number: int = 4) -> None:
        self.terms, self.size, self.number = terms or bfv_terms(), size, number
        self.holder = SlotKeyHolder(HOLDER, SERVER.public, quorum_of(self.terms))
        self.context = self.holder.context(SESSION, number, QUESTION)
        self.opened: list[OpenedSlots] = []
        self.adder = self.make_adder()

    def ask(self, message: bytes) -> bytes:
        self.opened.append(self.holder.open(message))
        return self.opened[-1].message

    def make_adder(self, ask: Callable[[bytes], bytes] | None = None, **changes: object) -> BfvAdder:
        fields = {
            "holder": HOLDER.public,
            "context": self.context,
            "session": SESSION,
            "round": self.number,
            "question": QUESTION,
            **changes,
        }
        return BfvAdder(
            self.terms,
            self.size,
            server=SERVER,
            ask=ask or self.ask,
            **fields,  # type: ignore[arg-type]
        )

    def sealer(self, **changes: object) -> BfvSealer:
        fields = {
            "terms": self.terms,
            "holder": HOLDER.public,
            "context": self.context,
            "session": SESSION,
            "round": self.number,
            "question": QUESTION,
        }
        return BfvSealer(**{**fields, **changes})  # type: ignore[arg-type]


class TestSums:
    @pytest.mark.parametrize("n", [3, 4, 5])
    @pytest.mark.parametrize("size", [1, SEVERAL])
    def test_equal_the_plain_sum(self, n: int, size: int) -> None:
        """At the most bits, the largest values included; two rounds of one object."""
        terms = bfv_terms(n)
        sealed = sealing(terms)
        for number in range(2):
            vectors = make_vectors(terms, size)
            for vector in vectors:
                vector[0] = terms.largest_value
            opened = sealed.run_round(SESSION, number, vectors, terms.bits)
            assert opened.total.dtype == np.int64
            assert np.array_equal(opened.total, np.sum(vectors, axis=0))
            assert opened.clients == tuple(range(n))
            assert opened.individual is None

    @pytest.mark.parametrize("stage", STAGES)
    @pytest.mark.parametrize("gone", [{0}, {4}, {1, 3}], ids=repr)
    def test_dropouts(self, stage: str, gone: set[int]) -> None:
        terms = bfv_terms(5, threshold=3)
        sealed = sealing(terms, lambda now, client: now != stage or client not in gone)
        vectors = make_vectors(terms, SEVERAL)
        opened = sealed.run_round(SESSION, 0, vectors, terms.bits)
        counted = STAGES.index(stage) > STAGES.index("upload")
        survivors = tuple(k for k in range(5) if counted or k not in gone)
        assert opened.clients == survivors
        assert np.array_equal(opened.total, np.sum([vectors[k] for k in survivors], axis=0))

    @pytest.mark.parametrize("stage", STAGES)
    def test_with_too_few_the_key_holder_opens_nothing(
        self, stage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[bytes] = []
        monkeypatch.setattr(SlotKeyHolder, "open", lambda self, message: opened.append(message))
        terms = bfv_terms(5, threshold=4)
        sealed = sealing(terms, lambda now, client: now != stage or client > 1)
        with pytest.raises(ProtocolError):
            sealed.run_round(SESSION, 0, make_vectors(terms, 5), terms.bits)
        assert not opened

    def test_vectors_that_dont_fit(self) -> None:
        sealed = sealing(bfv_terms(bits=8))
        ones = [np.array([1])] * 2
        for wrong, bits in ((np.array([256]), 8), (np.array([1]), 7), (np.array([-1]), 8)):
            with pytest.raises(SealingError):
                sealed.run_round(SESSION, 0, [*ones, wrong], bits)
        with pytest.raises(ProtocolError, match="every one of 3 clients"):
            sealed.run_round(SESSION, 0, ones, 8)
        assert sealed.run_round(SESSION, 0, [*ones, np.array([1])], 8).total.tolist() == [3]

    def test_rounds_arent_repeated(self) -> None:
        sealed = sealing(bfv_terms())
        sealed.run_round(SESSION, 1, [np.array([1])] * 3, 14)
        with pytest.raises(ProtocolError, match="can't follow round 1"):
            sealed.run_round(SESSION, 1, [np.array([1])] * 3, 14)

    def test_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Up, exactly those of masked ciphertexts; down, the key holder's context on top of masks."""
        contexts: list[int] = []
        make = SlotKeyHolder.context

        def context(self: SlotKeyHolder, session: bytes, round: int, question: bytes) -> bytes:  # noqa: A002
            message = make(self, session, round, question)
            contexts.append(len(message))
            return message

        monkeypatch.setattr(SlotKeyHolder, "context", context)
        terms = bfv_terms()
        opened = sealing(terms).run_round(SESSION, 0, make_vectors(terms, SEVERAL), terms.bits)
        up, down = masked_weight(terms, session=SESSION, round=0, values=3 * PART_BYTES)
        assert max(opened.up) == up
        assert max(opened.down) == down + contexts[0]

    def test_made_by_kind(self) -> None:
        made = make_sealing("masked+homomorphic", 3, 8, neighbourhood=make_graph(3, 2))
        assert type(made) is MaskedHomomorphicSealing
        assert made.run_round(SESSION, 0, [np.array([7, 0])] * 3, 8).total.tolist() == [21, 0]


class TestThreshold:
    """Of encrypted sums without masks; with masks it is in the terms."""

    def test_it_is_what_the_key_holder_announces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[bytes] = []
        make = KeyHolder.context

        def context(self: KeyHolder, session: bytes, round: int, question: bytes) -> bytes:  # noqa: A002
            made.append(make(self, session, round, question))
            return made[-1]

        monkeypatch.setattr(KeyHolder, "context", context)
        for threshold, announced in ((None, 4), (3, 3)):
            sealed = make_sealing("homomorphic", 4, 8, threshold=threshold)
            assert sealed.run_round(SESSION, 0, [np.array([7])] * 4, 8).total.tolist() == [28]
            assert body_of(made[-1], KeyContext).threshold == announced

    @pytest.mark.parametrize("threshold", [0, 1, 5])
    def test_refused(self, threshold: int) -> None:
        with pytest.raises(SealingError, match=f"threshold must be in 2..4, got {threshold}"):
            make_sealing("homomorphic", 4, 8, threshold=threshold)


def check_uniform(slots: NDArray[np.int64]) -> None:
    """Chi-square of the slots, and of each of their fields' lowest bits, at a level of one in a million."""
    flat = slots.ravel()
    low = [(flat >> shift) % 2**16 / 2**16 for shift in (0, 16)]
    for seen in (flat / PLAIN_MODULUS, *low, np.diff(flat) % PLAIN_MODULUS / PLAIN_MODULUS):
        counts, _ = np.histogram(seen, bins=64, range=(0, 1))
        statistic = float(((counts - seen.size / 64) ** 2 / (seen.size / 64)).sum())
        assert chi2.ppf(1e-6, 63) < statistic < chi2.ppf(1 - 1e-6, 63)


class TestWhatIsSeen:
    """Mask keys come from a fixed seed, so that masks, and with them all that is decrypted, are the same."""

    def play(self) -> tuple[Round, list[NDArray[np.int64]], list[bytes], NDArray[np.int64]]:
        """A whole round with a key holder whose openings are kept, over vectors of zeros and ones."""
        r = Round(bfv_terms(4, threshold=3), SEVERAL)
        clients = [MaskedClient(IDENTITIES[k], r.terms, _random=Random(f"seen {k}")) for k in range(4)]
        server = MaskedServer(
            r.terms, session=SESSION, round=r.number, question=QUESTION, size=r.size, adder=r.adder
        )
        vectors = [np.arange(r.size) // (k + 1) % 2 for k in range(4)]
        for client in clients:
            server.receive(client.advertise(SESSION, r.number, question=QUESTION, size=r.size))
        roster = server.roster()
        for client in clients:
            server.receive(client.share(roster))
        relays = server.relays()
        uploads = [
            client.upload(relays[k], vectors[k], sealer=r.sealer()) for k, client in enumerate(clients)
        ]
        for upload in uploads:
            server.receive(upload)
        survivors = server.survivors()
        for client in clients:
            server.receive(client.confirm(survivors))
        confirmations = server.confirmations()
        for k, client in enumerate(clients):
            server.receive(client.unmask(confirmations[k]))
        return r, vectors, uploads, server.open_sum().total

    def test_the_key_holder_opens_what_is_uniform(self) -> None:
        r, vectors, _, total = self.play()
        plain = np.sum(vectors, axis=0)
        assert np.array_equal(total, plain)
        (opened,) = r.opened
        assert opened.contributors == (0, 1, 2, 3)
        assert not (opened.slots == pack(plain)).any()
        with pytest.raises(SealingError, match="can't be a sum"):
            unpack(opened.slots, r.size, 2**16 - 1)
        check_uniform(opened.slots)
        correlation = np.corrcoef(opened.slots.ravel(), pack(plain).ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(opened.slots.size)

    def test_the_uniformity_test_can_fail(self) -> None:
        with pytest.raises(AssertionError):
            check_uniform(pack(np.random.default_rng(0).integers(0, 2**16, SEVERAL)))

    def test_server_and_key_holder_together_see_masked_uploads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every upload decrypted by itself: uniform, and without masks it is the client's vector."""
        keys: list[SecretKey] = []
        masks: list[tuple[Sequence[bytes], Sequence[bytes]]] = []
        generate, apply = SecretKey.generate, prime_ring.apply

        def keep_key() -> SecretKey:
            keys.append(generate())
            return keys[-1]

        def keep_masks(
            values: NDArray[np.int64], added: Sequence[bytes], subtracted: Sequence[bytes], modulus: int
        ) -> None:
            masks.append((added, subtracted))
            apply(values, added, subtracted, modulus)

        monkeypatch.setattr(SecretKey, "generate", keep_key)
        monkeypatch.setattr(masked_bfv, "apply", keep_masks)
        r, vectors, uploads, _ = self.play()
        for k, upload in enumerate(uploads):
            sealed = body_of(upload, Upload).values
            slots = keys[0].decrypt(read_parts(sealed, n_parts(r.size)))
            check_uniform(slots)
            assert not (slots == pack(vectors[k])).any()
            added, subtracted = masks[k]
            assert (len(added), len(subtracted)) == (4 - k, k)  # its own, and one for each neighbour
            apply(slots, subtracted, added, PLAIN_MODULUS)
            assert np.array_equal(unpack(slots, r.size, 1), vectors[k])

    def test_any_mask_that_remains_hides_a_sum(self) -> None:
        """What the server opens with one key too few isn't a sum, and it finds out."""
        r = Round()
        for k in range(3):
            r.adder.add(r.sealer().seal(np.arange(5), [KEYS[k]], []))
        with pytest.raises(SealingError, match="can't be a sum"):
            r.adder.open([], KEYS[:2], (0, 1, 2))


class TestRefusals:
    @pytest.mark.parametrize(
        "changes",
        [
            {"round": 5},
            {"session": b"another-session!"},
            {"question": bytes(32)},
            {"holder": STRANGER.public},
        ],
        ids=repr,
    )
    def test_contexts_of_another_place_or_holder(self, changes: dict[str, object]) -> None:
        r = Round()
        with pytest.raises(ProtocolError):
            r.sealer(**changes).seal(np.arange(5), KEYS[:1], [])
        with pytest.raises(ProtocolError):
            r.make_adder(**changes)

    def test_contexts_made_for_others(self) -> None:
        """By a key holder that opens smaller sums, or sums of more clients, or sums without masks."""
        r = Round()
        contexts = [
            SlotKeyHolder(HOLDER, SERVER.public, Quorum(n_clients=n, threshold=t)).context(
                SESSION, 4, QUESTION
            )
            for n, t in ((3, 2), (4, 3), (4, 4))
        ]
        contexts += [KeyHolder(HOLDER, SERVER.public, 3).context(SESSION, 4, QUESTION), r.context[:-1], b""]
        for context in contexts:
            with pytest.raises(ProtocolError):
                r.sealer(context=context).seal(np.arange(5), KEYS[:1], [])

    def test_a_refused_context_costs_a_client_nothing(self) -> None:
        """It seals under the right one afterwards, having sent nothing before."""
        r = Round()
        f = _to_upload(r)
        relay = f.given["upload"][0]
        with pytest.raises(ProtocolError, match="another"):
            f.clients[0].upload(relay, f.vectors[0], sealer=r.sealer(round=5))
        upload = f.clients[0].upload(relay, f.vectors[0], sealer=r.sealer())
        assert len(body_of(upload, Upload).values) == PART_BYTES

    def test_a_ciphertext_under_a_foreign_key(self) -> None:
        r, other = Round(), Round()
        for k in range(3):
            sealer = (other if k == 1 else r).sealer()
            r.adder.add(sealer.seal(np.arange(5), [], []))
        with pytest.raises(SealingError, match="can't be a sum"):
            r.adder.open([], [], (0, 1, 2))

    def test_a_second_opening(self) -> None:
        r = Round()
        for _ in range(3):
            r.adder.add(r.sealer().seal(np.arange(5), [], []))
        assert r.adder.open([], [], (0, 1, 2)).tolist() == [0, 3, 6, 9, 12]
        with pytest.raises(ProtocolError, match="second opening"):
            r.adder.open([], [], (0, 1, 2))
        again = r.make_adder()
        for _ in range(3):
            again.add(r.sealer().seal(np.arange(5), [], []))
        with pytest.raises(ProtocolError, match="second opening"):
            again.open([], [], (0, 1, 2))

    def test_sums_over_others_than_were_added(self) -> None:
        r = Round(bfv_terms(4, threshold=3))
        for _ in range(3):
            r.adder.add(r.sealer().seal(np.arange(5), [], []))
        for clients in ((0, 1), (0, 1, 2, 3), (1, 0, 2), (0, 1, 4), (1, 1, 2)):
            with pytest.raises(ProtocolError):
                r.adder.open([], [], clients)
        assert not r.opened
        assert r.adder.open([], [], (0, 1, 3)).tolist() == [0, 3, 6, 9, 12]

    @pytest.mark.parametrize(
        ("by", "changes"),
        [
            (HOLDER, {"contributors": (0, 1)}),
            (HOLDER, {"size": 6}),
            (HOLDER, {"slots": bytes(2 * 8 * SLOTS)}),
            (HOLDER, {"slots": np.full(SLOTS, PLAIN_MODULUS, "<i8").tobytes()}),
            (SERVER, {}),
            (STRANGER, {}),
        ],
        ids=[
            "other clients",
            "other size",
            "other shape",
            "beyond the modulus",
            "the server's",
            "a stranger's",
        ],
    )
    def test_what_a_key_holder_wouldnt_return(self, by: Identity, changes: dict[str, object]) -> None:
        r = Round()

        def forge(message: bytes) -> bytes:
            fields = {"contributors": (0, 1, 2), "size": 5, "slots": bytes(8 * SLOTS), **changes}
            place = quorum_of(r.terms).context_place(SESSION, r.number, HOLDER.public, QUESTION)
            body = encode(Opening(**fields))  # type: ignore[arg-type]
            return sign_message(by, place.at("opening", hashlib.sha256(message).digest()), 0, body)

        adder = r.make_adder(forge)
        for _ in range(3):
            adder.add(r.sealer().seal(np.arange(5), [], []))
        with pytest.raises(ProtocolError):
            adder.open([], [], (0, 1, 2))

    def test_an_answer_that_comes_late_or_after_a_forged_one(self) -> None:
        """The server asks again with the very same message, and takes what the key holder signed for it."""
        r, other = Round(), Round()
        for _ in range(3):
            other.adder.add(other.sealer().seal(np.ones(5, np.int64), [], []))
        other.adder.open([], [], (0, 1, 2))
        asked: list[bytes] = []
        answers: list[bytes] = [b"", other.opened[0].message]

        def ask(message: bytes) -> bytes:
            asked.append(message)
            if len(asked) == 1:
                answers.append(r.ask(message))
            return answers[len(asked) - 1]

        adder = r.make_adder(ask)
        for _ in range(3):
            adder.add(r.sealer().seal(np.arange(5), [], []))
        for _ in range(2):
            with pytest.raises(ProtocolError):
                adder.open([], [], (0, 1, 2))
        assert adder.open([], [], (0, 1, 2)).tolist() == [0, 3, 6, 9, 12]
        assert len(set(asked)) == 1
        assert len(r.opened) == 1

    def test_damaged_uploads_change_nothing(self) -> None:
        r = Round()
        good = r.sealer().seal(np.arange(5), [], [])
        assert r.adder.most_bytes == len(good) == PART_BYTES
        for bad in (good[:-1], good + b"\0", b"", b"\xff" * len(good)):
            with pytest.raises(MessageError):
                r.adder.add(bad)
        for _ in range(3):
            r.adder.add(good)
        assert r.adder.open([], [], (0, 1, 2)).tolist() == [0, 3, 6, 9, 12]

    def test_a_value_beyond_its_bound(self) -> None:
        """A client that lies about its bound is found out, where the sum of all exceeds it."""
        r = Round(bfv_terms(bits=8))
        for value in (255, 255, 256):
            r.adder.add(r.sealer().seal(np.full(5, value), [], []))
        with pytest.raises(SealingError, match="can't be a sum"):
            r.adder.open([], [], (0, 1, 2))


def _to_upload(r: Round) -> Federation:
    """Clients, and a server with the adder of ``r``, before the uploads."""
    f = Federation(make_terms(make_graph(3, 3)), number=r.number, size=r.size)
    f.terms = r.terms
    f.vectors = make_vectors(r.terms, r.size)
    f.clients = [MaskedClient(IDENTITIES[k], r.terms, _random=Random(k)) for k in range(3)]
    f.server = MaskedServer(
        r.terms, session=SESSION, round=r.number, question=QUESTION, size=r.size, adder=r.adder
    )
    return f.to("upload")


class TestWhatIsSigned:
    """The key holder's context, in every message of a client from its first one on."""

    def test_a_client_under_another_context_or_question_isnt_heard(self) -> None:
        r, other = Round(), Round()
        assert r.adder.about == r.sealer().about == under(r.context, QUESTION)
        server = MaskedServer(
            r.terms, session=SESSION, round=r.number, question=r.adder.about, size=5, adder=r.adder
        )
        for about in (
            QUESTION,
            under(r.context, bytes(32)),
            under(other.context, QUESTION),
            other.sealer().about,
        ):
            client = MaskedClient(IDENTITIES[0], r.terms)
            with pytest.raises(ProtocolError, match="another"):
                server.receive(client.advertise(SESSION, r.number, question=about, size=5))
        client = MaskedClient(IDENTITIES[0], r.terms)
        server.receive(client.advertise(SESSION, r.number, question=r.sealer().about, size=5))

    def test_an_upload_counts_under_its_own_context_only(self) -> None:
        """To a key holder that made two keys for one place: all else in the two rounds is the same."""
        r, other = Round(), Round()
        clients, server, relays = self.before_uploads(r)
        _, elsewhere, _ = self.before_uploads(other)
        upload = clients[0].upload(relays[0], np.arange(5), sealer=r.sealer())
        with pytest.raises(ProtocolError, match="another"):
            elsewhere.receive(upload)
        server.receive(upload)

    def before_uploads(self, r: Round) -> tuple[list[MaskedClient], MaskedServer, Mapping[int, bytes]]:
        clients = [MaskedClient(IDENTITIES[k], r.terms, _random=Random(k)) for k in range(3)]
        about = r.adder.about
        server = MaskedServer(r.terms, session=SESSION, round=r.number, question=about, size=5, adder=r.adder)
        for client in clients:
            server.receive(client.advertise(SESSION, r.number, question=about, size=5))
        roster = server.roster()
        for client in clients:
            server.receive(client.share(roster))
        return clients, server, server.relays()

    def test_every_part_of_what_it_is_about_counts(self) -> None:
        contexts, questions = (b"", b"a", bytes(32)), (QUESTION, SESSION * 2)
        assert len({under(context, question) for context in contexts for question in questions}) == 6
        inner = hashlib.sha256(b"context").digest()
        assert under(b"context", QUESTION) == hashlib.sha256(QUESTION + inner).digest()


class TestTerms:
    def test_the_quorum_is_that_of_the_terms(self) -> None:
        assert quorum_of(bfv_terms(5, threshold=4)) == Quorum(n_clients=5, threshold=4)

    @pytest.mark.parametrize("deviation", [1.0, 0.001])
    def test_noise(self, deviation: float) -> None:
        terms = bfv_terms(bits=4, noise_deviation=deviation)
        makers: list[Callable[[Terms], object]] = [quorum_of, sealing, lambda t: Round().sealer(terms=t)]
        for make in makers:
            with pytest.raises(SealingError, match=f"must be without noise, got a deviation of {deviation}"):
                make(terms)

    @pytest.mark.parametrize(("n", "bits"), [(3, 15), (4, 15), (5, 14)])
    def test_bits_that_dont_fit(self, n: int, bits: int) -> None:
        with pytest.raises(SealingError, match=f"at most {bits - 1} bits, got {bits}"):
            quorum_of(bfv_terms(n, bits=bits))

    def test_terms_for_a_ring(self) -> None:
        ring = make_terms(make_graph(3, 3))
        with pytest.raises(SealingError, match="carrier bfv, got ring"):
            sealing(ring)
        with pytest.raises(SealingError, match="carrier bfv, got ring"):
            Round().sealer(terms=ring)

    def test_a_client_that_agreed_to_a_ring(self) -> None:
        r = Round(size=6)
        f = Federation(make_terms(make_graph(3, 3))).to("upload")
        with pytest.raises(SealingError, match="must travel by ring, as agreed, got bfv"):
            f.clients[0].upload(f.given["upload"][0], f.vectors[0], sealer=r.sealer())

    def test_a_client_that_agreed_to_encryption(self) -> None:
        f = _to_upload(Round())
        with pytest.raises(SealingError, match="must travel by bfv, as agreed, got ring"):
            f.clients[0].upload(f.given["upload"][0], f.vectors[0])

    def test_servers(self) -> None:
        for terms, adder in ((bfv_terms(), None), (make_terms(make_graph(3, 3)), Round().adder)):
            with pytest.raises(SealingError, match="must travel by"):
                MaskedServer(terms, session=SESSION, round=4, question=QUESTION, size=5, adder=adder)
