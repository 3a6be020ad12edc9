"""Rounds of a masked sum in which clients drop out, and what has to come of them.

A pattern gives each client the stage at which it stops answering, or says that it stays. What has to come of
it is computed from the pattern and the holders alone (`foresee`): the sum of all who uploaded, if at least t
clients answered to the end and every secret that is needed can be recovered; else a typed error.
"""

import copy
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import sqrt
from random import Random

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from securefd.defenses.carriers import Adder, Sealer, Vector
from securefd.defenses.identity import Identity
from securefd.defenses.masked_client import MaskedClient
from securefd.defenses.masked_server import STAGES, MaskedServer, OpenedSum
from securefd.defenses.neighbourhood import Neighbourhood, choose
from securefd.defenses.terms import Terms
from securefd.errors import ProtocolError
from securefd.messages import Boxes, Reveal, Signed, decode

SESSION = b"session-of-tests"
QUESTION = b"q" * 32
STAYS = len(STAGES)
IDENTITIES = [
    Identity(private=Ed25519PrivateKey.from_private_bytes(k.to_bytes(32, "big"))) for k in range(1, 201)
]

Pattern = tuple[int, ...]
"""For each client the index of the first stage that it doesn't answer, or STAYS."""
Sent = dict[str, dict[int, bytes]]
"""What each client sent at each stage."""


@lru_cache
def agreed(n: int, t: int, c: int, bits: int = 8) -> Terms:
    """Terms with a computed neighbourhood, complete up to 40 clients."""
    return terms_for(choose(n_clients=n, threshold=t, colluders=c, honest_minimum=2), bits)


def terms_for(neighbourhood: Neighbourhood, bits: int = 8, noise_deviation: float = 0.0) -> Terms:
    return Terms(
        pinned=tuple(identity.public for identity in IDENTITIES[: neighbourhood.n_clients]),
        neighbourhood=neighbourhood,
        bits=bits,
        noise_deviation=noise_deviation,
    )


def by_hand(n: int, t: int, degree: int, share_threshold: int, checked: int = 2) -> Neighbourhood:
    """A graph that `choose` wouldn't give to so few clients; how likely it fails isn't of interest here."""
    return Neighbourhood(
        n_clients=n,
        threshold=t,
        colluders=0,
        honest_minimum=2,
        degree=degree,
        share_threshold=share_threshold,
        checked=checked,
        secrecy_failure=1.0,
        unneeded_abort=1.0,
    )


@dataclass(frozen=True, kw_only=True)
class Carried:
    """How the values of one round travel, if not as words of a ring, and what the round is then about."""

    question: bytes
    sealer: Sealer | None = None
    adder: Adder | None = None


Carry = Callable[[Terms, int, int], Carried]
"""From terms, the round's number and the size of its vectors."""


def in_the_ring(terms: Terms, number: int, size: int) -> Carried:
    return Carried(question=QUESTION)


