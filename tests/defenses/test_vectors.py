"""The cores of the masked protocol against test vectors that a naive implementation of its own has made."""

import ast
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from securefd import messages
from securefd.defenses import shamir
from securefd.defenses.identity import Identity
from securefd.defenses.masked_client import MaskedClient
from securefd.defenses.masked_server import MaskedServer
from securefd.defenses.masks import Derivation, agree, agreement, apply_masks, derivation, positions_hash
from securefd.defenses.neighbourhood import Neighbourhood
from securefd.defenses.ring import Ring
from securefd.defenses.terms import PROTOCOL, Terms
from securefd.messages import Message, Signed, decode, encode, statement
from tests.defenses.vectors import primitives

FOLDER = Path(__file__).parent / "vectors"
STAGES = ("advertise", "share", "upload", "confirm", "unmask")
ROUNDS = [
    *(f"complete-{bits}-{noise}" for bits in (8, 16, 32, 64) for noise in ("no-noise", "noise")),
    "sparse",
]
unhex = bytes.fromhex


def load(name: str) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((FOLDER / f"{name}.json").read_text()))


class Listed:
    """The private seam: the listed draws, in the order in which `MaskedClient` asks for them."""

    def __init__(self, client: dict[str, Any], *, complete: bool) -> None:
        self.left = [
            ("randbytes", client["mask_private"]),
            ("randbytes", client["share_private"]),
            *([] if complete else [("sample", client["chosen"])]),
            ("randbytes", client["seed"]),
            # of the highest power first
            *(("randbytes", one) for one in reversed(client["key_coefficients"])),
            *(("randbytes", one) for one in reversed(client["seed_coefficients"])),
            ("sample", client["checked"]),
        ]

    def next(self, kind: str) -> Any:
        expected, value = self.left.pop(0)
        assert expected == kind
        return value

    def randbytes(self, size: int) -> bytes:
        value = unhex(self.next("randbytes"))
        assert len(value) == size
        return value

    def sample(self, population: Sequence[int], count: int) -> list[int]:
        value: list[int] = self.next("sample")
        assert {*value} <= {*population}
        assert len(value) == count
        return value


def leading_first(coefficients: Sequence[str]) -> Callable[[int], bytes]:
    """The seam of `shamir.split`, which draws the coefficient of the highest power first."""
    draws = iter([unhex(one) for one in reversed(coefficients)])
    return lambda _: next(draws)


def by_position(found: Mapping[int, bytes], n: int) -> list[str | None]:
    return [found[k].hex() if k in found else None for k in range(n)]


class Case:
    """One vector, and the real cores set up with its inputs."""

    def __init__(self, name: str) -> None:
        vector = load(name)
        self.inputs, self.derived, self.messages = vector["inputs"], vector["derived"], vector["messages"]
        self.opened = vector["opened"]
        self.session, self.question = unhex(self.inputs["session"]), unhex(self.inputs["question"])
        agreed = dict(self.inputs["terms"])
        bits, noise_deviation = agreed.pop("bits"), agreed.pop("noise_deviation")
        self.graph = Neighbourhood(**agreed, secrecy_failure=1.0, unneeded_abort=1.0)
        self.terms = Terms(
            pinned=tuple(unhex(client["public"]) for client in self.inputs["clients"]),
            neighbourhood=self.graph,
            bits=bits,
            noise_deviation=noise_deviation,
        )
        self.derivation = Derivation(
            session=self.session, round=self.inputs["round"], agreement=unhex(self.derived["agreement"])
        )

    @property
    def question_and_size(self) -> dict[str, Any]:
        return {"question": self.question, "size": self.inputs["size"]}

    def clients(self) -> Iterator[tuple[MaskedClient, Listed]]:
        for client in self.inputs["clients"]:
            identity = Identity(private=Ed25519PrivateKey.from_private_bytes(unhex(client["identity"])))
            draws = Listed(client, complete=self.graph.is_complete)
            yield MaskedClient(identity, self.terms, _random=cast(random.Random, draws)), draws

    def server(self) -> MaskedServer:
        return MaskedServer(
            self.terms, session=self.session, round=self.inputs["round"], **self.question_and_size
        )

    def vector(self, k: int) -> dict[str, Any]:
        client = self.inputs["clients"][k]
        noise = client["noise"]
        return {
            "vector": np.array(client["vector"], np.int64),
            "noise": None if noise is None else np.array(noise, np.int64),
        }


