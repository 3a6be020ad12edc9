"""The records that an observer wonders about, and what it can hold against them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.answers import Answers, Records
from securefd.errors import AuditError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """``x`` ``(n, ...)``, ``labels`` ``(n,)``, ``client`` ``(n,)``: whose record each is, or would be.

    ``population_x`` ``(z, ...)`` and ``population_labels`` ``(z,)``: reserved records like them that nobody
    trains on, for attacks that compare with such; z may be 0.
    """

    x: NDArray[np.float32] = field(repr=False)
    labels: Ints = field(repr=False)
    client: Ints = field(repr=False)
    population_x: NDArray[np.float32] = field(repr=False)
    population_labels: Ints = field(repr=False)
    n_classes: int

    def __post_init__(self) -> None:
        """Raise AuditError for arrays of different lengths, or labels that aren't classes."""
        lengths = (len(self.x), len(self.labels), len(self.client))
        if len(set(lengths)) > 1:
            raise AuditError("x, labels and client must be equally long, got {}, {} and {}".format(*lengths))
        if len(self.population_x) != len(self.population_labels):
            raise AuditError(
                f"the population must have a label a record, got {len(self.population_x)} records and "
                f"{len(self.population_labels)} labels"
            )
        for labels in (self.labels, self.population_labels):
            if len(labels) and not (labels.min() >= 0 and labels.max() < self.n_classes):
                raise AuditError(
                    f"labels must lie in 0..{self.n_classes - 1}, got {labels.min()}..{labels.max()}"
                )

    def take(self, rows: Ints) -> Candidates:
        """Some of them, with the same population."""
        return Candidates(
            x=self.x[rows],
            labels=self.labels[rows],
            client=self.client[rows],
            population_x=self.population_x,
            population_labels=self.population_labels,
            n_classes=self.n_classes,
        )

    def population(self, ask: Callable[[NDArray[np.float32]], Floats]) -> Floats | None:
        """What ``ask`` answers about the population, or None without one."""
        return ask(self.population_x) if len(self.population_x) else None

    @property
    def records(self) -> Records:
        """As attacks take them."""
        some = len(self.population_labels) > 0
        return Records(
            labels=self.labels,
            features=self.x.reshape(len(self.x), -1),
            population_labels=self.population_labels if some else None,
            population_features=self.population_x.reshape(len(self.population_x), -1) if some else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Candidates that are held against the same model: their client's own, or one for all.

    ``candidates``: ``(k,)`` which of those asked about. ``answers``: of F federations.
    """

    candidates: Ints = field(repr=False)
    answers: Answers = field(repr=False)
    records: Records = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What one observer can hold against the candidates, in each of F federations.

    ``signal``: ``answers``, ``sums``, ``total``, ``consensus``, ``student`` or ``labels``.
    """

    observer: str
    signal: str
    parts: tuple[Part, ...] = field(repr=False)

    @property
    def candidates(self) -> Ints:
        """``(k,)`` which of the records asked about it concerns, part after part."""
        return np.concatenate([part.candidates for part in self.parts])

    @property
    def confidence(self) -> Floats:
        """``(F, k)`` logit-scaled confidences in the candidates' labels, part after part."""
        return np.concatenate([part.answers.confidence for part in self.parts], axis=1)


@dataclass(frozen=True, kw_only=True)
class NoEvidence:
    """The observer saw nothing that it could hold against a record, and why."""

    reason: str
