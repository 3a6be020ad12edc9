"""A trusted server's votes on disk: what it released, and the figure about them that is printed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.claims import Guarantee, Observer
from securefd.defenses.confident import Confident
from securefd.defenses.data_dependent import WIDEST, Figure, best
from securefd.errors import RunError
from securefd.folder import read_arrays
from securefd.releases import ReleasePlan, Vector

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of the votes: public, all of it.

    ``found``: the figure about this run, towards ``observers``, in the terms of the promise; None under noise
    beyond which none is computed.
    """

    asked: int
    answered: int
    promised: Guarantee
    found: Guarantee | None
    observers: tuple[Observer, ...]

    def metrics(self) -> dict[str, Any]:
        """For ``result.json``."""
        votes: dict[str, Any] = {"asked": self.asked, "answered": self.answered}
        if self.found is not None:
            votes["data dependent"] = {
                "epsilon": self.found.epsilon,
                "delta": self.found.delta,
                "unit": self.found.unit,
                "relation": self.found.relation,
                "observers": list(self.observers),
            }
        return {"votes": votes}

    def note(self) -> str:
        """In plain words."""
        counted = f"{self.answered:,} of {self.asked:,} queries were answered"
        if self.found is None:
            return f"{counted}; no figure about these votes is given under so much noise"
        less = "" if self.found.epsilon < self.promised.epsilon else ", which is no better than the promise"
        return (
            f"{counted}. What these votes gave away, as far as it may be printed: {self.found} towards "
            f"{' and '.join(self.observers)}{less}. This figure depends on the data: it is about this run "
            "and about any one of its clients being another, noised, paid for, and an upper bound but for "
            "delta. It is no guarantee for other data, which would have another figure: what is promised, "
            "whatever the data are, stays as it is"
        )


@dataclass(frozen=True, kw_only=True)
class VoteServer:
    """Run by the trusted server: ``folder`` is the run's."""

    folder: Path
    plan: ReleasePlan
    confident: Confident

    @classmethod
    def of(cls, folder: Path, plan: ReleasePlan | None) -> VoteServer | None:
        """None where no server counts votes."""
        if plan is None or plan.confident is None:
            return None
        return cls(folder=folder, plan=plan, confident=plan.confident)

    def costs(self, number: int, total: Vector) -> Arrays:
        """What the counts ``(d,)`` of round ``number`` add to the figure: private, and kept by the server.

        With the last round comes the figure's ``level``, noised: drawn once, and kept in the one place with
        all else that was paid for with that round.
        """
        if self._figure is None:
            return {}
        counts = total.reshape(-1, self.plan.n_classes)
        arrays = {
            "cost": self._figure.costs.smooth(counts, self._figure.beta).sum(keepdims=True),
            "figure": self._made_for,
        }
        if number + 1 == len(self.plan.rounds):
            earlier = sum(float(self._stored(k)["cost"][0]) for k in range(number))
            arrays["level"] = np.array([self._figure.level(earlier + float(arrays["cost"][0]))])
        return arrays

    def outcome(self) -> Outcome:
        """What came of all rounds."""
        rounds = [self._stored(number) for number in range(len(self.plan.rounds))]
        rows = [stored["total"].reshape(-1, self.plan.n_classes) for stored in rounds]
        promised = self.plan.guarantee
        asked = sum(map(len, rows))
        found = None
        if self._figure is not None:
            epsilon = self._figure.epsilon(int(rounds[-1]["level"][0]), asked)
            found = Guarantee(
                epsilon=epsilon, delta=promised.delta, unit=promised.unit, relation=promised.relation
            )
        return Outcome(
            asked=asked,
            answered=int(sum(each.any(axis=-1).sum() for each in rows)),
            promised=promised,
            found=found,
            observers=tuple(self.plan.unknown),
        )

    def _stored(self, number: int) -> Arrays:
        """What was released in a round. Raises RunError for costs in the terms of another figure."""
        path = release_path(self.folder, number)
        stored = read_arrays(path)
        if self._figure is not None and not np.array_equal(stored["figure"], self._made_for):
            raise RunError(
                f"{path} must hold costs of order and beta {self._made_for.tolist()}, which follow from the "
                f"plan, got {stored['figure'].tolist()}; finish the run with the versions that began it"
            )
        return stored

    @property
    def _made_for(self) -> NDArray[np.float64]:
        """Order and beta of the figure."""
        assert self._figure is not None
        return np.array([self._figure.costs.order, self._figure.beta])

    @cached_property
    def _figure(self) -> Figure | None:
        """Public: it follows from the plan."""
        if not max(self.confident.deviations) <= WIDEST:
            return None
        assert self.plan.figure_variance is not None
        return best(
            self.confident,
            self.plan.guarantee.relation,
            clients=self.plan.n_clients,
            queries=sum(asked.queries for asked in self.plan.rounds),
            variance=self.plan.figure_variance,
            delta=self.plan.guarantee.delta,
        )


def release_path(folder: Path, number: int) -> Path:
    """Where a trusted server keeps what it releases in round ``number`` (from 0)."""
    return folder / "server" / f"release-{number + 1:04d}.safetensors"
