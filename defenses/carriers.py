"""How masked values travel: as words of a ring, or encrypted once more.

A masked sum needs a group to add in. Here it is a ring of 8 to 64 bits; where masked values are encrypted
homomorphically, it is that of the plaintexts (``securefd.defenses.masked_bfv``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.masks import apply_masks
from securefd.defenses.ring import tail
from securefd.defenses.terms import CarrierName, Terms
from securefd.errors import ProtocolError, SealingError

Vector = NDArray[np.int64]


class Sealer(Protocol):
    """Run by a client."""

    @property
    def name(self) -> CarrierName:
        """Which of the carriers that `Terms` can name."""
        ...

    def seal(self, vector: Vector, added: Sequence[bytes], subtracted: Sequence[bytes]) -> bytes:
        """``(d,)`` values within their bounds, masked by one keystream a key, as bytes to send."""
        ...


class Adder(Protocol):
    """Run by the server, one a round: adds sealed vectors as they arrive, then takes the masks off."""

    @property
    def name(self) -> CarrierName:
        """Which of the carriers that `Terms` can name."""
        ...

    @property
    def most_bytes(self) -> int:
        """What one sealed vector never exceeds."""
        ...

    def add(self, values: bytes) -> None:
        """Take one client's sealed vector; a typed error, and no change, for what can't be one."""
        ...

    def open(self, added: Sequence[bytes], subtracted: Sequence[bytes], clients: Sequence[int]) -> Vector:
        """Add and subtract keystreams so that no mask is left in the sum over ``clients``.

        ``clients``: positions, ascending, of those whose vectors were taken. ``SealingError`` if what is left
        can't be a sum.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class RingSealer:
    """Words of the narrowest ring for ``terms``, little-endian, at its width."""

    terms: Terms

    @property
    def name(self) -> CarrierName:
        """A ring."""
        return "ring"

    def seal(self, vector: Vector, added: Sequence[bytes], subtracted: Sequence[bytes]) -> bytes:
        """See `Sealer.seal`."""
        words = vector.astype(self.terms.ring(vector.size).dtype)
        apply_masks(words, added, subtracted)
        return words.tobytes()


class RingAdder:
    """The running sum in the ring: one vector in memory, however many clients there are."""

    def __init__(self, terms: Terms, size: int) -> None:
        self._terms, self._ring = terms, terms.ring(size)
        self._total = np.zeros(size, dtype=self._ring.dtype)

    @property
    def name(self) -> CarrierName:
        """A ring."""
        return "ring"

    @property
    def most_bytes(self) -> int:
        """See `Adder.most_bytes`."""
        return self._total.nbytes

    def add(self, values: bytes) -> None:
        """See `Adder.add`."""
        if len(values) != self._total.nbytes:
            raise ProtocolError(
                f"an upload must hold {self._total.size} words of {self._ring.width} bytes, "
                f"got {len(values)} bytes; seal the vector that was asked for"
            )
        self._total += np.frombuffer(values, dtype=self._total.dtype)

    def open(self, added: Sequence[bytes], subtracted: Sequence[bytes], clients: Sequence[int]) -> Vector:
        """See `Adder.open`."""
        words = self._total.copy()
        apply_masks(words, added, subtracted)
        beyond = tail(self._terms.noise_deviation, words.size)
        total = self._ring.decode(words, low=-beyond)
        check_sum(total, -beyond, len(clients) * self._terms.largest_value + beyond)
        return total


def check_sum(total: Vector, smallest: int, largest: int) -> None:
    """``SealingError`` for a sum that values within their bounds can't have given."""
    low, high = int(total.min()), int(total.max())
    if not smallest <= low <= high <= largest:
        raise SealingError(
            f"sums must be in {smallest}..{largest}, got {low}..{high}: a client left the bound, or sent "
            "something else than its masked vector; start a new round, and leave out who can't be trusted"
        )
