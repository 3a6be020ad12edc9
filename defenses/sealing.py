"""The seam between the engine and what hides clients' answers: one round, vectors in, their sum out.

Each sealing drives its client and server cores in one process by moving the very bytes that a network
would, and counts them. Sums of one set of vectors are equal under all sealings. Here is what they have in
common, and the one that promises nothing: under `PlainSealing` the server sees every client's vector. The
others are in ``securefd.defenses.sealed``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from securefd.defenses import bfv
from securefd.defenses.quantise import check_bits, check_grid
from securefd.defenses.ring import Ring, narrowest, tail
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
    sent and received *for sealing*; queries and consensus come on top.
    """

    total: Vector
    clients: tuple[int, ...]
    individual: tuple[Vector, ...] | None
    up: tuple[int, ...]
    down: tuple[int, ...]
    groups: tuple[PartialSum, ...] | None = None

    @property
    def parts(self) -> tuple[PartialSum, ...]:
        """All that was opened, piece by piece: each client's vector, each group's sum, or the one sum."""
        if self.individual is not None:
            return tuple(PartialSum(total=own, clients=(k,)) for k, own in enumerate(self.individual))
        return self.groups or (PartialSum(total=self.total, clients=self.clients),)


Receiver = Literal["server", "keyholder", "client"]
Record = Callable[[Receiver, int, str, bytes], None]
"""``record(receiver, client, stage, message)``: called for every message, as it reaches ``receiver``.

``client``: whose upload it is, or which client gets it; -1 where it is neither.
"""


def forget(receiver: Receiver, client: int, stage: str, message: bytes) -> None:
    """Keep no record."""


class Sealing(Protocol):
    """One way to bring clients' vectors together."""

    def run_round(
        self,
        session: bytes,
        round: int,  # noqa: A002
        vectors: Sequence[Vector],
        bits: int,
        question: bytes = NO_QUESTION,
        noise: Sequence[Vector] | None = None,
    ) -> Opened:
        """Add up ``vectors``, one ``(d,)`` int64 in [0, 2**bits) a client, in roster order.

        ``noise``: each client's share, ``(d,)`` int64, given exactly if the sealing was made for it.
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


@dataclass(frozen=True, kw_only=True)
class RingWords:
    """Every value with its noise as a word of the narrowest ring that holds both, never cut off."""

    bits: int
    noise_deviation: float

    def _ring(self, size: int) -> Ring:
        return narrowest(bits=self.bits, n_clients=1, size=size, noise_deviation=self.noise_deviation)

    def encode(self, vector: Vector, previous: Vector | None) -> bytes:
        """Write ``vector``; what came before doesn't matter."""
        return vector.astype(self._ring(vector.size).dtype).tobytes()

    def decode(self, data: bytes, previous: Vector | None, size: int) -> Vector:
        """Read ``size`` values."""
        ring = self._ring(size)
        if len(data) != size * ring.width:
            raise MessageError(f"{size} values of {ring.width} bytes each, got {len(data)} bytes")
        return ring.decode(np.frombuffer(data, dtype=ring.dtype), low=-tail(self.noise_deviation, size))


def check_vectors(vectors: Sequence[Vector], bits: int, n_clients: int | None = None) -> int:
    """Return the common size of the vectors, one a client."""
    if n_clients is not None and len(vectors) != n_clients:
        raise ProtocolError(f"every one of {n_clients} clients must take part in a round, got {len(vectors)}")
    if not len(vectors) >= 1:
        raise ProtocolError("a round needs at least one client")
    for vector in vectors:
        check_grid(vector, bits, size=vectors[0].size)
    return vectors[0].size


def check_noise(
    noise: Sequence[Vector] | None, deviation: float, n_clients: int, size: int
) -> Sequence[Vector] | None:
    """Return each client's share of the noise; ``SealingError`` unless it is there exactly if agreed on."""
    if (noise is None) == (deviation > 0):
        given = "none" if noise is None else "some"
        raise SealingError(
            f"noise of standard deviation {deviation:g} was agreed on, and {given} was given; nothing was "
            "sent"
        )
    if noise is not None and (
        len(noise) != n_clients or any(s.dtype != np.int64 or s.shape != (size,) for s in noise)
    ):
        raise SealingError(f"every one of {n_clients} clients must give {size} int64 values of noise")
    return noise


class PlainSealing:
    """No sealing: the server sees every vector. ``codec``: default ``FixedWidth`` at the round's bits.

    ``noise_deviation``: of the noise on each value of a vector, which then travels as `RingWords`.
    ``previous``: each client's last vector; a delta codec needs it. A resumed run passes it in.
    """

    def __init__(
        self,
        codec: Codec | None = None,
        previous: Sequence[Vector] = (),
        *,
        noise_deviation: float = 0.0,
        record: Record = forget,
    ) -> None:
        self._codec = codec
        self._deviation, self._record = noise_deviation, record
        self.previous = tuple(previous)

    def run_round(
        self,
        session: bytes,
        round: int,  # noqa: A002
        vectors: Sequence[Vector],
        bits: int,
        question: bytes = NO_QUESTION,
        noise: Sequence[Vector] | None = None,
    ) -> Opened:
        """See ``Sealing.run_round``. Nothing here is bound to ``question``: answers aren't even signed."""
        size = check_vectors(vectors, bits)
        if self.previous and len(self.previous) != len(vectors):
            raise ProtocolError(f"{len(self.previous)} clients took part before, now {len(vectors)}")
        shares = check_noise(noise, self._deviation, len(vectors), size)
        codec = self._codec or FixedWidth(bits=bits)
        if shares is not None:
            vectors = [vector + share for vector, share in zip(vectors, shares, strict=True)]
            codec = RingWords(bits=bits, noise_deviation=self._deviation)
        before: Sequence[Vector | None] = self.previous or [None] * len(vectors)
        messages = [
            encode(Answer(session=session, round=round, sender=k, values=codec.encode(vector, old)))
            for k, (vector, old) in enumerate(zip(vectors, before, strict=True))
        ]
        individual = []
        for k, (message, old) in enumerate(zip(messages, before, strict=True)):
            self._record("server", k, "answer", message)
            decoded = codec.decode(decode(message, Answer).values, old, size)
            if shares is None:
                check_grid(decoded, bits, size)
            individual.append(decoded)
        self.previous = tuple(individual)
        return Opened(
            total=np.sum(individual, axis=0, dtype=np.int64),
            clients=tuple(range(len(individual))),
            individual=self.previous,
            up=tuple(map(len, messages)),
            down=(0,) * len(messages),
        )
