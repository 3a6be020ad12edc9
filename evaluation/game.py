"""The game that coins play with records, which matches the neighbouring relation of the claim.

*add-or-remove*: a coin decides for each candidate whether it takes part. *replace-one*: candidates come in
pairs of one client's records, and a coin decides which of the two takes part. Either way an attack must tell
how a coin fell, so a game with pairs compares the scores of two records.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.claims import Relation
from securefd.errors import AuditError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Game:
    """Who took part in which federation.

    ``membership``: ``(F, n)`` of the candidates. ``pairs``: ``(g, 2)`` candidates of which exactly one took
    part in each federation, or None where every candidate had a coin of its own. Neither is printed.
    """

    membership: Bools = field(repr=False)
    pairs: Ints | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise AuditError for anything that isn't a game."""
        if self.membership.ndim != 2 or self.membership.dtype != np.bool_:
            raise AuditError(
                f"membership must be (F, n) and boolean, got shape {self.membership.shape} of "
                f"{self.membership.dtype}"
            )
        if self.membership.all() or not self.membership.any():
            raise AuditError(
                f"membership is all {bool(self.membership.all())}; flip a coin for each record and federation"
            )
        if (
            self.pairs is not None
            and not (self.membership[:, self.pairs[:, 0]] ^ self.membership[:, self.pairs[:, 1]]).all()
        ):
            raise AuditError("exactly one of each pair must take part in each federation")

    @property
    def relation(self) -> Relation:
        """The neighbouring relation whose game this is."""
        return "add-or-remove" if self.pairs is None else "replace-one"

    @property
    def federations(self) -> int:
        """How many there are."""
        return len(self.membership)

    def coins(self, candidates: Ints) -> Bools:
        """``(F, g)`` how each coin about these candidates fell: in, or the first of its pair."""
        if self.pairs is None:
            return self.membership[:, candidates]
        return self.membership[:, self.pairs[self._whole(candidates), 0]]

    def told(self, scores: Floats, candidates: Ints) -> Floats:
        """Scores ``(t, g)`` that a coin fell so, from scores ``(t, k)`` that a candidate took part."""
        if self.pairs is None:
            return scores
        places = np.full(self.membership.shape[1], -1)
        places[candidates] = np.arange(len(candidates))
        pairs = places[self.pairs[self._whole(candidates)]]
        return np.asarray(scores[:, pairs[:, 0]] - scores[:, pairs[:, 1]], dtype=np.float64)

    def first(self, coins: int) -> Game:
        """The same game with its first coins only."""
        if self.pairs is None:
            return Game(membership=self.membership[:, :coins])
        pairs = self.pairs[:coins]
        kept = np.unique(pairs)
        return Game(membership=self.membership[:, kept], pairs=np.searchsorted(kept, pairs))

    def by_candidate(self, values: Floats, candidates: Ints) -> Floats:
        """``(n,)`` of all candidates, from values ``(g,)`` of coins about some; else NaN."""
        found = np.full(self.membership.shape[1], np.nan)
        if self.pairs is None:
            found[candidates] = values
        else:
            found[self.pairs[self._whole(candidates)]] = values[:, None]
        return found

    def _whole(self, candidates: Ints) -> Ints:
        """The pairs of which both are among the candidates."""
        assert self.pairs is not None
        return np.flatnonzero(np.isin(self.pairs, candidates).all(axis=1))
