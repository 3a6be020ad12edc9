"""The seam between the engine and what hides clients' answers: one round, vectors in, their sum out.

Each sealing drives its client and server cores in one process by moving the very bytes that a network
would, and counts them. Sums of one set of vectors are equal under all sealings.

- ``PlainSealing`` promises nothing: the server sees every client's vector.
- ``MaskedSealing``: what ``securefd.defenses.masks`` says. The server sees masked uploads and the sum.
- ``HomomorphicSealing``: what ``securefd.defenses.homomorphic`` says. The server sees ciphertexts, and the
  sum that the key holder opened for it.
- ``MaskedHomomorphicSealing``: what ``securefd.defenses.masked_bfv`` says, both of these. The server sees
  masked ciphertexts and the sum; the key holder sees a masked sum.

In masked sums clients may drop out at every stage, down to the threshold; in the others all of them take part
here, or the round ends with a typed error and nothing is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from securefd.defenses import bfv
from securefd.defenses.carriers import Sealer
from securefd.defenses.homomorphic import HomomorphicClient, HomomorphicServer, KeyHolder
from securefd.defenses.identity import Identity
from securefd.defenses.masked_bfv import BfvAdder, BfvSealer, quorum_of
from securefd.defenses.masked_client import MaskedClient
from securefd.defenses.masked_server import MaskedServer
from securefd.defenses.neighbourhood import Neighbourhood
from securefd.defenses.quantise import check_bits, check_grid
from securefd.defenses.slots import SlotKeyHolder
from securefd.defenses.terms import Terms
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import Answer, decode, encode

Kind = Literal["plain", "masked", "homomorphic", "masked+homomorphic"]
Vector = NDArray[np.int64]
NO_QUESTION = bytes(32)
"""Binds a sum to no question: for tests and weighing, where nothing is asked."""
GRID_BITS = 20
"""Bits a value, plain and masked: finer than answers need, and up to 4096 clients fit a 32-bit ring."""


def value_bits(kind: Kind, n_clients: int) -> int:
    """Return the bits a value under this sealing with ``n_clients``.

    Plain and masked, equal so that runs compare: 20, or the most whose sums fit a 32-bit ring.
    Encrypted: the most whose sums fit 16 bits.
    """
    if not n_clients >= 1:
        raise SealingError(f"n_clients must be >= 1, got {n_clients}")
    if kind in ("homomorphic", "masked+homomorphic"):
        return bfv.value_bits(n_clients)
    if kind not in ("plain", "masked"):
        raise SealingError(f"sealing must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    return min(GRID_BITS, 32 - (n_clients - 1).bit_length())


@dataclass(frozen=True, kw_only=True)
class PartialSum:
    """``total``: ``(d,)`` a sum over ``clients``, by position."""

    total: Vector
    clients: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What one round of sealing gave the server, and what it cost.

    ``total``: ``(d,)`` the sum over ``clients``, by position. ``individual``: each client's ``(d,)``, plain
    only. ``groups``: the sums that make the total, grouped only. ``up`` and ``down``: bytes that each client
    sent and received *for sealing*; queries and consensus come on top. ``seen``: names of what the server
    saw.
    """

    total: Vector
    clients: tuple[int, ...]
    individual: tuple[Vector, ...] | None
    up: tuple[int, ...]
    down: tuple[int, ...]
    seen: tuple[str, ...]
    groups: tuple[PartialSum, ...] | None = None

    @property
    def parts(self) -> tuple[PartialSum, ...]:
        """All that was opened, piece by piece: each client's vector, each group's sum, or the one sum."""
        if self.individual is not None:
            return tuple(PartialSum(total=own, clients=(k,)) for k, own in enumerate(self.individual))
        return self.groups or (PartialSum(total=self.total, clients=self.clients),)


class Sealing(Protocol):
    """One way to bring clients' vectors together."""

    def run_round(
        self,
        session: bytes,
        round: int,  # noqa: A002
        vectors: Sequence[Vector],
        bits: int,
        question: bytes = NO_QUESTION,
    ) -> Opened:
        """Add up ``vectors``, one ``(d,)`` int64 in [0, 2**bits) a client, in roster order.

        ``session``: 16 to 64 bytes, never used before for other vectors; ``round`` goes up within it.
        ``question``: SHA-256 of what was asked, to which masked vectors are bound, and no others.
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

    def run_round(
        self,
        session: bytes,
        round: int,  # noqa: A002
        vectors: Sequence[Vector],
        bits: int,
        question: bytes = NO_QUESTION,
    ) -> Opened:
        """See ``Sealing.run_round``. Nothing here is bound to ``question``: answers aren't even signed."""
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
            clients=tuple(range(len(individual))),
            individual=self.previous,
            up=tuple(map(len, messages)),
            down=(0,) * len(messages),
            seen=("answers", "sum"),
        )


