import hashlib
import hmac
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
import scipy.stats
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from securefd.defenses import masks
from securefd.defenses.identity import Identity, Place, cohort_hash, sign_message, verify
from securefd.defenses.masks import MaskedClient, MaskedServer, apply_masks, mask_key, ring_width
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import Advertise, Roster, Signed, Upload, decode, encode

SESSION = b"session-of-tests"
OTHER_SESSION = b"another-session!"
BITS = 20
IDENTITIES = [Identity(private=Ed25519PrivateKey.from_private_bytes(bytes([k]) * 32)) for k in range(6)]


def pinned(n: int) -> list[bytes]:
    return [identity.public for identity in IDENTITIES[:n]]


def fixed_key(client: int) -> Callable[[], X25519PrivateKey]:
    """The private seam: the same X25519 key in every round of this client."""
    return lambda: X25519PrivateKey.from_private_bytes(bytes([100 + client]) * 32)


def make_clients(n: int) -> list[MaskedClient]:
    return [MaskedClient(IDENTITIES[k], pinned(n), _generate=fixed_key(k)) for k in range(n)]


def make_vectors(n: int, size: int, bits: int = BITS) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng([n, size, bits])
    return [rng.integers(0, 1 << bits, size) for _ in range(n)]


class Federation:
    """Clients and a server between two stages; every test bends one thing."""

    def __init__(self, n: int = 3, size: int = 50, bits: int = BITS, number: int = 4) -> None:
        self.n, self.bits, self.round = n, bits, number
        self.clients = make_clients(n)
        self.server = MaskedServer(pinned(n), session=SESSION, round=number, bits=bits, size=size)
        self.vectors = make_vectors(n, size, bits)
        self.adverts = [client.advertise(SESSION, number) for client in self.clients]

    def upload(self, roster: bytes) -> list[bytes]:
        return [
            client.upload(roster, vector, self.bits)
            for client, vector in zip(self.clients, self.vectors, strict=True)
        ]

    def advert(
        self, client: int, *, signer: int | None = None, key: bytes = bytes([7]) * 32, **place: object
    ) -> bytes:
        """An advertisement as someone could forge it."""
        fields = {
            "protocol": masks.PROTOCOL,
            "session": SESSION,
            "round": self.round,
            "stage": "advertise",
            "roster": cohort_hash(pinned(self.n)),
            **place,
        }
        identity = IDENTITIES[client if signer is None else signer]
        return sign_message(identity, Place(**fields), client, encode(Advertise(public_key=key)))  # type: ignore[arg-type]

    def signed_upload(self, roster: bytes, client: int, body: bytes) -> bytes:
        digest = hashlib.sha256(roster).digest()
        place = Place(
            protocol=masks.PROTOCOL, session=SESSION, round=self.round, stage="upload", roster=digest
        )
        return sign_message(IDENTITIES[client], place, client, body)


def roster_of(adverts: Sequence[bytes]) -> bytes:
    return encode(Roster(adverts=tuple(adverts)))


class TestSum:
    @pytest.mark.parametrize("n", [2, 3, 6])
    @pytest.mark.parametrize("bits", [1, 20, 32])
    @pytest.mark.parametrize("size", [1, 7, 70_000])
    def test_equals_the_plain_sum(self, n: int, bits: int, size: int) -> None:
        federation = Federation(n, size, bits)
        uploads = federation.upload(federation.server.roster(federation.adverts))
        total = federation.server.open_sum(uploads)
        assert total.dtype == np.int64
        assert np.array_equal(total, np.sum(federation.vectors, axis=0))

    @settings(max_examples=20)
    @given(st.integers(2, 6), st.integers(1, 32), st.integers(1, 300), st.randoms())
    def test_messages_in_any_order(self, n: int, bits: int, size: int, random: object) -> None:
        federation = Federation(n, size, bits)
        random.shuffle(federation.adverts)  # type: ignore[attr-defined]
        uploads = federation.upload(federation.server.roster(federation.adverts))
        random.shuffle(uploads)  # type: ignore[attr-defined]
        assert np.array_equal(federation.server.open_sum(uploads), np.sum(federation.vectors, axis=0))

    def test_largest_values_of_all_clients(self) -> None:
        for bits in (29, 32):
            federation = Federation(6, 3, bits)
            federation.vectors = [np.full(3, 2**bits - 1)] * 6
            uploads = federation.upload(federation.server.roster(federation.adverts))
            assert (federation.server.open_sum(uploads) == 6 * (2**bits - 1)).all()

    def test_rounds_of_one_session(self) -> None:
        clients = [MaskedClient(identity, pinned(3)) for identity in IDENTITIES[:3]]
        seen: set[bytes] = set()
        for number in range(3):
            server = MaskedServer(pinned(3), session=SESSION, round=number, bits=BITS, size=5)
            roster = server.roster([client.advertise(SESSION, number) for client in clients])
            uploads = [client.upload(roster, np.arange(5), BITS) for client in clients]
            assert np.array_equal(server.open_sum(uploads), 3 * np.arange(5))
            seen.update(decode(decode(upload, Signed).body, Upload).values for upload in uploads)
        assert len(seen) == 9


