"""Client-level differential privacy: noise on each answer, as a plan and towards each observer.

A client's whole data set is the unit, so that all its answers may change with it: what one round's answers
can move is known from their layout alone (`sensitivity.of_client`). All rounds together are charged to every
client's ledger, at the cost towards the observer who knows most of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from securefd.config import Config, PrivacyConfig
from securefd.defenses import accounting, filters
from securefd.defenses.charges import Charge, RandomisedResponse
from securefd.defenses.claims import Guarantee, Observer, Relation, SealingKind
from securefd.defenses.confident import Confident, one_hot
from securefd.defenses.csprng import uniform
from securefd.defenses.ring import narrowest, tail
from securefd.defenses.sensitivity import Sensitivity, of_client
from securefd.defenses.shares import NoiseShare, debiased, respond, response_noise
from securefd.errors import PrivacyError
from securefd.exchange import asked_counts, neighbourhood_of
from securefd.recipe import Recipe
from securefd.routes import ROUTES, Route
from securefd.rules import n_clients

Vector = NDArray[np.int64]
Floats = NDArray[np.float64]

CHECK_NOISE = 1.5
"""Deviation of the noise on how many agree, by that of the noise on each count of an answer."""
FIGURE_SHARE = 0.02
"""Of what all rounds cost, as Renyi divergences: for the figure about a run's votes that is printed."""


@dataclass(frozen=True, kw_only=True)
class ReleasePlan:
    """What noises the answers of every client, and what all rounds cost towards whom.

    ``rounds``: what a client's answer holds, round by round. ``share``: one party's noise, or None where
    answers are randomised with probability ``noise`` instead, or where the server releases top classes only,
    by ``confident``, and with the last ones a figure, under noise of ``figure_variance``. ``unknown``: how
    many shares of the noise each observer doesn't know; observers that aren't named are promised nothing.
    ``guarantee``: what was asked for; it holds towards all that are named. ``shared``: whether a filter
    counts, across runs.
    """

    route: Route
    n_clients: int
    n_classes: int
    rounds: tuple[Asked, ...]
    share: NoiseShare | None
    noise: float | None
    unknown: Mapping[Observer, int]
    guarantee: Guarantee
    shared: bool
    confident: Confident | None = None
    figure_variance: float | None = None

    def charge(self, round: int, unknown: int | None = None) -> Charge | None:  # noqa: A002
        """What one round costs towards whoever doesn't know ``unknown`` shares; None if nothing is asked.

        By default towards the observer who knows most: that is what a ledger is charged with.
        """
        asked = self.rounds[round]
        if not asked.entries:
            return None
        if self.confident is not None:
            last = round + 1 == len(self.rounds)
            return self.confident.charge(asked.queries, self.figure_variance if last else None)
        if self.share is None:
            assert self.noise is not None
            return RandomisedResponse(classes=self.n_classes, noise=self.noise, answers=asked.queries)
        least = min(self.unknown.values()) if unknown is None else unknown
        votes = (asked.queries, self.n_classes) if asked.votes else None
        return self.share.charge(asked.sensitivity, entries=asked.entries, unknown=least, votes=votes)

    def charges(self, unknown: int | None = None) -> list[Charge]:
        """Those of all rounds."""
        made = (self.charge(number, unknown) for number in range(len(self.rounds)))
        return [charge for charge in made if charge is not None]

    def guarantees(self) -> dict[Observer, Guarantee]:
        """What all rounds come to towards each observer."""
        promised = self.guarantee
        return {
            observer: replace(promised, epsilon=epsilon)
            for observer, epsilon in self.epsilons(promised.relation).items()
        }

    def epsilons(self, relation: Relation) -> dict[Observer, float]:
        """The same in any relation that the mechanism is defined for; infinite beyond reckoning."""
        counting = filters if self.shared else accounting
        spent = {
            shares: counting.spent(self.charges(shares), self.guarantee.delta, relation)
            for shares in set(self.unknown.values())
        }
        return {observer: spent[shares] for observer, shares in self.unknown.items()}

    def release(self, vector: Vector, round: int) -> tuple[Vector, Vector | None]:  # noqa: A002
        """Run by one client, after it has paid: what it seals of ``vector``, and its noise.

        ``vector``: ``(d,)`` on the grid. Noise is drawn anew at each call, from the operating system's keys;
        what was drawn is stored, and never drawn again.
        """
        if vector.size != self.rounds[round].entries:
            raise PrivacyError(
                f"an answer of round {round + 1} must have {self.rounds[round].entries} entries, which are "
                f"paid for, got {vector.size}; plan anew"
            )
        charge = self.charge(round)
        if charge is None or self.route.trusted:
            return vector, None
        if isinstance(charge, RandomisedResponse):
            return respond(vector, charge, uniform), None
        assert self.share is not None
        return vector, self.share.draw(vector.size)

    def noised_sum(self, total: Vector, clients: int) -> Vector:
        """Run by a trusted server: what it releases of the sum over ``clients`` that it opened.

        The sum with all of the noise; or for each query all clients' votes for one class, or none at all.
        """
        if self.confident is not None:
            counts = total.reshape(-1, self.n_classes)
            return one_hot(self.confident(counts), len(counts), self.n_classes, clients).ravel()
        assert self.share is not None
        return total + self.share.draw(total.size)

    def unbiased(self, mean: Floats) -> Floats:
        """The mean of what clients meant to answer, ``(m, C)``, from that of what they sent."""
        return mean if self.noise is None else debiased(mean, self.noise, self.n_classes)

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise on each entry of a sum that all clients are in, in grid steps."""
        if self.share is None:
            return 0.0
        shares = 1 if self.route.trusted else self.n_clients
        return math.sqrt(self.share.variance * shares)

    def sealed_deviation(self, kind: SealingKind) -> float:
        """Of the noise that travels: on each value of a masked sum, or of a plain vector; 0 for none."""
        if self.share is None or self.route.trusted:
            return 0.0
        return math.sqrt(self.share.variance) if kind == "plain" else self.deviation

    def reach(self, entries: int) -> int:
        """How far noise may carry any of ``entries`` sums beyond those of answers, but for 2^-40."""
        return tail(self.deviation, entries) if entries else 0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One round's answer of one client: ``queries``, ``entries`` on the grid, and how far they can move.

    ``votes``: whether each query is answered with one class, whole.
    """

    queries: int
    entries: int
    sensitivity: Sensitivity
    votes: bool


