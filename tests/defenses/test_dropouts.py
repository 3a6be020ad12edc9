"""Every way in which clients can drop out of a masked sum, and random ones among up to 200 clients.

A pattern gives each client the stage at which it stops answering, or says that it stays. What has to come of
it is computed from the pattern and the holders alone (`foresee`): the sum of all who uploaded, if at least t
clients answered to the end and every secret that is needed can be recovered; else a typed error.
"""

import copy
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations_with_replacement, product
from math import sqrt
from random import Random

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securefd.defenses.carriers import Vector
from securefd.defenses.identity import Identity, sign_message
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


class Round:
    """One round among honest clients and an honest server, over the bytes that they exchange."""

    def __init__(self, clients: Sequence[MaskedClient], terms: Terms, number: int, size: int = 3) -> None:
        self.clients, self.number, self.size = clients, number, size
        rng = np.random.default_rng([number, terms.bits, len(clients)])
        self.vectors = [rng.integers(0, 1 << terms.bits, size) for _ in clients]
        self.noise: list[Vector | None] = [None] * len(clients)
        if terms.noise_deviation:
            share = terms.noise_deviation / sqrt(len(clients))
            self.noise = [np.rint(rng.normal(0, share, size)).astype(np.int64) for _ in clients]
        self.server = MaskedServer(terms, session=SESSION, round=number, question=QUESTION, size=size)
        self.sent: Sent = {stage: {} for stage in STAGES}
        self.delivered: dict[int, bytes] = {}
        """What the server sent to each client last."""

    def act(self, client: int, message: bytes | None = None) -> bytes:
        """What this client sends at the current stage, having received ``message`` (default: its own)."""
        core, stage = self.clients[client], self.server.stage
        if stage == "advertise":
            return core.advertise(SESSION, self.number, question=QUESTION, size=self.size)
        message = self.delivered[client] if message is None else message
        if stage == "share":
            return core.share(message)
        if stage == "upload":
            return core.upload(message, self.vectors[client], noise=self.noise[client])
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
        terms = self.server._terms
        twin.server = copy.deepcopy(self.server, {id(terms): terms})
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


# Per number of clients and threshold: no colluders, and as many as the rules allow.
COHORTS = [
    (3, 2, 0),
    (3, 3, 0),
    (3, 3, 1),
    (4, 3, 0),
    (4, 3, 1),
    (4, 4, 0),
    (4, 4, 2),
    (6, 4, 0),
    (6, 4, 1),
    (6, 5, 0),
    (6, 5, 3),
    (6, 6, 0),
    (6, 6, 4),
]
SIXES = [cohort for cohort in COHORTS if cohort[0] == 6]


def test_the_cohorts_are_all_that_the_rules_allow() -> None:
    allowed = []
    for n in (3, 4, 6):
        for t in range(2, n + 1):
            if fitting := [c for c in range(n) if c < 2 * t - n and t - c >= 2]:
                allowed += [(n, t, c) for c in sorted({0, fitting[-1]})]
    assert allowed == COHORTS


def complete(pattern: Pattern, terms: Terms) -> tuple[str, tuple[int, ...] | None]:
    """On the complete graph the outcome is a matter of counting: t clients to the end, or none opened."""
    for index, stage in enumerate(STAGES):
        if sum(1 for stop in pattern if stop > index) < terms.threshold:
            return stage, None
    return "unmask", tuple(client for client, stop in enumerate(pattern) if stop > STAGES.index("upload"))


@pytest.mark.parametrize("cohort", SIXES, ids=str)
def test_every_pattern_of_six_clients_up_to_relabelling(cohort: tuple[int, int, int]) -> None:
    """Who plays which part is drawn anew for each cohort and pattern."""
    terms, random = agreed(*cohort), Random(str(cohort))
    federation = Federation(terms=terms)
    patterns = list(combinations_with_replacement(range(STAYS + 1), 6))
    assert len(patterns) == 462
    for pattern in patterns:
        relabelled = tuple(random.sample(pattern, 6))
        ending = federation.play(relabelled)
        check(ending, *complete(relabelled, terms))
        holders = named_holders(ending.round.sent)
        assert foresee(relabelled, terms.neighbourhood, holders) == complete(relabelled, terms)


