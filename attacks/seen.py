"""The answers that one observer saw in many federations, as log-answers on the same public inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.surrogate import landmarks, log_answers
from securefd.errors import AuditError
from securefd.views import RoundView, View

Channel = Literal["answers", "sums", "total", "consensus"]
CHANNELS: tuple[Channel, ...] = ("answers", "sums", "total", "consensus")
"""The most telling first."""

MOST_ROUNDS = 8
"""Rounds that are looked at one by one; of more, so many spread evenly."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Public ``inputs`` ``(m, ...)`` and what F federations answered: ``logs`` ``(F, K, m, C)``.

    Centred log-probabilities of K clients, each its own or those of its group, or of one for all. NaN where
    a client was in no sum that was opened.
    """

    inputs: NDArray[np.float32] = field(repr=False)
    logs: Floats = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """``whole``: averaged over the rounds in which each input was asked. ``rounds``: each by itself, where
    there are several. ``by_client``: whether ``logs`` tell clients apart.
    """

    channel: Channel
    whole: Asked
    rounds: tuple[Asked, ...]

    @classmethod
    def of(cls, views: Sequence[View]) -> Self:
        """What is in the views' most telling channel. They are gone through once, and may be made as needed.

        Raises:
            AuditError: views that differ in kind, or hold what can't be answers.
        """
        first = views[0]
        channel = channel_of(first)
        if channel is None:
            raise AuditError("the view holds no answers to public queries")
        parts = [part for part in first.rounds if len(part.queries) and getattr(part, channel) is not None]
        asked = np.unique(np.concatenate([part.queries for part in parts]))
        if asked[0] < 0 or asked[-1] >= len(first.public):
            raise AuditError(
                f"queries must be indices below {len(first.public)}, got {asked[0]}..{asked[-1]}"
            )
        kept = asked[landmarks(len(asked))]
        spread = np.linspace(0, len(parts) - 1, min(len(parts), MOST_ROUNDS)).astype(np.int64)
        chosen = [parts[place].round for place in spread] if len(parts) > 1 else []
        singly = {
            part.round: np.unique(part.queries)[landmarks(len(np.unique(part.queries)))]
            for part in parts
            if part.round in chosen
        }
        whole, by_round = [], {number: [] for number in chosen}  # type: ignore[var-annotated]
        for view in views:
            _check_kind(view, first, channel)
            whole.append(_averaged(view.rounds, channel, kept))
            for part in view.rounds:
                if part.round in singly:
                    by_round[part.round].append(_averaged([part], channel, singly[part.round]))
        return cls(
            channel=channel,
            whole=Asked(inputs=first.public[kept], logs=np.stack(whole)),
            rounds=tuple(
                Asked(inputs=first.public[singly[number]], logs=np.stack(by_round[number]))
                for number in chosen
            ),
        )

    @property
    def by_client(self) -> bool:
        """Whether what clients, or their groups, answered can be told apart."""
        return self.channel in ("answers", "sums")

    def column(self, client: int) -> int:
        """The place of what is a client's own, or its group's. AuditError for one that is in no sum."""
        if not self.by_client:
            return 0
        n_clients = self.whole.logs.shape[1]
        if not 0 <= client < n_clients:
            raise AuditError(f"client must be 0..{n_clients - 1} for a candidate, got {client}")
        if np.isnan(self.whole.logs[:, client]).any():
            raise AuditError(f"a view lacks {self.channel} of client {client}, which owns a candidate")
        return client

    def others(self, client: int) -> tuple[int, ...]:
        """The places of clients that answered by themselves and hold other records."""
        if self.channel != "answers":
            return ()
        return tuple(place for place in range(self.whole.logs.shape[1]) if place != client)


def channel_of(view: View) -> Channel | None:
    """The most telling channel that answered anything."""
    asked = [seen for seen in view.rounds if len(seen.queries)]
    for channel in CHANNELS:
        if any(getattr(seen, channel) is not None for seen in asked):
            return channel
    return None


def _check_kind(view: View, first: View, channel: Channel) -> None:
    queries = [(seen.round, seen.queries.tolist()) for seen in view.rounds]
    same = (
        (view.observer, view.client, channel_of(view)) == (first.observer, first.client, channel)
        and queries == [(seen.round, seen.queries.tolist()) for seen in first.rounds]
        and (view.public is first.public or np.array_equal(view.public, first.public))
    )
    if not same:
        raise AuditError("views must be one observer's, of federations that were asked the same queries")


def _averaged(rounds: Sequence[RoundView], channel: Channel, kept: Ints) -> Floats:
    """Log-answers ``(K, len(kept), C)``, averaged over the rounds in which each query was asked."""
    total: Floats | None = None
    count = np.zeros((1, len(kept)))
    for part in rounds:
        answers = _answers(part, channel)
        if answers is None or not len(part.queries):
            continue
        if answers.ndim != 3 or answers.shape[1] != len(part.queries):
            raise AuditError(
                f"{channel} of round {part.round} must be ({len(part.queries)}, C) a client, "
                f"got shape {answers.shape[1:]}"
            )
        if total is None:
            total = np.zeros((len(answers), len(kept), answers.shape[2]))
            count = np.zeros((len(answers), len(kept)))
        elif (len(answers), answers.shape[2]) != (len(total), total.shape[2]):
            raise AuditError(f"{channel} of round {part.round} are of other clients or classes than before")
        wanted = np.isin(part.queries, kept)
        rows = np.searchsorted(kept, part.queries[wanted])
        present = np.ones(len(answers), dtype=np.bool_)
        if channel == "sums" and part.groups is not None:
            present = part.groups >= 0
        for client in np.flatnonzero(present):
            # Rows repeat where a query was asked twice in a round.
            np.add.at(total[client], rows, log_answers(answers[client, wanted]))
            np.add.at(count[client], rows, 1)
    if total is None or (len(total) == 1 and not count.all()):
        raise AuditError(f"a view lacks {channel} that others of the same observer hold")
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count[..., None], dtype=np.float64)


def _answers(part: RoundView, channel: Channel) -> Floats | None:
    """``(K, m, C)``: of each client, for sums those of its group; or of one for all."""
    seen = getattr(part, channel)
    if seen is None:
        return None
    values = np.asarray(seen, dtype=np.float64)
    if channel == "sums":
        return None if part.groups is None else values[np.maximum(part.groups, 0)]
    return values if channel == "answers" else values[None]
