"""Whoever saw answers, but has no model to ask, distils them into surrogates and asks these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from securefd.attacks.answers import Answers
from securefd.attacks.candidates import Candidates, Floats, Ints, Part
from securefd.attacks.seen import Asked, Seen
from securefd.attacks.signals import logit_confidence
from securefd.attacks.surrogate import Surrogate, probabilities_of

NEARBY = 4
"""Public inputs most like a record, at which its influence is looked for."""

RESAMPLED = 4
"""Surrogates of half of the answers each."""


def distilled(seen: Seen, about: Candidates, places: Ints) -> Iterator[Part]:
    """A part for each client whose own answers, or whose group's, were seen; else one for all.

    ``places``: ``(n,)`` what the candidates ``about`` are called outside.
    """
    whole = Surrogate.fit(seen.whole.inputs)
    halves = list(_halves(seen.whole))
    by_round = [(Surrogate.fit(asked.inputs), asked.logs) for asked in seen.rounds]
    nearest = whole.nearest(about.x, NEARBY)
    owners = np.unique(about.client) if seen.by_client else [-1]
    for owner in owners:
        rows = np.flatnonzero(about.client == owner) if seen.by_client else np.arange(len(about.labels))
        own, column = about.take(rows), seen.column(int(owner))
        logs = seen.whole.logs[:, column]
        others = [seen.whole.logs[:, other] for other in seen.others(int(owner))]
        yield Part(
            candidates=places[rows],
            records=own.records,
            answers=Answers(
                probabilities=whole.predict(logs, own.x),
                labels=own.labels,
                population=own.population(partial(whole.predict, logs)),
                population_labels=own.population_labels if len(own.population_labels) else None,
                nearby=at_places(probabilities_of(logs), nearest[rows], own.labels),
                rounds=_confidences(
                    own,
                    [
                        (surrogate, part[:, column])
                        for surrogate, part in by_round
                        if np.isfinite(part[:, column]).all()
                    ],
                ),
                others=_confidences(own, [(whole, other) for other in others]),
                resampled=_confidences(own, [(half, logs[:, chosen]) for half, chosen in halves]),
            ),
        )


def at_places(probabilities: Floats, places: Ints, labels: Ints) -> Floats:
    """Confidences ``(F, n, q)`` in each label at ``places`` ``(n, q)`` of probabilities ``(F, m, C)``."""
    columns = [logit_confidence(probabilities[:, place], labels) for place in places.T]
    return np.stack(columns, axis=-1)


def _halves(asked: Asked) -> Iterator[tuple[Surrogate, Ints]]:
    """Surrogates of a random half of the inputs each: the same halves for everyone and in every audit."""
    rng = np.random.default_rng(len(asked.inputs))
    half = len(asked.inputs) // 2
    for _ in range(RESAMPLED if half >= 2 else 0):
        chosen = np.sort(rng.permutation(len(asked.inputs))[:half])
        yield Surrogate.fit(asked.inputs[chosen]), chosen


def _confidences(own: Candidates, asked: Iterable[tuple[Surrogate, Floats]]) -> Floats | None:
    """``(F, n, k)`` confidence of each surrogate with its log-answers ``(F, m, C)``; None without any."""
    columns = [logit_confidence(each.predict(logs, own.x), own.labels) for each, logs in asked]
    return np.stack(columns, axis=-1) if columns else None
