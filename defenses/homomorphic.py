"""Homomorphic sums: the server adds ciphertexts, and a key holder that isn't the server opens their sum.

Exact integers under BFV; parameters, and the proof that sums are always opened correctly, are in
``securefd.defenses.bfv``. A fresh key each round, and exactly one opening under it.

What is promised, and to whom:

- Against a server that follows the protocol and doesn't collude with the key holder: it learns the sum and
  nothing else, under ring learning with errors (128 bits by the homomorphic encryption standard) and
  Ed25519. A server that *doesn't* follow it can have one client's ciphertext opened in place of the sum, or
  craft ciphertexts that disclose the key: nothing is promised against it. Masks under the encryption help.
- Against the key holder: it sees ciphertexts' sum only. Together with the server it sees every answer. It
  can't pass one sum off as another's, but it can lie about the sum; only values beyond the bound show.
- Against other clients: a client sees the public context only.
- Against the network: nothing is parsed before its signature was verified, for one session, round, stage,
  sender, key and question. The key holder signs what it opened, for the very sum that it was asked for.
- The sum itself is not private; only noise protects what the sum reveals.
- Clients may drop out at any time. The server adds what has come, at least ``threshold`` clients' uploads,
  and says whose they are; the key holder refuses a sum over fewer, and a client refuses a key holder that
  would open one. Unless a lower threshold is given to all three, every client must be present. Of two rounds
  whose clients differ by one, server and key holder can subtract the sums: only noise protects against that.

Encrypted under masks: see ``securefd.defenses.slots``, on which this is built.

CKKS isn't offered. Results go to the server and all clients, and approximate results disclose the key to
whoever reads them together with ciphertexts (IND-CPA-D, eprint 2020/1533); it would be safe only where the
reader of the result is the sole owner of the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.bfv import PART_BYTES, Slots, n_parts, pack, unpack, value_bits
from securefd.defenses.identity import (
    OVERHEAD,
    Identity,
    Place,
    Rounds,
    check_pinned,
    cohort_hash,
    sign_message,
    verify_message,
)
from securefd.defenses.quantise import check_grid
from securefd.defenses.slots import OpenedSlots, Quorum, SlotClient, SlotKeyHolder, SlotServer
from securefd.errors import ProtocolError, SealingError
from securefd.messages import Ciphertexts, EncryptedSum, decode, encode

PROTOCOL = b"securefd/homomorphic/3"


def _check_bits(bits: int, n_clients: int) -> None:
    most = value_bits(n_clients)
    if not 1 <= bits <= most:
        raise SealingError(f"homomorphic sums of {n_clients} clients need bits in 1..{most}, got {bits}")


def _quorum(n_clients: int, threshold: int | None) -> Quorum:
    """Sums are over every client, unless a lower threshold was agreed on."""
    return Quorum(
        n_clients=n_clients, threshold=n_clients if threshold is None else threshold, protocol=PROTOCOL
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedSum:
    """``total``: ``(d,)`` int64; ``contributors``: the positions of the clients it is over, ascending.

    ``message``: the same, signed by the key holder for the server.
    """

    total: NDArray[np.int64]
    contributors: tuple[int, ...]
    message: bytes


class HomomorphicClient:
    """Run by one client: ``upload``, once a round. It pins all clients' identities and the key holder's.

    ``threshold``: the fewest clients that it lets its values be summed with; default all of them.
    """

    def __init__(
        self, identity: Identity, pinned: Sequence[bytes], holder: bytes, threshold: int | None = None
    ) -> None:
        self._pinned = check_pinned(pinned)
        if identity.public not in self._pinned:
            raise SealingError(
                "a client's own identity must be among the pinned ones; pin it, or give the right key"
            )
        self._identity = identity
        self._position = self._pinned.index(identity.public)
        self._slots = SlotClient(holder=holder, quorum=_quorum(len(self._pinned), threshold))
        self._rounds = Rounds()

    def upload(
        self,
        context: bytes,
        vector: NDArray[np.int64],
        *,
        session: bytes,
        round: int,  # noqa: A002
        question: bytes,
        bits: int,
    ) -> bytes:
        """Run by the client. Returns the signed ciphertexts of ``vector``, the only thing that leaves it.

        ``context``: the key holder's message for this session, round and ``question``, the SHA-256 of what
        this client was asked: its answer is added to answers to the same question only. ``vector``: ``(d,)``
        int64 in [0, 2**bits). ``ProtocolError`` unless the round is later than all others of the session.
        """
        _check_bits(bits, len(self._pinned))
        check_grid(vector, bits)
        sealed = self._slots.seal(context, pack(vector), session=session, round=round, question=question)
        self._rounds.enter(session, round)
        place = self._slots.quorum.context_place(session, round, self._slots.holder, question)
        body = encode(Ciphertexts(size=vector.size, parts=sealed))
        return sign_message(self._identity, _upload_place(place, context, self._pinned), self._position, body)


class HomomorphicServer:
    """Run by the server, once each a round: ``add``, then ``read``. It needs no key: not even the public one.

    ``threshold``: the fewest clients whose sum it hands to the key holder; default all of them.
    """

    def __init__(
        self, identity: Identity, pinned: Sequence[bytes], holder: bytes, threshold: int | None = None
    ) -> None:
        self._pinned = check_pinned(pinned)
        self._slots = SlotServer(
            identity=identity, holder=holder, quorum=_quorum(len(self._pinned), threshold)
        )
        self._rounds = Rounds()
        self._expected: Callable[[bytes], OpenedSlots] | None = None

    def add(
        self,
        context: bytes,
        uploads: Sequence[bytes],
        *,
        session: bytes,
        round: int,  # noqa: A002
        question: bytes,
        size: int,
    ) -> bytes:
        """Run by the server: the uploads that came, in any order, to the signed sum for the key holder.

        ``ProtocolError`` unless they are signed for this context by at least ``threshold`` clients, one
        each, with ``size`` values. Nothing is parsed before all signatures were verified.
        """
        place = self._slots.quorum.context_place(session, round, self._slots.holder, question)
        limit = n_parts(size) * PART_BYTES + OVERHEAD
        bodies: dict[int, bytes] = {}
        for upload in uploads:
            sender, body = verify_message(
                upload, _upload_place(place, context, self._pinned), self._pinned, limit
            )
            if sender in bodies:
                raise ProtocolError(f"client {sender} sent two messages at stage upload; one is allowed")
            bodies[sender] = body
        sealed: dict[int, bytes] = {}
        for sender, body in bodies.items():
            message = decode(body, Ciphertexts, limit)
            if message.size != size:
                raise ProtocolError(
                    f"every upload must hold {size} values, and client {sender} sent {message.size}"
                )
            sealed[sender] = message.parts
        asked = self._slots.add(context, sealed, session=session, round=round, question=question, size=size)
        self._rounds.enter(session, round)
        self._expected = partial(
            self._slots.read, asked=asked, context=context, session=session, round=round, question=question
        )
        return asked

    def read(self, message: bytes, bits: int) -> OpenedSum:
        """Run by the server, last: the key holder's signed answer to what ``add`` returned last.

        ``ProtocolError`` unless the key holder signed it for that very sum; ``SealingError`` if it can't be
        one of values of ``bits`` bits. Either changes nothing. A second answer is refused.
        """
        _check_bits(bits, len(self._pinned))
        if self._expected is None:
            raise ProtocolError("read comes once a round, after add; a second answer is refused")
        opened = _unpacked(self._expected(message), bits)
        self._expected = None
        return opened


class KeyHolder:
    """Run by the key holder, which is not the server: ``context``, then ``open``, once each a round.

    ``threshold``: the fewest clients whose sum it opens; default all of them.
    """

    def __init__(
        self, identity: Identity, server: bytes, n_clients: int, threshold: int | None = None
    ) -> None:
        self._n_clients = n_clients
        self._slots = SlotKeyHolder(identity, server, _quorum(n_clients, threshold))

    def context(self, session: bytes, round: int, question: bytes) -> bytes:  # noqa: A002
        """Run by the key holder, first; see `SlotKeyHolder.context`."""
        return self._slots.context(session, round, question)

    def open(self, message: bytes, bits: int) -> OpenedSum:
        """Run by the key holder, last: the server's signed sum, opened; see `SlotKeyHolder.open`.

        ``SealingError``, after which the key is gone too, if what was opened can't be a sum of as many
        values of ``bits`` bits as there are contributors.
        """
        _check_bits(bits, self._n_clients)

        def check(slots: Slots, total: EncryptedSum) -> None:
            unpack(slots, total.size, _largest(total.contributors, bits))

        return _unpacked(self._slots.open(message, check), bits)


def _unpacked(opened: OpenedSlots, bits: int) -> OpenedSum:
    largest = _largest(opened.contributors, bits)
    return OpenedSum(
        total=unpack(opened.slots, opened.size, largest),
        contributors=opened.contributors,
        message=opened.message,
    )


def _largest(contributors: tuple[int, ...], bits: int) -> int:
    return len(contributors) * ((1 << bits) - 1)


def _upload_place(place: Place, context: bytes, pinned: Sequence[bytes]) -> Place:
    return place.at("upload", hashlib.sha256(context + cohort_hash(pinned)).digest())