class TestDerivation:
    """The masks against an independent, naive computation."""

    @staticmethod
    def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
        """RFC 5869 by hand, for an output of one block."""
        key = hmac.new(salt, secret, hashlib.sha256).digest()
        return hmac.new(key, info + b"\x01", hashlib.sha256).digest()

    def test_hkdf_by_hand(self) -> None:
        info = b"securefd/masked/1" + bytes([0] * 7 + [9, 0, 0, 0, 2, 0, 0, 0, 5]) + bytes(32)
        expected = self.hkdf(b"s" * 32, SESSION, info)
        for pair in ((2, 5), (5, 2)):
            assert mask_key(b"s" * 32, session=SESSION, round=9, pair=pair, roster=bytes(32)) == expected

    @pytest.mark.parametrize(("bits", "width"), [(20, 4), (32, 8)])
    def test_uploads_by_hand(self, bits: int, width: int) -> None:
        n, size = 4, 70_000  # more than one chunk of keystream at either width
        federation = Federation(n, size, bits)
        roster = federation.server.roster(federation.adverts)
        modulus = 1 << 8 * width
        for mine, upload in enumerate(federation.upload(roster)):
            masked = [int(value) for value in federation.vectors[mine]]
            for peer in range(n):
                if peer == mine:
                    continue
                public = X25519PublicKey.from_public_bytes(fixed_key(peer)().public_key().public_bytes_raw())
                secret = fixed_key(mine)().exchange(public)
                low, high = sorted((mine, peer))
                info = masks.PROTOCOL + federation.round.to_bytes(8, "big") + low.to_bytes(4, "big")
                info += high.to_bytes(4, "big") + hashlib.sha256(roster).digest()
                key = self.hkdf(secret, SESSION, info)
                stream = (
                    Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size * width))
                )
                sign = 1 if mine < peer else -1
                for place in range(size):
                    word = int.from_bytes(stream[place * width : (place + 1) * width], "little")
                    masked[place] = (masked[place] + sign * word) % modulus
            body = decode(decode(upload, Signed).body, Upload)
            assert body.width == width
            assert body.values == b"".join(value.to_bytes(width, "little") for value in masked)

    def test_keystream_is_continuous_over_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = np.zeros(1000, np.uint32)
        apply_masks(whole, [b"k" * 32], [])
        monkeypatch.setattr(masks, "CHUNK", 64)
        pieces = np.zeros(1000, np.uint32)
        apply_masks(pieces, [b"k" * 32], [])
        assert np.array_equal(whole, pieces)

    def test_masks_cancel(self) -> None:
        ring = np.arange(10, dtype=np.uint32)
        apply_masks(ring, [b"a" * 32, b"b" * 32], [b"b" * 32, b"a" * 32])
        assert np.array_equal(ring, np.arange(10))


