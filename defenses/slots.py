"""Slots modulo the plain modulus from clients to their sum, under encryption: the three parties of a round.

Slots may be masked already (``securefd.defenses.prime_ring``). The key holder then opens a masked sum, which
can't be told from random numbers: it can't check bounds, and whoever takes the masks off must (`bfv.unpack`).
Without masks, ``securefd.defenses.homomorphic`` wraps these parties, and says what is promised to whom.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from securefd.defenses.bfv import (
    PLAIN_MODULUS,
    SLOTS,
    CiphertextSum,
    PublicKey,
    SecretKey,
    Slots,
    n_parts,
    read_parts,
    value_bits,
)
from securefd.defenses.identity import (
    OVERHEAD,
    Identity,
    Place,
    Rounds,
    cohort_hash,
    sign_message,
    verify_message,
)
from securefd.errors import ProtocolError, SealingError
from securefd.messages import LIMITS, EncryptedSum, KeyContext, Opening, decode, encode

MASKED_PROTOCOL = b"securefd/masked+homomorphic/2"


@dataclass(frozen=True, kw_only=True)
class Quorum:
    """What server, key holder and clients have agreed on: how many clients there are, and how many at least
    a sum must be over. ``protocol``: keeps messages of sums with and without masks apart.
    """

    n_clients: int
    threshold: int
    protocol: bytes = MASKED_PROTOCOL

    def __post_init__(self) -> None:
        value_bits(self.n_clients)
        if not 2 <= self.threshold <= self.n_clients:
            raise SealingError(
                f"threshold must be in 2..{self.n_clients}, got {self.threshold}: "
                "a sum of one client is that client's answer"
            )

    def context_place(self, session: bytes, round: int, holder: bytes, question: bytes) -> Place:  # noqa: A002
        """Where a key holder's context belongs; ``question``: SHA-256 of what clients are asked.

        All that follows in the round is bound to the context, and so to the question.
        """
        if not isinstance(question, bytes) or len(question) != 32:
            raise SealingError(
                f"question must be a hash of 32 bytes, got {question!r:.80}; hash what was asked"
            )
        return Place(
            protocol=self.protocol,
            session=session,
            round=round,
            stage="context",
            roster=cohort_hash((holder, question)),
        )

    def check_contributors(self, contributors: tuple[int, ...]) -> None:
        """``ProtocolError`` unless these are at least ``threshold`` positions of clients, ascending."""
        if not len(contributors) >= self.threshold:
            raise ProtocolError(
                f"a sum must be over at least {self.threshold} clients, got {len(contributors)}; "
                "wait for more uploads, or start a new round"
            )
        if any(not low < high for low, high in pairwise(contributors)):
            raise ProtocolError("the clients in a sum must be named once each, in ascending order")
        if not (contributors[0] >= 0 and contributors[-1] < self.n_clients):
            raise ProtocolError(
                f"the clients in a sum must be in 0..{self.n_clients - 1}, got {contributors}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedSlots:
    """``slots``: ``(parts, SLOTS)`` the sum modulo the plain modulus, masked or not; ``size``: of its values.

    ``contributors``: the positions of the clients that it is over, ascending. ``message``: the same, signed
    by the key holder for the server.
    """

    slots: Slots
    size: int
    contributors: tuple[int, ...]
    message: bytes


@dataclass(frozen=True, kw_only=True)
class SlotClient:
    """Run by one client: ``seal``. It pins the key holder's identity, and what was agreed on."""

    holder: bytes
    quorum: Quorum

    def seal(
        self,
        context: bytes,
        slots: Slots,
        *,
        session: bytes,
        round: int,  # noqa: A002
        question: bytes,
    ) -> bytes:
        """Run by the client. Returns the ciphertexts of ``slots``, without a signature.

        ``context``: the key holder's message for this session, round and ``question``, the SHA-256 of what
        this client was asked. ``slots``: ``(parts, SLOTS)`` int64 in [0, PLAIN_MODULUS). ``ProtocolError``
        for a context of another place or question, or from a key holder that opens sums over fewer clients
        than this client has agreed to.
        """
        place = self.quorum.context_place(session, round, self.holder, question)
        message = _read_context(context, place, self.holder)
        if message.n_clients != self.quorum.n_clients or not message.threshold >= self.quorum.threshold:
            raise ProtocolError(
                f"the key holder opens sums over {message.threshold} of {message.n_clients} clients, and at "
                f"least {self.quorum.threshold} of {self.quorum.n_clients} were agreed on; agree again"
            )
        return PublicKey.load(message.context).encrypt(slots)


