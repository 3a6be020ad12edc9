"""Signing: the published encoding, keys of every wrong kind, and no byte that changes unnoticed."""

import base64
import hashlib
import json
import os
import random
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from securefd.defenses.identity import Identity
from securefd.defenses.keys import create_identity
from securefd.errors import ReportError
from securefd.evaluation.report_json import fields_of, from_json
from securefd.evaluation.signing import (
    canonical,
    fingerprint_of,
    open_envelope,
    pae,
    sign,
    signing_key,
    statement,
    trusted_key,
)
from tests.evaluation.report_samples import finding, report, variant

IDENTITY = Identity(private=ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
FORMS = {"html": b"<p>page</p>", "pdf": b"%PDF"}


def pem(private, path, mode=0o600, protection=None):
    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection or NoEncryption())
    path.write_bytes(content)
    path.chmod(mode)
    return path


def public_pem(private, path):
    path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


class TestEncoding:
    def test_the_encoding_is_that_of_the_published_example(self):
        assert pae("http://example.com/HelloWorld", b"hello world") == (
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        )

    def test_lengths_are_of_bytes_and_nothing_means_zero(self):
        assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "

    def test_the_published_envelope_is_signed_over_that_encoding(self):
        """The example of the DSSE specification, ECDSA over P-256, checked by the library alone."""
        numbers = ec.EllipticCurvePublicNumbers(
            46950820868899156662930047687818585632848591499744589407958293238635476079160,
            5640078356564379163099075877009565129882514886557779369047442380624545832820,
            ec.SECP256R1(),
        )
        raw = base64.b64decode(
            "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
        )
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256

        signature = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
        numbers.public_key().verify(
            signature, pae("http://example.com/HelloWorld", b"hello world"), ec.ECDSA(SHA256())
        )

    def test_canonical_json_is_one_text_for_one_value(self):
        assert canonical({"b": 1, "a": ["é", 0.1]}) == '{"a":["é",0.1],"b":1}'.encode()
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical(float("nan"))


