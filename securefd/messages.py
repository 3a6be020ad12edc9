"""Every message that travels: MessagePack arrays with a closed schema and a size limit.

Bytes are accepted only if they are the one canonical encoding of a valid message of the expected type;
anything else is a ``MessageError``, raised before any state is touched. Who may send a message, and when,
is for the protocol cores in ``securefd.defenses`` to judge.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, TypeVar, cast

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import ArrayLike, NDArray

from securefd.errors import MessageError

KIB = 1 << 10
GIB = 1 << 30
LARGEST = 1 * GIB
"""Bytes of the largest message of any type."""

Session = Annotated[bytes, Meta(min_length=16, max_length=64)]
Round = Annotated[int, Meta(ge=0, lt=1 << 32)]
Sender = Annotated[int, Meta(ge=0, lt=1 << 16)]
Size = Annotated[int, Meta(ge=1, lt=1 << 32)]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Box = Annotated[bytes, Meta(min_length=80, max_length=80)]
"""Two shares of 32 bytes, and 16 bytes that authenticate them."""
Tag = Annotated[bytes, Meta(min_length=16, max_length=16)]
Positions = Annotated[tuple[Sender, ...], Meta(max_length=1 << 16)]
"""Clients by their positions among the pinned identities, in ascending order."""


class Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: an array whose first element is the type's tag."""


class Query(Message, frozen=True, tag="query", kw_only=True):
    """Server to clients: answer these public inputs. ``indices``: little-endian uint32, 4 bytes each."""

    session: Session
    round: Round
    indices: bytes

    def __post_init__(self) -> None:
        if len(self.indices) % 4:
            raise ValueError("indices must be a multiple of 4 bytes")

    @classmethod
    def of(cls, session: bytes, round: int, indices: ArrayLike) -> Query:  # noqa: A002
        """Pack ``(m,)`` indices into the public set, each in [0, 2**32)."""
        array = np.asarray(indices)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise MessageError(
                f"indices must be one row of integers, got {array.dtype} of shape {array.shape}"
            )
        if array.size and (array.min() < 0 or array.max() >= 1 << 32):
            raise MessageError("indices must be in [0, 2**32)")
        return cls(session=session, round=round, indices=array.astype("<u4").tobytes())

    def positions(self) -> NDArray[np.int64]:
        """``(m,)`` indices into the public set."""
        return np.frombuffer(self.indices, dtype="<u4").astype(np.int64)


class Answer(Message, frozen=True, tag="answer", kw_only=True):
    """Client to server, unsealed and unsigned: ``values`` as the codec of the run wrote them."""

    session: Session
    round: Round
    sender: Sender
    values: bytes


class Broadcast(Message, frozen=True, tag="broadcast", kw_only=True):
    """Server to clients: the consensus of a round, in ``body`` as the method of the run wrote it."""

    session: Session
    round: Round
    body: bytes


class Advertise(Message, frozen=True, tag="advertise", kw_only=True):
    """Client to server, signed: this client's X25519 public keys for one round.

    ``mask_key`` agrees on pairwise masks, and its private part is what the holders can recover if the client
    drops out. ``share_key`` encrypts shares to this client, and its private part is never shared.
    """

    mask_key: Key
    share_key: Key


class Roster(Message, frozen=True, tag="roster", kw_only=True):
    """Server to clients: each client's signed advertisement at its position, empty where there is none."""

    adverts: Annotated[tuple[Annotated[bytes, Meta(max_length=KIB)], ...], Meta(max_length=1 << 16)]


class Boxes(Message, frozen=True, tag="boxes", kw_only=True):
    """Client to server, signed: for each of its ``holders``, ascending, an encrypted pair of shares.

    ``seed_hash``: SHA-256 of the seed of this client's own mask, by which a recovered one is recognised.
    """

    seed_hash: Hash
    holders: Positions
    boxes: tuple[Box, ...]


class Relay(Message, frozen=True, tag="relay", kw_only=True):
    """Server to one client: who has shared, and the boxes that ``senders`` made for this client."""

    sharers: Positions
    senders: Positions
    boxes: tuple[Box, ...]


class Upload(Message, frozen=True, tag="upload", kw_only=True):
    """Client to server, signed: the masked vector, as the carrier of the run writes it.

    ``tags``: for each of its holders that has shared, ascending, what tells that holder for which clients the
    vector was masked.
    """

    values: bytes
    tags: tuple[Tag, ...]


class Survivors(Message, frozen=True, tag="survivors", kw_only=True):
    """Server to clients: of those who shared, whose vectors are in the sum, and whose aren't."""

    survivors: Positions
    dropped: Positions


class Confirm(Message, frozen=True, tag="confirm", kw_only=True):
    """Client to server, signed: the SHA-256 of the one list of survivors that this client accepts."""

    survivors: Hash


