"""Who may speak, and where in a protocol a message belongs.

Identities are Ed25519 keys, held in memory. Every participant pins the public keys of the others, out of
band and in one agreed order; nothing that travels can add to that list or change it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from securefd.errors import ProtocolError, SealingError
from securefd.messages import Signed, decode, encode, statement

OVERHEAD = 512
"""More bytes than an envelope and a message's own headers add to the payload."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A participant's long-lived signing key."""

    private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> Identity:
        """Draw a new identity from the operating system's generator."""
        return cls(private=Ed25519PrivateKey.generate())

    @property
    def public(self) -> bytes:
        """The 32 bytes that others pin."""
        return self.private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature of ``message``."""
        return self.private.sign(message)


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """``ProtocolError`` unless ``signature`` is of ``message`` by the owner of ``public``."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError(
            "a signature isn't by the identity that was pinned; the message was refused"
        ) from error


def check_pinned(pinned: Sequence[bytes]) -> tuple[bytes, ...]:
    """``SealingError`` unless these are at least two different identities.

    A sum of one is that client's answer, and one identity in two places could stand for two clients.
    """
    if not len(pinned) >= 2:
        raise SealingError(f"a sealed sum needs at least 2 clients, got {len(pinned)}; use sealing plain")
    if any(len(public) != 32 for public in pinned):
        raise SealingError("a pinned identity must have 32 bytes")
    if len(set(pinned)) != len(pinned):
        raise SealingError("an identity is pinned twice; every client needs its own")
    return tuple(pinned)


def cohort_hash(pinned: Sequence[bytes]) -> bytes:
    """SHA-256 of the pinned identities in their order: what stands for the roster before there is one."""
    return hashlib.sha256(b"".join(pinned)).digest()


@dataclass(frozen=True, kw_only=True)
class Place:
    """The one place where a message counts; a message made for any other is refused."""

    protocol: bytes
    session: bytes
    round: int
    stage: str
    roster: bytes

    def __post_init__(self) -> None:
        if not (16 <= len(self.session) <= 64 and 0 <= self.round < 1 << 32):
            raise ProtocolError(
                f"session must be 16..64 bytes and round below 2**32, got {len(self.session)}, {self.round}"
            )

    def at(self, stage: str, roster: bytes) -> Place:
        """Return the same protocol, session and round at another stage."""
        return replace(self, stage=stage, roster=roster)


def sign_message(identity: Identity, place: Place, sender: int, body: bytes) -> bytes:
    """Run by the sender: the signed envelope of ``body``, for ``place`` only."""
    unsigned = Signed(
        session=place.session,
        round=place.round,
        stage=place.stage,
        sender=sender,
        roster=place.roster,
        body=body,
        signature=bytes(64),
    )
    signature = identity.sign(statement(place.protocol, unsigned))
    return encode(msgspec.structs.replace(unsigned, signature=signature))


def verify_signature(place: Place, sender: int, body: bytes, signature: bytes, public: bytes) -> None:
    """Run by who knows the body already: ``ProtocolError`` unless ``sender`` signed it for ``place``."""
    message = Signed(
        session=place.session,
        round=place.round,
        stage=place.stage,
        sender=sender,
        roster=place.roster,
        body=body,
        signature=signature,
    )
    verify(public, statement(place.protocol, message), signature)


def verify_message(
    data: bytes, place: Place, pinned: Sequence[bytes], limit: int | None = None
) -> tuple[int, bytes]:
    """Run by the receiver: the sender's position in ``pinned``, and the body.

    The body isn't parsed before the signature has been verified. ``ProtocolError`` for a message of
    another place, an unknown sender or a wrong signature; ``MessageError`` for anything else.
    """
    message = decode(data, Signed, limit)
    for name in ("stage", "session", "round", "roster"):
        if getattr(message, name) != getattr(place, name):
            raise ProtocolError(f"a message of another {name} was refused at stage {place.stage}")
    if not message.sender < len(pinned):
        raise ProtocolError(f"sender {message.sender} isn't one of the {len(pinned)} pinned identities")
    verify(pinned[message.sender], statement(place.protocol, message), message.signature)
    return message.sender, message.body


class Rounds:
    """The rounds that a participant has taken part in: within a session they only go up.

    Kept in memory: a participant that was restarted must be given a new session, or could be asked twice.
    """

    def __init__(self) -> None:
        self._last: dict[bytes, int] = {}

    def enter(self, session: bytes, round: int) -> None:  # noqa: A002
        """Spend this round; ``ProtocolError`` if it, or a later one of the session, was spent before."""
        last = self._last.get(session)
        if last is not None and not round > last:
            raise ProtocolError(
                f"round {round} can't follow round {last} of the same session; start a new session"
            )
        self._last[session] = round
