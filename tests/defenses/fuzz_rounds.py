"""What the fuzzers of a masked sum play: rounds that are honest but for what is spoiled on purpose."""

from collections.abc import Collection, Mapping, Sequence
from itertools import count
from random import Random
from typing import TypeVar

import numpy as np

from securefd.defenses.masked_server import STAGES, OpenedSum
from securefd.defenses.terms import Terms
from securefd.errors import MessageError, ProtocolError
from securefd.messages import Advertise, Message, Reveal, Signed, decode
from tests.defenses.dropping import STAYS, Carry, Federation, Round
from tests.defenses.fuzzing import Tally

M = TypeVar("M", bound=Message)


class Play:
    """One round after the other, in each of the worlds; ``kept``: messages of earlier rounds and stages.

    ``carry``: how their values travel.

    ``liars``: two clients whose keys are the fuzzer's. Left alone they are honest, but one may drop out.
    """

    def __init__(self, seed: int, worlds: Sequence[Terms], carry: Carry) -> None:
        self.random, self.carry = Random(seed), carry
        self.federations = [Federation(terms=terms, seed=seed + k) for k, terms in enumerate(worlds)]
        self.numbers = count()
        self.kept: list[bytes] = [b"\x90"]
        self.start()

    def start(self) -> None:
        """The next round."""
        number = next(self.numbers)
        federation = self.federations[number % len(self.federations)]
        self.terms = federation.terms
        self.game = Round(federation.clients, self.terms, number, carry=self.carry)
        n = len(self.terms.pinned)
        self.liars = tuple(self.random.sample(range(n), 2))
        self.leaves = self.random.choice((0, 1, 1, 2, 3, 4, STAYS))
        self.present = list(range(n))

    @property
    def stage(self) -> str:
        return self.game.server.stage

    @property
    def is_sparse(self) -> bool:
        """Whether clients that are honest may have to stand aside."""
        return not self.terms.neighbourhood.is_complete

    def answers(self) -> dict[int, bytes]:
        """What those present would send; in the sparse graph some may have to stand aside."""
        answers = {}
        for client in self.present:
            try:
                answers[client] = self.game.act(client)
            except ProtocolError:
                assert self.is_sparse
        return answers

    def deliver(self, answers: Mapping[int, bytes]) -> bool:
        """Play this stage honestly, and close it; whether the round goes on."""
        game, stage = self.game, self.stage
        for client, message in answers.items():
            leaves = client == self.liars[0] and STAGES.index(stage) >= self.leaves
            if client not in game.server.received and not leaves:
                game.server.receive(message)
        game.sent[stage] = {client: answers[client] for client in game.server.received}
        try:
            opened = game.close()
        except ProtocolError:
            assert self.is_sparse
            return False
        self.present = sorted(game.delivered)
        if opened is not None:
            assert np.array_equal(opened.total, game.plain_sum(opened.clients))
        self.kept += [*answers.values(), *game.delivered.values()]
        self.random.shuffle(self.kept)
        del self.kept[60:]
        return opened is None

    def donor(self, good: Sequence[bytes]) -> bytes:
        """A good message of any kind, from this stage or elsewhere."""
        return self.random.choice(good if good and self.random.random() < 0.6 else self.kept)


def play_out(
    game: Round, pending: Mapping[int, bytes], random: Random, tally: Tally, liars: Collection[int]
) -> OpenedSum | None:
    """To the end from a stage at which ``pending`` is still to come; some may drop out on the way.

    Clients may refuse to go on. The server may refuse what liars send, but not what honest clients send.
    """
    revealed: list[Reveal] = []
    dropping = random.choice((0.0, 0.1))
    try:
        while True:
            for client, message in pending.items():
                if client in game.server.received or random.random() < dropping:
                    continue
                if game.server.stage == "unmask":
                    revealed.append(decode(decode(message, Signed).body, Reveal))
                try:
                    game.server.receive(message)
                except ProtocolError as error:
                    tally.note(error)
                    if client not in liars:
                        raise AssertionError(f"honest client {client} was refused") from error
            opened = game.close()
            if opened is not None:
                return opened
            pending = {}
            for client in game.delivered:
                try:
                    pending[client] = game.act(client)
                except ProtocolError as error:
                    tally.note(error)
    except ProtocolError as error:
        tally.note(error)
        return None
    finally:
        seeds = {owner for reveal in revealed for owner in reveal.survivors}
        assert not seeds & {owner for reveal in revealed for owner in reveal.dropped}


def body_of(message: bytes, kind: type[M]) -> M:
    return decode(decode(message, Signed).body, kind)


def keys_of(advert: bytes) -> tuple[bytes, bytes]:
    body = body_of(advert, Advertise)
    return body.mask_key, body.share_key


def inner(message: bytes) -> bytes:
    """The body of a signed message, and any other as it is."""
    try:
        return decode(message, Signed).body
    except MessageError:
        return message
