"""The seam between the engine and what hides clients' answers: one round, vectors in, their sum out.

Each sealing drives its client and server cores in one process by moving the very bytes that a network
would, and counts them. Sums of one set of vectors are equal under all sealings.

- ``PlainSealing`` promises nothing: the server sees every client's vector.
- ``MaskedSealing``: what ``securefd.defenses.masks`` says. The server sees masked uploads and the sum.
- ``HomomorphicSealing``: what ``securefd.defenses.homomorphic`` says. The server sees ciphertexts, and the
  sum that the key holder opened for it.

In every sealing all clients take part in a round or it ends with a typed error and nothing is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from securefd.defenses import homomorphic
from securefd.defenses.homomorphic import HomomorphicClient, HomomorphicServer, KeyHolder
from securefd.defenses.identity import Identity
from securefd.defenses.masks import MaskedClient, MaskedServer
from securefd.defenses.quantise import check_bits, check_grid
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import Answer, decode, encode

Kind = Literal["plain", "masked", "homomorphic"]
Vector = NDArray[np.int64]
GRID_BITS = 20
"""Bits a value, plain and masked: finer than answers need, and up to 4096 clients fit a 32-bit ring."""


def value_bits(kind: Kind, n_clients: int) -> int:
    """Return the bits a value under this sealing with ``n_clients``.

    Plain and masked, equal so that runs compare: 20, or the most whose sums fit a 32-bit ring.
    Homomorphic: the most whose sums fit 16 bits.
    """
    if not n_clients >= 1:
        raise SealingError(f"n_clients must be >= 1, got {n_clients}")
    if kind == "homomorphic":
        return homomorphic.value_bits(n_clients)
    if kind not in ("plain", "masked"):
        raise SealingError(f"sealing must be plain, masked or homomorphic, got {kind!r}")
    return min(GRID_BITS, 32 - (n_clients - 1).bit_length())


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What one round of sealing gave the server, and what it cost.

    ``total``: ``(d,)`` the sum. ``individual``: each client's ``(d,)``, plain only. ``up`` and ``down``:
    bytes that each client sent and received *for sealing*; queries and consensus come on top. ``seen``: names
    of what the server saw.
    """

    total: Vector
    individual: tuple[Vector, ...] | None
    up: tuple[int, ...]
    down: tuple[int, ...]
    seen: tuple[str, ...]


class Sealing(Protocol):
    """One way to bring clients' vectors together."""

    def run_round(self, session: bytes, round: int, vectors: Sequence[Vector], bits: int) -> Opened:  # noqa: A002
        """Add up ``vectors``, one ``(d,)`` int64 in [0, 2**bits) a client, in roster order.

        ``session``: 16 to 64 bytes, never used before for other vectors; ``round`` goes up within it.
        ``ProtocolError`` (or ``SealingError``, ``MessageError``) on any breach; nothing is opened then.
        """
        ...


class Codec(Protocol):
    """How a plain vector is written; lossless, so that every sealing adds up the same integers."""

    def encode(self, vector: Vector, previous: Vector | None) -> bytes:
        """Run by the client: ``vector`` as bytes, given the one it sent in the round before, if any."""
        ...

    def decode(self, data: bytes, previous: Vector | None, size: int) -> Vector:
        """Run by the server: the ``(size,)`` vector; ``MessageError`` for anything that isn't one."""
        ...


@dataclass(frozen=True, kw_only=True)
class FixedWidth:
    """Every value in 1, 2 or 4 little-endian bytes, the fewest that hold ``bits``."""

    bits: int

    def __post_init__(self) -> None:
        check_bits(self.bits)

    @property
    def _word(self) -> np.dtype[np.unsignedinteger]:
        width = next(width for width in (1, 2, 4) if self.bits <= 8 * width)
        return np.dtype(f"<u{width}")

    def encode(self, vector: Vector, previous: Vector | None) -> bytes:
        """Write ``vector``; what came before doesn't matter."""
        check_grid(vector, self.bits)
        return vector.astype(self._word).tobytes()

    def decode(self, data: bytes, previous: Vector | None, size: int) -> Vector:
        """Read ``size`` values."""
        if len(data) != size * self._word.itemsize:
            raise MessageError(f"{size} values of {self._word.itemsize} bytes each, got {len(data)} bytes")
        return np.frombuffer(data, dtype=self._word).astype(np.int64)


def _check_vectors(vectors: Sequence[Vector], bits: int, n_clients: int | None = None) -> int:
    """Return the common size of the vectors, one a client."""
    if n_clients is not None and len(vectors) != n_clients:
        raise ProtocolError(f"every one of {n_clients} clients must take part in a round, got {len(vectors)}")
    if not len(vectors) >= 1:
        raise ProtocolError("a round needs at least one client")
    for vector in vectors:
        check_grid(vector, bits, size=vectors[0].size)
    return vectors[0].size


