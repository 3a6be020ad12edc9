"""Masked values that are encrypted as well: the key holder opens a masked sum, and the server unmasks it.

One protocol around the other. Clients mask by ``securefd.defenses.masks``, here modulo the prime of the
plaintexts, and encrypt by ``securefd.defenses.slots``; the server adds up ciphertexts as they come. A round:

1. The key holder's context of the round goes to the server and every client.
2. The stages of a masked sum, of which uploads hold ciphertexts of masked slots.
3. Once every mask that remains is known, the key holder opens the encrypted sum, for the one time that it
   does. What it sees, and returns, is uniform: each survivor's own mask is in it. The server takes the masks
   off, and checks bounds, which the key holder can't.

The key holder's context is bound to the question, and the masked round to both (`under`), so that every
message of a client covers the key that it encrypts under.

Either layer hides what it hides without the other. Server and key holder together see masked uploads, as the
server of a masked sum does; a server alone sees ciphertexts, also once it can remove masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from securefd.defenses.bfv import (
    PART_BYTES,
    PLAIN_MODULUS,
    CiphertextSum,
    n_parts,
    pack,
    unpack,
    value_bits,
)
from securefd.defenses.carriers import Vector
from securefd.defenses.identity import Identity
from securefd.defenses.prime_ring import apply
from securefd.defenses.slots import Quorum, SlotClient, SlotServer
from securefd.defenses.terms import CarrierName, Terms
from securefd.errors import SealingError


def quorum_of(terms: Terms) -> Quorum:
    """What the key holder must have agreed to, too: as many clients, and no sum over fewer than survive.

    ``SealingError`` for terms under which values can't travel encrypted.
    """
    n_clients = len(terms.pinned)
    if terms.carrier != "bfv":
        raise SealingError(f"encrypted values need terms with carrier bfv, got {terms.carrier}; agree on it")
    if not terms.noise_deviation == 0:
        raise SealingError(
            f"encrypted values must be without noise, got a deviation of {terms.noise_deviation}: fields of "
            "16 bits hold no negative sums, and noise is never cut off; use carrier ring"
        )
    if not terms.bits <= value_bits(n_clients):
        raise SealingError(
            f"encrypted values of {n_clients} clients must have at most {value_bits(n_clients)} bits, got "
            f"{terms.bits}; give less"
        )
    return Quorum(n_clients=n_clients, threshold=terms.threshold)


def under(context: bytes, question: bytes) -> bytes:
    """What a masked round whose values are encrypted is about: the question, and the key holder's message."""
    return hashlib.sha256(question + hashlib.sha256(context).digest()).digest()


@dataclass(frozen=True, kw_only=True)
class BfvSealer:
    """Run by a client, for one round: packs, masks, encrypts.

    ``holder``: the key holder's identity, as this client has pinned it. ``context``: what it sent for this
    ``session``, ``round`` and ``question``; any other is a ``ProtocolError`` when something is to be sealed.
    """

    terms: Terms
    holder: bytes
    context: bytes
    session: bytes
    round: int
    question: bytes

    def __post_init__(self) -> None:
        quorum_of(self.terms)

    @property
    def name(self) -> CarrierName:
        """Plaintexts of BFV."""
        return "bfv"

    @property
    def about(self) -> bytes:
        """What the masked round is about, see `under`: the question to `MaskedClient.advertise` for."""
        return under(self.context, self.question)

    def seal(self, vector: Vector, added: Sequence[bytes], subtracted: Sequence[bytes]) -> bytes:
        """See `Sealer.seal`. Padding is masked, too."""
        slots = pack(vector)
        apply(slots, added, subtracted, PLAIN_MODULUS)
        client = SlotClient(holder=self.holder, quorum=quorum_of(self.terms))
        return client.seal(
            self.context, slots, session=self.session, round=self.round, question=self.question
        )


class BfvAdder:
    """Run by the server, for one round: the running sum of ciphertexts, and what the key holder makes of it.

    ``ask``: brings the signed encrypted sum to the key holder, and returns the message in which that answers
    (`SlotKeyHolder.open`). ``server``: signs that sum. ``holder``: the key holder's identity. ``context``:
    its message for this ``session``, ``round`` and ``question``; ``ProtocolError`` for any other, before a
    client has sent anything.
    """

    def __init__(
        self,
        terms: Terms,
        size: int,
        *,
        server: Identity,
        holder: bytes,
        context: bytes,
        session: bytes,
        round: int,  # noqa: A002
        question: bytes,
        ask: Callable[[bytes], bytes],
    ) -> None:
        self._terms, self._size, self._ask = terms, size, ask
        self._server = SlotServer(identity=server, holder=holder, quorum=quorum_of(terms))
        self._server.check(context, session=session, round=round, question=question)
        self._context, self._session, self._round, self._question = context, session, round, question
        self._total = CiphertextSum(size)

    @property
    def name(self) -> CarrierName:
        """Plaintexts of BFV."""
        return "bfv"

    @property
    def about(self) -> bytes:
        """What the masked round is about, see `under`: the question of its `MaskedServer`."""
        return under(self._context, self._question)

    @property
    def most_bytes(self) -> int:
        """See `Adder.most_bytes`."""
        return n_parts(self._size) * PART_BYTES

    def add(self, values: bytes) -> None:
        """See `Adder.add`."""
        self._total.add(values)

    def open(self, added: Sequence[bytes], subtracted: Sequence[bytes], clients: Sequence[int]) -> Vector:
        """See `Adder.open`. The key holder refuses to be asked again once it has opened a sum."""
        message = self._server.hand_over(
            self._context,
            self._total,
            tuple(clients),
            session=self._session,
            round=self._round,
            question=self._question,
            size=self._size,
        )
        opened = self._server.read(
            self._ask(message),
            message,
            self._context,
            session=self._session,
            round=self._round,
            question=self._question,
        )
        slots = opened.slots
        apply(slots, added, subtracted, PLAIN_MODULUS)
        return unpack(slots, self._size, len(clients) * self._terms.largest_value)