def plan_releases(config: Config, recipe: Recipe, n_public: int) -> ReleasePlan | None:
    """Size the noise so that the guarantee is what was asked; None where answers aren't noised.

    Raises PrivacyError for a delta that lets a client be published (it must be below 1 / clients), noise
    that earns no finite epsilon, or more of it than can be drawn; SealingError where no ring is wide enough.
    """
    privacy = config.privacy
    if privacy is None or privacy.route not in ROUTES or ROUTES[privacy.route].noised != "answers":
        return None
    assert privacy.delta is not None
    clients = n_clients(config)
    accounting.check_delta(privacy.delta, clients)
    rounds = tuple(_asked(recipe, queries) for queries in asked_counts(recipe, n_public))
    unsized = ReleasePlan(
        route=ROUTES[privacy.route],
        n_clients=clients,
        n_classes=recipe.n_classes,
        rounds=rounds,
        share=None,
        noise=None,
        unknown=_unknown(config),
        guarantee=Guarantee(
            epsilon=privacy.epsilon or 0.0,
            delta=privacy.delta,
            unit=privacy.unit,
            relation=privacy.relation,
        ),
        shared=bool(privacy.ledger),
    )
    counting = filters if unsized.shared else accounting

    def sized(noise: float) -> ReleasePlan:
        return _sized(unsized, privacy, noise)

    if privacy.noise is None:
        assert privacy.epsilon is not None
        noise = counting.calibrate(
            lambda z: sized(z).charges(), privacy.epsilon, privacy.delta, privacy.relation
        )
        return _checked(sized(noise), config, recipe)
    given = sized(privacy.noise)
    epsilon = counting.spent(given.charges(), privacy.delta, privacy.relation)
    if not epsilon < math.inf:
        raise PrivacyError(
            f"privacy.noise must be enough for a finite epsilon, got {privacy.noise}; give a larger one"
        )
    return _checked(replace(given, guarantee=replace(given.guarantee, epsilon=epsilon)), config, recipe)


