"""Every way in which clients can drop out of a masked sum, and random ones among up to 200 clients."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement, product
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securefd.defenses.identity import sign_message
from securefd.defenses.masked_server import STAGES
from securefd.defenses.neighbourhood import Neighbourhood, choose
from securefd.defenses.terms import Terms
from securefd.errors import ProtocolError
from securefd.messages import Signed, decode
from tests.defenses.dropping import (
    IDENTITIES,
    STAYS,
    Ending,
    Federation,
    Pattern,
    Round,
    agreed,
    by_hand,
    check,
    check_nothing_else_revealed,
    complete,
    foresee,
    named_holders,
    terms_for,
)

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
