"""Secrets of honest clients in a round of a masked sum, derived by hand from what they sent and drew."""

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securefd.defenses import shamir
from securefd.messages import Advertise, Boxes
from tests.defenses.masked_parties import (
    QUESTION,
    Federation,
    body_of,
    make_graph,
    make_terms,
    public,
)

COMPLETE = make_terms(make_graph(5, 4))
SPARSE = make_terms(make_graph(7, 5, degree=4, share_threshold=2))


def by_hand(
    federation: Federation, label: bytes, secret: bytes, one: int, other: int, more: bytes = b""
) -> bytes:
    """RFC 5869 for an output of one block."""
    info = b"securefd/masked/2" + label + b"\0" + federation.number.to_bytes(8, "big")
    info += one.to_bytes(4, "big") + other.to_bytes(4, "big")
    digest = federation.terms.digest(question=QUESTION, size=federation.size)
    info += hashlib.sha256(digest + hashlib.sha256(federation.roster).digest()).digest() + more
    key = hmac.new(federation.session, secret, hashlib.sha256).digest()
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()


def advert(federation: Federation, client: int) -> Advertise:
    return body_of(federation.sent["advertise"][client], Advertise)


def secret(federation: Federation, which: int, one: int, other: int) -> bytes:
    """What two clients' mask keys (0) or share keys (1) agree on."""
    theirs = public(federation.privates[other][which])
    return federation.privates[one][which].exchange(X25519PublicKey.from_public_bytes(theirs))


def boxes_of(federation: Federation, client: int) -> Boxes:
    return body_of(federation.sent["share"][client], Boxes)


def opened(federation: Federation, sender: int) -> dict[int, tuple[bytes, bytes]]:
    """By holder, the shares of a client's mask key and of its seed."""
    boxes, found = boxes_of(federation, sender), {}
    for holder, box in zip(boxes.holders, boxes.boxes, strict=True):
        key = by_hand(federation, b"box", secret(federation, 1, sender, holder), sender, holder)
        plain = AESGCM(key).decrypt(bytes(12), box, None)
        found[holder] = plain[:32], plain[32:]
    return found


def seed_of(federation: Federation, client: int) -> bytes:
    shares, needed = opened(federation, client), federation.terms.neighbourhood.share_threshold
    return shamir.recover({holder: seed for holder, (_, seed) in shares.items()}, needed)