class Confirmations(Message, frozen=True, tag="confirmations", kw_only=True):
    """Server to one client: the signatures of ``senders`` under their confirmations of the same list.

    ``owners``: the survivors that this client holds shares of, with the ``tags`` that they made for it.
    """

    senders: Positions
    signatures: tuple[Signature, ...]
    owners: Positions
    tags: tuple[Tag, ...]


class Reveal(Message, frozen=True, tag="reveal", kw_only=True):
    """Client to server, signed: its own seed, and one share of each client that it holds shares of.

    Of a survivor that is the share of its seed, of a client that dropped out the share of its mask key.
    """

    seed: Key
    survivors: Positions
    seed_shares: tuple[Key, ...]
    dropped: Positions
    key_shares: tuple[Key, ...]


class KeyContext(Message, frozen=True, tag="context", kw_only=True):
    """Key holder to clients and server, signed: the public encryption context of one round.

    It opens sums over at least ``threshold`` of ``n_clients``.
    """

    context: bytes
    n_clients: Annotated[int, Meta(ge=2, lt=1 << 16)]
    threshold: Annotated[int, Meta(ge=2, lt=1 << 16)]


class Ciphertexts(Message, frozen=True, tag="ciphertexts", kw_only=True):
    """Client to server, signed: ``size`` values, encrypted in ``parts``; the last is padded with zeros."""

    size: Size
    parts: bytes


class EncryptedSum(Message, frozen=True, tag="sum", kw_only=True):
    """Server to key holder, signed: the encrypted sum of ``size`` values of each of ``contributors``."""

    contributors: Positions
    size: Size
    parts: bytes


class Opening(Message, frozen=True, tag="opening", kw_only=True):
    """Key holder to server, signed: what it opened of an `EncryptedSum`, with its contributors and size.

    ``slots``: 8 bytes each, little-endian, all slots of all parts.
    """

    contributors: Positions
    size: Size
    slots: bytes


class Signed(Message, frozen=True, tag="signed", kw_only=True):
    """An Ed25519 signature over a body and the one place in a protocol where it belongs.

    ``sender``: the position of the signer in the list of pinned identities. ``roster``: SHA-256 of what
    the participants of this stage must agree on; of a masked sum the digest of the terms at first, and from
    the second stage on the agreement on the roster, too.
    """

    session: Session
    round: Round
    stage: Annotated[str, Meta(max_length=16)]
    sender: Sender
    roster: Hash
    body: bytes
    signature: Signature


def statement(protocol: bytes, message: Signed) -> bytes:
    """Return what is signed: the protocol, then the message's fields in order but the signature.

    Each has its length (4 bytes, big-endian) before it; numbers take 8 bytes, the stage is UTF-8, and the
    SHA-256 of the body stands for the body.
    """
    fields = (
        protocol,
        message.session,
        message.round.to_bytes(8, "big"),
        message.stage.encode(),
        message.sender.to_bytes(8, "big"),
        message.roster,
        hashlib.sha256(message.body).digest(),
    )
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


LIMITS: dict[type[Message], int] = {
    Query: 64 << 20,
    Answer: LARGEST,
    Broadcast: LARGEST,
    Advertise: KIB,
    Roster: 64 << 20,
    Boxes: 8 << 20,
    Relay: 8 << 20,
    Upload: LARGEST,
    Survivors: KIB << 9,
    Confirm: KIB,
    Confirmations: 8 << 20,
    Reveal: 8 << 20,
    KeyContext: 256 * KIB,
    Ciphertexts: LARGEST,
    EncryptedSum: LARGEST,
    Opening: LARGEST,
    Signed: LARGEST,
}
"""Bytes of the largest accepted encoding of each type; a caller that knows better passes its own limit."""

M = TypeVar("M", bound=Message)


_DECODERS = {kind: msgspec.msgpack.Decoder(kind, strict=True) for kind in LIMITS}


def encode(message: Message) -> bytes:
    """Return the canonical bytes of ``message``; ``MessageError`` if its own schema forbids it."""
    try:
        data = msgspec.msgpack.encode(message)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise MessageError(f"{type(message).__name__} can't be encoded: {error}") from error
    decode(data, type(message))
    return data


def decode(data: bytes, kind: type[M], limit: int | None = None) -> M:
    """Return the message of type ``kind`` in ``data``, at most ``limit`` bytes (default: ``LIMITS[kind]``).

    ``MessageError`` for oversized, truncated, foreign, malformed or non-canonical bytes.
    """
    largest = LIMITS[kind] if limit is None else min(limit, LIMITS[kind])
    if not isinstance(data, bytes):
        raise MessageError(f"{kind.__name__} must be bytes, got {type(data).__name__}")
    if len(data) > largest:
        raise MessageError(f"{kind.__name__} must be at most {largest} bytes, got {len(data)}")
    try:
        message = cast(M, _DECODERS[kind].decode(data))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MessageError(f"{len(data)} bytes aren't a valid {kind.__name__}: {error}") from error
    if msgspec.msgpack.encode(message) != data:
        raise MessageError(f"{kind.__name__} must be encoded canonically; these {len(data)} bytes aren't")
    return message
