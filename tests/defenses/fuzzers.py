"""The fuzzers of both sides of a masked sum: bad messages to one party of rounds that are honest otherwise.

Colluders' keys are the fuzzer's, so that it also signs what it has spoiled, and the checks behind the
signature are reached. What is accepted all the same must be something that its sender may say: the round is
then played to its end, which must be the right sum or a typed error.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Protocol

import msgspec
import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securefd.defenses.identity import Place, sign_message
from securefd.defenses.masked_client import NONCE
from securefd.defenses.masked_server import STAGES
from securefd.defenses.masks import derivation
from securefd.defenses.terms import Terms
from securefd.messages import (
    Advertise,
    Boxes,
    Confirm,
    Confirmations,
    Message,
    Relay,
    Reveal,
    Roster,
    Signed,
    Survivors,
    Upload,
    decode,
    encode,
)
from tests.defenses.dropping import IDENTITIES, SESSION, Carry, in_the_ring
from tests.defenses.fuzz_rounds import Play, body_of, inner, keys_of, play_out
from tests.defenses.fuzzing import LOW_ORDER, Site, Sites, Tally, fingerprint, mutate

SIGNED: Mapping[str, type[Message]] = {
    "advertise": Advertise,
    "share": Boxes,
    "upload": Upload,
    "confirm": Confirm,
    "unmask": Reveal,
}
"""What clients sign at each stage."""
GIVEN: Mapping[str, type[Message]] = {
    "share": Roster,
    "upload": Relay,
    "confirm": Survivors,
    "unmask": Confirmations,
}
"""What the server gives to them before it."""
NO_BYTES: Sequence[Any] = ("text", bytearray(b"\x90"), memoryview(b"\x90"), [], 0)
OWN_FAULTS = (
    "own identity must be among",
    "values must travel by",
    "noise must be int64",
    "was agreed on; give the noise",
)
"""Refusals that no message can bring about, only who calls."""


class ServerFuzzer:
    """Messages from everyone to the server."""

    def __init__(self, seed: int, worlds: Sequence[Terms], sites: Sites, carry: Carry = in_the_ring) -> None:
        self.play, self.random, self.tally = Play(seed, worlds, carry), Random(-seed), Tally(sites=sites)

    def run(self, messages: int) -> None:
        """Whole rounds, until so many messages were tried."""
        while self.tally.tried.total() < messages:
            self.play.start()
            while self.fuzz_stage():
                pass
            if self.play.stage == "unmask":
                self.tally.refuse(self.play.game.server.open_sum)

    def fuzz_stage(self) -> bool:
        play, random = self.play, self.random
        answers = play.answers()
        for client in random.sample(sorted(answers), random.randrange(3)):
            if client not in play.liars:
                play.game.server.receive(answers[client])
        spare, turns, heard = play.game.fork(), play.game.turns, play.game.server.received
        before = fingerprint(play.game.server)
        for _ in range(random.choice((20, 60))):
            kind, message = self.draw(answers)
            for sender in self.tally.count(kind, partial(play.game.server.receive, message)):
                assert sender not in heard, f"a second message of client {sender} was accepted"
                self.check_accepted(sender, message, answers)
                play.game = spare.fork()
                play.game.turns = turns
            assert fingerprint(play.game.server) == before, f"a {kind} message changed the server"
        self.close_out_of_order()
        assert fingerprint(play.game.server) == before
        return play.deliver(answers)

    def draw(self, answers: Mapping[int, bytes]) -> tuple[str, bytes]:
        """The next message; a few are good ones, of this stage or of others."""
        play, random = self.play, self.random
        good = list(answers.values())
        family, donor = random.random(), play.donor(good)
        if family < 0.005:
            return "no bytes", random.choice(NO_BYTES)
        if family < 0.07:
            return "from elsewhere", donor
        if family < 0.3:
            return mutate(random, random.choice(good), donor)
        sender, place = random.choice((*play.liars, play.liars[1])), play.game.server._place
        body = decode(answers.get(sender, good[0]), Signed).body
        if family < 0.36:
            return "signed for elsewhere", self.sign_elsewhere(sender, place, body)
        if family < 0.38:
            kind, body = "another's, signed", decode(random.choice(good), Signed).body
        elif family < 0.42:
            kind, body = "lie, signed", encode(self.lie(decode(body, SIGNED[place.stage])))
        else:
            kind, body = mutate(random, body, inner(donor))
            kind = f"{kind}, signed"
        return kind, sign_message(IDENTITIES[sender], place, sender, body)

    def sign_elsewhere(self, sender: int, place: Place, body: bytes) -> bytes:
        random, signer = self.random, IDENTITIES[sender]
        others: dict[str, object] = {
            "protocol": b"securefd/masked/1",
            "session": random.randbytes(16),
            "round": random.choice((place.round + 1, 2**32 - 1)),
            "stage": random.choice((*STAGES, "")),
            "roster": random.randbytes(32),
        }
        name = random.choice((*others, "sender", "signer"))
        if name == "sender":
            sender = random.choice((0, sender + 1, 2**16 - 1))
        elif name == "signer":
            signer = IDENTITIES[-1]
        else:
            place = replace(place, **{name: others[name]})  # type: ignore[arg-type]
        return sign_message(signer, place, sender, body)

    def lie(self, body: Message) -> Message:
        """What keeps to the schema, and to most of the rules."""
        random, change = self.random, msgspec.structs.replace
        if isinstance(body, Boxes):
            kept = sorted(random.sample(range(len(body.holders)), random.randint(1, len(body.holders))))
            chosen = {name: tuple(getattr(body, name)[k] for k in kept) for name in ("holders", "boxes")}
            return change(body, **chosen)
        if isinstance(body, Advertise):
            return change(body, mask_key=random.randbytes(32), share_key=random.randbytes(32))
        if isinstance(body, Upload):
            return change(body, values=random.randbytes(len(body.values)))
        if isinstance(body, Reveal):
            draw = random.choice((random.randbytes, lambda size: b"\xff" * size))
            shares = {name: len(getattr(body, name)) for name in ("seed_shares", "key_shares")}
            return change(body, **{name: tuple(draw(32) for _ in range(k)) for name, k in shares.items()})
        return Confirm(survivors=random.randbytes(32))

    def check_accepted(self, sender: int, message: bytes, answers: Mapping[int, bytes]) -> None:
        """Only liars can say something else than they should, and they spoil no more than their own part."""
        play, game = self.play, self.play.game
        stage = play.stage
        if message == answers.get(sender):
            return
        assert sender in play.liars, f"something that client {sender} didn't send was accepted"
        refused = {*play.liars}
        if stage == "advertise":
            # who hears a client and is faster than it can take its keys, and its place
            keys = {*keys_of(message)}
            refused |= {client for client, answer in answers.items() if keys & {*keys_of(answer)}}
        opened = play_out(game, answers, self.random, self.tally, refused)
        if opened is None or (play.is_sparse and (stage == "share" or sender not in answers)):
            # who names other holders than those it masked with spoils the sum, and learns nothing by it
            return
        if stage == "upload" and play.terms.carrier == "bfv":
            # what a liar encrypted isn't known here; the sum is within the bounds, or it isn't opened
            most = len(opened.clients) * play.terms.largest_value
            assert 0 <= opened.total.min() <= opened.total.max() <= most
            return
        dtype = play.terms.ring(game.size).dtype
        expected = game.plain_sum(opened.clients).astype(dtype)
        if stage == "upload":
            expected += np.frombuffer(body_of(message, Upload).values, dtype)
            expected -= np.frombuffer(body_of(answers[sender], Upload).values, dtype)
        assert np.array_equal(opened.total.astype(dtype), expected)

    def close_out_of_order(self) -> None:
        """Stages can't be closed before their time, nor by too few."""
        server = self.play.game.server
        closers = (server.roster, server.relays, server.survivors, server.confirmations, server.open_sum)
        for stage, close in zip(STAGES, closers, strict=True):
            if stage != server.stage or len(server.received) < self.play.terms.threshold:
                self.tally.refuse(close)