class TestSecrecy:
    @pytest.mark.parametrize("bits", [20, 32])
    def test_an_upload_looks_uniform(self, bits: int) -> None:
        """Fixed keys, so fixed outcome: chi-square over all bytes of the upload of a constant vector."""
        federation = Federation(3, 100_000, bits)
        federation.vectors = [np.zeros(100_000, np.int64)] * 3
        for upload in federation.upload(federation.server.roster(federation.adverts)):
            values = np.frombuffer(decode(decode(upload, Signed).body, Upload).values, np.uint8)
            for lane in range(ring_width(bits, 3)):
                counts = np.bincount(values[lane :: ring_width(bits, 3)], minlength=256)
                assert scipy.stats.chisquare(counts).pvalue > 1e-4

    def test_keys_are_new_in_every_round(self) -> None:
        client = MaskedClient(IDENTITIES[0], pinned(3))
        bodies = [decode(client.advertise(SESSION, number), Signed).body for number in range(5)]
        assert len(set(bodies)) == 5

    def test_the_key_is_gone_after_the_upload(self) -> None:
        federation = Federation()
        client, roster = federation.clients[0], federation.server.roster(federation.adverts)
        assert any(isinstance(value, X25519PrivateKey) for value in reachable(client))
        client.upload(roster, federation.vectors[0], BITS)
        assert not any(isinstance(value, X25519PrivateKey) for value in reachable(client))

    def test_identities_dont_print_their_key(self) -> None:
        assert "private" not in repr(IDENTITIES[0])


def reachable(thing: object) -> list[object]:
    """Everything held by an object's attributes, and by theirs."""
    found = list(getattr(thing, "__dict__", {}).values())
    return found + [deeper for value in found for deeper in reachable(value)]


def swap(federation: Federation, client: int, advert: bytes) -> list[bytes]:
    adverts = list(federation.adverts)
    adverts[client] = advert
    return adverts


BAD_ADVERTS: dict[str, Callable[[Federation], list[bytes]]] = {
    "missing client": lambda f: f.adverts[:2],
    "no client": lambda f: [],
    "duplicate": lambda f: [*f.adverts[:2], f.adverts[1]],
    "one too many": lambda f: [*f.adverts, f.adverts[1]],
    "unknown identity": lambda f: [*f.adverts[:2], f.advert(5)],
    "signed by another pinned client": lambda f: swap(f, 2, f.advert(2, signer=1)),
    "signed by a stranger": lambda f: swap(f, 2, f.advert(2, signer=5)),
    "another session": lambda f: swap(f, 2, f.advert(2, session=OTHER_SESSION)),
    "replay of an earlier round": lambda f: swap(f, 2, f.advert(2, round=3)),
    "another stage": lambda f: swap(f, 2, f.advert(2, stage="upload")),
    "another protocol": lambda f: swap(f, 2, f.advert(2, protocol=b"securefd/masked/0")),
    "another cohort": lambda f: swap(f, 2, f.advert(2, roster=cohort_hash(pinned(4)))),
    "truncated": lambda f: swap(f, 2, f.adverts[2][:-1]),
    "empty": lambda f: swap(f, 2, b""),
    "swapped key": lambda f: swap(f, 2, with_key(f.adverts[2])),
    "oversized": lambda f: swap(f, 2, f.adverts[2] + bytes(5000)),
}


def with_key(advert: bytes) -> bytes:
    """The same envelope and signature around another public key."""
    return encode(
        msgspec.structs.replace(decode(advert, Signed), body=encode(Advertise(public_key=b"k" * 32)))
    )