Attends = Callable[[str, int], bool]
"""Whether a client still answers at a stage of a round; once it doesn't, it has dropped out of that round."""


def _everyone(stage: str, client: int) -> bool:
    return True


class MaskedSealing:
    """Masked sums among clients with these identities, in the order of ``terms``; one object serves a run."""

    def __init__(self, identities: Sequence[Identity], terms: Terms, *, attends: Attends = _everyone) -> None:
        self._terms, self._attends = terms, attends
        self._clients = [MaskedClient(identity, terms) for identity in identities]

    def run_round(
        self,
        session: bytes,
        round: int,  # noqa: A002
        vectors: Sequence[Vector],
        bits: int,
        question: bytes = NO_QUESTION,
    ) -> Opened:
        """See ``Sealing.run_round``."""
        size = _check_masked(vectors, bits, self._terms)
        server = MaskedServer(self._terms, session=session, round=round, question=question, size=size)
        wire = _Wire(self._clients, server, self._attends)
        return wire.play(
            lambda client: client.advertise(session, round, question=question, size=size),
            vectors,
            seen=("masked uploads", "sum"),
        )


class MaskedHomomorphicSealing:
    """Masked sums that are encrypted as well, with a server and a key holder; one object serves a run.

    As ``HomomorphicSealing``, it shows the protocol, and no separation of trust.
    """

    def __init__(
        self,
        identities: Sequence[Identity],
        terms: Terms,
        server: Identity,
        holder: Identity,
        *,
        attends: Attends = _everyone,
    ) -> None:
        self._terms, self._attends = terms, attends
        self._server, self._pinned_holder = server, holder.public
        self._holder = SlotKeyHolder(holder, server.public, quorum_of(terms))
        self._clients = [MaskedClient(identity, terms) for identity in identities]

    def run_round(
        self,
        session: bytes,
        round: int,  # noqa: A002
        vectors: Sequence[Vector],
        bits: int,
        question: bytes = NO_QUESTION,
    ) -> Opened:
        """See ``Sealing.run_round``."""
        size = _check_masked(vectors, bits, self._terms)
        context = self._holder.context(session, round)
        adder = BfvAdder(
            self._terms,
            size,
            server=self._server,
            holder=self._pinned_holder,
            context=context,
            session=session,
            round=round,
            ask=self._holder.open,
        )
        sealer = BfvSealer(
            terms=self._terms,
            holder=self._pinned_holder,
            context=context,
            session=session,
            round=round,
        )
        server = MaskedServer(
            self._terms, session=session, round=round, question=question, size=size, adder=adder
        )
        wire = _Wire(self._clients, server, self._attends)
        wire.deliver(context)
        return wire.play(
            lambda client: client.advertise(session, round, question=question, size=size),
            vectors,
            sealer=sealer,
            seen=("masked ciphertexts", "sum"),
        )


def _check_masked(vectors: Sequence[Vector], bits: int, terms: Terms) -> int:
    """Return the common size of the vectors, one a client, of as many bits as were agreed on."""
    size = _check_vectors(vectors, bits, len(terms.pinned))
    if bits != terms.bits:
        raise SealingError(f"values of {terms.bits} bits were agreed on, got {bits}; make new terms")
    return size


