"""What one client sends, against computations by hand, and what it refuses, forgets and doesn't print."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from securefd.defenses import shamir
from securefd.defenses.carriers import RingSealer
from securefd.defenses.identity import Identity
from securefd.defenses.masked_client import MaskedClient
from securefd.defenses.masked_server import STAGES
from securefd.defenses.neighbourhood import Neighbourhood
from securefd.defenses.ring import tail
from securefd.defenses.terms import CarrierName, Terms
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import Advertise, Confirm, Relay, Reveal, Signed, Upload, decode
from tests.defenses.masked_adversary import Adversary
from tests.defenses.masked_parties import (
    IDENTITIES,
    NOBODY,
    OTHER_SESSION,
    QUESTION,
    SESSION,
    STRANGER,
    Drops,
    Federation,
    body_of,
    make_graph,
    make_terms,
    public,
)
from tests.defenses.masked_secrets import COMPLETE, SPARSE, advert, boxes_of, by_hand, opened, secret, seed_of

BITS = {8: 5, 16: 13, 32: 29, 64: 32}
"""Of a ring: the most bits that the values of six clients may have in it."""


def keystream(key: bytes, words: int, width: int) -> list[int]:
    data = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(words * width))
    return [int.from_bytes(data[k * width : (k + 1) * width], "little") for k in range(words)]


class TestWhatItSends:
    def test_advert(self) -> None:
        f = Federation(COMPLETE).to("share")
        for client in f.everyone:
            body = advert(f, client)
            assert [body.mask_key, body.share_key] == [public(key) for key in f.privates[client]]
            signed = decode(f.sent["advertise"][client], Signed)
            assert signed.roster == COMPLETE.digest(question=QUESTION, size=f.size)

    @pytest.mark.parametrize("terms", [COMPLETE, SPARSE], ids=["complete", "sparse"])
    def test_boxes(self, terms: Terms) -> None:
        """Any share_threshold holders recover both secrets, fewer don't, and nobody else opens a box."""
        f = Federation(terms).to("upload")
        needed = terms.neighbourhood.share_threshold
        for client in f.everyone:
            boxes, shares = boxes_of(f, client), opened(f, client)
            assert len(boxes.holders) == terms.neighbourhood.degree
            mask_key = f.privates[client][0].private_bytes_raw()
            for some in combinations(boxes.holders, needed):
                key, seed = (shamir.recover({k: shares[k][kind] for k in some}, needed) for kind in (0, 1))
                assert key == mask_key
                assert hashlib.sha256(seed).digest() == boxes.seed_hash
                fewer = {k: shares[k][0] for k in some[1:]}
                if fewer:
                    assert shamir.recover(fewer, needed - 1) != mask_key

    @pytest.mark.parametrize("width", BITS)
    @pytest.mark.parametrize(
        "graph",
        [make_graph(6, 5), make_graph(6, 4, degree=3, share_threshold=2)],
        ids=["complete", "sparse"],
    )
    def test_upload(self, width: int, graph: Neighbourhood) -> None:
        terms = make_terms(graph, bits=BITS[width])
        f = Federation(terms, size=9).to("confirm", {"share": {5}})
        assert terms.ring(9).bits == width
        for client in range(5):
            relay = decode(f.given["upload"][client], Relay)
            seed = seed_of(f, client)
            neighbours = {*relay.senders, *boxes_of(f, client).holders} - {5}
            masks = [(1, by_hand(f, b"self", seed, client, client))]
            for peer in neighbours:
                shared = secret(f, 0, client, peer)
                key = by_hand(f, b"pair", shared, min(client, peer), max(client, peer))
                masks.append((1 if client < peer else -1, key))
            words = [int(value) for value in f.vectors[client]]
            for sign, key in masks:
                for k, word in enumerate(keystream(key, 9, width // 8)):
                    words[k] = (words[k] + sign * word) % (1 << width)
            upload = body_of(f.sent["upload"][client], Upload)
            assert upload.values == b"".join(word.to_bytes(width // 8, "little") for word in words)

    @pytest.mark.parametrize("terms", [COMPLETE, SPARSE], ids=["complete", "sparse"])
    def test_tags(self, terms: Terms) -> None:
        f = Federation(terms).to("confirm", {"share": {1}})
        sharers = [k for k in f.everyone if k != 1]
        listed = hashlib.sha256(b"".join(k.to_bytes(4, "big") for k in sharers)).digest()
        for client in sharers:
            holders = [k for k in boxes_of(f, client).holders if k != 1]
            assert body_of(f.sent["upload"][client], Upload).tags == tuple(
                by_hand(f, b"tag", secret(f, 1, client, holder), client, holder, listed)[:16]
                for holder in holders
            )

    def test_confirmation(self) -> None:
        f = Federation(COMPLETE).to("unmask")
        for client in f.everyone:
            body = body_of(f.sent["confirm"][client], Confirm)
            assert body.survivors == hashlib.sha256(f.given["confirm"][client]).digest()

    @pytest.mark.parametrize("terms", [COMPLETE, SPARSE], ids=["complete", "sparse"])
    def test_reveal(self, terms: Terms) -> None:
        """Its own seed; seed shares of survivors, key shares of the others, and of nobody both."""
        f = Federation(terms)
        f.finish({"upload": {2}})
        for client in f.sent["unmask"]:
            reveal = body_of(f.sent["unmask"][client], Reveal)
            assert reveal.seed == seed_of(f, client)
            owners = [k for k in f.everyone if client in boxes_of(f, k).holders]
            assert reveal.survivors == tuple(k for k in owners if k != 2)
            assert reveal.dropped == tuple(k for k in owners if k == 2)
            assert reveal.seed_shares == tuple(opened(f, k)[client][1] for k in reveal.survivors)
            assert reveal.key_shares == tuple(opened(f, k)[client][0] for k in reveal.dropped)

    def test_the_operating_systems_generator_by_default(self) -> None:
        client = MaskedClient(IDENTITIES[0], COMPLETE)
        assert isinstance(client._random, random.SystemRandom)
        adverts = [client.advertise(SESSION, k, question=QUESTION, size=1) for k in range(5)]
        assert len({body_of(one, Advertise).mask_key for one in adverts}) == 5
        assert len({body_of(one, Advertise).share_key for one in adverts}) == 5


class TestHolders:
    def test_all_others_in_a_complete_graph(self) -> None:
        f = Federation(COMPLETE).to("upload", {"advertise": {3}})
        for client in (0, 1, 2, 4):
            assert boxes_of(f, client).holders == tuple(k for k in (0, 1, 2, 4) if k != client)

    def test_drawn_from_all_others(self) -> None:
        """Each choice equally often: chi-square over the C(5, 2) = 10 choices of one of six clients."""
        terms = make_terms(make_graph(6, 4, degree=2, share_threshold=2))
        client, found = (
            MaskedClient(IDENTITIES[2], terms, _random=random.Random(0)),
            Counter[tuple[int, ...]](),
        )
        for _ in range(5000):
            found[client._choose()] += 1
        assert set(found) == set(combinations((0, 1, 3, 4, 5), 2))
        assert scipy.stats.chisquare(list(found.values())).pvalue > 1e-3

    def test_those_who_are_absent_are_drawn_too(self) -> None:
        """Otherwise the server could choose holders by choosing who takes part."""
        everyone = Federation(SPARSE).to("upload")
        some = Federation(SPARSE).to("upload", {"advertise": {6}})
        for client in range(6):
            expected = tuple(k for k in boxes_of(everyone, client).holders if k != 6)
            assert boxes_of(some, client).holders == expected


class TestRounds:
    def test_they_only_go_up(self) -> None:
        f = Federation(COMPLETE, number=4)
        first = f.act(0)
        for number in (4, 3, 0):
            with pytest.raises(ProtocolError, match="can't follow round 4"):
                f.clients[0].advertise(SESSION, number, question=QUESTION, size=6)
        f.server.receive(first)
        f.sent["advertise"][0] = first
        f.finish()
        f.clients[0].advertise(OTHER_SESSION, 0, question=QUESTION, size=6)
        f.clients[0].advertise(SESSION, 5, question=QUESTION, size=6)

    def test_many_of_one_session(self) -> None:
        """The same vectors again and again: no upload and no share is ever the same."""
        f, seen = None, set()
        for number in (0, 1, 7):
            f = Federation(COMPLETE, number=number, before=f)
            f.vectors = [np.arange(6)] * 5
            f.finish()
            for client in f.everyone:
                seen.add(body_of(f.sent["upload"][client], Upload).values)
                seen.update(boxes_of(f, client).boxes)
                seen.add(body_of(f.sent["unmask"][client], Reveal).seed)
        assert len(seen) == 3 * 5 * (1 + 4 + 1)
        assert f is not None
        Adversary(f, {3, 4}).check_learned({0, 1, 2}, {0, 1, 2}, {0, 1, 2})

    @pytest.mark.parametrize(
        ("session", "number"), [(b"short", 0), (bytes(65), 0), (SESSION, -1), (SESSION, 2**32)]
    )
    def test_impossible(self, session: bytes, number: int) -> None:
        f = Federation(COMPLETE).to("share")
        with pytest.raises(ProtocolError, match=r"session must be 16\.\.64 bytes and round below"):
            f.clients[0].advertise(session, number, question=QUESTION, size=6)
        f.finish()

    @pytest.mark.parametrize(
        ("question", "size", "rule"),
        [
            (bytes(31), 6, "32 bytes, got 31"),
            (QUESTION, 0, "size must be in 1..4294967295, got 0"),
            (QUESTION, 2**32, "size must be in 1..4294967295, got"),
        ],
    )
    def test_impossible_questions(self, question: bytes, size: int, rule: str) -> None:
        f = Federation(COMPLETE).to("share")
        with pytest.raises(SealingError, match=rule):
            f.clients[0].advertise(SESSION, 9, question=question, size=size)
        f.finish()
        f.clients[0].advertise(SESSION, 5, question=QUESTION, size=6)  # round 9 wasn't spent

    def test_own_identity_must_be_pinned(self) -> None:
        for identity in (STRANGER, IDENTITIES[5], Identity.generate()):
            with pytest.raises(SealingError, match="own identity must be among the pinned"):
                MaskedClient(identity, COMPLETE)


VECTORS: dict[str, tuple[object, str]] = {
    "too large": (np.array([0, 1, 2, 3, 4, 256]), r"in \[0, 2\*\*8\), got 0..256"),
    "far too large": (np.full(6, 2**62), "values to seal must be in"),
    "negative": (np.array([0, 1, 2, 3, 4, -1]), "got -1..4"),
    "not a number": (np.array([0, 1, 2, 3, 4, np.nan]), "int64"),
    "infinite": (np.array([0, 1, 2, 3, 4, np.inf]), "int64"),
    "floats": (np.zeros(6), "int64"),
    "narrow": (np.zeros(6, np.int32), "int64"),
    "unsigned": (np.zeros(6, np.uint64), "int64"),
    "objects": (np.array([0] * 6, dtype=object), "int64"),
    "a list": ([0] * 6, "int64"),
    "nothing": (None, "int64"),
    "empty": (np.zeros(0, np.int64), "non-empty"),
    "a value short": (np.zeros(5, np.int64), "6 values as the others do, got 5"),
    "a value more": (np.zeros(7, np.int64), "6 values as the others do, got 7"),
    "a matrix": (np.zeros((2, 3), np.int64), "row of int64"),
}
NOISES: dict[str, tuple[object, str]] = {
    "none": (None, "noise was agreed on"),
    "floats": (np.zeros(6), "noise must be int64"),
    "not a number": (np.full(6, np.nan), "noise must be int64"),
    "narrow": (np.zeros(6, np.int32), "noise must be int64"),
    "too short": (np.zeros(5, np.int64), r"noise must be int64 of shape \(6,\)"),
    "one for all": (np.zeros(1, np.int64), r"noise must be int64 of shape \(6,\)"),
    "a number": (3, "noise must be int64"),
    "a list": ([0] * 6, "noise must be int64"),
}


class TestBadInput:
    @pytest.mark.parametrize("name", VECTORS)
    def test_vectors(self, name: str) -> None:
        vector, rule = VECTORS[name]
        f = Federation(COMPLETE).to("upload")
        with pytest.raises(SealingError, match=rule):
            f.clients[0].upload(f.given["upload"][0], vector)  # type: ignore[arg-type]
        f.finish()

    @pytest.mark.parametrize("name", NOISES)
    def test_noise(self, name: str) -> None:
        noise, rule = NOISES[name]
        f = Federation(make_terms(make_graph(4, 3), noise_deviation=20.0)).to("upload")
        with pytest.raises(SealingError, match=rule):
            f.clients[0].upload(f.given["upload"][0], f.vectors[0], noise=noise)  # type: ignore[arg-type]
        f.finish()

    def test_noise_that_wasnt_agreed_on(self) -> None:
        f = Federation(COMPLETE).to("upload")
        for noise in (np.zeros(6, np.int64), np.ones(6, np.int64)):
            with pytest.raises(SealingError, match="no noise was agreed on"):
                f.clients[0].upload(f.given["upload"][0], f.vectors[0], noise=noise)
        f.finish()

    def test_another_carrier(self) -> None:
        class Other(RingSealer):
            @property
            def name(self) -> CarrierName:
                return "bfv"

        f = Federation(COMPLETE).to("upload")
        with pytest.raises(SealingError, match="values must travel by ring, as agreed, got bfv"):
            f.clients[0].upload(f.given["upload"][0], f.vectors[0], sealer=Other(terms=COMPLETE))
        f.finish()

    def test_a_sealer_that_breaks_leaves_the_round_as_it_was(self) -> None:
        class Broken:
            name = "ring"

            def seal(self, *_: object) -> bytes:
                raise SealingError("a sealer that can't")

        f = Federation(COMPLETE).to("upload")
        with pytest.raises(SealingError, match="a sealer that can't"):
            f.clients[0].upload(f.given["upload"][0], f.vectors[0], sealer=Broken())  # type: ignore[arg-type]
        f.finish()

    @pytest.mark.parametrize("stage", STAGES[1:])
    @pytest.mark.parametrize("wrong", [None, 3, "roster", bytearray(b"roster"), [b"roster"]], ids=repr)
    def test_what_isnt_bytes(self, stage: str, wrong: object) -> None:
        f = Federation(COMPLETE).to(stage)
        client = f.clients[0]
        calls: dict[str, Callable[..., bytes]] = {
            "share": client.share,
            "upload": lambda message: client.upload(message, f.vectors[0]),
            "confirm": client.confirm,
            "unmask": client.unmask,
        }
        with pytest.raises(MessageError, match="must be bytes"):
            calls[stage](wrong)
        f.finish()


class TestNoise:
    @pytest.mark.parametrize("deviation", [0.5, 20.0, 3000.0])
    @pytest.mark.parametrize("drops", [NOBODY, {"upload": {1}}, {"confirm": {1}}], ids=str)
    def test_negative_noise(self, deviation: float, drops: Drops) -> None:
        """It takes the sum below zero, and is taken off nothing."""
        f = Federation(make_terms(make_graph(4, 3), noise_deviation=deviation))
        f.vectors = [np.zeros(6, np.int64)] * 4
        f.noise = [np.full(6, -1 - k) for k in f.everyone]
        opened = f.finish(drops)
        assert set(opened.total) == {-sum(1 + k for k in opened.clients)}

    @pytest.mark.parametrize(
        ("deviation", "bits"), [(0.1, 5), (1.0, 5), (20.0, 8), (3000.0, 8), (1e6, 20), (1e12, 32)]
    )
    def test_the_ring_holds_the_largest_and_the_smallest_sum(self, deviation: float, bits: int) -> None:
        """All values at one end, and noise beyond it as far as the tail bound: the sums come out."""
        terms = make_terms(make_graph(4, 3), bits=bits, noise_deviation=deviation)
        most = tail(deviation, 6)
        assert 4 * (2**bits - 1) + 1 + 2 * most <= terms.ring(6).span
        f = None
        for number, (value, noise) in enumerate([(0, -most), (2**bits - 1, most)]):
            f = Federation(terms, number=number, before=f)
            f.vectors = [np.full(6, value)] * 4
            f.noise = [np.full(6, noise), *[np.zeros(6, np.int64)] * 3]
            assert set(f.finish().total) == {4 * value + noise}

    def test_one_beyond_the_tail_is_refused(self) -> None:
        """The ring is wider than needed here, so that it is noticed."""
        terms = make_terms(make_graph(4, 3), noise_deviation=20.0)
        most = tail(20.0, 6)
        for value, noise in ((0, -most - 1), (255, most + 1)):
            f = Federation(terms).to("upload")
            f.vectors = [np.full(6, value)] * 4
            f.noise = [np.full(6, noise), *[np.zeros(6, np.int64)] * 3]
            with pytest.raises(SealingError, match="sums must be in"):
                f.finish()


def test_vectors_arent_changed() -> None:
    f = Federation(make_terms(make_graph(4, 3), noise_deviation=5.0))
    given = [one for one in (*f.vectors, *f.noise) if one is not None]
    copies = [one.copy() for one in given]
    for one in given:
        one.flags.writeable = False
    f.finish()
    assert len(given) == 8
    for one, copy in zip(given, copies, strict=True):
        assert np.array_equal(one, copy)
