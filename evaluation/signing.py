"""Signed reports: STEM.json as a DSSE envelope around an in-toto statement that holds the report.

The envelope follows DSSE 1.0 (secure-systems-lab/dsse, ``protocol.md`` and ``envelope.md``), so that any tool
that knows it can check the signature: Ed25519 over the pre-authentication encoding. The payload is an in-toto
Statement v1 with the predicate ``test-result/v0.1``. Its subjects are what the report speaks of and the
report's other forms, each by its SHA-256.

What is read is held to more than DSSE asks: one signature, and exactly the bytes that :func:`sign` writes, so
that no byte of the file can change without being noticed, not even one that means nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from securefd.defenses.files import read_file
from securefd.defenses.identity import Identity, verify
from securefd.defenses.keys import LARGEST_IDENTITY, TAG, fingerprint, read_identity, read_public
from securefd.errors import ProtocolError, ReportError, SealingError
from securefd.evaluation.report import Finding, Report, Variant
from securefd.evaluation.report_json import fields_of, schema_id

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
RESULTS = {"pass": "PASSED", "inconclusive": "WARNED", "fail": "FAILED"}
_LISTS = {"CONSISTENT": "passedTests", "INCONCLUSIVE": "warnedTests", "VIOLATED": "failedTests"}
_PUBLIC_PEM = b"-----BEGIN PUBLIC KEY-----"
_PRIVATE_PEM = b"PRIVATE KEY-----"


def pae(payload_type: str, body: bytes) -> bytes:
    """The pre-authentication encoding: what is signed of a payload and its type (DSSE, ``protocol.md``).

    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def canonical(value: Any) -> bytes:
    """JSON in one fixed form: sorted keys, no white space, UTF-8."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def statement(report: Report, forms: Mapping[str, str]) -> dict[str, Any]:
    """The in-toto statement of ``report``; ``forms``: SHA-256, in hex, of each other form by its ending."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [*_subjects(report), *(_form(ending, forms[ending]) for ending in sorted(forms))],
        "predicateType": PREDICATE_TYPE,
        "predicate": _predicate(report),
    }