class Tree:
    """All patterns at once: rounds that are the same up to some stage are played once up to there.

    A round that ends early stands for all patterns that differ only in what would have come later.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.endings: Counter[tuple[str, bool]] = Counter()
        """How many patterns end at a stage, with the sum or without."""
        self.rounds = 0

    def explore(self, game: Round, pattern: Pattern) -> None:
        """``pattern``: with STAYS for all who have answered so far."""
        index = STAGES.index(game.server.stage)
        present = [client for client, stop in enumerate(pattern) if stop == STAYS]
        turns, before = game.turns, game
        sent = {}
        for client in present:
            sent[client] = before.act(client)
        after = before.turns
        for stays in product((True, False), repeat=len(present)):
            attending = [client for client, stay in zip(present, stays, strict=True) if stay]
            game = before.fork()
            game.sent[STAGES[index]] = {client: sent[client] for client in attending}
            for client in attending:
                game.server.receive(sent[client])
            game.turns = after
            self._close(
                game,
                tuple(
                    index if stop == STAYS and client not in attending else stop
                    for client, stop in enumerate(pattern)
                ),
            )
        before.turns = turns

    def _close(self, game: Round, pattern: Pattern) -> None:
        stage = game.server.stage
        try:
            opened = game.close()
        except ProtocolError:
            opened = None
        if game.server.stage != stage:
            self.explore(game, pattern)
            return
        check(Ending(stage=stage, opened=opened, round=game), *complete(pattern, self.terms))
        later = STAYS - STAGES.index(stage)
        self.endings[stage, opened is not None] += later ** pattern.count(STAYS)
        self.rounds += 1


def check_every_pattern(cohort: tuple[int, int, int]) -> None:
    terms, n = agreed(*cohort), cohort[0]
    tree = Tree(terms)
    tree.explore(Round(Federation(terms=terms).clients, terms, 0), (STAYS,) * n)
    patterns = product(range(STAYS + 1), repeat=n)
    expected = Counter(
        (stage, opened is not None) for stage, opened in (complete(p, terms) for p in patterns)
    )
    assert tree.endings == expected
    assert tree.endings.total() == (STAYS + 1) ** n
    print(f"n, t, c = {cohort}: {tree.endings.total()} patterns, {tree.rounds} endings, {dict(tree.endings)}")


@pytest.mark.parametrize("cohort", [cohort for cohort in COHORTS if cohort[0] < 6], ids=str)
def test_every_pattern_of_up_to_four_clients(cohort: tuple[int, int, int]) -> None:
    check_every_pattern(cohort)


@pytest.mark.fuzz
@pytest.mark.parametrize("cohort", SIXES, ids=str)
def test_every_pattern_of_six_clients(cohort: tuple[int, int, int]) -> None:
    check_every_pattern(cohort)


def test_the_tree_ends_as_single_rounds_do() -> None:
    terms = agreed(3, 2, 0)
    tree = Tree(terms)
    tree.explore(Round(Federation(terms=terms).clients, terms, 0), (STAYS,) * 3)
    federation, endings = Federation(terms=terms), Counter[tuple[str, bool]]()
    for pattern in product(range(STAYS + 1), repeat=3):
        ending = federation.play(pattern)
        check(ending, *complete(pattern, terms))
        endings[ending.stage, ending.opened is not None] += 1
    assert tree.endings == endings


class TestSparseGraphs:
    """Clients that lose too many of their holders stand aside, and what they leave must be recoverable."""

    GRAPHS = (
        by_hand(5, 3, degree=2, share_threshold=1),
        by_hand(5, 3, degree=3, share_threshold=2),
        by_hand(6, 4, degree=3, share_threshold=3),
        by_hand(7, 4, degree=2, share_threshold=2),
        by_hand(8, 5, degree=1, share_threshold=1),
        by_hand(8, 5, degree=4, share_threshold=2),
    )

    @pytest.mark.parametrize("graph", GRAPHS, ids=lambda g: f"{g.n_clients}-{g.degree}-{g.share_threshold}")
    def test_ends_as_foreseen(self, graph: Neighbourhood) -> None:
        random = Random(str(graph))
        federation = Federation(terms=terms_for(graph), seed=1)
        seen = Counter[str]()
        for _ in range(60):
            pattern = draw_pattern(random, graph.n_clients, rate=0.3)
            ending = federation.play(pattern)
            check(ending, *foresee(pattern, graph, named_holders(ending.round.sent)))
            stage = "opened" if ending.opened else ending.stage
            seen[stage] += 1
        assert seen["opened"] > 5
        assert len(seen) > 2

    def test_choices_come_from_the_seam(self) -> None:
        graph = by_hand(8, 5, degree=3, share_threshold=2)
        chosen = [
            named_holders(Federation(terms=terms_for(graph), seed=seed).play((STAYS,) * 8).round.sent)
            for seed in (1, 1, 2)
        ]
        assert chosen[0] == chosen[1] != chosen[2]
        assert all(len(holders) == 3 for holders in chosen[0].values())

    def test_a_client_whose_holders_are_gone_stands_aside(self) -> None:
        """Every stage at which it can find out."""
        graph = by_hand(8, 5, degree=2, share_threshold=2)
        federation = Federation(terms=terms_for(graph), seed=3)
        holders = named_holders(federation.play((STAYS,) * 8).round.sent)
        for index, stage in enumerate(("share", "upload", "confirm")):
            federation = Federation(terms=terms_for(graph), seed=3)
            gone = holders[0][0]
            pattern = tuple(index if client == gone else STAYS for client in range(8))
            game = federation.play(pattern).round
            assert 0 not in game.sent[stage]
            assert 0 in game.sent[STAGES[index]]


def draw_pattern(random: Random, n: int, rate: float) -> Pattern:
    """Each client drops with this probability, at any stage."""
    return tuple(random.randrange(STAYS) if random.random() < rate else STAYS for _ in range(n))


class TestLateMessages:
    """Who has dropped out at one stage can't come back at a later one."""

    @pytest.mark.parametrize("index", range(1, len(STAGES)), ids=STAGES[1:])
    def test_of_a_client_that_skipped_a_stage(self, index: int) -> None:
        """It signs what an honest client would send, for the right stage and agreement."""
        game = self.at(index, absent=0)
        turns = game.turns
        body = decode(game.act(1), Signed).body
        game.turns = turns
        late = sign_message(IDENTITIES[0], game.server._place, 0, body)
        with pytest.raises(ProtocolError, match="client 0 has dropped out"):
            game.server.receive(late)
        self.finishes(game, index, range(1, 5))

    @pytest.mark.parametrize("index", range(len(STAGES) - 1), ids=STAGES[:-1])
    def test_for_a_stage_that_was_closed(self, index: int) -> None:
        game = self.at(index, absent=None)
        late = game.act(0)
        game.collect(range(1, 5))
        game.close()
        with pytest.raises(ProtocolError, match=r"another (stage|roster) was refused"):
            game.server.receive(late)
        self.finishes(game, index + 1, range(1, 5))

    @pytest.mark.parametrize("index", range(len(STAGES) - 1), ids=STAGES[:-1])
    def test_one_that_was_lost_reveals_nothing_later(self, index: int) -> None:
        """The client did its part, but the server counts it out, and shows it what it shows the others."""
        game = self.at(index, absent=None)
        game.act(0)
        game.collect(range(1, 5))
        game.close()
        with pytest.raises(ProtocolError):
            game.act(0, game.delivered[1])
        self.finishes(game, index + 1, range(1, 5))

    def test_the_round_waits_below_the_threshold(self) -> None:
        """A stage can't be closed by too few, but those who are late can still save it."""
        game = self.at(0, absent=None)
        for stage in STAGES:
            game.collect([0, 1])
            with pytest.raises(ProtocolError, match=f"{stage} needs at least 3 clients, got 2"):
                game.close()
            assert game.server.stage == stage
            game.collect([4])
            opened = game.close()
        assert opened is not None
        assert np.array_equal(opened.total, game.plain_sum([0, 1, 4]))

    @staticmethod
    def at(index: int, absent: int | None) -> Round:
        """Five clients before a stage; ``absent`` has skipped the stage before it."""
        game = Round(Federation(terms=agreed(5, 3, 0)).clients, agreed(5, 3, 0), 0)
        for stage in range(index):
            game.collect([k for k in range(5) if not (k == absent and stage == index - 1)])
            game.close()
        return game

    @staticmethod
    def finishes(game: Round, index: int, present: Collection[int]) -> None:
        """``game`` is before stage ``index``."""
        for _ in STAGES[index:]:
            game.collect([client for client in present if client not in game.server.received])
            opened = game.close()
        assert opened is not None
        assert np.array_equal(opened.total, game.plain_sum(opened.clients))
        assert {*present} <= {*opened.clients}
        check_nothing_else_revealed(game)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A random federation."""

    graph: Neighbourhood
    bits: int
    size: int
    noise_deviation: float
    rate: float
    seed: int

    def play(self) -> Ending:
        terms = terms_for(self.graph, self.bits, self.noise_deviation)
        pattern = draw_pattern(Random(self.seed), self.graph.n_clients, self.rate)
        ending = Federation(terms=terms, seed=self.seed).play(pattern, self.size)
        check(ending, *foresee(pattern, self.graph, named_holders(ending.round.sent)))
        return ending


@st.composite
def scenarios(draw: st.DrawFn, work: int = 1200) -> Scenario:
    """``work`` bounds how many signatures all clients verify together."""
    n = draw(st.integers(3, 200))
    t = draw(st.integers(n // 2 + 1, n))
    c = draw(st.integers(0, min(2 * t - n - 1, t - 2)))
    if n <= 20 and draw(st.booleans()):
        graph = choose(n_clients=n, threshold=t, colluders=c, honest_minimum=2)
    else:
        degree = draw(st.integers(1, max(1, min(n - 1, work // n))))
        share_threshold = draw(st.integers(1, degree))
        checked = draw(st.integers(0, min(t, work // n)))
        graph = replace(by_hand(n, t, degree, share_threshold, checked), colluders=c)
    # half of all thresholds can be met by chance alone when every client drops with this probability
    rate = draw(st.sampled_from([0.0, 0.5, 1.0])) * (1 - t / n)
    return Scenario(
        graph=graph,
        bits=draw(st.integers(1, 32)),
        size=draw(st.integers(1, 50)),
        noise_deviation=draw(st.sampled_from([0.0, 0.0, 0.5, 1000.0])),
        rate=rate,
        seed=draw(st.integers(0, 2**32)),
    )


NO_DEADLINE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


class TestProperties:
    @settings(max_examples=40, **NO_DEADLINE)  # type: ignore[arg-type]
    @given(scenarios())
    def test_the_plain_sum_or_a_typed_error(self, scenario: Scenario) -> None:
        scenario.play()

    @pytest.mark.fuzz
    @settings(max_examples=200, **NO_DEADLINE)  # type: ignore[arg-type]
    @given(scenarios())
    def test_the_plain_sum_or_a_typed_error_at_length(self, scenario: Scenario) -> None:
        scenario.play()

    @pytest.mark.parametrize(
        ("n", "bits", "deviation", "ring"),
        [
            (3, 1, 0.0, 8),
            (200, 1, 0.0, 8),
            (3, 1, 1.0, 8),
            (200, 8, 0.0, 16),
            (3, 8, 1000.0, 16),
            (3, 20, 0.0, 32),
            (3, 32, 0.0, 64),
            (200, 32, 1e6, 64),
        ],
    )
    def test_every_ring(self, n: int, bits: int, deviation: float, ring: int) -> None:
        graph = by_hand(n, n // 2 + 1, degree=2, share_threshold=1)
        scenario = Scenario(graph=graph, bits=bits, size=20, noise_deviation=deviation, rate=0.05, seed=n)
        assert terms_for(graph, bits, deviation).ring(20).bits == ring
        assert scenario.play().opened

    @pytest.mark.parametrize(
        ("n", "t", "c"), [(60, 50, 2), pytest.param(200, 130, 10, marks=pytest.mark.fuzz)], ids=str
    )
    def test_computed_neighbourhoods(self, n: int, t: int, c: int) -> None:
        """Sparse, as `choose` says, and with as many dropouts as it allows for."""
        graph = choose(n_clients=n, threshold=t, colluders=c, honest_minimum=2)
        assert not graph.is_complete
        rng = Random(n)
        pattern = [STAYS] * n
        for client in rng.sample(range(n), n - t):
            pattern[client] = rng.randrange(STAYS)
        terms = terms_for(graph, 16)
        ending = Federation(terms=terms).play(tuple(pattern))
        check(ending, *foresee(tuple(pattern), graph, named_holders(ending.round.sent)))
        assert ending.opened
