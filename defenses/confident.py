"""Votes that a trusted aggregator counts, and of which it releases a top class where enough agree.

Confident-GNMax (Papernot, Song, Mironov, Raghunathan, Talwar, Erlingsson 2018, arXiv 1802.08908, Algorithm 1)
with integer noise. The aggregator sees every histogram, so that nothing is promised to it; where nobody may
see one, each has to be noised before it is opened, and is charged whole (route ``distributed``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.charges import ConfidentVotes
from securefd.defenses.samplers import LARGEST_DEVIATION, discrete_gaussian
from securefd.errors import PrivacyError

Vector = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """``rows``: ``(a,)`` those of the queries that are answered, in their order; ``classes``: ``(a,)``."""

    rows: Vector
    classes: Vector


@dataclass(frozen=True, kw_only=True)
class Confident:
    """The top class of a query whose largest count, with noise, reaches ``threshold``.

    ``check_variance``: of the discrete Gaussian noise on the largest count, in votes, squared.
    ``answer_variance``: of that on every count of a query that is answered, drawn independently.

    Unit of privacy: one client, which has one vote on each query, and may change all of them. If it is
    replaced, one count of a query may fall by one and another one rise by one: a squared L2 distance of 2. If
    it is added or removed, one count moves by one. Either way the largest count moves by at most one, since
    each count does.
    """

    classes: int
    threshold: int
    check_variance: float
    answer_variance: float

    def __post_init__(self) -> None:
        if not self.classes >= 2:
            raise PrivacyError(f"classes must be at least 2, got {self.classes}")
        if not self.threshold >= 1:
            raise PrivacyError(f"threshold must be at least 1 vote, got {self.threshold}")
        for name in ("check_variance", "answer_variance"):
            if not 0 < getattr(self, name) <= LARGEST_DEVIATION**2:
                raise PrivacyError(
                    f"{name} must be > 0 and at most 2^62 votes, squared, got {getattr(self, name):g}; ask "
                    "for a larger epsilon"
                )

    def charge(self, queries: int, figure_variance: float | None = None) -> ConfidentVotes:
        """What ``queries`` cost, whatever their histograms are.

        Before the release nobody knows how many are answered, and what is paid isn't given back, so every
        query is charged as if it were. It is what releasing all the noisy counts would cost: which queries
        are answered, and with which classes, is computed from them. ``figure_variance``: of the noise on the
        figure that `data_dependent` releases, if it is released with them.
        """
        return ConfidentVotes(
            check_variance=self.check_variance,
            answer_variance=self.answer_variance,
            queries=queries,
            classes=self.classes,
            figure_variance=figure_variance,
        )

    def __call__(self, counts: Vector) -> Answered:
        """Run by the aggregator, once everybody has paid: fresh noise from the operating system's keys.

        ``counts``: ``(m, classes)`` votes. Equal noisy counts are decided by turns: query i prefers class
        -1 - i, then the one before it and so on (modulo the number of classes).
        """
        _check_counts(counts, self.classes)
        m = len(counts)
        largest = counts.max(axis=1) + discrete_gaussian(self.check_variance, m)
        noise = discrete_gaussian(self.answer_variance, counts.size)
        rows = np.flatnonzero(largest >= self.threshold)
        turns = (np.arange(m)[:, None] + np.arange(self.classes)) % self.classes
        noisy = (counts + noise.reshape(counts.shape)) * self.classes + turns
        return Answered(rows=rows.astype(np.int64), classes=noisy.argmax(axis=1)[rows].astype(np.int64))

    @property
    def deviations(self) -> tuple[float, float]:
        """Standard deviations, in votes: of the noise of a check, and of an answer."""
        return math.sqrt(self.check_variance), math.sqrt(self.answer_variance)


def one_hot(answered: Answered, queries: int, classes: int, value: int = 1) -> Vector:
    """``(queries, classes)``: ``value`` at the class of each answered query, and rows of zeros elsewhere."""
    rows = np.zeros((queries, classes), dtype=np.int64)
    rows[answered.rows, answered.classes] = value
    return rows


def _check_counts(counts: Vector, classes: int) -> None:
    if counts.dtype != np.int64 or counts.ndim != 2 or counts.shape[1] != classes:
        raise PrivacyError(
            f"counts must be int64 of shape (m, {classes}), got {counts.dtype} of {counts.shape}; give one "
            "histogram of votes for each query"
        )
    if counts.size and counts.min() < 0:
        raise PrivacyError(f"counts must be at least 0, got {counts.min()}; noise is added here, once")
