"""What noise on answers leaves of a consensus, computed before anyone trains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import roots_hermitenorm
from scipy.stats import norm

from securefd.defenses.claims import Observer, Relation, Unit
from securefd.releases import ReleasePlan

AGREEMENTS = (1.0, 0.9, 0.6)
"""Shares of the clients that answer a query with its top class; the others are spread evenly."""
HOPELESS = 0.25
"""Of `NoisedAnswers.class_deviation`, where even a consensus of everyone is a quarter noise."""
WORKABLE = 0.1
"""The same, where students were seen to learn (MNIST, 250 clients at epsilon = 1: 0.07)."""


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
        """In plain words; bounds are rounded up."""
        known = ", ".join(
            f"{observer} {math.ceil(epsilon * 1000) / 1000:g}" for observer, epsilon in self.epsilons.items()
        )
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
            f"epsilon at delta = {self.delta:g} for one {self.unit}, {self.relation}, towards each: {known}",
        ]

    def caution(self, n_clients: int) -> str | None:
        """A sentence where the plan is hopeless."""
        if self.class_deviation <= HOPELESS:
            return None
        enough = math.ceil(n_clients * self.class_deviation / WORKABLE)
        return (
            f"hopeless: noise for whole clients over {n_clients} of them has a standard deviation of "
            f"{self.deviation:.2g} on each mean answer, and {self.class_deviation:.2g} even on the mean over "
            "all queries of a class, where a certain answer is 1: protect records instead (route 'dpsgd'), "
            f"or have {enough:,} clients or more"
        )


def outlook(plan: ReleasePlan, bits: int) -> NoisedAnswers:
    """What ``plan`` leaves of the consensus."""
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
