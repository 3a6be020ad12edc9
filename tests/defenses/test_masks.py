"""Keystreams and the keys that they come from, against computations by hand; and who may speak."""

import hashlib
import hmac
from itertools import combinations, product

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from securefd.defenses import masks
from securefd.defenses.identity import Identity, verify
from securefd.defenses.masks import TAG_BYTES, Derivation, agree, apply_masks, positions_hash
from securefd.errors import ProtocolError
from tests.defenses.masked_parties import LOW_ORDER, private_key, public

SESSION = b"session-of-tests"
AGREEMENT = bytes(range(32))
SECRET = b"s" * 32
DERIVE = Derivation(session=SESSION, round=9, agreement=AGREEMENT)
WIDTHS = (1, 2, 4, 8)
KEYS = [bytes([k]) * 32 for k in range(1, 6)]


def keystream(key: bytes, size: int) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def naive(words: list[int], width: int, added: list[bytes], subtracted: list[bytes]) -> list[int]:
    """One word at a time, in whole numbers."""
    result = list(words)
    for sign, keys in ((1, added), (-1, subtracted)):
        for key in keys:
            stream = keystream(key, len(words) * width)
            for k in range(len(words)):
                mask = int.from_bytes(stream[k * width : (k + 1) * width], "little")
                result[k] = (result[k] + sign * mask) % (1 << 8 * width)
    return result


