"""What noise on answers leaves of a consensus, computed before anyone trains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import roots_hermitenorm
from scipy.stats import norm

from securefd.defenses.claims import Observer, Relation, Unit
from securefd.defenses.confident import Confident
from securefd.releases import ReleasePlan

AGREEMENTS = (1.0, 0.9, 0.6)
"""Shares of the clients that answer a query with its top class; the others are spread evenly."""
HOPELESS = 0.25
"""Of `NoisedAnswers.class_deviation`, where even a consensus of everyone is a quarter noise."""
WORKABLE = 0.1
"""The same, where students learnt well (MNIST, 250 clients, 9,000 queries: 0.07 at epsilon = 1, and those
that train themselves at 0.13 too, epsilon = 0.5)."""


@dataclass(frozen=True, kw_only=True)
class NoisedAnswers:
    """The noise on one round's consensus, if all clients attend.

    ``deviation``: standard deviation on the mean answer to one query, by class. ``class_deviation``: on the
    mean over all queries of a class, all rounds, if the classes are equally frequent: what a student can
    average out at best. ``label_errors``: by `AGREEMENTS`, the probability that the top class of one query's
    consensus is another one. ``epsilons``: by observer, all rounds. ``share``: standard deviation of one
    client's share, in grid steps, or None for randomised response.
    """

    route: str
    share: float | None
    bits: int
    deviation: float
    class_deviation: float
    label_errors: tuple[float, ...]
    unit: Unit
    relation: Relation
    delta: float
    epsilons: dict[Observer, float]

    def lines(self) -> list[str]:
        """In plain words, but for epsilons."""
        errors = ", ".join(
            f"{error:.1%} where {share:.0%} of the clients agree"
            for share, error in zip(AGREEMENTS, self.label_errors, strict=True)
        )
        share = (
            "randomised response"
            if self.share is None
            else f"noise of standard deviation {self.share:.3g} grid steps from each"
        )
        return [
            f"{self.route}: {share}; on the mean answer to one query it is {self.deviation:.2g}, on the mean "
            f"over all queries of a class {self.class_deviation:.2g}",
            f"the top class of one query's consensus is wrong in {errors}",
        ]

    def caution(self, n_clients: int) -> str | None:
        """A sentence where the plan is hopeless."""
        if self.class_deviation <= HOPELESS:
            return None
        enough = math.ceil(n_clients * self.class_deviation / WORKABLE)
        return (
            f"hopeless: noise for whole clients over {n_clients} of them has a standard deviation of "
            f"{self.deviation:.2g} on each mean answer, and {self.class_deviation:.2g} even on the mean over "
            "all queries of a class, where a certain answer is 1: protect records instead (route 'head' or "
            f"'dpsgd'), or have {enough:,} clients or more"
        )


@dataclass(frozen=True, kw_only=True)
class ReleasedClasses:
    """What a trusted server releases of votes: top classes of those queries on which enough clients agree.

    ``threshold``: how many. ``check``, ``answer``: standard deviations of the noise on the largest count, and
    on each count of an answer, in votes. By `AGREEMENTS`: ``answered``, the probability of an answer, and
    ``label_errors``, that it is another class than the top one.
    """

    route: str
    threshold: int
    check: float
    answer: float
    answered: tuple[float, ...]
    label_errors: tuple[float, ...]
    unit: Unit
    relation: Relation
    delta: float
    epsilons: dict[Observer, float]

    def lines(self) -> list[str]:
        """In plain words, but for epsilons."""
        found = zip(AGREEMENTS, self.answered, self.label_errors, strict=True)
        cases = ", ".join(
            f"{answered:.1%}, wrongly in {error:.1%}, where {share:.0%} of the clients agree"
            for share, answered, error in found
        )
        return [
            f"{self.route}: the server adds noise of standard deviation {self.check:.3g} votes to the "
            f"largest count of each query and, where {self.threshold} are reached, {self.answer:.3g} to each "
            "count",
            f"a query is answered in {cases}",
        ]

    def caution(self, n_clients: int) -> str | None:
        """A sentence where the plan is hopeless."""
        if self.label_errors[0] <= HOPELESS and self.answered[0] >= 1 - HOPELESS:
            return None
        # where noise on a count is a third of the clients, all of whom agree, one answer in twenty is wrong
        enough = math.ceil(3 * self.answer)
        return (
            f"hopeless: of queries on which all {n_clients} clients agree, {self.answered[0]:.0%} are "
            f"answered under noise of {self.answer:.3g} votes, {self.label_errors[0]:.0%} of these wrongly: "
            "ask fewer queries, protect records instead (route 'head' or 'dpsgd'), or have "
            f"{max(enough, n_clients + 1):,} clients or more"
        )


Outlook = NoisedAnswers | ReleasedClasses


def outlook(plan: ReleasePlan, bits: int) -> Outlook:
    """What ``plan`` leaves of the consensus."""
    if plan.confident is not None:
        return _released_classes(plan, plan.confident)
    levels = (1 << bits) - 1
    if plan.share is None:
        assert plan.noise is not None
        deviation = _response_deviation(plan.noise, plan.n_classes, plan.n_clients)
        share = None
    else:
        deviation = plan.deviation / levels / plan.n_clients
        share = math.sqrt(plan.share.variance)
    queries = sum(each.queries for each in plan.rounds)
    return NoisedAnswers(
        route=plan.route.name,
        share=share,
        bits=bits,
        deviation=deviation,
        class_deviation=deviation / math.sqrt(max(1.0, queries / plan.n_classes)),
        label_errors=tuple(label_error(deviation, top, plan.n_classes) for top in AGREEMENTS),
        unit=plan.guarantee.unit,
        relation=plan.guarantee.relation,
        delta=plan.guarantee.delta,
        epsilons={observer: each.epsilon for observer, each in plan.guarantees().items()},
    )


def _released_classes(plan: ReleasePlan, confident: Confident) -> ReleasedClasses:
    check, answer = confident.deviations
    counts = [share * plan.n_clients for share in AGREEMENTS]
    return ReleasedClasses(
        route=plan.route.name,
        threshold=confident.threshold,
        check=check,
        answer=answer,
        # noise is of whole votes, and reaches the threshold from half a vote below on
        answered=tuple(float(norm.sf((confident.threshold - 0.5 - top) / check)) for top in counts),
        label_errors=tuple(label_error(answer / plan.n_clients, top, plan.n_classes) for top in AGREEMENTS),
        unit=plan.guarantee.unit,
        relation=plan.guarantee.relation,
        delta=plan.guarantee.delta,
        epsilons={observer: each.epsilon for observer, each in plan.guarantees().items()},
    )


def label_error(deviation: float, top: float, n_classes: int) -> float:
    """Probability that normal noise of ``deviation`` on each class puts another one on top.

    The top class has a share of ``top``, the others the rest of it in equal parts: 1 - E[Phi((x - rest) /
    deviation)^(C - 1)] for x ~ N(top, deviation^2), by Gauss-Hermite quadrature.
    """
    if deviation == 0:
        return 0.0
    rest = (1 - top) / (n_classes - 1)
    nodes, weights = roots_hermitenorm(201)
    right = norm.cdf(nodes + (top - rest) / deviation) ** (n_classes - 1)
    return float(1 - np.sum(weights * right) / np.sum(weights))


def _response_deviation(noise: float, n_classes: int, n_clients: int) -> float:
    """Of the debiased mean of randomised votes, of any class, whoever answers with it, at most."""
    kept, other = 1 - noise + noise / n_classes, noise / n_classes
    variance = max(kept * (1 - kept), other * (1 - other))
    return math.sqrt(variance / n_clients) / (1 - noise) if noise < 1 else math.inf