class TestMisbehaviour:
    @pytest.mark.parametrize("name", BAD_ADVERTS)
    def test_adverts_that_the_server_refuses(self, name: str) -> None:
        federation = Federation()
        with pytest.raises(ProtocolError):
            federation.server.roster(BAD_ADVERTS[name](federation))
        self.finishes(federation)

    @pytest.mark.parametrize("name", BAD_ADVERTS)
    def test_rosters_that_a_client_refuses(self, name: str) -> None:
        federation = Federation()
        bad = roster_of(BAD_ADVERTS[name](federation))
        with pytest.raises(ProtocolError):
            federation.clients[0].upload(bad, federation.vectors[0], BITS)
        self.finishes(federation)

    @pytest.mark.parametrize(
        "key", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"], ids=["0", "1", "-1"]
    )
    def test_keys_of_low_order(self, key: bytes) -> None:
        federation = Federation()
        bad = roster_of(swap(federation, 2, federation.advert(2, key=key)))
        with pytest.raises(ProtocolError, match="shared secret"):
            federation.clients[0].upload(bad, federation.vectors[0], BITS)
        self.finishes(federation)

    def test_my_own_key_reflected(self) -> None:
        federation = Federation()
        mine = fixed_key(0)().public_key().public_bytes_raw()
        bad = roster_of(swap(federation, 2, federation.advert(2, key=mine)))
        with pytest.raises(ProtocolError, match="same public key"):
            federation.clients[0].upload(bad, federation.vectors[0], BITS)
        self.finishes(federation)

    def test_my_own_advert_replaced(self) -> None:
        federation = Federation()
        bad = roster_of(swap(federation, 0, federation.advert(0)))
        with pytest.raises(ProtocolError, match="own advertisement"):
            federation.clients[0].upload(bad, federation.vectors[0], BITS)
        self.finishes(federation)

    def test_rosters_out_of_order(self) -> None:
        federation = Federation()
        bad = roster_of([federation.adverts[k] for k in (0, 2, 1)])
        with pytest.raises(ProtocolError, match="position"):
            federation.clients[0].upload(bad, federation.vectors[0], BITS)
        self.finishes(federation)

    def test_malformed_rosters(self) -> None:
        federation = Federation()
        good = roster_of(federation.adverts)
        for bad in (b"", good[:-1], good + b"\x00", federation.adverts[0]):
            with pytest.raises(MessageError):
                federation.clients[0].upload(bad, federation.vectors[0], BITS)
        self.finishes(federation)

    def test_uploads_that_the_server_refuses(self) -> None:
        federation = Federation()
        roster = federation.server.roster(federation.adverts)
        good = federation.upload(roster)
        short = encode(Upload(width=4, values=bytes(49 * 4)))
        wide = encode(Upload(width=8, values=bytes(25 * 8)))
        flipped = bytearray(good[2])
        flipped[-100] ^= 1
        for bad in (
            good[:2],
            [*good[:2], good[1]],
            [*good, good[0]],
            [*good[:2], good[2][:-1]],
            [*good[:2], bytes(flipped)],
            [*good[:2], good[2] + bytes(2000)],
            [*good[:2], federation.adverts[2]],
            [*good[:2], federation.signed_upload(federation.adverts[0], 2, short)],
            [*good[:2], federation.signed_upload(roster, 2, short)],
            [*good[:2], federation.signed_upload(roster, 2, wide)],
            [*good[:2], federation.signed_upload(roster, 2, b"nonsense")],
            [*good[:2], federation.signed_upload(roster, 5, short)],
        ):
            with pytest.raises(ProtocolError):
                federation.server.open_sum(bad)
        assert np.array_equal(federation.server.open_sum(good), np.sum(federation.vectors, axis=0))

    def test_a_client_that_leaves_the_ring(self) -> None:
        federation = Federation()
        roster = federation.server.roster(federation.adverts)
        good = federation.upload(roster)
        noise = encode(Upload(width=4, values=b"\xaa" * 200))
        with pytest.raises(SealingError, match="at most"):
            federation.server.open_sum([*good[:2], federation.signed_upload(roster, 2, noise)])
        assert np.array_equal(federation.server.open_sum(good), np.sum(federation.vectors, axis=0))

    def test_two_rosters_dont_add_up(self) -> None:
        """A client shown another roster uploads for that one, and the server can't open the mixture."""
        federation = Federation()
        roster = federation.server.roster(federation.adverts)
        other = roster_of(swap(federation, 2, federation.advert(2)))
        uploads = federation.upload(roster)
        clients = make_clients(3)
        advert = clients[0].advertise(SESSION, 4)
        assert advert == federation.adverts[0]
        with pytest.raises(ProtocolError, match="another roster"):
            federation.server.open_sum([clients[0].upload(other, federation.vectors[0], BITS), *uploads[1:]])

    def test_second_use(self) -> None:
        federation = Federation()
        roster = federation.server.roster(federation.adverts)
        with pytest.raises(ProtocolError, match="one roster"):
            federation.server.roster(federation.adverts)
        uploads = federation.upload(roster)
        with pytest.raises(ProtocolError, match="once a round"):
            federation.clients[0].upload(roster, federation.vectors[0], BITS)
        federation.server.open_sum(uploads)
        with pytest.raises(ProtocolError, match="already"):
            federation.server.open_sum(uploads)

    def test_stages_out_of_order(self) -> None:
        federation = Federation()
        with pytest.raises(ProtocolError, match="after roster"):
            federation.server.open_sum([])
        with pytest.raises(ProtocolError, match="after advertise"):
            make_clients(3)[0].upload(roster_of(federation.adverts), federation.vectors[0], BITS)

    def test_rounds_only_go_up(self) -> None:
        federation = Federation(number=4)
        client = federation.clients[0]
        for number in (4, 3, 0):
            with pytest.raises(ProtocolError, match="can't follow round 4"):
                client.advertise(SESSION, number)
        client.upload(roster_of(federation.adverts), federation.vectors[0], BITS)
        with pytest.raises(ProtocolError, match="can't follow"):
            client.advertise(SESSION, 4)
        client.advertise(OTHER_SESSION, 0)
        client.advertise(SESSION, 5)

    @pytest.mark.parametrize(
        ("session", "number"), [(b"short", 0), (bytes(65), 0), (SESSION, -1), (SESSION, 2**32)]
    )
    def test_impossible_rounds(self, session: bytes, number: int) -> None:
        with pytest.raises(ProtocolError, match="session must be"):
            make_clients(3)[0].advertise(session, number)
        with pytest.raises(ProtocolError, match="session must be"):
            MaskedServer(pinned(3), session=session, round=number, bits=BITS, size=1)

    @pytest.mark.parametrize("wrong", [[2**BITS], [-1], [0.5], [], [[1]]], ids=repr)
    def test_vectors_out_of_range(self, wrong: list[object]) -> None:
        federation = Federation()
        with pytest.raises(SealingError):
            federation.clients[0].upload(roster_of(federation.adverts), np.array(wrong), BITS)
        self.finishes(federation)

    @staticmethod
    def finishes(federation: Federation) -> None:
        """No refusal changed any state: the round still comes to its sum."""
        uploads = federation.upload(federation.server.roster(federation.adverts))
        assert np.array_equal(federation.server.open_sum(uploads), np.sum(federation.vectors, axis=0))