@dataclass(frozen=True, kw_only=True)
class SlotServer:
    """Run by the server: ``check`` what the key holder sent; ``add``, or a `bfv.CiphertextSum` fed as uploads
    come, then ``hand_over``; ``read`` at last.
    """

    identity: Identity
    holder: bytes
    quorum: Quorum

    def check(self, context: bytes, *, session: bytes, round: int, question: bytes) -> Place:  # noqa: A002
        """Run by the server: where this context of the key holder belongs, for what follows it.

        ``ProtocolError`` unless it is for this session, round and question.
        """
        place = self.quorum.context_place(session, round, self.holder, question)
        _read_context(context, place, self.holder)
        return _sum_place(place, context)

    def add(
        self,
        context: bytes,
        sealed: Mapping[int, bytes],
        *,
        session: bytes,
        round: int,  # noqa: A002
        question: bytes,
        size: int,
    ) -> bytes:
        """Run by the server: what clients have sealed, by position, to the signed sum for the key holder.

        Each client's signature must have been verified before. ``size``: values a client.
        """
        contributors = tuple(sorted(sealed))
        self.quorum.check_contributors(contributors)
        total = CiphertextSum(size)
        for data in sealed.values():
            total.add(data)
        return self.hand_over(
            context, total, contributors, session=session, round=round, question=question, size=size
        )

    def hand_over(
        self,
        context: bytes,
        total: CiphertextSum,
        contributors: tuple[int, ...],
        *,
        session: bytes,
        round: int,  # noqa: A002
        question: bytes,
        size: int,
    ) -> bytes:
        """Run by the server: the signed message in which the key holder gets ``total``."""
        place = self.check(context, session=session, round=round, question=question)
        self.quorum.check_contributors(contributors)
        if total.count != len(contributors):
            raise ProtocolError(f"a sum of {total.count} uploads can't be over {len(contributors)} clients")
        body = encode(EncryptedSum(contributors=contributors, size=size, parts=total.total()))
        return sign_message(self.identity, place, 0, body)

    def read(
        self,
        message: bytes,
        asked: bytes,
        context: bytes,
        *,
        session: bytes,
        round: int,  # noqa: A002
        question: bytes,
    ) -> OpenedSlots:
        """Run by the server, last: what the key holder opened for ``asked``, the own signed sum.

        ``ProtocolError`` unless it signed this for that very sum, its contributors and its size.
        """
        place = self.check(context, session=session, round=round, question=question)
        _, told = verify_message(asked, place, (self.identity.public,))
        total = decode(told, EncryptedSum)
        parts = n_parts(total.size)
        limit = parts * SLOTS * 8 + 3 * self.quorum.n_clients + OVERHEAD
        _, body = verify_message(message, _opening_place(place, asked), (self.holder,), limit)
        opening = decode(body, Opening, limit)
        if (opening.contributors, opening.size) != (total.contributors, total.size) or (
            len(opening.slots) != parts * SLOTS * 8
        ):
            raise ProtocolError(
                f"the key holder was asked for {total.size} values of clients {list(total.contributors)}, "
                f"and opened {opening.size} of {list(opening.contributors)} in {len(opening.slots)} bytes; "
                "start a new round"
            )
        slots = np.frombuffer(opening.slots, dtype="<i8").astype(np.int64).reshape(parts, SLOTS)
        if slots.min() < 0 or slots.max() >= PLAIN_MODULUS:
            raise ProtocolError(
                f"slots must be in [0, {PLAIN_MODULUS}), and the key holder sent {slots.min()}.."
                f"{slots.max()}; start a new round"
            )
        return OpenedSlots(slots=slots, size=total.size, contributors=total.contributors, message=message)


def _unchecked(slots: Slots, total: EncryptedSum) -> None:
    """Masked slots may be anything."""


class SlotKeyHolder:
    """Run by the key holder, which is not the server: ``context``, then ``open``, once each a round."""

    def __init__(self, identity: Identity, server: bytes, quorum: Quorum) -> None:
        self._identity, self._server, self._quorum = identity, server, quorum
        self._rounds = Rounds()
        self._key: SecretKey | None = None
        self._place: Place | None = None

    def context(self, session: bytes, round: int, question: bytes) -> bytes:  # noqa: A002
        """Run by the key holder, first: make a new key; returns the signed public context for all.

        ``question``: SHA-256 of what clients are asked in this round, the only thing that the key serves for.
        ``ProtocolError`` unless the round is later than all others of the session. The key of an earlier
        round that wasn't opened is given up.
        """
        key = SecretKey.generate()
        place = self._quorum.context_place(session, round, self._identity.public, question)
        body = KeyContext(
            context=key.public, n_clients=self._quorum.n_clients, threshold=self._quorum.threshold
        )
        message = sign_message(self._identity, place, 0, encode(body))
        self._rounds.enter(session, round)
        self._key, self._place = key, _sum_place(place, message)
        return message

    def open(
        self, message: bytes, check: Callable[[Slots, EncryptedSum], object] = _unchecked
    ) -> OpenedSlots:
        """Run by the key holder, last: the server's signed sum to slots, and the message that returns them.

        ``check``: raises an error for slots that can't be a sum; nothing is signed then. A message that isn't
        the server's for this round and key, or is over too few clients, changes nothing. From the moment the
        key is used it is gone.
        """
        if self._key is None or self._place is None:
            raise ProtocolError("open comes once a round, after context; a second opening is refused")
        _, body = verify_message(message, self._place, (self._server,))
        total = decode(body, EncryptedSum)
        self._quorum.check_contributors(total.contributors)
        key, place = self._key, self._place
        ciphertexts = read_parts(total.parts, n_parts(total.size))
        self._key, self._place = None, None
        slots = key.decrypt(ciphertexts)
        check(slots, total)
        opening = Opening(
            contributors=total.contributors, size=total.size, slots=slots.astype("<i8").tobytes()
        )
        return OpenedSlots(
            slots=slots,
            size=total.size,
            contributors=total.contributors,
            message=sign_message(self._identity, _opening_place(place, message), 0, encode(opening)),
        )


def _sum_place(place: Place, context: bytes) -> Place:
    return place.at("sum", hashlib.sha256(context).digest())


def _opening_place(place: Place, asked: bytes) -> Place:
    return place.at("opening", hashlib.sha256(asked).digest())


def _read_context(message: bytes, place: Place, holder: bytes) -> KeyContext:
    _, body = verify_message(message, place, (holder,), LIMITS[KeyContext])
    return decode(body, KeyContext)