class ClientFuzzer:
    """Messages from the server, the network and colluding clients to an honest client."""

    def __init__(self, seed: int, worlds: Sequence[Terms], sites: Sites, carry: Carry = in_the_ring) -> None:
        self.play, self.random, self.tally = Play(seed, worlds, carry), Random(-seed), Tally(sites=sites)

    def run(self, messages: int) -> None:
        """Whole rounds, until so many messages were tried."""
        while self.tally.tried.total() < messages:
            self.play.start()
            self.play.deliver(self.play.answers())
            while self.fuzz_stage():
                pass

    def fuzz_stage(self) -> bool:
        play, random, game = self.play, self.random, self.play.game
        turns = game.turns
        answers = play.answers()
        after = game.turns
        for victim in random.sample([k for k in answers if k not in play.liars], 2):
            game.turns = turns
            before = fingerprint(game.clients[victim])
            for _ in range(random.choice((10, 30))):
                kind, message = self.draw(victim)
                if sent := self.tally.count(kind, partial(game.act, victim, message)):
                    self.check_accepted(victim, message, {**answers, victim: sent[0]}, after)
                    game.turns = turns
                assert fingerprint(game.clients[victim]) == before, f"a {kind} message changed the client"
            self.act_out_of_order(victim)
            assert fingerprint(game.clients[victim]) == before
        game.turns = after
        return play.deliver(answers)

    def draw(self, victim: int) -> tuple[str, bytes]:
        play, random = self.play, self.random
        given = play.game.delivered
        family, donor = random.random(), play.donor(list(given.values()))
        if family < 0.005:
            return "no bytes", random.choice(NO_BYTES)
        if family < 0.07:
            return "from elsewhere", donor
        if family < 0.85:
            return mutate(random, given[victim], donor)
        return "lie", encode(self.lie(victim, decode(given[victim], GIVEN[play.stage]), inner(donor)))

    def lie(self, victim: int, truth: Message, donor: bytes) -> Message:
        """What keeps to the schema, and to most of the rules; with colluders' signatures where one is due."""
        random = self.random
        if isinstance(truth, Roster):
            return self.lie_about_roster(victim, truth, donor)
        if isinstance(truth, Relay):
            return self.lie_about_boxes(victim, truth)
        if isinstance(truth, Survivors):
            everyone = [*truth.survivors, *truth.dropped]
            survivors = random.sample(everyone, random.randint(0, len(everyone)))
            dropped = [k for k in everyone if k not in survivors or random.random() < 0.05]
            return Survivors(survivors=tuple(sorted(survivors)), dropped=tuple(sorted(dropped)))
        assert isinstance(truth, Confirmations)
        return self.lie_about_signatures(truth)

    def lie_about_signatures(self, truth: Confirmations) -> Confirmations:
        """Others than the first, one too many or too few, and a colluder's under another list."""
        random, game = self.random, self.play.game
        signatures = {k: decode(sent, Signed).signature for k, sent in game.sent["confirm"].items()}
        for liar in self.play.liars:
            if random.random() < 0.3:
                body = encode(Confirm(survivors=random.randbytes(32)))
                signed = sign_message(
                    IDENTITIES[liar], replace(game.server._place, stage="confirm"), liar, body
                )
                signatures[liar] = decode(signed, Signed).signature
        size = min(len(truth.senders) + random.choice((0, 0, 0, -1, 1)), len(signatures))
        senders = sorted(random.sample(sorted(signatures), size))
        chosen = tuple(signatures[k] for k in senders)
        return msgspec.structs.replace(truth, senders=tuple(senders), signatures=chosen)

    def lie_about_roster(self, victim: int, truth: Roster, donor: bytes) -> Roster:
        """Some left out, and two exchanged, or one that a colluder has signed for this round."""
        random = self.random
        adverts = [b"" if k != victim and random.random() < 0.15 else a for k, a in enumerate(truth.adverts)]
        liar, other = random.choice(self.play.liars), random.randrange(len(adverts))
        keys = {name: random.choice((random.randbytes(32), *LOW_ORDER)) for name in ("mask_key", "share_key")}
        reflected = decode(adverts[victim], Signed).body
        bodies = (encode(Advertise(**keys)), mutate(random, reflected, donor)[1], reflected, donor)
        kind = random.randrange(6)
        if kind < 4:
            digest = self.play.terms.digest(
                question=self.play.game.carried.question, size=self.play.game.size
            )
            place = self.play.game.server._place.at("advertise", digest)
            adverts[liar] = sign_message(IDENTITIES[liar], place, liar, bodies[kind][:800])
        elif kind == 4:
            adverts[liar], adverts[other] = adverts[other], adverts[liar]
        return Roster(adverts=tuple(adverts))

    def lie_about_boxes(self, victim: int, truth: Relay) -> Relay:
        """Some left out, and a colluder's box that holds something else than shares."""
        random, boxes = self.random, dict(zip(truth.senders, truth.boxes, strict=True))
        others = random.sample(range(len(self.play.terms.pinned)), random.choice((0, 0, 0, 1)))
        sharers = [k for k in sorted({*truth.sharers, *others}) if random.random() < 0.9]
        for liar in self.play.liars:
            turn = self.play.game.clients[liar]._turn
            if liar in boxes and random.random() < 0.3:
                key = derivation(turn.place).box_key(turn.secrets[victim], liar, victim)  # type: ignore[union-attr]
                boxes[liar] = AESGCM(key).encrypt(NONCE, random.randbytes(64), None)
        senders = [k for k in truth.senders if k in sharers and random.random() < 0.9]
        return Relay(sharers=tuple(sharers), senders=tuple(senders), boxes=tuple(boxes[k] for k in senders))

    def check_accepted(
        self, victim: int, message: bytes, answers: Mapping[int, bytes], after: list[object]
    ) -> None:
        """It is what an honest server might say; and the round ends with the right sum, or none."""
        play, game = self.play, self.play.game
        given = game.delivered[victim]
        if message == given:
            return
        lied, truth = (decode(data, GIVEN[play.stage]) for data in (message, given))
        self.check_meaning(victim, lied, truth, answers[victim])
        mine = game.clients[victim]._turn
        fork = game.fork()
        fork.turns = after
        fork.clients[victim]._turn = mine
        opened = play_out(fork, answers, self.random, self.tally, [victim])
        if opened is not None and not (play.is_sparse and play.stage == "upload"):
            # whom the server keeps a box from, that one doesn't mask with its sender, and the sum is spoiled
            assert np.array_equal(opened.total, game.plain_sum(opened.clients))

    def check_meaning(self, victim: int, lied: Message, truth: Message, sent: bytes) -> None:
        """``truth``: what the honest server said instead; ``sent``: what the client made of the lie."""
        game, terms = self.play.game, self.play.terms
        if isinstance(lied, Roster):
            assert isinstance(truth, Roster)
            assert len(lied.adverts) == len(terms.pinned)
            assert lied.adverts[victim] == truth.adverts[victim]
            assert sum(map(bool, lied.adverts)) >= terms.threshold
            assert all(lied.adverts[holder] for holder in body_of(sent, Boxes).holders)
        elif isinstance(lied, Relay):
            assert isinstance(truth, Relay)
            assert victim in {*lied.sharers} <= game.sent["advertise"].keys()
            assert {*lied.senders} <= {*lied.sharers} - {victim}
            assert len(lied.sharers) >= terms.threshold
            boxes = dict(zip(truth.senders, truth.boxes, strict=True))
            for sender, box in zip(lied.senders, lied.boxes, strict=True):
                assert sender in self.play.liars or box == boxes[sender]
        elif isinstance(lied, Survivors):
            assert isinstance(truth, Survivors)
            assert victim in lied.survivors
            assert len(lied.survivors) >= terms.threshold
            everyone = sorted([*lied.survivors, *lied.dropped])
            assert everyone == sorted([*truth.survivors, *truth.dropped])
        else:
            assert isinstance(lied, Confirmations)
            assert isinstance(truth, Confirmations)
            assert (lied.owners, lied.tags) == (truth.owners, truth.tags)
            assert len({*lied.senders}) == terms.threshold
            for sender, signature in zip(lied.senders, lied.signatures, strict=True):
                assert decode(game.sent["confirm"][sender], Signed).signature == signature

    def act_out_of_order(self, victim: int) -> None:
        """No stage comes twice, or before its time."""
        core, game = self.play.game.clients[victim], self.play.game
        message = self.random.choice([game.delivered[victim], *self.play.kept])
        acts: Mapping[str, Callable[[], object]] = {
            "share": lambda: core.share(message),
            "upload": lambda: core.upload(
                message, game.vectors[victim], noise=game.noise[victim], sealer=game.carried.sealer
            ),
            "confirm": lambda: core.confirm(message),
            "unmask": lambda: core.unmask(message),
        }
        for stage, act in acts.items():
            if stage != game.server.stage:
                self.tally.refuse(act)
        self.tally.refuse(
            partial(core.advertise, SESSION, game.number, question=game.carried.question, size=game.size)
        )


class Fuzzer(Protocol):
    """Tries at least so many messages, in whole rounds, and counts them."""

    tally: Tally

    def run(self, messages: int) -> None: ...


def run(fuzzer: Fuzzer, messages: int) -> Tally:
    fuzzer.run(messages)
    print(fuzzer.tally)
    return fuzzer.tally


def idle(tally: Tally, checks: Mapping[tuple[str, int], Site]) -> set[Site]:
    """Which of these checks refused nothing, although a message could have failed them."""
    wanted = {site for site in checks.values() if not any(fault in site.says for fault in OWN_FAULTS)}
    return wanted & tally.never
