"""From what an observer saw to its best guess at how the private models treat given records.

What a view holds decides what can be done with it; the observer's name doesn't. Of the channels
that answer public queries the most telling one is used: single clients' answers, else the means of
their groups, else the one mean that was opened, else the consensus. Whoever has the student queries it
as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.surrogate import Surrogate, landmarks, log_answers
from securefd.errors import AuditError
from securefd.views import RoundView, View

Channel = Literal["answers", "sums", "total", "consensus"]
CHANNELS: tuple[Channel, ...] = ("answers", "sums", "total", "consensus")
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Signal:
    """What one observer makes of the candidates, in every federation that it saw.

    ``name``: ``answers``, ``sums``, ``total``, ``consensus`` or ``student``. ``candidates``: ``(k,)`` which
    of the records asked about it concerns. ``probabilities``: ``(F, k, C)``.
    """

    name: str
    candidates: NDArray[np.int64] = field(repr=False)
    probabilities: Floats = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class NoSignal:
    """The observer saw nothing that it could hold against a record, and why."""

    reason: str


def observe(
    views: Sequence[View], x: NDArray[np.float32], client: NDArray[np.int64]
) -> tuple[Signal, ...] | NoSignal:
    """All signals that one observer can form about records ``x`` ``(n, ...)`` of clients ``client`` ``(n,)``.

    ``views``: what the same observer saw in F federations that were asked the same queries (F = 1 for a
    single run). An observer that is itself a client isn't asked about its own records.

    Raises:
        AuditError: views that differ in kind, or candidates that don't fit them.
    """
    first = _same_kind(views)
    if client.shape != (len(x),):
        raise AuditError(f"client must be ({len(x)},), the owner of each candidate, got shape {client.shape}")
    candidates = np.flatnonzero(client != first.client) if first.client is not None else np.arange(len(x))
    if not len(candidates):
        return NoSignal(reason="every candidate belongs to the observer itself")
    x, client = x[candidates], client[candidates]
    signals = []
    channel = _channel(first)
    if channel is not None:
        probabilities = _distil(views, channel, x, client)
        signals.append(Signal(name=channel, candidates=candidates, probabilities=probabilities))
    if first.student is not None:
        answers = np.stack([view.student(x) for view in views if view.student is not None])
        signals.append(Signal(name="student", candidates=candidates, probabilities=answers))
    if not signals:
        return NoSignal(reason="the view holds neither answers to public queries nor a student to ask")
    return tuple(signals)


def _channel(view: View) -> Channel | None:
    asked = [seen for seen in view.rounds if len(seen.queries)]
    for channel in CHANNELS:
        if any(getattr(seen, channel) is not None for seen in asked):
            return channel
    return None


def _same_kind(views: Sequence[View]) -> View:
    """The first view, after checking that the others can share its surrogate."""
    if not views:
        raise AuditError("an observer needs at least one view, got none")
    first = views[0]
    for view in views[1:]:
        queries = [(seen.round, seen.queries.tolist()) for seen in view.rounds]
        same = (
            (view.observer, view.client, _channel(view)) == (first.observer, first.client, _channel(first))
            and (view.student is None) == (first.student is None)
            and queries == [(seen.round, seen.queries.tolist()) for seen in first.rounds]
            and (view.public is first.public or np.array_equal(view.public, first.public))
        )
        if not same:
            raise AuditError("views must be one observer's, of federations that were asked the same queries")
    return first


def _distil(
    views: Sequence[View], channel: Channel, x: NDArray[np.float32], client: NDArray[np.int64]
) -> Floats:
    """Surrogates' class probabilities ``(F, n, C)``; of a client's own answers or its group's where seen."""
    first = views[0]
    seen = [part for part in first.rounds if len(part.queries) and getattr(part, channel) is not None]
    asked = np.unique(np.concatenate([part.queries for part in seen]))
    if asked[0] < 0 or asked[-1] >= len(first.public):
        raise AuditError(f"queries must be indices below {len(first.public)}, got {asked[0]}..{asked[-1]}")
    kept = asked[landmarks(len(asked))]
    surrogate = Surrogate.fit(first.public[kept])
    if channel in ("total", "consensus"):
        targets = np.stack([_average(view, channel, kept, None) for view in views])
        return surrogate.predict(targets, x)
    groups = []
    for owner in np.unique(client):
        # One client at a time: the answers of all clients of all federations needn't fit in memory twice.
        targets = np.stack([_average(view, channel, kept, int(owner)) for view in views])
        groups.append((client == owner, surrogate.predict(targets, x[client == owner])))
    result = np.empty((len(views), len(x), groups[0][1].shape[-1]))
    for mine, probabilities in groups:
        result[:, mine] = probabilities
    return result


def _average(view: View, channel: Channel, kept: NDArray[np.int64], owner: int | None) -> Floats:
    """Log-answers ``(len(kept), C)``, averaged over the rounds in which each query was asked."""
    total: Floats | None = None
    count = np.zeros(len(kept))
    for part in view.rounds:
        answers = _answers(part, channel, owner)
        if answers is None or not len(part.queries):
            continue
        if answers.ndim != 2 or len(answers) != len(part.queries):
            raise AuditError(
                f"{channel} of round {part.round} must be ({len(part.queries)}, C) a client, "
                f"got shape {answers.shape}"
            )
        wanted = np.isin(part.queries, kept)
        rows = np.searchsorted(kept, part.queries[wanted])
        total = np.zeros((len(kept), answers.shape[1])) if total is None else total
        np.add.at(total, rows, log_answers(answers[wanted]))
        np.add.at(count, rows, 1)
    if total is None or not count.all():
        raise AuditError(f"a view lacks {channel} that others of the same observer hold")
    return total / count[:, None]


def _answers(part: RoundView, channel: Channel, owner: int | None) -> Floats | None:
    if channel == "total":
        return part.total
    if channel == "consensus":
        return part.consensus
    if owner is None:
        return None
    if channel == "answers":
        return None if part.answers is None else _of(owner, part.answers)
    if part.sums is None or part.groups is None:
        return None
    group = int(_of(owner, part.groups))
    return None if group < 0 else np.asarray(part.sums[group], dtype=np.float64)


def _of(owner: int, values: NDArray[Any]) -> NDArray[Any]:
    """The row of a candidate's client."""
    if not 0 <= owner < len(values):
        raise AuditError(f"client must be 0..{len(values) - 1} for a candidate, got {owner}")
    return np.asarray(values[owner])
