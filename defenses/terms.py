"""What the clients of a masked sum have agreed to before it starts, and no server can loosen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

from msgspec import msgpack

from securefd.defenses.graph_failure import check_range
from securefd.defenses.identity import check_pinned
from securefd.defenses.neighbourhood import Neighbourhood
from securefd.defenses.quantise import MAX_BITS
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

    ``SealingError`` for what can't be agreed on, before anybody has sent anything. Numbers are Python's own.
    """

    pinned: tuple[bytes, ...]
    neighbourhood: Neighbourhood
    bits: int
    noise_deviation: float = 0.0
    carrier: CarrierName = "ring"

    def __post_init__(self) -> None:
        if not isinstance(self.pinned, tuple) or not all(isinstance(key, bytes) for key in self.pinned):
            raise SealingError(
                f"pinned must be a tuple of public keys in bytes, got {type(self.pinned).__name__} of "
                f"{', '.join(sorted({type(key).__name__ for key in self.pinned})) or 'nothing'}; convert them"
            )
        check_pinned(self.pinned)
        if not isinstance(self.neighbourhood, Neighbourhood):
            raise SealingError(
                f"neighbourhood must be a Neighbourhood, got {self.neighbourhood!r}; let choose make one"
            )
        if len(self.pinned) != self.neighbourhood.n_clients:
            raise SealingError(
                f"{self.neighbourhood.n_clients} clients were agreed on, and {len(self.pinned)} identities "
                "are pinned; pin one for each client"
            )
        check_range("bits", self.bits, 1, MAX_BITS)
        if self.carrier not in get_args(CarrierName):
            raise SealingError(
                f"carrier must be one of {', '.join(get_args(CarrierName))}, got {self.carrier!r}; choose one"
            )
        # Equal terms must have equal digests: 3 is 3.0, and -0.0 is 0.0.
        object.__setattr__(self, "noise_deviation", _as_deviation(self.noise_deviation))
        self.ring(1)

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
        if not isinstance(question, bytes) or len(question) != 32:
            raise SealingError(
                f"question must be a hash of 32 bytes, got {len(question)} in {type(question).__name__}; "
                "hash what was asked"
            )
        check_range("size", size, 1, (1 << 32) - 1)
        graph = self.neighbourhood
        agreed = (
            PROTOCOL,
            self.carrier,
            self.pinned,
            (graph.threshold, graph.colluders, graph.honest_minimum),
            (graph.degree, graph.share_threshold, graph.checked),
            (self.bits, self.ring(size).bits, self.noise_deviation),
            (question, size),
        )
        return hashlib.sha256(msgpack.encode(agreed)).digest()


def _as_deviation(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2.0**63:
        raise SealingError(
            f"noise_deviation must be a number in [0, 2**63), got {value!r}; give 0.0 for no noise"
        )
    return float(value) + 0.0
