"""The routes to a privacy guarantee, as one table: where noise comes in, and whom it covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from securefd.defenses.claims import RELATIONS, Relation, SealingKind, Unit

Noised = Literal["training", "answers"]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One row.

    ``noised``: a client's training, once, so that all its answers are free; or each of its ``answers``; or
    None, for nothing, so that nothing is promised.
    ``relations``: those that the mechanism is defined for. ``sealings``: those that it fits. ``votes``:
    whether a client may answer with one class only. ``trusted``: the server adds the noise, so that it sees
    what was answered before. ``what``: in a few words.
    """

    name: str
    unit: Unit
    noised: Noised | None
    relations: tuple[Relation, ...] = RELATIONS
    sealings: tuple[SealingKind, ...]
    votes: bool = False
    trusted: bool = False
    what: str


EVERY: tuple[SealingKind, ...] = ("plain", "masked", "homomorphic", "masked+homomorphic")

_ROWS = (
    Route(name="dpsgd", unit="record", noised="training", sealings=EVERY, what="DP-SGD in each client"),
    Route(
        name="head",
        unit="record",
        noised="training",
        sealings=EVERY,
        what="a linear model in each client, on public features",
    ),
    Route(
        name="pate",
        unit="record",
        noised="training",
        sealings=EVERY,
        what="noisy votes of teachers within each client",
    ),
    Route(
        name="distributed",
        unit="client",
        noised="answers",
        sealings=("masked",),
        what="a share of the noise on the sum from each client, under masks",
    ),
    Route(
        name="local",
        unit="client",
        noised="answers",
        sealings=("plain", "masked"),
        what="all of the noise from each client",
    ),
    Route(
        name="rr",
        unit="client",
        noised="answers",
        relations=("replace-one",),
        sealings=EVERY,
        votes=True,
        what="randomised response on each client's top classes",
    ),
    Route(
        name="central",
        unit="client",
        noised="answers",
        sealings=EVERY,
        trusted=True,
        what="noise that the server adds to the sum, which it sees",
    ),
    Route(
        name="votes",
        unit="client",
        noised="answers",
        sealings=EVERY,
        votes=True,
        trusted=True,
        what="top classes that the server, which sees the counts of votes, releases where enough agree",
    ),
    Route(
        name="nfdp",
        unit="record",
        noised=None,
        sealings=EVERY,
        what="training on a sample of each client's records, without noise",
    ),
)

ROUTES: Mapping[str, Route] = {row.name: row for row in _ROWS}
