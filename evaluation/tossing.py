"""Which records an audit tosses coins for, and how they fell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.claims import Relation
from securefd.errors import AuditError
from securefd.evaluation.coins import Coins, always_in
from securefd.evaluation.game import Game

Rows = Sequence[NDArray[np.int64]]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tossed:
    """``candidates``: ``(n,)`` rows of the pool. ``drawn``: for each federation, the rows of each client."""

    candidates: Ints = field(repr=False)
    game: Game = field(repr=False)
    drawn: tuple[Rows, ...] = field(repr=False)


def toss(
    coins: Coins, labels: Ints, rows: Rows, *, federations: int, most: int, relation: Relation
) -> Tossed:
    """Draw candidates from each client's ``rows`` of the pool, and toss their coins.

    ``labels``: of the pool. ``most``: candidates at most, drawn at random; all others take part in every
    federation. In a game of replace-one candidates are paired at random within their client.

    Raises:
        AuditError: no candidates.
    """
    fixed = np.zeros(len(labels), dtype=np.bool_)
    fixed[np.concatenate([always_in(labels, own) for own in rows])] = True
    candidates = np.flatnonzero(~fixed)
    rng = coins.generator("candidates")
    if len(candidates) > most:
        candidates = np.sort(rng.choice(candidates, most, replace=False))
    pairs = None
    if relation == "replace-one":
        pairs = _pairs(candidates, rows, rng)
        candidates, places = np.unique(pairs, return_inverse=True)
        pairs = places.reshape(-1, 2).astype(np.int64)
    if not len(candidates):
        raise AuditError("no client has more than 2 records, so there are no candidates to toss coins for")
    if pairs is None:
        membership = coins.flips(federations, len(candidates))
    else:
        membership = np.zeros((federations, len(candidates)), dtype=np.bool_)
        fell = coins.flips(federations, len(pairs))
        membership[:, pairs[:, 0]], membership[:, pairs[:, 1]] = fell, ~fell
    present = np.ones((federations, len(labels)), dtype=np.bool_)
    present[:, candidates] = membership
    return Tossed(
        candidates=candidates,
        game=Game(membership=membership, pairs=pairs),
        drawn=tuple([own[takes[own]] for own in rows] for takes in present),
    )


def _pairs(candidates: Ints, rows: Rows, rng: np.random.Generator) -> Ints:
    """``(g, 2)`` rows of the pool, each pair of one client; a client's odd one stays without a coin."""
    made = []
    for own in rows:
        some = rng.permutation(candidates[np.isin(candidates, own)])
        made.append(some[: len(some) // 2 * 2].reshape(-1, 2))
    return np.concatenate(made)