class _Wire:
    """Moves the messages of one round between clients and server, and counts their bytes."""

    def __init__(self, clients: Sequence[MaskedClient], server: MaskedServer, attends: Attends) -> None:
        self._clients, self._server, self._attends = clients, server, attends
        self._present = list(range(len(clients)))
        self.up, self.down = [0] * len(clients), [0] * len(clients)

    def play(
        self,
        advertise: Callable[[MaskedClient], bytes],
        vectors: Sequence[Vector],
        *,
        sealer: Sealer | None = None,
        seen: tuple[str, ...],
    ) -> Opened:
        """All stages of a round, of which ``advertise`` is a client's first step."""
        server = self._server
        self.collect("advertise", lambda client, _: advertise(client))
        roster = self.deliver(server.roster())
        self.collect("share", lambda client, k: client.share(roster[k]))
        relays = self.deliver(server.relays())
        self.collect("upload", lambda client, k: client.upload(relays[k], vectors[k], sealer=sealer))
        survivors = self.deliver(server.survivors())
        self.collect("confirm", lambda client, k: client.confirm(survivors[k]))
        confirmations = self.deliver(server.confirmations())
        self.collect("unmask", lambda client, k: client.unmask(confirmations[k]))
        opened = server.open_sum()
        return Opened(
            total=opened.total,
            clients=opened.clients,
            individual=None,
            up=tuple(self.up),
            down=tuple(self.down),
            seen=seen,
        )

    def collect(self, stage: str, act: Callable[[MaskedClient, int], bytes]) -> None:
        """Every client that is still there acts, and the server takes what it sends."""
        self._present = [k for k in self._present if self._attends(stage, k)]
        for k in self._present:
            message = act(self._clients[k], k)
            self.up[k] += len(message)
            self._server.receive(message)

    def deliver(self, sent: bytes | Mapping[int, bytes]) -> Mapping[int, bytes]:
        """The server sends all clients that are still there the same message, or each its own."""
        messages = sent if isinstance(sent, Mapping) else dict.fromkeys(self._present, sent)
        for k in self._present:
            self.down[k] += len(messages[k])
        return messages


class HomomorphicSealing:
    """Homomorphic sums among clients with these identities, in roster order, a server and a key holder.

    In one process all three parties share memory: what is shown is the protocol, not a separation of trust.
    ``threshold``: the fewest clients whose sum is opened; default all of them.
    """

    def __init__(
        self,
        identities: Sequence[Identity],
        server: Identity,
        holder: Identity,
        threshold: int | None = None,
    ) -> None:
        pinned = tuple(identity.public for identity in identities)
        self._clients = [
            HomomorphicClient(identity, pinned, holder.public, threshold) for identity in identities
        ]
        self._server = HomomorphicServer(server, pinned, holder.public, threshold)
        self._holder = KeyHolder(holder, server.public, len(pinned), threshold)

    def run_round(
        self,
        session: bytes,
        round: int,  # noqa: A002
        vectors: Sequence[Vector],
        bits: int,
        question: bytes = NO_QUESTION,
    ) -> Opened:
        """See ``Sealing.run_round``."""
        size = _check_vectors(vectors, bits, len(self._clients))
        context = self._holder.context(session, round)
        uploads = [
            client.upload(context, vector, session=session, round=round, bits=bits)
            for client, vector in zip(self._clients, vectors, strict=True)
        ]
        total = self._server.add(context, uploads, session=session, round=round, size=size)
        opened = self._holder.open(total, bits)
        return Opened(
            total=opened.total,
            clients=opened.contributors,
            individual=None,
            up=tuple(map(len, uploads)),
            down=(len(context),) * len(uploads),
            seen=("ciphertexts", "sum"),
        )


def make_sealing(
    kind: Kind,
    n_clients: int,
    bits: int,
    *,
    neighbourhood: Neighbourhood | None = None,
    threshold: int | None = None,
    codec: Codec | None = None,
) -> Sealing:
    """Return a sealing of this kind among ``n_clients`` with new identities.

    ``bits``: of every value. ``neighbourhood``: for masks, with their threshold. ``threshold``: the fewest
    clients whose sum is opened, for homomorphic; default all. ``codec``: for plain only.
    """
    if kind == "plain":
        return PlainSealing(codec)
    if codec is not None:
        raise SealingError(f"a codec needs sealing plain, got {kind}: what it saves would show the values")
    identities = [Identity.generate() for _ in range(n_clients)]
    if kind not in get_args(Kind):
        raise SealingError(f"sealing must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    if kind == "homomorphic":
        return HomomorphicSealing(identities, Identity.generate(), Identity.generate(), threshold)
    if neighbourhood is None:
        raise SealingError(f"sealing {kind} needs a neighbourhood, got None; make one with choose")
    pinned = tuple(identity.public for identity in identities)
    if kind == "masked":
        return MaskedSealing(identities, Terms(pinned=pinned, neighbourhood=neighbourhood, bits=bits))
    terms = Terms(pinned=pinned, neighbourhood=neighbourhood, bits=bits, carrier="bfv")
    return MaskedHomomorphicSealing(identities, terms, Identity.generate(), Identity.generate())
