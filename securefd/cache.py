"""The soft-label cache of ``dsfl-power``: a consensus is asked for again only once it is too old.

Server and clients hold equal caches, since all of them saw every consensus: only queries that are
`missing` travel, up and down (SCARLET, arXiv 2504.19602).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securefd.errors import ProtocolError

NEVER = -1


@dataclass(frozen=True, kw_only=True)
class Cache:
    """The last consensus on each public input, and the round it was made in.

    ``duration``: an entry made in round r serves rounds r + 1 to r + duration; 0 caches nothing.
    ``consensus``: ``(n_public, C)``, zero where there is none. ``made``: ``(n_public,)`` rounds, or `NEVER`.
    The two arrays are the whole state: written and read back, they make an equal cache.
    """

    duration: int
    consensus: NDArray[np.float64]
    made: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not self.duration >= 0:
            raise ProtocolError(f"duration must be >= 0, got {self.duration}; 0 turns the cache off")
        if self.consensus.ndim != 2 or self.made.shape != self.consensus.shape[:1]:
            raise ProtocolError(
                f"a cache needs (n_public, C) and (n_public,) arrays, got {self.consensus.shape} and "
                f"{self.made.shape}; load both from the same round"
            )

    @classmethod
    def empty(cls, n_public: int, n_classes: int, duration: int) -> Cache:
        """Return a cache that misses everything."""
        return cls(
            duration=duration,
            consensus=np.zeros((n_public, n_classes)),
            made=np.full(n_public, NEVER, dtype=np.int64),
        )

    def missing(self, queries: NDArray[np.int64], now: int) -> NDArray[np.int64]:
        """Return those of ``queries``, in their order, that round ``now`` must ask: absent or expired."""
        made = self.made[queries]
        asked: NDArray[np.int64] = queries[(made == NEVER) | (now - made > self.duration)]
        return asked

    def store(self, queries: NDArray[np.int64], consensus: NDArray[np.float64], now: int) -> Cache:
        """Return a cache that also has ``(m, C)`` ``consensus`` on ``queries``, made in round ``now``."""
        shape = (len(queries), self.consensus.shape[1])
        if consensus.shape != shape:
            raise ProtocolError(
                f"a consensus on {len(queries)} queries must have shape {shape}, got {consensus.shape}; "
                "store the queries that were asked"
            )
        targets, made = self.consensus.copy(), self.made.copy()
        targets[queries], made[queries] = consensus, now
        return Cache(duration=self.duration, consensus=targets, made=made)

    def known(self, queries: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return ``(m,)``, which of ``queries`` have a consensus, however old."""
        stored: NDArray[np.bool_] = self.made[queries] != NEVER
        return stored

    def lookup(self, queries: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return ``(m, C)``, the consensus on ``queries``, all of which were stored."""
        absent = queries[self.made[queries] == NEVER]
        if len(absent):
            raise ProtocolError(
                f"public input {absent[0]} must be stored before it is looked up, and {len(absent)} aren't; "
                "ask for the missing ones first"
            )
        return self.consensus[queries]
