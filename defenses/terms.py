"""What the clients of a masked sum have agreed to before it starts, and no server can loosen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from msgspec import msgpack

from securefd.defenses.identity import check_pinned
from securefd.defenses.neighbourhood import Neighbourhood
from securefd.defenses.quantise import check_bits
from securefd.defenses.ring import Ring, narrowest
from securefd.errors import SealingError

PROTOCOL = b"securefd/masked/2"

CarrierName = Literal["ring", "bfv"]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The agreement of all clients of a federation; every message they sign is bound to its `digest`.

    ``pinned``: everyone's Ed25519 identity, in one order. ``neighbourhood``: how many clients there are, how
    many must survive and how many may collude, and the graph that follows. ``bits``: values are in [0,
    2**bits). ``noise_deviation``: of the noise on each value of the sum, all clients' shares together (which
    noise: `ring.tail`); 0 for none. ``carrier``: how masked values travel.
    """

    pinned: tuple[bytes, ...]
    neighbourhood: Neighbourhood
    bits: int
    noise_deviation: float = 0.0
    carrier: CarrierName = "ring"

    def __post_init__(self) -> None:
        check_pinned(self.pinned)
        check_bits(self.bits)
        if len(self.pinned) != self.neighbourhood.n_clients:
            raise SealingError(
                f"{self.neighbourhood.n_clients} clients were agreed on, and {len(self.pinned)} identities "
                "are pinned; pin one for each client"
            )

    @property
    def threshold(self) -> int:
        """The least number of clients whose sum may be opened."""
        return self.neighbourhood.threshold

    @property
    def largest_value(self) -> int:
        """The largest value that a client may hold."""
        return (1 << self.bits) - 1

    def ring(self, size: int) -> Ring:
        """The narrowest ring that holds the noisy sum of vectors of ``size`` values."""
        return narrowest(
            bits=self.bits,
            n_clients=len(self.pinned),
            size=size,
            noise_deviation=self.noise_deviation,
        )

    def digest(self, *, question: bytes, size: int) -> bytes:
        """SHA-256 of these terms, what is asked (``question``, a hash) and how many values an answer has.

        A client that was asked something else, or agreed to something else, refuses the others' messages.
        Over the MessagePack array [PROTOCOL, carrier (text), [identities], [threshold, colluders,
        honest_minimum], [degree, share_threshold, checked], [bits, ring bits, noise_deviation (float64)],
        [question, size]].
        """
        if len(question) != 32:
            raise SealingError(
                f"question must be a hash of 32 bytes, got {len(question)}; hash what was asked"
            )
        if not 1 <= size < 1 << 32:
            raise SealingError(f"a vector to seal must hold 1 to 2**32 - 1 values, got {size}")
        graph = self.neighbourhood
        agreed = (
            PROTOCOL,
            self.carrier,
            self.pinned,
            (graph.threshold, graph.colluders, graph.honest_minimum),
            (graph.degree, graph.share_threshold, graph.checked),
            # 3 and 3.0 are the same agreement, and MessagePack tells them apart
            (self.bits, self.ring(size).bits, float(self.noise_deviation)),
            (question, size),
        )
        return hashlib.sha256(msgpack.encode(agreed)).digest()