class Round:
    """One round among honest clients and an honest server, over the bytes that they exchange."""

    def __init__(
        self,
        clients: Sequence[MaskedClient],
        terms: Terms,
        number: int,
        size: int = 3,
        carry: Carry = in_the_ring,
    ) -> None:
        self.clients, self.number, self.size = clients, number, size
        self.carried = carry(terms, number, size)
        rng = np.random.default_rng([number, terms.bits, len(clients)])
        self.vectors = [rng.integers(0, 1 << terms.bits, size) for _ in clients]
        self.noise: list[Vector | None] = [None] * len(clients)
        if terms.noise_deviation:
            share = terms.noise_deviation / sqrt(len(clients))
            self.noise = [np.rint(rng.normal(0, share, size)).astype(np.int64) for _ in clients]
        self.server = MaskedServer(
            terms,
            session=SESSION,
            round=number,
            question=self.carried.question,
            size=size,
            adder=self.carried.adder,
        )
        self.sent: Sent = {stage: {} for stage in STAGES}
        self.delivered: dict[int, bytes] = {}
        """What the server sent to each client last."""

    def act(self, client: int, message: bytes | None = None) -> bytes:
        """What this client sends at the current stage, having received ``message`` (default: its own)."""
        core, stage = self.clients[client], self.server.stage
        if stage == "advertise":
            return core.advertise(SESSION, self.number, question=self.carried.question, size=self.size)
        message = self.delivered[client] if message is None else message
        if stage == "share":
            return core.share(message)
        if stage == "upload":
            return core.upload(
                message, self.vectors[client], noise=self.noise[client], sealer=self.carried.sealer
            )
        return core.confirm(message) if stage == "confirm" else core.unmask(message)

    def collect(self, attending: Collection[int]) -> None:
        """These clients answer, except those that refuse: they may do so, and have then dropped out."""
        sent = self.sent[self.server.stage]
        for client in attending:
            try:
                sent[client] = self.act(client)
            except ProtocolError:
                continue
            self.server.receive(sent[client])

    def close(self) -> OpenedSum | None:
        """End the stage; the sum after the last one. ``ProtocolError`` if there were too few clients."""
        server, heard = self.server, self.server.received
        if server.stage == "unmask":
            return server.open_sum()
        if server.stage in ("share", "confirm"):
            self.delivered = server.relays() if server.stage == "share" else server.confirmations()
        else:
            message = server.roster() if server.stage == "advertise" else server.survivors()
            self.delivered = dict.fromkeys(heard, message)
        return None

    def plain_sum(self, clients: Collection[int]) -> Vector:
        vectors = [self.vectors[client] for client in clients]
        vectors += [noise for client in clients if (noise := self.noise[client]) is not None]
        total: Vector = np.sum(vectors, axis=0)
        return total

    def fork(self) -> "Round":
        """The same round a second time. Clients are shared: see `turns`."""
        twin = copy.copy(self)
        # Shared: what never changes. Of the encrypted sum's adder that is whoever signs for the server.
        constant = (self.server._terms, getattr(self.server._adder, "_server", None))
        twin.server = copy.deepcopy(self.server, {id(each): each for each in constant})
        twin.sent = {stage: dict(messages) for stage, messages in self.sent.items()}
        twin.delivered = dict(self.delivered)
        return twin

    @property
    def turns(self) -> list[object]:
        """What the clients hold between two stages: they replace it, but never change it."""
        return [client._turn for client in self.clients]

    @turns.setter
    def turns(self, turns: Sequence[object]) -> None:
        for client, turn in zip(self.clients, turns, strict=True):
            client._turn = turn  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The stage that a round got to, and what was opened, if anything."""

    stage: str
    opened: OpenedSum | None
    round: Round


@dataclass(kw_only=True)
class Federation:
    """Clients with the same terms, one round after the other."""

    terms: Terms
    seed: int | None = None
    clients: list[MaskedClient] = field(init=False)
    rounds: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.clients = [
            MaskedClient(
                identity, self.terms, _random=None if self.seed is None else Random(f"{self.seed} {k}")
            )
            for k, identity in enumerate(IDENTITIES[: len(self.terms.pinned)])
        ]

    def play(self, pattern: Pattern, size: int = 3) -> Ending:
        """A round of its own for this pattern."""
        game = Round(self.clients, self.terms, next(self.rounds), size)
        present: Collection[int] = range(len(pattern))
        for index, stage in enumerate(STAGES):
            game.collect([client for client in present if pattern[client] > index])
            present = game.server.received
            try:
                opened = game.close()
            except ProtocolError:
                return Ending(stage=stage, opened=None, round=game)
        return Ending(stage=stage, opened=opened, round=game)


def foresee(
    pattern: Pattern, graph: Neighbourhood, holders: Mapping[int, Collection[int]]
) -> tuple[str, tuple[int, ...] | None]:
    """The stage that a round gets to, and whose sum is opened, if any.

    ``holders``: those that each client named. A client goes on while at least k of them are left.
    """
    t, k = graph.threshold, graph.share_threshold
    groups: list[set[int]] = []
    alive = set(range(len(pattern)))
    for index, stage in enumerate(STAGES):
        alive = {client for client in alive if pattern[client] > index}
        if stage == "share":
            # with fewer than k holders it named none, for it refused the roster
            alive &= holders.keys()
        elif stage in ("upload", "confirm"):
            alive = {client for client in alive if len(groups[-1] & {*holders[client]}) >= k}
        groups.append(alive)
        if len(alive) < t:
            return stage, None
    _, sharers, survivors, _, revealing = groups
    for client in sharers:
        if client in survivors:
            needed = client not in revealing
        else:
            needed = bool({*holders[client]} & survivors) or any(
                client in holders[peer] for peer in survivors
            )
        if needed and len({*holders[client]} & revealing) < k:
            return "unmask", None
    return "unmask", tuple(sorted(survivors))


def named_holders(sent: Sent) -> dict[int, tuple[int, ...]]:
    return {
        client: decode(decode(message, Signed).body, Boxes).holders
        for client, message in sent["share"].items()
    }


def check(ending: Ending, stage: str, survivors: tuple[int, ...] | None) -> None:
    """The ending is the one foreseen, and nobody has revealed more than it needs."""
    game, opened = ending.round, ending.opened
    assert (ending.stage, opened and opened.clients) == (stage, survivors)
    if opened is not None:
        assert opened.total.dtype == np.int64
        assert np.array_equal(opened.total, game.plain_sum(opened.clients))
    check_nothing_else_revealed(game)


def check_nothing_else_revealed(game: Round) -> None:
    """Reveals only after t clients confirmed, and of no client shares of both its secrets."""
    if len(game.sent["confirm"]) < game.server._terms.threshold:
        assert not game.sent["unmask"]
    reveals = [decode(decode(message, Signed).body, Reveal) for message in game.sent["unmask"].values()]
    seeds = {owner for reveal in reveals for owner in reveal.survivors}
    keys = {owner for reveal in reveals for owner in reveal.dropped}
    assert not seeds & keys


def complete(pattern: Pattern, terms: Terms) -> tuple[str, tuple[int, ...] | None]:
    """On the complete graph the outcome is a matter of counting: t clients to the end, or none opened."""
    for index, stage in enumerate(STAGES):
        if sum(1 for stop in pattern if stop > index) < terms.threshold:
            return stage, None
    return "unmask", tuple(client for client, stop in enumerate(pattern) if stop > STAGES.index("upload"))
