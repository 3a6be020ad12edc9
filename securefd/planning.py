"""What a federation promises and costs, before anyone trains.

The data are read only to know their shape and how many records each client holds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from securefd.canaries import note_on, split_of
from securefd.cautions import cautions
from securefd.config import Config
from securefd.defenses.claims import (
    CENTRAL,
    DISTRIBUTED,
    DPSGD,
    ENCRYPTED,
    HEAD,
    LOCAL,
    MASKED_ASSUMPTION,
    PATE,
    VOTES,
    Claim,
    Guarantee,
    Observer,
    Promise,
    claims,
)
from securefd.defenses.neighbourhood import Neighbourhood
from securefd.duration import Duration, estimate
from securefd.errors import PrivacyError
from securefd.exchange import Weight, codec_of, neighbourhood_of, weigh
from securefd.models import ModelSpec
from securefd.nfdp import NFDP, Sampled, plan_samples, why_nothing
from securefd.outlook import Outlook, outlook
from securefd.private import plan_private
from securefd.recipe import Recipe
from securefd.releases import ReleasePlan, plan_releases
from securefd.rules import covered, n_clients, one_group, tolerated
from securefd.spending import HeadNoise, NoisePlan, Spending, VoteNoise, noise_of, of_answers, of_training

Precision = Literal["exactly", "at most", "about"]
BYTES_A_WEIGHT = 4
"""fedavg sends weights as float32."""
ROWS = 12
"""A longer table of clients is printed by its two ends."""


@dataclass(frozen=True, kw_only=True)
class Precisions:
    """How close the bytes of a plan are to those of a run in which every client attends."""

    up: Precision
    down: Precision

    def words(self, up: int, down: int, unit: str = "") -> str:
        """These bytes, as sure as they are."""
        again = "" if self.up == self.down else f"{self.down} "
        return f"{self.up} {up:,}{unit} up and {again}{down:,} down"


@dataclass(frozen=True, kw_only=True)
class ClientPlan:
    """One client: its model, and how many records it holds. ``weights``: None for trees and heads."""

    client: int
    model: str
    weights: int | None
    records: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `plan` found.

    ``sees``: by observer. ``sampled``: by client, where each trains on a part of its records, without noise.
    ``rounding``: half a grid step of each part of an answer. ``traffic``: bytes of
    each round, a client, as close to a run's as ``precision`` says. ``fedavg``: bytes of the weights of the
    student's architecture; None where there is no student. ``graph``: who holds whose shares where answers
    are masked, else None.
    """

    summary: str
    clients: tuple[ClientPlan, ...]
    public: int
    test: int
    sees: Mapping[str, str]
    claims: tuple[Claim, ...]
    graph: Neighbourhood | None
    sampled: tuple[Sampled, ...]
    noise: tuple[NoisePlan | HeadNoise | VoteNoise, ...]
    spending: tuple[Spending, ...]
    answers: Outlook | None
    bits: int
    rounding: Mapping[str, float]
    traffic: tuple[Weight, ...]
    precision: Precisions
    fedavg: int | None
    duration: Duration
    cautions: tuple[str, ...]

    @property
    def largest(self) -> Weight:
        """The most that a client sends, and receives, in one round."""
        return Weight(up=max(w.up for w in self.traffic), down=max(w.down for w in self.traffic))

    def lines(self) -> list[str]:
        """The plan in plain words."""
        sections: list[tuple[str, Iterable[str]]] = [
            (
                f"clients; {self.public} public inputs, {self.test} test records",
                map(_client_line, self.clients),
            ),
            ("who sees what", (f"{observer}: {what}" for observer, what in self.sees.items())),
            ("what is promised", _claim_lines(self.claims)),
            ("masks", [] if self.graph is None else [self.graph.describe()]),
            ("training without noise, on samples", map(str, self.sampled)),
            ("private training", map(str, self.noise)),
            *((spent.title, spent.lines()) for spent in self.spending),
            ("noise on answers", [] if self.answers is None else self.answers.lines()),
            ("what travels, a client", self._traffic_lines()),
            ("how long a run takes", self.duration.lines()),
            ("beware", self.cautions),
        ]
        shown = [self.summary]
        for title, rows in sections:
            if kept := _shortened(list(rows)):
                shown += ["", title, *(f"  {row}" for row in kept)]
        return shown

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain tables. ``bytes``: of the largest round; ``ratio``: of fedavg's to them.

        ``seconds``: about how long a run takes.
        """
        sizes = asdict(self.largest)
        return asdict(self) | {
            "bytes": sizes,
            "seconds": self.duration.seconds,
            "ratio": None if self.fedavg is None else {way: self.fedavg / n for way, n in sizes.items()},
        }

    def group(self, size: int) -> dict[Observer, Guarantee | None]:
        """What is promised to ``size`` units together, by observer; None where their delta reaches 1."""
        found: dict[Observer, Guarantee | None] = {}
        for claim in self.claims:
            if claim.guarantee is not None:
                try:
                    found[claim.observer] = claim.guarantee.group(size)
                except PrivacyError:
                    found[claim.observer] = None
        return found

    def group_lines(self, size: int) -> list[str]:
        """The same in plain words."""
        found = self.group(size)
        if not found:
            return [f"nothing is promised to one unit, and so nothing to {size} together"]
        unit = next(claim.guarantee.unit for claim in self.claims if claim.guarantee is not None)
        shown = [f"  {observer}: {'nothing' if each is None else each}" for observer, each in found.items()]
        return [f"what is promised to {size} {unit}s together, such as those of one person", *shown]

    def _traffic_lines(self) -> Iterator[str]:
        up, down = self.largest.up, self.largest.down
        total_up, total_down = sum(w.up for w in self.traffic), sum(w.down for w in self.traffic)
        yield (
            f"{self.precision.words(up, down, ' bytes')} in the largest round; "
            f"{self.precision.words(total_up, total_down)} over all rounds"
        )
        if self.fedavg is not None:
            yield (
                f"fedavg would send the {self.fedavg // BYTES_A_WEIGHT:,} weights of the student, "
                f"{self.fedavg:,} bytes each way a round: {self.fedavg / up:.3g} times this upload, "
                f"{self.fedavg / down:.3g} times this download"
            )
        for name, error in self.rounding.items():
            yield f"{name} are sent in {self.bits} bits each, which moves them by at most {error:.2g}"


def plan(config: Config) -> Plan:
    """Say what a federation promises and costs; trains nothing.

    Raises what a run would raise before it trains: DataError, ModelError for a model that can't be built
    or trained as asked, PrivacyError for a delta that lets a record be published. The rest is a plan,
    however hopeless.
    """
    began = time.monotonic()
    split = split_of(config)
    recipe = Recipe.of(config, split.input_shape, split.n_classes)
    sizes = [len(own) for own in split.clients]
    weights = {spec: _weights(spec) for spec in dict.fromkeys(recipe.models)}
    clients = tuple(
        ClientPlan(client=k, model=spec.name, weights=weights[spec], records=size)
        for k, (spec, size) in enumerate(zip(recipe.models, sizes, strict=True))
    )
    sees = sights(config, recipe)
    together = one_group(config, covered(config)[1])
    private = (
        plan_private(config.privacy, recipe, sizes, len(split.public))
        if config.privacy and recipe.private
        else []
    )
    samples = plan_samples(config, sizes)
    releases = plan_releases(config, recipe, len(split.public))
    shared = config.privacy is not None and bool(config.privacy.ledger)
    setting_up = time.monotonic() - began
    answers = None if releases is None else outlook(releases, recipe.bits)
    student = None if recipe.student is None else _weights(recipe.student)
    return Plan(
        summary=_summary(config, split.n_classes),
        clients=clients,
        public=len(split.public),
        test=len(split.test),
        sees=sees,
        claims=promises(config, recipe, promise(config, [p.guarantee for p in private], releases), samples),
        graph=neighbourhood_of(together),
        sampled=samples,
        noise=tuple(noise_of(k, each) for k, each in enumerate(private)),
        spending=(*of_training(private, tuple(sees), shared=shared), *of_answers(releases)),
        answers=answers,
        bits=recipe.bits,
        rounding=_rounding(recipe),
        traffic=tuple(
            weigh(
                recipe,
                together,
                len(split.public),
                0.0 if releases is None else releases.sealed_deviation(config.sealing.kind),
            )
        ),
        precision=_precision(together, recipe),
        fedavg=None if student is None else BYTES_A_WEIGHT * student,
        duration=estimate(
            config,
            recipe,
            sizes=[each.sample for each in samples] or sizes,
            n_public=len(split.public),
            n_test=len(split.test),
            private=private,
            releases=releases,
            setting_up=setting_up,
        ),
        cautions=(
            *cautions(config, recipe, private, sizes, [client.weights for client in clients], answers),
            *_about_liars(config),
            *(() if config.audit.canaries is None else (note_on(config.audit.canaries),)),
        ),
    )


BASES: Mapping[str, str] = {
    "dpsgd": DPSGD,
    "head": HEAD,
    "pate": PATE,
    "distributed": DISTRIBUTED,
    "local": LOCAL,
    "rr": LOCAL,
    "central": CENTRAL,
    "votes": VOTES,
}
"""By route, what its guarantee rests on."""


def promise(config: Config, ledgers: Sequence[Guarantee], releases: ReleasePlan | None) -> Promise | None:
    """What noise promises; ``ledgers``: what each client's came to, or will; the largest counts."""
    if config.privacy is None or (not ledgers and releases is None):
        return None
    basis = BASES[config.privacy.route]
    largest = max(ledgers, key=_epsilon, default=None)
    if config.privacy.ledger:
        # Of a shared ledger its whole budget is promised, before anything is spent as afterwards.
        one = releases.guarantee if largest is None and releases is not None else largest
        assert one is not None
        largest = replace(one, epsilon=max(one.epsilon, config.privacy.budget or 0.0))
    if releases is None:
        assert largest is not None
        return Promise(guarantees=dict.fromkeys(get_args(Observer), largest), basis=basis)
    planned = releases.guarantees()
    if largest is not None and largest.epsilon > max(map(_epsilon, planned.values())):
        # Other runs' answers stand in the same ledger, or some were paid for twice.
        planned = dict.fromkeys(planned, largest)
    shared = config.privacy.route == "distributed"
    return Promise(guarantees=planned, basis=basis, assumption=MASKED_ASSUMPTION if shared else None)