def sign(report: Report, forms: Mapping[str, bytes], identity: Identity) -> bytes:
    """What STEM.json holds: the envelope. ``forms``: the bytes of every other form by its ending."""
    digests = {ending: hashlib.sha256(content).hexdigest() for ending, content in forms.items()}
    payload = canonical(statement(report, digests))
    return _written(payload, fingerprint_of(identity.public), identity.sign(pae(PAYLOAD_TYPE, payload)))


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What an envelope holds. Nothing of it is to be believed before :meth:`check` passed.

    ``keyid``: the fingerprint of the key that is said to have signed it.
    """

    payload: bytes = field(repr=False)
    keyid: str
    signature: bytes = field(repr=False)

    def check(self, public: bytes) -> None:
        """Raise ReportError unless the owner of the Ed25519 key ``public``, 32 bytes, signed this."""
        if self.keyid != fingerprint_of(public):
            raise ReportError(
                f"it is said to be signed by the key {self.keyid}, and the trusted key is "
                f"{fingerprint_of(public)}"
            )
        try:
            verify(public, pae(PAYLOAD_TYPE, self.payload), self.signature)
        except ProtocolError:
            raise ReportError(
                f"the signature isn't by the trusted key {self.keyid} over this content"
            ) from None


def open_envelope(content: bytes) -> Envelope:
    """Take an envelope apart. Raises ReportError unless these are exactly the bytes of one that we write."""
    try:
        fields = json.loads(content)
        (signature,) = fields["signatures"]
        found = Envelope(
            payload=base64.b64decode(fields["payload"], validate=True),
            keyid=str(signature["keyid"]),
            signature=base64.b64decode(signature["sig"], validate=True),
        )
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
        raise ReportError("it isn't a signed report in one whole envelope") from None
    if _written(found.payload, found.keyid, found.signature) != content:
        raise ReportError("its envelope isn't written as it was signed: something was added or rewritten")
    return found


def fingerprint_of(public: bytes) -> str:
    """What people compare of a key, as `securefd identity list` shows it."""
    return fingerprint(hashlib.sha256(public).digest())


def signing_key(path: str | Path) -> Identity:
    """Read the private key that is to sign: Ed25519, PKCS#8 in PEM, mode 0600, not encrypted.

    `securefd identity new NAME` makes one, and so does `openssl genpkey -algorithm ed25519`. Raises
    ReportError, naming the file and what to do, for anything else, and for a key that others may read.
    """
    try:
        if read_file(Path(path), LARGEST_IDENTITY, "private key").startswith((_PUBLIC_PEM, TAG.encode())):
            raise ReportError(f"{path} holds a public key, which can't sign; give the private one, NAME.key")
        return read_identity(Path(path))
    except SealingError as error:
        raise ReportError(str(error)) from None


def trusted_key(path: str | Path) -> bytes:
    """Read the key to check a signature by: NAME.pub, or a public key in PEM. Raises ReportError."""
    try:
        content = read_file(Path(path), LARGEST_IDENTITY, "public key")
        if content.startswith(TAG.encode()):
            return read_public(Path(path)).key
    except SealingError as error:
        raise ReportError(str(error)) from None
    if _PRIVATE_PEM in content:
        raise ReportError(
            f"{path} holds a private key; give the public one, NAME.pub, and never hand out the private one"
        )
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise ReportError(f"{path} isn't a public key; give NAME.pub, or a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ReportError(f"{path} isn't an Ed25519 key; give the one that belongs to the signing key")
    return key.public_bytes_raw()


def _written(payload: bytes, keyid: str, signature: bytes) -> bytes:
    fields = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": keyid, "sig": base64.b64encode(signature).decode()}],
    }
    return (json.dumps(fields, sort_keys=True, indent=2) + "\n").encode()


def _subjects(report: Report) -> list[dict[str, Any]]:
    """What the report speaks of, where anybody may know it."""
    students = [
        {"name": f"student of {each.name}", "digest": {"sha256": each.student_sha256}}
        for each in report.variants
        if each.student_sha256 is not None
    ]
    return [*students, {"name": "public set", "digest": {"sha256": report.provenance.public_set}}]


def _predicate(report: Report) -> dict[str, Any]:
    configuration = hashlib.sha256(report.provenance.configuration.encode()).hexdigest()
    return {
        "result": RESULTS[report.verdict],
        "configuration": [
            {"name": "configuration", "digest": {"sha256": configuration}},
            *(
                {"name": f"policy {each.name}", "digest": {"sha256": each.sha256}}
                for each in (report.policy,)
                if each is not None
            ),
        ],
        **_tests(report),
        "schema": schema_id(),
        "report": fields_of(report),
    }


def _tests(report: Report) -> dict[str, list[str]]:
    """The names of what was tested: findings held against a claim, controls, a policy's rules, and also of
    checks that weren't made.

    A control that failed says that the audit can't be trusted, not that a claim is broken: it is a warning.
    """
    names: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for variant in report.variants:
        for finding in variant.findings:
            if finding.claim_epsilon is not None:
                names[_LISTS[finding.judgement]].append(_name(variant, finding))
        for control in variant.controls:
            to = "passedTests" if control.passed else "warnedTests"
            names[to].append(f"{variant.name}: {control.kind} control: {control.attack}")
        for skipped in variant.skipped:
            what = f"{skipped.subject}: {skipped.observer}: {skipped.attack}"
            names["warnedTests"].append(f"{variant.name}: skipped: {what}")
    for rule in () if report.policy is None else report.policy.results:
        what = ": ".join(filter(None, (rule.variant, "policy", rule.rule, rule.observer)))
        names[f"{RESULTS[rule.result].lower()}Tests"].append(what)
    return names


def _name(variant: Variant, finding: Finding) -> str:
    return f"{variant.name}: {finding.subject}: {finding.observer}: {finding.attack}: {finding.bound_method}"


def _form(ending: str, sha256: str) -> dict[str, Any]:
    return {"name": f"report.{ending}", "digest": {"sha256": sha256}, "annotations": {"form": ending}}