@pytest.fixture(params=ROUNDS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


class TestScript:
    def test_writes_these_very_files(self, tmp_path: Path) -> None:
        subprocess.run([sys.executable, "-B", FOLDER / "make_vectors.py", tmp_path], check=True, timeout=300)
        made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert made == {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}
        assert made.keys() == {f"{name}.json" for name in (*ROUNDS, "derivations")}

    def test_shares_no_code_with_what_it_tests(self) -> None:
        found = set()
        for path in FOLDER.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                if isinstance(node, ast.ImportFrom):
                    assert node.level == 0
                    found.add(str(node.module).partition(".")[0])
        assert found - sys.stdlib_module_names == {"cryptography", "primitives", "rounds"}


class TestRound:
    def test_every_message(self, case: Case) -> None:
        """Both cores, driven by the listed inputs, send the listed bytes; every listed draw is used."""
        clients, draws = zip(*case.clients(), strict=True)
        server = case.server()

        def collect(stage: str, act: Callable[[MaskedClient, int], bytes]) -> None:
            for k, expected in enumerate(case.messages[stage]):
                if expected is not None:
                    message = act(clients[k], k)
                    assert message.hex() == expected, f"client {k} at stage {stage}"
                    server.receive(message)

        number = case.inputs["round"]
        collect("advertise", lambda one, _: one.advertise(case.session, number, **case.question_and_size))
        roster = server.roster()
        assert roster.hex() == case.messages["roster"]
        collect("share", lambda one, _: one.share(roster))
        relays = server.relays()
        assert by_position(relays, len(clients)) == case.messages["relays"]
        collect("upload", lambda one, k: one.upload(relays[k], **case.vector(k)))
        survivors = server.survivors()
        assert survivors.hex() == case.messages["survivors"]
        collect("confirm", lambda one, _: one.confirm(survivors))
        confirmations = server.confirmations()
        assert by_position(confirmations, len(clients)) == case.messages["confirmations"]
        collect("unmask", lambda one, k: one.unmask(confirmations[k]))
        opened = server.open_sum()
        assert {"clients": list(opened.clients), "total": opened.total.tolist()} == case.opened
        finished = [draw.left for draw, sent in zip(draws, case.messages["unmask"], strict=True) if sent]
        assert finished
        assert not any(finished)

    def test_covers_both_recoveries(self, case: Case) -> None:
        """A client that shared doesn't upload, and one that uploaded doesn't reveal its seed."""
        sent = {stage: {k for k, one in enumerate(case.messages[stage]) if one} for stage in STAGES}
        assert sent["share"] - sent["upload"]
        assert sent["upload"] - sent["unmask"]

    def test_covers_holders_that_have_not_shared(self) -> None:
        """They get a box, and no tag."""
        derived = Case("sparse").derived
        uploaded = {tag["sender"] for tag in derived["tags"]}
        assert any(
            box["sender"] in uploaded and box["holder"] not in derived["sharers"] for box in derived["boxes"]
        )

    def test_covers_every_width(self) -> None:
        assert [Case(name).derived["ring_bits"] for name in ROUNDS[:-1]] == [8, 8, 16, 16, 32, 32, 64, 64]

    def test_terms_and_agreement(self, case: Case) -> None:
        assert case.terms.digest(**case.question_and_size).hex() == case.derived["terms_digest"]
        assert case.terms.ring(case.inputs["size"]).bits == case.derived["ring_bits"]
        place = case.server()._place
        assert place.roster.hex() == case.derived["terms_digest"]
        agreed = agreement(place, unhex(case.messages["roster"]))
        assert agreed.hex() == case.derived["agreement"]
        assert derivation(place.at("share", agreed)) == case.derivation

    def test_statements(self, case: Case) -> None:
        for stage in STAGES:
            message = next(message for message in case.messages[stage] if message)
            signed = decode(unhex(message), Signed)
            assert statement(PROTOCOL, signed).hex() == case.derived["statements"][stage]

    def test_boxes(self, case: Case) -> None:
        clients = case.inputs["clients"]
        for box in case.derived["boxes"]:
            private = X25519PrivateKey.from_private_bytes(unhex(clients[box["sender"]]["share_private"]))
            public = X25519PrivateKey.from_private_bytes(unhex(clients[box["holder"]]["share_private"]))
            secret = agree(private, public.public_key().public_bytes_raw(), box["holder"])
            assert secret.hex() == box["secret"]
            assert case.derivation.box_key(secret, box["sender"], box["holder"]).hex() == box["key"]

    def test_tags(self, case: Case) -> None:
        """Made again by the holders, as they do to compare; one for each box of a pair that has shared."""
        clients, sharers = case.inputs["clients"], case.derived["sharers"]
        assert positions_hash(sharers).hex() == case.derived["sharers_hash"]
        for tag in case.derived["tags"]:
            holder, sender = (
                X25519PrivateKey.from_private_bytes(unhex(clients[tag[one]]["share_private"]))
                for one in ("holder", "sender")
            )
            secret = agree(holder, sender.public_key().public_bytes_raw(), tag["sender"])
            made = case.derivation.tag(secret, tag["sender"], tag["holder"], positions_hash(sharers))
            assert made.hex() == tag["tag"]
        uploaded = {k for k, one in enumerate(case.messages["upload"]) if one}
        pairs = [(box["sender"], box["holder"]) for box in case.derived["boxes"]]
        expected = [(one, other) for one, other in pairs if one in uploaded and other in sharers]
        assert [(tag["sender"], tag["holder"]) for tag in case.derived["tags"]] == expected

    def test_shares(self, case: Case) -> None:
        clients, threshold = case.inputs["clients"], case.graph.share_threshold
        for k in {box["sender"] for box in case.derived["boxes"]}:
            boxes = {box["holder"]: box for box in case.derived["boxes"] if box["sender"] == k}
            for secret, coefficients, share in (
                ("mask_private", "key_coefficients", "key_share"),
                ("seed", "seed_coefficients", "seed_share"),
            ):
                shares = {holder: unhex(box[share]) for holder, box in boxes.items()}
                draws = leading_first(clients[k][coefficients])
                made = shamir.split(unhex(clients[k][secret]), list(boxes), threshold, _random=draws)
                assert made == shares
                assert shamir.recover(shares, threshold).hex() == clients[k][secret]

    def test_mask_keys(self, case: Case) -> None:
        clients = case.inputs["clients"]
        for pair in case.derived["pairs"]:
            low, high = pair["low"], pair["high"]
            for one, other in ((low, high), (high, low)):
                private, peer = (
                    X25519PrivateKey.from_private_bytes(unhex(clients[k]["mask_private"]))
                    for k in (one, other)
                )
                secret = agree(private, peer.public_key().public_bytes_raw(), other)
                assert secret.hex() == pair["secret"]
                assert case.derivation.pair_key(secret, one, other).hex() == pair["key"]
        for own in case.derived["selves"]:
            seed = unhex(clients[own["client"]]["seed"])
            assert case.derivation.self_key(seed, own["client"]).hex() == own["key"]


class TestDerivations:
    vector = load("derivations")

    def test_keys(self) -> None:
        secret = unhex(self.vector["secret"])
        for key in self.vector["keys"]:
            derive = Derivation(
                session=unhex(self.vector["session"]),
                round=key["round"],
                agreement=unhex(self.vector["agreement"]),
            )
            one, other = key["positions"]
            made = {
                "pair": derive.pair_key(secret, other, one),
                "self": derive.self_key(secret, one),
                "box": derive.box_key(secret, one, other),
            }
            assert made[key["label"]].hex() == key["key"]
        assert len({key["key"] for key in self.vector["keys"]}) == len(self.vector["keys"])

    def test_tags(self) -> None:
        secret = unhex(self.vector["secret"])
        for one in self.vector["tags"]:
            derive = Derivation(
                session=unhex(self.vector["session"]),
                round=one["round"],
                agreement=unhex(self.vector["agreement"]),
            )
            sharers = positions_hash(one["sharers"])
            assert sharers.hex() == one["sharers_hash"]
            sender, holder = one["positions"]
            assert derive.tag(secret, sender, holder, sharers).hex() == one["tag"]
        assert len({one["tag"] for one in self.vector["tags"]}) == len(self.vector["tags"])

    def test_statements(self) -> None:
        for one in self.vector["statements"]:
            signed = Signed(
                session=unhex(one["session"]),
                round=one["round"],
                stage=one["stage"],
                sender=one["sender"],
                roster=unhex(one["roster"]),
                body=unhex(one["body"]),
                signature=bytes(64),
            )
            assert statement(PROTOCOL, signed).hex() == one["statement"]

    def test_keystreams(self) -> None:
        for stream in self.vector["keystreams"]:
            ring = Ring(bits=stream["ring_bits"])
            words = np.zeros(stream["bytes"] // ring.width, dtype=ring.dtype)
            apply_masks(words, [unhex(stream["key"])], [])
            assert words[: len(stream["first"])].tolist() == stream["first"]
            assert hashlib.sha256(words.tobytes()).hexdigest() == stream["sha256"]
            apply_masks(words, [], [unhex(stream["key"])])
            assert not words.any()

    def test_sharings(self) -> None:
        for one in self.vector["sharings"]:
            secret, threshold, holders = unhex(one["secret"]), one["threshold"], one["holders"]
            draws = leading_first(one["coefficients"])
            shares = shamir.split(secret, holders, threshold, _random=draws)
            assert [shares[holder].hex() for holder in holders] == one["shares"]
            last = dict(list(shares.items())[-threshold:])
            assert shamir.recover(last, threshold) == secret

    def test_encodings(self) -> None:
        survivors, roster, tagged, *uploads = self.vector["encodings"]
        names = tuple(one["message"] for one in (survivors, roster, tagged))
        assert names == ("survivors", "roster", "upload")
        values, tags = tagged["fields"]
        listed: list[tuple[Message, str]] = [
            (
                messages.Survivors(survivors=tuple(survivors["fields"][0]), dropped=()),
                survivors["encoded"],
            ),
            (messages.Roster(adverts=tuple(map(unhex, roster["fields"][0]))), roster["encoded"]),
            (messages.Upload(values=unhex(values), tags=tuple(map(unhex, tags))), tagged["encoded"]),
        ]
        for message, encoded in listed:
            assert encode(message).hex() == encoded
        for upload in uploads:
            data = encode(messages.Upload(values=bytes(upload["zeros"]), tags=()))
            assert hashlib.sha256(data).hexdigest() == upload["sha256"]


def test_equal_terms_have_one_digest() -> None:
    """However the noise was written: 3 and 3.0 are the same agreement."""
    case = Case("complete-16-noise")
    digests = {
        replace(case.terms, noise_deviation=deviation).digest(**case.question_and_size)
        for deviation in (3, 3.0, np.float64(3))
    }
    assert len(digests) == 1


class TestPublished:
    """What the script takes for HKDF, X25519, Ed25519, AES-CTR and AES-GCM, against published vectors."""

    @pytest.mark.parametrize(
        ("secret", "salt", "info", "expected"),
        [
            (
                b"\x0b" * 22,
                bytes(range(13)),
                bytes(range(0xF0, 0xFA)),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                bytes(range(0x50)),
                bytes(range(0x60, 0xB0)),
                bytes(range(0xB0, 0x100)),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
                "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
                "cc30c58179ec3e87c14c01d5c1f3434f1d87",
            ),
            (
                b"\x0b" * 22,
                b"",
                b"",
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ],
    )
    def test_hkdf(self, secret: bytes, salt: bytes, info: bytes, expected: str) -> None:
        """RFC 5869, A.1 to A.3."""
        assert primitives.hkdf(secret, salt, info, len(expected) // 2).hex() == expected

    @pytest.mark.parametrize(
        ("scalar", "point", "expected"),
        [
            (
                "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
                "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
            ),
            (
                "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
                "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
            ),
            (
                "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "09" + 31 * "00",
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            ),
            (
                "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
                "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
            ),
        ],
    )
    def test_x25519(self, scalar: str, point: str, expected: str) -> None:
        """RFC 7748, sections 5.2 and 6.1."""
        assert primitives.x25519(unhex(scalar), unhex(point)).hex() == expected

    @pytest.mark.parametrize(
        ("seed", "public", "message", "signature"),
        [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
                "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
                "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ],
    )
    def test_ed25519(self, seed: str, public: str, message: str, signature: str) -> None:
        """RFC 8032, section 7.1, tests 1 to 3."""
        assert primitives.ed25519_public(unhex(seed)).hex() == public
        signed = primitives.ed25519_sign(unhex(seed), unhex(public), unhex(message))
        assert signed.hex() == signature

    def test_aes_ctr(self) -> None:
        """NIST SP 800-38A, F.5.5; its counter carries into the second lowest byte."""
        key = unhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
        stream = primitives.aes_ctr(key, int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16), 64)
        plain = int(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
            "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
            16,
        )
        assert (plain ^ int.from_bytes(stream, "big")).to_bytes(64, "big").hex() == (
            "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
            "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
        )

    @pytest.mark.parametrize(
        ("key", "nonce", "plain", "associated", "expected"),
        [
            ("00" * 32, "00" * 12, "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
            (
                "00" * 32,
                "00" * 12,
                "00" * 16,
                "",
                "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
            ),
            (
                "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
                "cafebabefacedbaddecaf888",
                "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
                "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
                "feedfacedeadbeeffeedfacedeadbeefabaddad2",
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
                "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
                "76fc6ece0f4e1768cddf8853bb2d551b",
            ),
        ],
    )
    def test_aes_gcm(self, key: str, nonce: str, plain: str, associated: str, expected: str) -> None:
        """Test cases 13, 14 and 16 of McGrew and Viega's submission of GCM to NIST."""
        sealed = primitives.aes_gcm(unhex(key), unhex(nonce), unhex(plain), unhex(associated))
        assert sealed.hex() == expected
