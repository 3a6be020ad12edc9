"""Bad messages where masked values are encrypted as well: to server and clients as without, and around them.

The server's and the clients' fuzzers are those of `test_fuzz`, over rounds whose uploads are ciphertexts.
What is new are the key holder's two messages: its context to a client that is about to encrypt, and what it
opened to a server that is about to unmask. Its key is the fuzzer's there, so that it also signs what was
spoiled.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import numpy as np
import pytest

from securefd.defenses.bfv import PART_BYTES, value_bits
from securefd.defenses.identity import Identity, Place, sign_message
from securefd.defenses.masked_bfv import BfvAdder, BfvSealer, quorum_of
from securefd.defenses.masked_server import STAGES, OpenedSum
from securefd.defenses.slots import SlotKeyHolder
from securefd.defenses.terms import Terms
from securefd.messages import Signed, Upload, decode
from tests.defenses.dropping import (
    IDENTITIES,
    QUESTION,
    SESSION,
    Carried,
    Federation,
    Round,
    by_hand,
    terms_for,
)
from tests.defenses.fuzz_rounds import body_of
from tests.defenses.fuzzers import ClientFuzzer, ServerFuzzer, run
from tests.defenses.fuzzing import Tally, fingerprint, mutate, raise_sites

SERVER, HOLDER = IDENTITIES[-2:]
SITES = raise_sites(
    *(f"defenses/{name}.py" for name in ("masked_bfv", "slots", "bfv", "carriers", "prime_ring")),
    *(f"defenses/{name}.py" for name in ("masked_server", "masked_client", "masked_checks", "masks")),
    *("defenses/identity.py", "defenses/shamir.py", "messages.py"),
)


def encrypted(n: int, t: int, degree: int, share_threshold: int) -> Terms:
    """At the most bits, so that many a wrong sum is beyond what is possible, and many another isn't."""
    terms = terms_for(by_hand(n, t, degree, share_threshold, checked=t))
    return replace(terms, carrier="bfv", bits=value_bits(n))


WORLDS = [encrypted(4, 3, 3, 2), encrypted(7, 4, 3, 2)]


@dataclass(frozen=True, kw_only=True)
class Encrypted(Carried):
    """``context``: the key holder's message; ``answers``: the last of them is what the server
    gets for its signed sum."""

    sealer: BfvSealer
    adder: BfvAdder
    context: bytes
    answers: list[Callable[[bytes], bytes]]


def encrypt(terms: Terms, number: int, size: int) -> Encrypted:
    """A key holder that opens as often as it is asked, so that a round can be played to several ends."""
    holder = SlotKeyHolder(HOLDER, SERVER.public, quorum_of(terms))
    context = holder.context(SESSION, number, QUESTION)

    def honest(message: bytes) -> bytes:
        key, place = holder._key, holder._place
        try:
            return holder.open(message).message
        finally:
            holder._key, holder._place = key, place

    answers = [honest]
    about = {"context": context, "session": SESSION, "round": number, "question": QUESTION}
    sealer = BfvSealer(terms=terms, holder=HOLDER.public, **about)  # type: ignore[arg-type]
    adder = BfvAdder(
        terms,
        size,
        server=SERVER,
        holder=HOLDER.public,
        ask=lambda message: answers[-1](message),
        **about,  # type: ignore[arg-type]
    )
    return Encrypted(question=adder.about, sealer=sealer, adder=adder, context=context, answers=answers)


