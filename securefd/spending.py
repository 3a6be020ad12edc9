"""What private accesses cost each client, as a plan tells it: noise, and epsilon in either relation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from securefd.defenses import accounting, filters, rdp
from securefd.defenses.claims import RELATIONS, Relation, Unit
from securefd.outlook import AGREEMENTS, label_error
from securefd.pate import PatePlan
from securefd.private import DpSgdPlan, HeadPlan, PrivatePlan, charges_of
from securefd.releases import ReleasePlan


@dataclass(frozen=True, kw_only=True)
class NoisePlan:
    """The private accesses of one client.

    ``steps`` of DP-SGD with noise of ``noise_multiplier`` times the clipping norm. ``count_deviation``:
    standard deviation of the noise on its class counts, in records; None where the method uses none.
    """

    client: int
    sampling_rate: float
    steps: int
    noise_multiplier: float
    count_deviation: float | None

    def __str__(self) -> str:
        counts = (
            ""
            if self.count_deviation is None
            else f"; class counts get noise of standard deviation {self.count_deviation:.2g}"
        )
        return (
            f"client {self.client}: {self.steps} steps, sampling rate {self.sampling_rate:.3g}, "
            f"noise multiplier {self.noise_multiplier:.3g}{counts}"
        )


@dataclass(frozen=True, kw_only=True)
class HeadNoise:
    """The one private access of a client whose model is a head.

    The sum of ``dimensions`` features by class, with integer noise of standard deviation ``noise_multiplier``
    times the length of what one record contributes to it.
    """

    client: int
    dimensions: int
    noise_multiplier: float

    def __str__(self) -> str:
        return (
            f"client {self.client}: one sum of {self.dimensions} features by class, noise multiplier "
            f"{self.noise_multiplier:.3g}"
        )


@dataclass(frozen=True, kw_only=True)
class VoteNoise:
    """The one private access of a client whose teachers vote.

    ``deviation``: of the noise on each count, in votes. ``label_errors``: by `AGREEMENTS`, the probability
    that the top class of one input's counts is another one.
    """

    client: int
    teachers: int
    labels: int
    deviation: float
    label_errors: tuple[float, ...]

    def __str__(self) -> str:
        errors = ", ".join(
            f"{error:.1%} where {share:.0%} agree"
            for share, error in zip(AGREEMENTS, self.label_errors, strict=True)
        )
        return (
            f"client {self.client}: {self.teachers} teachers vote on {self.labels} public inputs, with noise "
            f"of standard deviation {self.deviation:.3g} votes on each count; the top class of one input is "
            f"wrong in {errors}"
        )


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What all private accesses cost under one relation: figures of two are never mixed.

    ``epsilons``: of each of the ``rows``, infinite beyond reckoning: clients, where a record costs the same
    towards all observers; ``observers``, where a client costs the same whichever it is. ``rhos``: the same in
    zero-concentrated differential privacy, None where that isn't proven. ``promised``: whether
    this is the relation of the promise, or the other one, told beside it because figures elsewhere may be
    stated in it.
    """

    relation: Relation
    unit: Unit
    delta: float
    observers: tuple[str, ...]
    promised: bool
    rows: tuple[str, ...]
    epsilons: tuple[float, ...]
    rhos: tuple[float | None, ...]

    @property
    def title(self) -> str:
        """Everything without which the figures would say nothing."""
        kind = "what it costs" if self.promised else "the same noise in the other relation, never to be mixed"
        whom = "each observer" if self.rows == self.observers else ", ".join(self.observers)
        return (
            f"{kind}: epsilon at delta = {self.delta:g} for one {self.unit}, {self.relation}, towards {whom}"
        )

    def lines(self) -> list[str]:
        """A line a row, rounded up, so that a bound stays one."""
        return [
            f"{row}: {math.ceil(e * 1000) / 1000:g}{_zcdp_words(rho)}"
            if math.isfinite(e)
            else f"{row}: beyond 10,000"
            for row, e, rho in zip(self.rows, self.epsilons, self.rhos, strict=True)
        ]


def noise_of(client: int, plan: PrivatePlan) -> NoisePlan | HeadNoise | VoteNoise:
    """What one client's plan noises, in words and figures."""
    if isinstance(plan, PatePlan):
        votes = plan.mechanism
        share = votes.deviation / votes.teachers
        return VoteNoise(
            client=client,
            teachers=votes.teachers,
            labels=votes.labels,
            deviation=votes.deviation,
            label_errors=tuple(label_error(share, top, votes.n_classes) for top in AGREEMENTS),
        )
    if isinstance(plan, HeadPlan):
        mechanism = plan.mechanism
        return HeadNoise(
            client=client, dimensions=mechanism.dimensions, noise_multiplier=mechanism.noise_multiplier
        )
    assert isinstance(plan, DpSgdPlan)
    deviation = None
    if plan.counts is not None:
        # of P(x) proportional to exp(-a |x|) on the integers
        deviation = 1 / (math.sqrt(2) * math.sinh(plan.counts.parameter / 2))
    return NoisePlan(
        client=client,
        sampling_rate=plan.mechanism.sampling_rate,
        steps=plan.mechanism.steps,
        noise_multiplier=plan.mechanism.noise_multiplier,
        count_deviation=deviation,
    )


def of_training(
    private: Sequence[PrivatePlan], observers: tuple[str, ...], *, shared: bool
) -> tuple[Spending, ...]:
    """The relation of the promise first, then the other one. ``shared``: whether a filter counts."""
    if not private:
        return ()
    promised, counting = private[0].guarantee, filters if shared else accounting

    def spent(plan: PrivatePlan, relation: Relation) -> float:
        epsilon: float = counting.spent(charges_of(plan), promised.delta, relation)
        return epsilon

    return tuple(
        Spending(
            relation=relation,
            unit=promised.unit,
            delta=promised.delta,
            observers=observers,
            promised=relation == promised.relation,
            rows=tuple(f"client {k}" for k in range(len(private))),
            epsilons=tuple(spent(each, relation) for each in private),
            rhos=tuple(rdp.zcdp(charges_of(each), relation) for each in private),
        )
        for relation in _promised_first(RELATIONS, promised.relation)
    )


def of_answers(releases: ReleasePlan | None) -> Iterator[Spending]:
    """The same of noise on answers, in the relations that its mechanism is defined for."""
    if releases is None:
        return
    promised = releases.guarantee
    for relation in _promised_first(releases.route.relations, promised.relation):
        epsilons = releases.epsilons(relation)
        yield Spending(
            relation=relation,
            unit=promised.unit,
            delta=promised.delta,
            observers=tuple(epsilons),
            promised=relation == promised.relation,
            rows=tuple(epsilons),
            epsilons=tuple(epsilons.values()),
            rhos=tuple(rdp.zcdp(releases.charges(shares), relation) for shares in releases.unknown.values()),
        )


def _zcdp_words(rho: float | None) -> str:
    """With three digits, rounded up."""
    if not rho:
        return ""
    unit = 10.0 ** (math.floor(math.log10(rho)) - 2)
    return f", or rho = {math.ceil(rho / unit) * unit:.3g} in zero-concentrated differential privacy"


def _promised_first(relations: Sequence[Relation], promised: Relation) -> list[Relation]:
    return sorted(relations, key=lambda relation: relation != promised)