class TestStatement:
    def test_it_is_an_in_toto_test_result_with_the_report_inside(self):
        made = report(variants=(variant("a", student_sha256="cd" * 32), variant("b")))
        told = statement(made, {"html": "ef" * 32})
        assert told["_type"] == "https://in-toto.io/Statement/v1"
        assert told["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
        assert told["predicate"]["result"] == "WARNED"
        assert told["subject"] == [
            {"name": "student of a", "digest": {"sha256": "cd" * 32}},
            {"name": "public set", "digest": {"sha256": "ab" * 32}},
            {"name": "report.html", "digest": {"sha256": "ef" * 32}, "annotations": {"form": "html"}},
        ]
        (configured,) = told["predicate"]["configuration"]
        text = made.provenance.configuration.encode()
        assert configured["digest"]["sha256"] == hashlib.sha256(text).hexdigest()
        assert from_json(json.dumps(told["predicate"]["report"])) == made

    def test_what_was_tested_is_named_by_how_it_went(self):
        violated = finding(judgement="VIOLATED", epsilon_bound=9.0)
        held = finding(observer="peer", judgement="CONSISTENT", epsilon_power=9.0)
        made = report(verdict="fail", variants=(variant("a", findings=(violated, held, finding())),))
        told = statement(made, {})["predicate"]
        assert told["result"] == "FAILED"
        assert told["failedTests"] == ["a: the recipe: server: LiRA on answers: one record"]
        assert told["passedTests"] == [
            "a: the recipe: peer: LiRA on answers: one record",
            "a: null control: LiRA",
        ]
        assert told["warnedTests"] == [
            "a: the recipe: server: LiRA on answers: one record",
            "a: skipped: this run: peer: all",
        ]


class TestEnvelope:
    def test_it_opens_to_what_was_signed_and_only_by_its_key(self):
        content = sign(report(), FORMS, IDENTITY)
        opened = open_envelope(content)
        opened.check(IDENTITY.public)
        told = json.loads(opened.payload)
        assert told["predicate"]["report"] == json.loads(json.dumps(fields_of(report())))
        digests = {each["name"]: each["digest"]["sha256"] for each in told["subject"]}
        assert digests["report.pdf"] == hashlib.sha256(b"%PDF").hexdigest()
        assert json.loads(content)["signatures"][0]["keyid"] == fingerprint_of(IDENTITY.public)
        with pytest.raises(ReportError, match="the trusted key is"):
            opened.check(Identity.generate().public)

    def test_any_tool_that_knows_dsse_can_check_it(self):
        """By the library alone, as another implementation would."""
        fields = json.loads(sign(report(), FORMS, IDENTITY))
        body = base64.b64decode(fields["payload"])
        message = b"DSSEv1 %d %b %d %b" % (28, fields["payloadType"].encode(), len(body), body)
        assert len(fields["payloadType"]) == 28
        key = IDENTITY.private.public_key()
        key.verify(base64.b64decode(fields["signatures"][0]["sig"]), message)

    def test_the_same_report_gives_the_same_bytes(self):
        assert sign(report(), FORMS, IDENTITY) == sign(report(), dict(reversed(FORMS.items())), IDENTITY)

    @pytest.mark.parametrize("seed", range(4))
    def test_no_changed_byte_goes_unnoticed(self, seed):
        content = sign(report(variants=(variant("a"),)), FORMS, IDENTITY)
        rng = random.Random(seed)
        places = {0, 1, len(content) - 1, *rng.sample(range(len(content)), 300)}
        edges = [content.index(b'"sig"') + 8, content.index(b'"keyid"') + 3, content.rindex(b'"') - 1]
        for place in sorted({*places, *edges}):
            changed = bytearray(content)
            changed[place] ^= 1 << rng.randrange(8)
            self.refused(bytes(changed))

    def refused(self, changed: bytes) -> None:
        with pytest.raises(ReportError):
            open_envelope(changed).check(IDENTITY.public)

    def test_no_other_way_of_writing_the_same_is_taken(self):
        content = sign(report(), FORMS, IDENTITY)
        fields = json.loads(content)
        payload, sig = fields["payload"], fields["signatures"][0]["sig"]
        rewritten = [
            content + b"\n",
            b" " + content,
            b"\xef\xbb\xbf" + content,
            content.decode().encode("utf-16"),
            content[:-1],
            content + b"{}",
            json.dumps(fields).encode(),
            json.dumps(fields, indent=2, sort_keys=False).encode() + b"\r\n",
            content.replace(b'"payload":', b'"payload": "",\n  "payload":'),
            content.replace(b'"sig":', b'"sig": "", "sig":'),
            content.replace(b'"keyid"', b'"more": 1, "keyid"'),
            content.replace(b'"payload"', b'"\\u0070ayload"'),
            json.dumps({**fields, "signatures": [*fields["signatures"], fields["signatures"][0]]}).encode(),
            json.dumps({**fields, "signatures": []}).encode(),
        ]
        for text in (payload, sig):
            urlsafe = text.replace("+", "-").replace("/", "_")
            others = [text + "=", text.rstrip("="), text[:8] + "\\n" + text[8:], urlsafe]
            rewritten += [content.replace(text.encode(), each.encode()) for each in others if each != text]
        # The last digit before padding holds bits that no byte of the signature needs.
        loose = sig[:-3] + chr(ord(sig[-3]) + 1) + sig[-2:]
        assert base64.b64decode(loose) == base64.b64decode(sig)
        rewritten.append(content.replace(sig.encode(), loose.encode()))
        for each in rewritten:
            assert each != content
            self.refused(each)

    def test_another_type_of_payload_is_refused_even_if_it_is_signed(self):
        body = canonical(statement(report(), {}))
        fields = {
            "payload": base64.b64encode(body).decode(),
            "payloadType": "text/plain",
            "signatures": [
                {
                    "keyid": fingerprint_of(IDENTITY.public),
                    "sig": base64.b64encode(IDENTITY.sign(pae("text/plain", body))).decode(),
                }
            ],
        }
        self.refused((json.dumps(fields, sort_keys=True, indent=2) + "\n").encode())

    @pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"1", b"[" * 100_000, b"\xff"])
    def test_what_is_no_envelope_is_refused_in_one_sentence(self, content):
        with pytest.raises(ReportError, match="signed report"):
            open_envelope(content)


