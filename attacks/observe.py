"""From what an observer saw to what it can hold against given records.

What a view holds decides what can be done with it; the observer's name doesn't. Of the channels that
answer public queries the most telling one is used: single clients' answers, else the means of their
groups, else the one mean that was opened, else the consensus. Whoever has the student queries it as well,
and whoever sees its decisions only has it decide on noisy copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.answers import Answers
from securefd.attacks.candidates import Candidates, Evidence, Floats, NoEvidence, Part
from securefd.attacks.distilled import NEARBY, at_places, distilled
from securefd.attacks.seen import Seen, channel_of
from securefd.attacks.surrogate import Surrogate, landmarks
from securefd.errors import AuditError
from securefd.views import Decide, View

NOISY_COPIES = 24
"""A record itself, and noisy copies of it, of which decisions are asked."""

_MOST_AT_ONCE = 8192

NOISE = 0.3
"""Of a noisy copy, in standard deviations of the values of public inputs."""


def observe(views: Sequence[View], about: Candidates) -> tuple[Evidence, ...] | NoEvidence:
    """All evidence that one observer can form about candidates.

    ``views``: what the same observer saw in F federations that were asked the same queries (F = 1 for a
    single run). An observer that is itself a client isn't asked about its own records.

    Raises:
        AuditError: views that differ in kind, or candidates that don't fit them.
    """
    if not len(views):
        raise AuditError("an observer needs at least one view, got none")
    first = views[0]
    places = np.arange(len(about.labels))
    if first.client is not None:
        places = np.flatnonzero(about.client != first.client)
    if not len(places):
        return NoEvidence(reason="every candidate belongs to the observer itself")
    about = about.take(places)
    found = []
    if channel_of(first) is not None:
        seen = Seen.of(views)
        parts = tuple(distilled(seen, about, places))
        found.append(Evidence(observer=first.observer, signal=seen.channel, parts=parts))
    for signal, answers in _asked(views, about):
        part = Part(candidates=places, answers=answers, records=about.records)
        found.append(Evidence(observer=first.observer, signal=signal, parts=(part,)))
    if not found:
        return NoEvidence(reason="the view holds neither answers to public queries nor a student to ask")
    return tuple(found)


def _asked(views: Sequence[View], about: Candidates) -> Iterator[tuple[str, Answers]]:
    """What the student answers to whoever has it, or may ask for its decisions."""
    for view in views:
        if ((view.student is None), (view.decide is None)) != (
            (views[0].student is None),
            (views[0].decide is None),
        ):
            raise AuditError("views must be one observer's: some hold a student, and others don't")
    if views[0].student is not None:
        yield "student", _student(views, about)
    if views[0].decide is not None:
        yield "labels", _decisions(views, about)


def _student(views: Sequence[View], about: Candidates) -> Answers:
    public = views[0].public[landmarks(len(views[0].public))]
    nearest = Surrogate.fit(public).nearest(about.x, NEARBY)
    sizes = np.cumsum([len(about.x), len(about.population_x)])
    x = np.concatenate([about.x, about.population_x.reshape(-1, *about.x.shape[1:]), public])
    answered = np.stack([view.student(x) for view in views if view.student is not None])
    at_records, at_population, at_public = np.split(answered, sizes, axis=1)
    some = len(about.population_labels) > 0
    return Answers(
        probabilities=at_records,
        labels=about.labels,
        population=at_population if some else None,
        population_labels=about.population_labels if some else None,
        nearby=at_places(at_public, nearest, about.labels),
    )


def _decisions(views: Sequence[View], about: Candidates) -> Answers:
    """How often each class is decided on noisy copies of a record: what decisions tell of confidence.

    Source: Choquette-Choo et al. 2021, "Label-Only Membership Inference Attacks", section 4: robustness to
    noise in place of the distance to the decision boundary.
    """
    spread = NOISE * float(np.std(views[0].public))
    decide = [view.decide for view in views if view.decide is not None]
    some = len(about.population_labels) > 0

    def often(x: NDArray[np.float32]) -> Floats:
        return np.stack([_frequencies(each, x, about.n_classes, spread) for each in decide])

    return Answers(
        probabilities=often(about.x),
        labels=about.labels,
        population=often(about.population_x) if some else None,
        population_labels=about.population_labels if some else None,
    )


def _frequencies(decide: Decide, x: NDArray[np.float32], n_classes: int, spread: float) -> Floats:
    """``(n, C)``, smoothed by one decision shared by all classes; half of all votes are the record's own."""
    rng = np.random.default_rng(0)  # the same noise everywhere, so that copies differ by the model alone
    counts = np.full((len(x), n_classes), 1 / n_classes)
    rows = np.arange(len(x))
    counts[rows, decide(x)] += NOISY_COPIES
    left = NOISY_COPIES
    while left and len(x):
        copies = min(left, max(1, _MOST_AT_ONCE // len(x)))
        noise = spread * rng.standard_normal((copies, *x.shape), dtype=np.float32)
        decided = decide((x + noise).reshape(-1, *x.shape[1:])).reshape(copies, len(x))
        for each in decided:
            counts[rows, each] += 1
        left -= copies
    return np.asarray(counts / counts.sum(axis=1, keepdims=True), dtype=np.float64)