class PlainSealing:
    """No sealing: the server sees every vector. ``codec``: default ``FixedWidth`` at the round's bits.

    ``previous``: each client's last vector; a delta codec needs it. A resumed run passes it in.
    """

    def __init__(self, codec: Codec | None = None, previous: Sequence[Vector] = ()) -> None:
        self._codec = codec
        self.previous = tuple(previous)

    def run_round(self, session: bytes, round: int, vectors: Sequence[Vector], bits: int) -> Opened:  # noqa: A002
        """See ``Sealing.run_round``."""
        size = _check_vectors(vectors, bits)
        if self.previous and len(self.previous) != len(vectors):
            raise ProtocolError(f"{len(self.previous)} clients took part before, now {len(vectors)}")
        codec = self._codec or FixedWidth(bits=bits)
        before: Sequence[Vector | None] = self.previous or [None] * len(vectors)
        messages = [
            encode(Answer(session=session, round=round, sender=k, values=codec.encode(vector, old)))
            for k, (vector, old) in enumerate(zip(vectors, before, strict=True))
        ]
        individual = []
        for message, old in zip(messages, before, strict=True):
            decoded = codec.decode(decode(message, Answer).values, old, size)
            check_grid(decoded, bits, size)
            individual.append(decoded)
        self.previous = tuple(individual)
        return Opened(
            total=np.sum(individual, axis=0, dtype=np.int64),
            individual=self.previous,
            up=tuple(map(len, messages)),
            down=(0,) * len(messages),
            seen=("answers", "sum"),
        )


class MaskedSealing:
    """Masked sums among clients with these identities, in roster order; one object serves a whole run."""

    def __init__(self, identities: Sequence[Identity]) -> None:
        self._pinned = tuple(identity.public for identity in identities)
        self._clients = [MaskedClient(identity, self._pinned) for identity in identities]

    def run_round(self, session: bytes, round: int, vectors: Sequence[Vector], bits: int) -> Opened:  # noqa: A002
        """See ``Sealing.run_round``."""
        size = _check_vectors(vectors, bits, len(self._clients))
        server = MaskedServer(self._pinned, session=session, round=round, bits=bits, size=size)
        adverts = [client.advertise(session, round) for client in self._clients]
        roster = server.roster(adverts)
        uploads = [
            client.upload(roster, vector, bits) for client, vector in zip(self._clients, vectors, strict=True)
        ]
        return Opened(
            total=server.open_sum(uploads),
            individual=None,
            up=tuple(len(advert) + len(upload) for advert, upload in zip(adverts, uploads, strict=True)),
            down=(len(roster),) * len(uploads),
            seen=("masked uploads", "sum"),
        )


class HomomorphicSealing:
    """Homomorphic sums among clients with these identities, in roster order, a server and a key holder.

    In one process all three parties share memory: what is shown is the protocol, not a separation of trust.
    """

    def __init__(self, identities: Sequence[Identity], server: Identity, holder: Identity) -> None:
        pinned = tuple(identity.public for identity in identities)
        self._clients = [HomomorphicClient(identity, pinned, holder.public) for identity in identities]
        self._server = HomomorphicServer(server, pinned, holder.public)
        self._holder = KeyHolder(holder, server.public, len(pinned))

    def run_round(self, session: bytes, round: int, vectors: Sequence[Vector], bits: int) -> Opened:  # noqa: A002
        """See ``Sealing.run_round``."""
        size = _check_vectors(vectors, bits, len(self._clients))
        context = self._holder.context(session, round)
        uploads = [
            client.upload(context, vector, session=session, round=round, bits=bits)
            for client, vector in zip(self._clients, vectors, strict=True)
        ]
        total = self._server.add(context, uploads, session=session, round=round, size=size)
        return Opened(
            total=self._holder.open(total, bits),
            individual=None,
            up=tuple(map(len, uploads)),
            down=(len(context),) * len(uploads),
            seen=("ciphertexts", "sum"),
        )


def make_sealing(kind: Kind, n_clients: int, codec: Codec | None = None) -> Sealing:
    """Return a sealing of this kind among ``n_clients`` with new identities; ``codec`` is for plain only."""
    if kind == "plain":
        return PlainSealing(codec)
    if codec is not None:
        raise SealingError(f"a codec needs sealing plain, got {kind}: what it saves would show the values")
    identities = [Identity.generate() for _ in range(n_clients)]
    if kind == "masked":
        return MaskedSealing(identities)
    if kind == "homomorphic":
        return HomomorphicSealing(identities, server=Identity.generate(), holder=Identity.generate())
    raise SealingError(f"sealing must be plain, masked or homomorphic, got {kind!r}")