class TestSigningKeys:
    def test_an_identity_or_a_key_of_openssl_signs(self, tmp_path):
        made = create_identity(tmp_path, "clinic")
        assert signing_key(tmp_path / "clinic.key").public == made.key
        assert trusted_key(tmp_path / "clinic.pub") == made.key
        private = ed25519.Ed25519PrivateKey.generate()
        assert signing_key(pem(private, tmp_path / "s.pem")).public == private.public_key().public_bytes_raw()
        assert trusted_key(public_pem(private, tmp_path / "p.pem")) == private.public_key().public_bytes_raw()

    def test_openssl_itself_makes_keys_that_are_taken(self, tmp_path):
        private, public = tmp_path / "signing.pem", tmp_path / "public.pem"
        try:
            subprocess.run(
                ["openssl", "genpkey", "-algorithm", "ed25519", "-out", private],
                check=True,
                capture_output=True,
            )
        except (FileNotFoundError, subprocess.CalledProcessError):
            pytest.skip("no openssl that knows Ed25519 here")
        private.chmod(0o600)
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
        assert signing_key(private).public == trusted_key(public)

    def test_a_key_that_others_may_read_is_refused_with_the_remedy(self, tmp_path):
        path = pem(ed25519.Ed25519PrivateKey.generate(), tmp_path / "open.pem", mode=0o640)
        with pytest.raises(ReportError, match=r"open\.pem has mode 0640.*chmod 600"):
            signing_key(path)

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda: rsa.generate_private_key(65537, 2048), "isn't an Ed25519 key"),
            (lambda: ec.generate_private_key(ec.SECP256R1()), "isn't an Ed25519 key"),
            (x25519.X25519PrivateKey.generate, "isn't an Ed25519 key"),
        ],
    )
    def test_keys_of_another_kind_are_refused(self, tmp_path, make, reason):
        private = make()
        with pytest.raises(ReportError, match=rf"other\.pem {reason}"):
            signing_key(pem(private, tmp_path / "other.pem"))
        with pytest.raises(ReportError, match=rf"public\.pem {reason}"):
            trusted_key(public_pem(private, tmp_path / "public.pem"))

    def test_public_and_private_are_not_mixed_up(self, tmp_path):
        create_identity(tmp_path, "clinic")
        private = ed25519.Ed25519PrivateKey.generate()
        for path in (public_pem(private, tmp_path / "public.pem"), tmp_path / "clinic.pub"):
            with pytest.raises(ReportError, match=r"holds a public key.*give the private one"):
                signing_key(path)
        for path in (pem(private, tmp_path / "private.pem"), tmp_path / "clinic.key"):
            with pytest.raises(ReportError, match=r"holds a private key.*give the public one"):
                trusted_key(path)

    def test_missing_encrypted_and_damaged_keys_are_refused_by_name(self, tmp_path):
        for read in (signing_key, trusted_key):
            with pytest.raises(ReportError, match=r"none\.pem can't be read"):
                read(tmp_path / "none.pem")
            with pytest.raises(ReportError, match=r"Is a directory|isn't a regular file"):
                read(tmp_path)
            (tmp_path / "noise.pem").write_bytes(os.urandom(64))
            (tmp_path / "noise.pem").chmod(0o600)
            with pytest.raises(ReportError, match=r"noise\.pem"):
                read(tmp_path / "noise.pem")
        locked = pem(
            ed25519.Ed25519PrivateKey.generate(),
            tmp_path / "locked.pem",
            protection=BestAvailableEncryption(b"secret"),
        )
        with pytest.raises(ReportError, match="without a passphrase"):
            signing_key(locked)