def _checked(plan: ReleasePlan, config: Config, recipe: Recipe) -> ReleasePlan:
    """Refuse, before anything is trained or paid for, what no ring holds."""
    kind = config.sealing.kind
    if deviation := plan.sealed_deviation(kind):
        narrowest(
            bits=recipe.bits,
            n_clients=1 if kind == "plain" else plan.n_clients,
            size=max(asked.entries for asked in plan.rounds),
            noise_deviation=deviation,
        )
    return plan


def _asked(recipe: Recipe, queries: int) -> Asked:
    blocks = recipe.blocks(queries)
    return Asked(
        queries=queries,
        entries=sum(block.size for block in blocks),
        sensitivity=of_client(blocks, recipe.bits),
        votes=recipe.bits == 1 and [block.name for block in blocks] == ["votes"],
    )


def _sized(plan: ReleasePlan, privacy: PrivacyConfig, noise: float) -> ReleasePlan:
    """``noise``: standard deviation of what the observer who knows most doesn't know, in sensitivities of the
    largest round. For randomised response: 1 / epsilon of one answer.
    """
    if plan.route.name == "rr":
        return replace(plan, noise=response_noise(plan.n_classes, 1 / noise))
    moved = max(asked.sensitivity.squared(privacy.relation) for asked in plan.rounds if asked.entries)
    if plan.route.name == "votes":
        return _voted(plan, privacy, noise**2 * moved)
    variance = noise**2 * moved / min(plan.unknown.values())
    return replace(plan, share=NoiseShare(kind=privacy.mechanism, variance=variance))


def _voted(plan: ReleasePlan, privacy: PrivacyConfig, variance: float) -> ReleasePlan:
    """``variance``: of the noise on each count of an answer, in votes, squared."""
    assert privacy.threshold is not None
    ratio = CHECK_NOISE if privacy.threshold_noise is None else privacy.threshold_noise
    confident = Confident(
        classes=plan.n_classes,
        threshold=privacy.threshold,
        check_variance=ratio**2 * variance,
        answer_variance=variance,
    )
    squared = sum(confident.charge(asked.queries).squared(privacy.relation) for asked in plan.rounds)
    return replace(plan, confident=confident, figure_variance=1 / (FIGURE_SHARE * squared))


def _unknown(config: Config) -> dict[Observer, int]:
    """By observer, how many parties' noise it doesn't know, in every sum that it can come to see."""
    assert config.privacy is not None
    sealing, route = config.sealing, ROUTES[config.privacy.route]
    if route.name in ("local", "rr"):
        # What one client sends is noised by that client, whoever else works together.
        everyone: tuple[Observer, ...] = ("server", "peer", "release", "keyholder", "coalition")
        return dict.fromkeys(everyone, 1)
    if route.trusted:
        return {"peer": 1, "release": 1}
    graph = neighbourhood_of(config)
    assert graph is not None
    assert sealing.threshold is not None
    assert sealing.honest_minimum is not None
    # Where not everyone masks with everyone, a lying server can leave honest clients out of its one sum, and
    # show that to all.
    fewest = sealing.threshold if graph.is_complete else sealing.honest_minimum
    found: dict[Observer, int] = {"server": fewest, "peer": fewest - 1, "release": fewest}
    if sealing.colluders:
        found["coalition"] = fewest - sealing.colluders if graph.is_complete else fewest
    return found