class HolderFuzzer:
    """Messages from the key holder, or from the network in its name, to a client and to the server."""

    def __init__(self, seed: int) -> None:
        self.random, self.tally = Random(seed), Tally(sites=SITES)
        self.federation = Federation(terms=WORLDS[0], seed=seed)
        self.kept = [b"\x90"]

    def run(self, messages: int) -> None:
        """Whole rounds, until so many messages were tried."""
        number = 0
        while self.tally.tried.total() < messages:
            self.play_round(number, 20)
            number += 1

    def play_round(self, number: int, budget: int) -> None:
        game = Round(self.federation.clients, self.federation.terms, number, carry=encrypt)
        carried = game.carried
        assert isinstance(carried, Encrypted)
        for stage in STAGES:
            if stage == "upload":
                for _ in range(budget):
                    self.to_client(game, carried)
            game.collect(range(len(game.clients)))
            if stage != STAGES[-1]:
                game.close()
        opening = self.opening(game, carried)
        for _ in range(budget):
            self.to_server(game, carried, opening)
        self.check(game, game.close())
        self.kept = [carried.context, opening, *game.sent["upload"].values()]

    def opening(self, game: Round, carried: Encrypted) -> bytes:
        """What an honest key holder answers."""
        answers: list[bytes] = []

        def answer(message: bytes) -> bytes:
            answers.append(carried.answers[0](message))
            return answers[-1]

        carried.answers.append(answer)
        self.check(game, game.fork().close())
        carried.answers.pop()
        return answers[0]

    def check(self, game: Round, opened: OpenedSum | None) -> None:
        assert opened is not None
        assert opened.clients == tuple(range(len(game.clients)))
        assert np.array_equal(opened.total, game.plain_sum(opened.clients))

    def to_client(self, game: Round, carried: Encrypted) -> None:
        """A context, to a client that is about to encrypt. It masks and encrypts once, if at all."""
        client, vector = game.clients[0], game.vectors[0]
        kind, message, signer = self.spoil(carried.context)
        sealer = replace(carried.sealer, context=message)
        turn, before = client._turn, fingerprint(client)
        act = partial(client.upload, game.delivered[0], vector, sealer=sealer)
        for sent in self.tally.count(f"context: {kind}", act):
            assert message == carried.context or signer is HOLDER
            assert len(body_of(sent, Upload).values) == PART_BYTES
            client._turn = turn
        assert fingerprint(client) == before

    def to_server(self, game: Round, carried: Encrypted, opening: bytes) -> None:
        """An answer, to a server that is about to unmask. If it refuses, it can take the right one later."""
        kind, message, signer = self.spoil(opening)
        server = game.fork()
        before = fingerprint(server.server)
        carried.answers.append(lambda _: message)
        opened = self.tally.count(f"opening: {kind}", server.close)
        carried.answers.pop()
        for total in opened:
            if message == opening:
                self.check(game, total)
            assert message == opening or signer is HOLDER
        if not opened:
            assert fingerprint(server.server) == before
            if self.random.random() < 0.2:
                self.check(game, server.close())

    def spoil(self, message: bytes) -> tuple[str, bytes, Identity | None]:
        """Another message in place of this one: as the network could alter it, or signed, and by whom."""
        random, donor = self.random, self.random.choice(self.kept)
        family = random.random()
        if family < 0.05:
            return "from elsewhere", donor, None
        if family < 0.3:
            return *mutate(random, message, donor), None
        honest = decode(message, Signed)
        kind, body = mutate(random, honest.body, donor)
        place = Place(
            protocol=quorum_of(self.federation.terms).protocol,
            session=honest.session,
            round=honest.round,
            stage=honest.stage,
            roster=honest.roster,
        )
        signer = random.choice((HOLDER, HOLDER, HOLDER, SERVER))
        return f"{kind}, signed", sign_message(signer, place, 0, body), signer


def refusing(tally: Tally) -> set[str]:
    """Functions of the encrypted carrier that refused something."""
    return {site.function for site in tally.refused if site.file in ("bfv.py", "slots.py", "masked_bfv.py")}


def test_some_messages_to_the_server() -> None:
    tally = run(ServerFuzzer(1, WORLDS, SITES, encrypt), 1000)
    assert {"read_parts", "unpack"} <= refusing(tally)


def test_some_messages_to_clients() -> None:
    tally = run(ClientFuzzer(1, WORLDS, SITES, encrypt), 600)
    assert len(tally.refused) > 15


def test_some_messages_from_the_key_holder() -> None:
    tally = run(HolderFuzzer(1), 200)
    assert len(tally.refused) > 8


@pytest.mark.fuzz
def test_many_messages_to_the_server() -> None:
    tally = run(ServerFuzzer(2, WORLDS, SITES, encrypt), 10_000)
    assert {"read_parts", "read_words", "unpack"} <= refusing(tally)


@pytest.mark.fuzz
def test_many_messages_to_clients() -> None:
    run(ClientFuzzer(2, WORLDS, SITES, encrypt), 5_000)


@pytest.mark.fuzz
def test_many_messages_from_the_key_holder() -> None:
    tally = run(HolderFuzzer(2), 3_000)
    assert {"load", "read", "seal"} <= refusing(tally)