class TestBounds:
    @pytest.mark.parametrize(
        ("bits", "n", "width"),
        [
            (1, 2, 4),
            (20, 4096, 4),
            (20, 4097, 8),
            (31, 2, 4),
            (32, 2, 8),
            (30, 4, 4),
            (30, 5, 8),
            (32, 2**31, 8),
        ],
    )
    def test_ring_is_the_narrowest_that_never_wraps(self, bits: int, n: int, width: int) -> None:
        assert ring_width(bits, n) == width

    @pytest.mark.parametrize(("bits", "n"), [(32, 2**31 + 1), (0, 2), (33, 2)])
    def test_no_ring(self, bits: int, n: int) -> None:
        with pytest.raises(SealingError):
            ring_width(bits, n)

    def test_rosters(self) -> None:
        for wrong in ([], pinned(1), [pinned(1)[0]] * 2, [*pinned(2), b"short"]):
            with pytest.raises(SealingError):
                MaskedServer(wrong, session=SESSION, round=0, bits=BITS, size=1)
            with pytest.raises(SealingError):
                MaskedClient(IDENTITIES[0], wrong)
        with pytest.raises(SealingError, match="own identity"):
            MaskedClient(IDENTITIES[5], pinned(3))

    def test_empty_vectors(self) -> None:
        with pytest.raises(SealingError, match="at least 1 value"):
            MaskedServer(pinned(3), session=SESSION, round=0, bits=BITS, size=0)


class TestIdentity:
    def test_published_vector(self) -> None:
        """RFC 8032, section 7.1, test 2."""
        private = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
        identity = Identity(private=Ed25519PrivateKey.from_private_bytes(private))
        assert identity.public.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
        signature = identity.sign(b"\x72")
        assert signature.hex() == (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        )
        verify(identity.public, b"\x72", signature)

    @pytest.mark.parametrize(
        ("public", "message", "signature"),
        [
            (IDENTITIES[1].public, b"m", IDENTITIES[0].sign(b"m")),
            (IDENTITIES[0].public, b"n", IDENTITIES[0].sign(b"m")),
            (IDENTITIES[0].public, b"m", bytes(64)),
            (IDENTITIES[0].public, b"m", b""),
            (b"short", b"m", IDENTITIES[0].sign(b"m")),
        ],
        ids=["signer", "message", "zeros", "empty", "key"],
    )
    def test_refused(self, public: bytes, message: bytes, signature: bytes) -> None:
        with pytest.raises(ProtocolError, match="pinned"):
            verify(public, message, signature)

    def test_generated_identities_differ(self) -> None:
        assert Identity.generate().public != Identity.generate().public