class TestApplyMasks:
    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize(("added", "subtracted"), [(0, 0), (1, 0), (0, 1), (2, 3), (5, 0)])
    def test_by_hand(self, width: int, added: int, subtracted: int) -> None:
        for size in (1, 2, 15, 16, 17, 33):
            start = np.random.default_rng([width, size]).integers(0, 1 << 8 * width, size, np.uint64)
            words = start.astype(f"<u{width}")
            expected = naive(start.tolist(), width, KEYS[:added], KEYS[-subtracted:] if subtracted else [])
            apply_masks(words, KEYS[:added], KEYS[-subtracted:] if subtracted else [])
            assert words.tolist() == expected

    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("beyond", [-1, 0, 1])
    def test_more_than_one_chunk(self, width: int, beyond: int) -> None:
        """The stream goes on over chunks, and ends where the words do."""
        size = 2 * masks.CHUNK // width + beyond
        words = np.zeros(size, f"<u{width}")
        apply_masks(words, KEYS[:1], [])
        assert words.tobytes() == keystream(KEYS[0], size * width)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 300), st.sampled_from(WIDTHS), st.sampled_from([8, 16, 64, 128]))
    def test_chunks_dont_matter(self, size: int, width: int, chunk: int) -> None:
        whole, pieces = np.zeros(size, f"<u{width}"), np.zeros(size, f"<u{width}")
        apply_masks(whole, KEYS[:2], KEYS[2:3])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(masks, "CHUNK", chunk)
            apply_masks(pieces, KEYS[:2], KEYS[2:3])
        assert np.array_equal(whole, pieces)

    @pytest.mark.parametrize("width", WIDTHS)
    def test_masks_cancel(self, width: int) -> None:
        words = np.arange(100, dtype=f"<u{width}")
        apply_masks(words, KEYS[:3], KEYS[2:])
        assert not np.array_equal(words, np.arange(100))
        apply_masks(words, KEYS[2:], KEYS[:3])
        assert np.array_equal(words, np.arange(100))

    def test_of_many_clients(self) -> None:
        """Each pair's key is added by one and subtracted by the other: nothing is left in the sum."""
        n, total = 5, np.zeros(50, np.uint16)
        keys = {pair: hashlib.sha256(bytes(pair)).digest() for pair in combinations(range(n), 2)}
        for client in range(n):
            words = np.full(50, client, np.uint16)
            apply_masks(
                words,
                [key for (low, _), key in keys.items() if low == client],
                [key for (_, high), key in keys.items() if high == client],
            )
            assert len(set(words.tolist())) > 10
            total += words
        assert set(total.tolist()) == {sum(range(n))}

    def test_no_words(self) -> None:
        apply_masks(np.zeros(1, np.uint8), [], [])


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 by hand, for an output of one block."""
    key = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()


class TestDerivation:
    def test_hkdf_by_hand_is_that_of_the_rfc(self) -> None:
        """RFC 5869, appendix A.1, first 32 bytes."""
        okm = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
        assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"

    @staticmethod
    def info(label: bytes, one: int, other: int) -> bytes:
        places = bytes([0] * 7 + [9, 0, 0, 0, one, 0, 0, 0, other])
        return b"securefd/masked/2" + label + b"\0" + places + AGREEMENT

    def test_by_hand(self) -> None:
        pair = hkdf(SECRET, SESSION, self.info(b"pair", 2, 5))
        assert DERIVE.pair_key(SECRET, 2, 5) == DERIVE.pair_key(SECRET, 5, 2) == pair
        assert DERIVE.self_key(SECRET, 3) == hkdf(SECRET, SESSION, self.info(b"self", 3, 3))
        assert DERIVE.box_key(SECRET, 5, 2) == hkdf(SECRET, SESSION, self.info(b"box", 5, 2))
        listed = hashlib.sha256(bytes([0, 0, 0, 1, 0, 0, 1, 2])).digest()
        tag = hkdf(SECRET, SESSION, self.info(b"tag", 5, 2) + listed)[:16]
        assert positions_hash((1, 258)) == listed
        assert DERIVE.tag(SECRET, 5, 2, listed) == tag

    def test_large_numbers(self) -> None:
        derive = Derivation(session=SESSION, round=2**32 - 1, agreement=AGREEMENT)
        info = b"securefd/masked/2box\0" + bytes(4) + b"\xff" * 4 + b"\0\0\xff\xff" + b"\0\0\xff\xfe"
        assert derive.box_key(SECRET, 65535, 65534) == hkdf(SECRET, SESSION, info + AGREEMENT)

    def test_one_key_a_purpose_and_place(self) -> None:
        """Whatever differs, the key does: also where two clients advertise keys that agree on one secret."""
        keys = []
        derivations = [
            DERIVE,
            Derivation(session=b"another-session!", round=9, agreement=AGREEMENT),
            Derivation(session=SESSION, round=10, agreement=AGREEMENT),
            Derivation(session=SESSION, round=9, agreement=bytes(32)),
        ]
        for derive, secret in product(derivations, (SECRET, bytes(32))):
            keys += [derive.pair_key(secret, one, other) for one, other in combinations(range(4), 2)]
            keys += [derive.self_key(secret, one) for one in range(4)]
            keys += [derive.box_key(secret, one, two) for one, two in product(range(4), repeat=2)]
        assert len({*keys}) == len(keys) == 4 * 2 * (6 + 4 + 16)

    def test_one_tag_a_list(self) -> None:
        lists = [(), (1,), (1, 2), (2, 1), (12,), (1, 2, 3), (258,), (0, 258)]
        hashes = [positions_hash(listed) for listed in lists]
        tags = [DERIVE.tag(SECRET, one, two, seen) for one, two in ((0, 1), (1, 0)) for seen in hashes]
        assert len({*tags}) == len(tags)
        assert {len(tag) for tag in tags} == {TAG_BYTES}


class TestAgree:
    def test_published_vector(self) -> None:
        """RFC 7748, section 6.1."""
        alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
        bob = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        secret = agree(X25519PrivateKey.from_private_bytes(alice), bob, 1)
        assert secret.hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

    @pytest.mark.parametrize("name", LOW_ORDER)
    def test_low_order(self, name: str) -> None:
        for private in (private_key(1), X25519PrivateKey.generate()):
            with pytest.raises(ProtocolError, match="client 7 advertised a key that gives no shared secret"):
                agree(private, LOW_ORDER[name], 7)

    def test_a_key_in_another_encoding_gives_the_same_secret(self) -> None:
        """X25519 ignores the highest bit, so that different keys may agree: positions tell them apart."""
        key = public(private_key(1))
        twin = key[:-1] + bytes([key[-1] | 0x80])
        assert twin != key
        secrets = [agree(private_key(2), one, 1) for one in (key, twin)]
        assert secrets[0] == secrets[1]
        assert DERIVE.pair_key(secrets[0], 0, 1) != DERIVE.pair_key(secrets[1], 0, 2)


IDENTITIES = [Identity(private=Ed25519PrivateKey.from_private_bytes(bytes([k]) * 32)) for k in range(2)]


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

    def test_they_dont_print_their_key(self) -> None:
        assert "private" not in repr(IDENTITIES[0])