def promises(
    config: Config, recipe: Recipe, promise: Promise | None, samples: Sequence[Sampled] = ()
) -> tuple[Claim, ...]:
    """Every claim of a run; ``promise``: of noise; ``samples``: what clients train on without any."""
    groups, sizes = config.sealing.groups, covered(config)
    graphs = [neighbourhood_of(one_group(config, size)) for size in sizes]
    failure = max(0.0 if graph is None else graph.secrecy_failure for graph in graphs)
    promised = claims(
        sealing=config.sealing.kind,
        n_clients=sizes[0],
        threshold=config.sealing.threshold,
        colluders=config.sealing.colluders,
        honest=None
        if all(graph is None or graph.is_complete for graph in graphs)
        else config.sealing.honest_minimum,
        secrecy_failure=(groups or 1) * failure,
        promise=promise,
        histogram="class counts" in recipe.method.private_quantities,
    )
    if groups is not None:
        added = " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in _about_liars(config))
        promised = tuple(
            replace(claim, reason=f"{claim.reason} {added}") if claim.subject == "answers" else claim
            for claim in promised
        )
    if config.privacy is not None and samples:
        why = why_nothing(samples, config.privacy.relation)
        return tuple(
            replace(claim, reason=why) if claim.subject == "records" else claim for claim in promised
        )
    if config.privacy is None or not config.privacy.ledger:
        return promised
    return tuple(
        replace(claim, reason=f"{claim.reason} {_SHARED}") if claim.guarantee is not None else claim
        for claim in promised
    )


