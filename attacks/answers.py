"""What attacks work on: answers about records, and what an attacker knows besides.

Leading axes are models: one target, or many that are attacked alike. Everything an attack reads is in
here, so that what an observer didn't see can't be used against a record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.signals import logit_confidence
from securefd.errors import AuditError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """The records whose membership is asked, and others that nobody trained on.

    ``labels``: ``(n,)``. ``features``: ``(n, d)``, or None where an attack may not look at them.
    ``population_labels`` ``(z,)`` and ``population_features`` ``(z, d)``: of reserved non-members, or None.
    """

    labels: Ints = field(repr=False)
    features: NDArray[np.floating] | None = field(default=None, repr=False)
    population_labels: Ints | None = field(default=None, repr=False)
    population_features: NDArray[np.floating] | None = field(default=None, repr=False)

    def take(self, columns: Ints) -> Records:
        """Those of some records; the population stays."""
        return Records(
            labels=self.labels[columns],
            features=None if self.features is None else self.features[columns],
            population_labels=self.population_labels,
            population_features=self.population_features,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What models answered: class probabilities ``(..., n, C)`` about records, or what an observer made up.

    ``population``: ``(..., z, C)`` about reserved non-members. The others are logit-scaled confidences in
    each record's label, ``(..., n, k)``: ``rounds`` as it changed from round to round; ``nearby`` at public
    inputs that look like the record; ``others`` of other clients of the same federation, which hold other
    records; ``resampled`` of surrogates that learnt from part of the answers only. None: not there.
    """

    probabilities: NDArray[np.floating] = field(repr=False)
    labels: Ints = field(repr=False)
    population: NDArray[np.floating] | None = field(default=None, repr=False)
    population_labels: Ints | None = field(default=None, repr=False)
    rounds: Floats | None = field(default=None, repr=False)
    nearby: Floats | None = field(default=None, repr=False)
    others: Floats | None = field(default=None, repr=False)
    resampled: Floats | None = field(default=None, repr=False)

    @cached_property
    def confidence(self) -> Floats:
        """``(..., n)`` logit-scaled confidences in the true labels."""
        return logit_confidence(self.probabilities, self.labels)

    @cached_property
    def population_confidence(self) -> Floats:
        """``(..., z)`` of the population. AuditError where there is none."""
        if self.population is None or self.population_labels is None:
            raise AuditError("this attack needs answers about reserved non-members; give a population")
        return logit_confidence(self.population, self.population_labels)

    def take(self, models: Any) -> Answers:
        """Those of some models, by index, slice or mask of the first axis; what was computed is kept."""
        taken = Answers(
            labels=self.labels,
            population_labels=self.population_labels,
            **{name: _taken(getattr(self, name), models) for name in _BY_MODEL},
        )
        for name in ("confidence", "population_confidence"):
            if name in self.__dict__:
                taken.__dict__[name] = self.__dict__[name][models]
        return taken


_BY_MODEL = ("probabilities", "population", "rounds", "nearby", "others", "resampled")


def _taken(values: NDArray[Any] | None, models: Any) -> Any:
    return None if values is None else values[models]


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """Models like the attacked ones, of which an attacker knows who trained them: its shadows.

    ``answers``: of m models. ``membership``: ``(m, n)`` whether model m trained on record n.
    """

    answers: Answers = field(repr=False)
    membership: Bools = field(repr=False)
