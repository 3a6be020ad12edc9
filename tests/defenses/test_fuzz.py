"""Bad messages against both sides of a masked sum: typed errors only, no change of state, bounded memory."""

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import pytest

from securefd.defenses.identity import sign_message
from securefd.defenses.masked_server import STAGES
from securefd.errors import ProtocolError
from securefd.messages import KIB, LIMITS, Signed, decode
from tests.defenses.dropping import (
    IDENTITIES,
    STAYS,
    by_hand,
    in_the_ring,
    terms_for,
)
from tests.defenses.fuzz_rounds import Play
from tests.defenses.fuzzers import GIVEN, ClientFuzzer, ServerFuzzer, idle, run
from tests.defenses.fuzzing import MIB, claims, raise_sites

SERVER_SITES = raise_sites("defenses/masked_server.py", "defenses/carriers.py")
CLIENT_SITES = raise_sites("defenses/masked_client.py", "defenses/masked_checks.py", "defenses/masks.py")
SITES = {
    **SERVER_SITES,
    **CLIENT_SITES,
    **raise_sites("defenses/identity.py", "defenses/shamir.py", "messages.py"),
}

# Two complete graphs, one of them with noise, and a sparse one. All signatures are verified. Sums of 5 bits
# nearly fill their ring, so that many a wrong one isn't noticed by its size.
WORLDS = [
    terms_for(by_hand(5, 3, degree=4, share_threshold=2, checked=3), bits=5),
    terms_for(by_hand(6, 4, degree=5, share_threshold=3, checked=4), noise_deviation=20.0),
    terms_for(by_hand(7, 4, degree=3, share_threshold=2, checked=4), bits=5),
]


class TestServer:
    def test_some_messages(self) -> None:
        tally = run(ServerFuzzer(1, WORLDS, SITES), 6000)
        assert len(idle(tally, SERVER_SITES)) <= 3

    @pytest.mark.fuzz
    def test_many_messages(self) -> None:
        tally = run(ServerFuzzer(2, WORLDS, SITES), 120_000)
        assert tally.tried.total() - tally.accepted.total() > 100_000
        assert not idle(tally, SERVER_SITES)


class TestClient:
    def test_some_messages(self) -> None:
        tally = run(ClientFuzzer(1, WORLDS, SITES), 6000)
        assert len(idle(tally, CLIENT_SITES)) <= 3

    @pytest.mark.fuzz
    def test_many_messages(self) -> None:
        tally = run(ClientFuzzer(2, WORLDS, SITES), 120_000)
        assert tally.tried.total() - tally.accepted.total() > 100_000
        assert not idle(tally, CLIENT_SITES)


class TestMemory:
    """Peaks beyond the message itself, at every stage of one round."""

    @pytest.fixture
    def stages(self) -> Iterator[Play]:
        play = Play(3, WORLDS, in_the_ring)
        play.leaves = STAYS
        tracemalloc.start()
        yield play
        tracemalloc.stop()

    def test_headers_that_claim_gigabytes(self, stages: Play) -> None:
        game, tried = stages.game, 0
        liar = stages.liars[1]
        victim = next(k for k in stages.present if k not in stages.liars)
        for stage in STAGES:
            if stage != "advertise":
                for message in claims(game.delivered[victim]):
                    assert peak(partial(game.act, victim, message)) < MIB
                    tried += 1
            answers = stages.answers()
            for message in claims(answers[liar]):
                assert peak(partial(game.server.receive, message)) < MIB
                tried += 1
            for body in claims(decode(answers[liar], Signed).body):
                message = sign_message(IDENTITIES[liar], game.server._place, liar, body)
                assert peak(partial(game.server.receive, message)) < MIB
                tried += 1
            stages.deliver(answers)
        assert tried > 1000

    def test_more_than_a_stage_takes(self, stages: Play) -> None:
        """Refused by length alone, whoever signed it."""
        game, liar = stages.game, stages.liars[1]
        victim = next(k for k in stages.present if k not in stages.liars)
        for stage in STAGES:
            if stage != "advertise":
                flood = bytes(LIMITS[GIVEN[stage]] + 1)
                assert peak(partial(game.act, victim, flood)) < MIB
            answers = stages.answers()
            flood = sign_message(IDENTITIES[liar], game.server._place, liar, bytes(9 * MIB))
            assert peak(partial(game.server.receive, flood)) < MIB
            stages.deliver(answers)

    def test_as_many_elements_as_a_message_can_hold(self, stages: Play) -> None:
        """Three times the message: it is decoded, its body too, and both are encoded again."""
        game, liar = stages.game, stages.liars[1]
        victim = next(k for k in stages.present if k not in stages.liars)
        for stage in STAGES:
            if stage != "advertise":
                for message in crowded(game.delivered[victim]):
                    assert peak(partial(game.act, victim, message)) < 3 * len(message)
            answers = stages.answers()
            for body in crowded(decode(answers[liar], Signed).body):
                message = sign_message(IDENTITIES[liar], game.server._place, liar, body)
                assert peak(partial(game.server.receive, message)) < 3 * len(message)
            stages.deliver(answers)


def peak(act: Callable[[], object]) -> int:
    """Bytes that ``act`` allocates at most, at one time, before it is refused."""
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    with pytest.raises(ProtocolError):
        act()
    return tracemalloc.get_traced_memory()[1] - before


def crowded(good: bytes) -> Iterator[bytes]:
    """``good`` with each of its fields in turn an array of so many empty values as 8 MiB hold."""
    size = 8 * MIB - KIB
    values = msgspec.msgpack.decode(good)
    for index in range(1, len(values)):
        full = msgspec.Raw(b"\xdd" + struct.pack(">I", size) + b"\xc0" * size)
        yield msgspec.msgpack.encode([*values[:index], full, *values[index + 1 :]])