_SHARED = (
    "All runs that share this ledger spend from one budget, by a Renyi filter whose order and budget were "
    "fixed when the ledger was made (Feldman and Zrnic 2021, Lecuyer 2021): however later runs were chosen "
    "by looking at earlier ones, all of them together stay within it, and it is what is promised here, "
    "however little was spent."
)


def _about_liars(config: Config) -> Iterator[str]:
    """How many lying clients a robust method tolerates, and within how many a client is hidden."""
    liars, groups, name = tolerated(config), config.sealing.groups, config.method.name
    if liars is None:
        return
    who = f"{liars} lying client{'s' * (liars != 1)}"
    if groups is None:
        yield f"{name} tolerates up to {who} of {n_clients(config)}"
        return
    smallest, largest = covered(config)
    size = f"{smallest}" if smallest == largest else f"{smallest} or {largest}"
    yield (
        f"a sum is opened in each of {groups} groups of {size} clients, the same in every round: a client is "
        "hidden among its group, and all colluders are taken to be in it"
    )
    yield (
        f"{name} over the means of {groups} groups tolerates up to {who}, each taken to be in another group"
    )
    yield (
        "with another seed the same clients fall into other groups, and whoever sees the sums of both runs "
        "can subtract them"
    )


def _epsilon(guarantee: Guarantee) -> float:
    return guarantee.epsilon


def _summary(config: Config, classes: int) -> str:
    route = "none" if config.privacy is None else config.privacy.route
    privacy = {"none": "no noise", NFDP: "nfdp without noise"}.get(route, route)
    rounds = config.method.rounds
    return (
        f"{config.name}: {n_clients(config)} clients, {classes} classes, method {config.method.name}, "
        f"{rounds} round{'s' * (rounds > 1)}, sealing {config.sealing.kind}, {privacy}"
    )


def _weights(spec: ModelSpec) -> int | None:
    """How many a network has; None for trees and heads."""
    if not spec.is_network:
        return None
    return sum(parameter.numel() for parameter in spec.network(0).parameters())


def sights(config: Config, recipe: Recipe) -> dict[str, str]:
    """Who sees what, observer by observer."""
    what, sealing = recipe.method.exchanged, config.sealing
    total = "the sum" if sealing.groups is None else f"in each of {sealing.groups} groups the sum"
    student = ", and the student" if recipe.student is not None else ""
    sees = {
        "server": {
            "plain": f"each client's answers ({what}), and so their sum and the consensus{student}",
            "masked": f"masked uploads, {total} of the clients' answers ({what}), the consensus{student}",
            "homomorphic": f"ciphertexts, {total} of the clients' answers ({what}), the consensus{student}",
            "masked+homomorphic": f"masked ciphertexts, {total} of the clients' answers ({what}), the "
            f"consensus{student}",
        }[sealing.kind],
        "peer": "the queries, the consensus of each round, and what it answered itself"
        if recipe.method.public
        else "the sum of all clients' answers in each round, and what it answered itself",
        "release": "the student, which may be asked anything"
        if recipe.student is not None
        else "nothing: this method has no student to release",
    }
    if sealing.kind in ENCRYPTED:
        masked = "masked " if sealing.kind == "masked+homomorphic" else ""
        sees["keyholder"] = (
            f"the encrypted {masked}sum, which it opens for the server; no client's ciphertexts"
        )
    if sealing.colluders:
        sees["coalition"] = f"what the server and {sealing.colluders} of the clients see, put together"
    return sees


def _rounding(recipe: Recipe) -> dict[str, float]:
    """Where the method quantises by itself, the sealing's grid moves nothing."""
    if recipe.method.grid_bits(recipe.options) is not None:
        return {}
    return {b.name: (b.high - b.low) / (2**recipe.bits - 1) / 2 for b in recipe.blocks(1)}


def _precision(config: Config, recipe: Recipe) -> Precisions:
    graph = neighbourhood_of(config)
    if graph is not None and not graph.is_complete:
        return Precisions(up="about", down="about")
    if codec_of(recipe, config.sealing) is not None:
        return Precisions(up="at most", down="at most")
    # A key holder's context compresses by chance to a little more or less.
    return Precisions(up="exactly", down="about" if config.sealing.kind in ENCRYPTED else "exactly")


def _client_line(client: ClientPlan) -> str:
    weights = "" if client.weights is None else f" of {client.weights:,} weights"
    return f"client {client.client}: {client.model}{weights}, {client.records:,} records"


def _claim_lines(promised: Sequence[Claim]) -> list[str]:
    """Observers who are promised the same share a line, and promises that rest on the same a reason."""
    reasons: dict[tuple[str, str], dict[str, list[str]]] = {}
    for claim in promised:
        promises = reasons.setdefault((claim.subject, claim.reason), {})
        promises.setdefault(claim.promise, []).append(claim.observer)
    lines = []
    for (subject, reason), promises in reasons.items():
        made = [f"{', '.join(names)} about {subject}: {promise}" for promise, names in promises.items()]
        lines += [f"{made[0]}. {reason}"] if len(made) == 1 else [*made, f"to these: {reason}"]
    return lines


def _shortened(rows: Sequence[str]) -> list[str]:
    if len(rows) <= ROWS:
        return list(rows)
    left = len(rows) - ROWS + 1
    half = (ROWS - 1) // 2
    return [*rows[: ROWS - 1 - half], f"({left} more; --json has them all)", *rows[-half:]]
