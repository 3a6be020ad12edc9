"""A server that doesn't follow the protocol: each attack is refused, and has unmasked nobody.

What has left clients is judged by `Adversary`, which tries to recover both secrets of every honest client and
to open sums over each choice of them. That it can is shown with weakened clients, and with terms that
`choose` refuses.
"""

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb, sqrt
from random import Random

import pytest

from securefd.defenses import masked_client
from securefd.defenses.identity import Place
from securefd.defenses.masked_client import MaskedClient, agreement
from securefd.defenses.masked_server import STAGES, MaskedServer
from securefd.defenses.neighbourhood import choose
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import (
    Advertise,
    Boxes,
    Confirm,
    Confirmations,
    Relay,
    Signed,
    Survivors,
    decode,
    encode,
)
from tests.defenses.masked_attacks import (
    ATTACKS,
    COLLUDERS,
    GRAPH,
    PARTITION,
    SIGNATURE,
    VICTIM,
    box_for,
    list_hash,
    signature,
)
from tests.defenses.masked_parties import (
    IDENTITIES,
    LOW_ORDER,
    OTHER_SESSION,
    QUESTION,
    SESSION,
    STRANGER,
    Adversary,
    Federation,
    body_of,
    edit,
    make_graph,
    make_terms,
    private_key,
)


@pytest.mark.parametrize("name", ATTACKS)
def test_one_forged_message(name: str) -> None:
    """It is refused, nothing leaves, and the same round still comes to its sum: all that is learned."""
    attack = ATTACKS[name]
    federation = Federation(make_terms(GRAPH)).to(attack.stage, attack.drops)
    forged, sent = attack.forge(federation), len(federation.log)
    for _ in range(2):
        with pytest.raises(ProtocolError, match=attack.rule):
            federation.act(VICTIM, forged)
    assert len(federation.log) == sent
    Adversary(federation, COLLUDERS).check_learned()
    opened = federation.finish(attack.drops)
    Adversary(federation, COLLUDERS).check_learned({*opened.clients} - {*COLLUDERS})


@pytest.mark.parametrize("which", ["share", "mask"])
@pytest.mark.parametrize("order", LOW_ORDER)
def test_a_key_of_low_order_never_masks(order: str, which: str) -> None:
    """A share key is used at once, a mask key at upload only: what has left by then is in boxes."""
    f = Federation(make_terms(GRAPH)).to("share")
    bad = f.roster_with({3: f.advert(3, **{f"{which}_key": LOW_ORDER[order]})})  # type: ignore[arg-type]
    if which == "share":
        with pytest.raises(ProtocolError, match="client 3 advertised a key that gives no shared secret"):
            f.act(VICTIM, bad)
    else:
        f.act(VICTIM, bad)
        relay = encode(Relay(sharers=(0, 1, 2, 3, 4), senders=(), boxes=()))
        for _ in range(2):
            with pytest.raises(ProtocolError, match="client 3 advertised a key that gives no shared secret"):
                f.act(VICTIM, relay, stage="upload")
    Adversary(f, COLLUDERS, [private_key(6), private_key(7)]).check_learned()
    assert not f.sent["upload"]


class TestReplays:
    """Messages of other stages, rounds and sessions, and stages out of order."""

    @pytest.fixture
    def past(self) -> Federation:
        """The round that the same clients had before."""
        first = Federation(make_terms(GRAPH), number=3)
        first.finish()
        return first

    @staticmethod
    def attempt(client: MaskedClient, federation: Federation, stage: str, message: bytes) -> None:
        if stage == "share":
            client.share(message)
        elif stage == "upload":
            client.upload(message, federation.vectors[VICTIM])
        elif stage == "confirm":
            client.confirm(message)
        else:
            client.unmask(message)

    def test_every_stage_with_the_message_of_every_other(self, past: Federation) -> None:
        """Between two stages a client takes the next one's message, and no other."""
        now = Federation(past.terms, before=past)
        client, tried = now.clients[VICTIM], 0
        for turn in ("share", "upload", "confirm", "unmask", None):
            if turn:
                now.to(turn)
            else:
                now.finish()
            sent = len(now.log)
            for stage in STAGES[1:]:
                for source in STAGES[1:]:
                    message = (now.given[source] or past.given[source])[VICTIM]
                    if stage == turn == source:
                        continue
                    rule = "isn't? a valid|aren't a valid" if stage == turn else f"{stage} comes once a round"
                    with pytest.raises(ProtocolError, match=rule):
                        self.attempt(client, now, stage, message)
                    tried += 1
            for number in (now.number, now.number - 1, 0):
                with pytest.raises(ProtocolError, match="can't follow round 4"):
                    client.advertise(SESSION, number, question=QUESTION, size=now.size)
            assert len(now.log) == sent
        assert tried == 5 * 16 - 4
        Adversary(now, COLLUDERS).check_learned({0, 1, 2}, {0, 1, 2})

    def test_before_the_first_stage(self, past: Federation) -> None:
        fresh = MaskedClient(IDENTITIES[VICTIM], past.terms)
        for stage in STAGES[1:]:
            with pytest.raises(ProtocolError, match=f"{stage} comes once a round"):
                self.attempt(fresh, past, stage, past.given[stage][VICTIM])

    @pytest.mark.parametrize("stage", ["share", "upload", "unmask"])
    @pytest.mark.parametrize("session", [SESSION, OTHER_SESSION])
    def test_what_the_server_sent_in_another_round(self, stage: str, session: bytes) -> None:
        past = Federation(make_terms(GRAPH), number=3, session=session)
        past.finish()
        now = Federation(past.terms, before=past).to(stage)
        rule = {
            "share": "own advertisement",
            "upload": "wasn't made for this client, round and roster",
            "unmask": SIGNATURE,
        }[stage]
        with pytest.raises(ProtocolError, match=rule):
            now.act(VICTIM, past.given[stage][VICTIM])
        now.finish()
        Adversary(now, COLLUDERS).check_learned({0, 1, 2})

    def test_a_list_of_another_round(self, past: Federation) -> None:
        """It says nothing of the round that it is for; what a client signs under it does."""
        now = Federation(past.terms, before=past).to("confirm", {"advertise": {4}})
        with pytest.raises(ProtocolError, match=PARTITION):
            now.act(VICTIM, past.given["confirm"][VICTIM])
        now.finish()
        same = Federation(past.terms, number=5, before=past).to("confirm")
        assert same.given["confirm"] == past.given["confirm"]
        signed = same.act(VICTIM, past.given["confirm"][VICTIM])
        assert body_of(signed, Confirm) == body_of(past.sent["confirm"][VICTIM], Confirm)
        assert signature(signed) != signature(past.sent["confirm"][VICTIM])

    @pytest.mark.parametrize("client", [1, 3])
    def test_adverts_of_another_round(self, past: Federation, client: int) -> None:
        now = Federation(past.terms, before=past).to("share")
        with pytest.raises(ProtocolError, match="another round"):
            now.act(VICTIM, now.roster_with({client: past.sent["advertise"][client]}))
        now.finish()
        Adversary(now, COLLUDERS).check_learned({0, 1, 2})

    def test_boxes_of_another_round(self, past: Federation) -> None:
        now = Federation(past.terms, before=past).to("upload")
        relay = decode(now.given["upload"][VICTIM], Relay)
        old = decode(past.given["upload"][VICTIM], Relay)
        for index, sender in enumerate(relay.senders):
            boxes = (*relay.boxes[:index], old.boxes[index], *relay.boxes[index + 1 :])
            with pytest.raises(ProtocolError, match=f"box from client {sender} wasn't made for this client"):
                now.act(VICTIM, edit(now.given["upload"][VICTIM], Relay, boxes=boxes))
        now.finish()
        Adversary(now, COLLUDERS).check_learned({0, 1, 2})

    def test_confirmations_of_another_round(self, past: Federation) -> None:
        now = Federation(past.terms, before=past).to("unmask")
        fresh = decode(now.given["unmask"][VICTIM], Confirmations)
        old = decode(past.given["unmask"][VICTIM], Confirmations)
        assert now.given["confirm"] == past.given["confirm"]  # the same list was signed in both
        for index in range(4):
            signatures = (*fresh.signatures[:index], old.signatures[index], *fresh.signatures[index + 1 :])
            with pytest.raises(ProtocolError, match=SIGNATURE):
                now.act(VICTIM, edit(now.given["unmask"][VICTIM], Confirmations, signatures=signatures))
        now.finish()

    def test_a_round_that_was_given_up(self, past: Federation) -> None:
        """Its keys are gone with it: nothing of it is answered any more."""
        given_up = Federation(past.terms, before=past).to("confirm")
        now = Federation(past.terms, number=5, before=past).to("share")
        for stage in STAGES[1:]:
            message = (given_up.given[stage] or past.given[stage])[VICTIM]
            with pytest.raises(ProtocolError):
                self.attempt(now.clients[VICTIM], now, stage, message)
        now.finish()
        Adversary(now, COLLUDERS).check_learned({0, 1, 2})


class TestSecondOpenings:
    """One key, one list, one opening."""

    LISTS = tuple(
        encode(Survivors(survivors=survivors, dropped=dropped))
        for survivors, dropped in (((0, 1, 2, 3, 4), ()), ((0, 1, 2, 3), (4,)), ((0, 1, 2, 4), (3,)))
    )

    def test_a_second_roster(self) -> None:
        f = Federation(make_terms(GRAPH)).to("share")
        f.collect([VICTIM])
        for roster in (f.roster, f.roster_with({3: f.advert(3)})):
            with pytest.raises(ProtocolError, match="share comes once a round"):
                f.act(VICTIM, roster)
        f.finish()

    def test_a_second_upload(self) -> None:
        """Two vectors under one mask would show their difference."""
        f = Federation(make_terms(GRAPH)).to("upload")
        f.collect([VICTIM])
        for vector in (f.vectors[VICTIM], f.vectors[1]):
            with pytest.raises(ProtocolError, match="upload comes once a round"):
                f.clients[VICTIM].upload(f.given["upload"][VICTIM], vector)
        f.finish()

    @pytest.mark.parametrize("signed", LISTS)
    def test_a_second_list(self, signed: bytes) -> None:
        f = Federation(make_terms(GRAPH)).to("confirm")
        f.act(VICTIM, signed)
        for other in self.LISTS:
            with pytest.raises(ProtocolError, match="confirm comes once a round"):
                f.act(VICTIM, other)
        Adversary(f, COLLUDERS).check_learned()

    def test_a_second_unmasking(self) -> None:
        f = Federation(make_terms(GRAPH)).to("unmask")
        f.collect([VICTIM])
        for message in (f.given["unmask"][VICTIM], f.given["confirm"][VICTIM]):
            for stage in STAGES[1:]:
                with pytest.raises(ProtocolError, match=f"{stage} comes once a round"):
                    f.act(VICTIM, message, stage=stage)
        f.finish()
        Adversary(f, COLLUDERS).check_learned({0, 1, 2})

    def test_clients_that_can_be_rolled_back_do_reveal_both(self) -> None:
        """The adversary of these tests works: it opens everything where clients forget what they signed."""
        f = Federation(make_terms(GRAPH)).to("confirm")
        for survivors, dropped in (((0, 1, 2, 3), (4,)), ((0, 2, 3, 4), (1,))):
            message = encode(Survivors(survivors=survivors, dropped=dropped))
            turns = [client._turn for client in f.clients]
            signed = {k: signature(f.act(k, message, stage="confirm")) for k in survivors}
            for k in survivors:
                f.act(k, f.confirmations(k, survivors, signed), stage="unmask")
            for client, turn in zip(f.clients, turns, strict=True):
                client._turn = turn
        adversary = Adversary(f, COLLUDERS)
        assert {frozenset({1}), frozenset({0, 2}), frozenset({0, 1, 2})} <= set(adversary.open_sums())
        with pytest.raises(AssertionError, match="both secrets of client 1"):
            adversary.check_learned({0, 2})


SOUND = [(4, 3, 1), (5, 4, 2), (6, 5, 3), (7, 5, 2), (7, 6, 4), (8, 6, 3), (8, 7, 5)]
"""Clients, threshold, and the most colluders that the rules allow."""
UNSOUND = [(5, 3, 1), (6, 4, 2), (7, 5, 3), (8, 5, 2), (8, 6, 4)]
"""One colluder more, and so few that they can't recover secrets all by themselves."""


def test_the_cases_are_at_the_limit() -> None:
    for n, t, c in SOUND:
        assert c == min(2 * t - n - 1, t - 2)
    for n, t, c in UNSOUND:
        assert c == 2 * t - n < t - 1
        with pytest.raises(SealingError, match="colluders must be at least 0 and below 2"):
            choose(n_clients=n, threshold=t, colluders=c, honest_minimum=2)


def halves(n: int, c: int) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """All sizes of two groups of honest clients, and the colluders, who are the last ones."""
    honest, colluders = list(range(n - c)), list(range(n - c, n))
    for size in range(1, n - c):
        yield honest[:size], honest[size:], colluders


def unmasking(
    f: Federation, clients: Collection[int], survivors: Collection[int], signed: Mapping[int, bytes]
) -> list[int]:
    """Which of these clients unmask, given signatures by position; the others refuse."""
    found = []
    for client in clients:
        with contextlib.suppress(ProtocolError):
            f.act(client, f.confirmations(client, survivors, signed), stage="unmask")
            found.append(client)
    return found


@dataclass(frozen=True, kw_only=True)
class Split:
    """Two groups of honest clients are shown two lists of survivors, and colluders sign both."""

    federation: Federation
    groups: tuple[list[int], list[int]]
    colluders: list[int]

    def run(self) -> list[list[int]]:
        """Who unmasked in each group. Each is told that of the other one as many dropped out as can be."""
        f, t = self.federation.to("confirm"), self.federation.terms.threshold
        lists = []
        for mine, others in (self.groups, self.groups[::-1]):
            most = max(t, len(mine) + len(self.colluders))
            named = sorted((mine + self.colluders + others)[:most])
            dropped = sorted({*f.everyone} - {*named})
            lists.append(encode(Survivors(survivors=tuple(named), dropped=tuple(dropped))))
        signed = {}
        for group, message in zip(self.groups, lists, strict=True):
            signed.update({k: f.act(k, message) for k in group})
        return [
            unmasking(f, group, decode(message, Survivors).survivors, self.signatures(message, signed))
            for group, message in zip(self.groups, lists, strict=True)
        ]

    def signatures(self, message: bytes, signed: Mapping[int, bytes]) -> dict[int, bytes]:
        """The best t that the server has: those under the other list come where those under this one end."""
        named = decode(message, Survivors).survivors
        digest = Confirm(survivors=hashlib.sha256(message).digest())
        own = {k: self.federation.forge(k, digest, stage="confirm") for k in self.colluders}
        found = {**signed, **own}
        best = sorted(named, key=lambda k: body_of(found[k], Confirm) != digest)
        return {k: signature(found[k]) for k in best[: self.federation.terms.threshold]}


class TestTwoLists:
    @pytest.mark.parametrize(("n", "t", "c"), SOUND)
    def test_at_most_one_is_opened(self, n: int, t: int, c: int) -> None:
        graph = choose(n_clients=n, threshold=t, colluders=c, honest_minimum=2)
        for one, other, colluders in halves(n, c):
            split = Split(federation=Federation(make_terms(graph)), groups=(one, other), colluders=colluders)
            unmasked = split.run()
            assert unmasked == [group if len(group) + c >= t else [] for group in (one, other)]
            learned = [group for group in unmasked if group]
            assert len(learned) <= 1
            assert all(len(group) >= graph.honest_minimum for group in learned)
            Adversary(split.federation, colluders).check_learned(*learned)

    @pytest.mark.parametrize(("n", "t", "c"), SOUND)
    def test_fewer_colluders(self, n: int, t: int, c: int) -> None:
        """In two halves, which suits the server best."""
        for fewer in range(c):
            graph = choose(n_clients=n, threshold=t, colluders=fewer, honest_minimum=2)
            honest = list(range(n - fewer))
            groups = (honest[: len(honest) // 2], honest[len(honest) // 2 :])
            colluders = list(range(n - fewer, n))
            split = Split(federation=Federation(make_terms(graph)), groups=groups, colluders=colluders)
            split.run()
            opened = Adversary(split.federation, colluders).open_sums()
            assert len(opened) <= 1
            assert all(len(clients) >= t - fewer for clients in opened)

    @pytest.mark.parametrize(("n", "t", "c"), UNSOUND)
    def test_one_colluder_more_would_open_everyone(self, n: int, t: int, c: int) -> None:
        """That is why `choose` refuses these numbers."""
        honest, colluders = list(range(n - c)), list(range(n - c, n))
        groups = (honest[: t - c], honest[t - c :])
        assert len(groups[1]) == t - c
        terms = make_terms(make_graph(n, t, colluders=c))
        split = Split(federation=Federation(terms), groups=groups, colluders=colluders)
        assert split.run() == [*groups]
        adversary = Adversary(split.federation, colluders)
        assert {frozenset({client}) for client in honest} <= adversary.open_sums().keys()
        with pytest.raises(AssertionError, match="both secrets"):
            adversary.check_learned(*groups)

    def test_clients_that_dont_verify_signatures_would_be_opened(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(masked_client, "verify_signature", lambda *_: None)
        split = Split(federation=Federation(make_terms(GRAPH)), groups=([0], [1, 2]), colluders=[3, 4])
        assert split.run() == [[0], [1, 2]]
        with pytest.raises(AssertionError, match="both secrets"):
            Adversary(split.federation, [3, 4]).check_learned({1, 2})


class TestTwoRosters:
    """Two groups of honest clients are shown two rosters; colluders take part in both."""

    @staticmethod
    def shared(n: int, t: int, c: int, groups: tuple[list[int], list[int]]) -> tuple[Federation, list[Place]]:
        """Until both have shared. The second roster holds other keys of one colluder, signed by it."""
        graph = choose(n_clients=n, threshold=t, colluders=c, honest_minimum=2)
        f = Federation(make_terms(graph)).to("share")
        rosters = (f.roster, f.roster_with({n - 1: f.advert(n - 1)}))
        places = []
        for group, roster in zip(groups, rosters, strict=True):
            places.append(f.place().at("share", agreement(f.place("advertise"), roster)))
            for k in group:
                f.sent["share"][k] = f.act(k, roster)
        return f, places

    @pytest.mark.parametrize(("n", "t", "c"), SOUND)
    def test_boxes_across_are_refused(self, n: int, t: int, c: int) -> None:
        for one, other, colluders in halves(n, c):
            f, _ = self.shared(n, t, c, (one, other))
            for mine, others in ((one, other), (other, one)):
                for k in mine:
                    boxes = tuple(box_for(f, sender, k) for sender in others)
                    relay = Relay(sharers=tuple(f.everyone), senders=tuple(others), boxes=boxes)
                    with pytest.raises(ProtocolError, match="wasn't made for this client, round and roster"):
                        f.act(k, encode(relay), stage="upload")
            Adversary(f, colluders, [private_key(2 * n - 2), private_key(2 * n - 1)]).check_learned()

    @pytest.mark.parametrize(("n", "t", "c"), SOUND)
    def test_nothing_is_opened(self, n: int, t: int, c: int) -> None:
        """Boxes across are left out, and everyone is said to have shared.

        One group at most gets t signatures. Its vectors carry masks with the other group, whose mask keys
        nobody can recover.
        """
        for one, other, colluders in halves(n, c):
            f, places = self.shared(n, t, c, (one, other))
            openings = 0
            for group, others, place in ((one, other, places[0]), (other, one, places[1])):
                alive = group + colluders
                named = tuple(sorted((alive + others)[: max(t, len(alive))]))
                dropped = tuple(sorted({*f.everyone} - {*named}))
                message = encode(Survivors(survivors=named, dropped=dropped))
                digest = Confirm(survivors=hashlib.sha256(message).digest())
                signed = {}
                for k in group:
                    self.upload(f, k, group)
                    signed[k] = signature(f.act(k, message, stage="confirm"))
                for k in {*named} - {*group}:
                    # of colluders valid, of the other group not: it hasn't signed for this roster
                    signer = IDENTITIES[k] if k in colluders else STRANGER
                    forged = f.forge(k, digest, signer=signer, stage="confirm", roster=place.roster)
                    signed[k] = signature(forged)
                best = sorted(named, key=lambda k: k not in alive)[:t]
                unmasked = unmasking(f, group, named, {k: signed[k] for k in best})
                assert unmasked == (group if len(alive) >= t else [])
                openings += bool(unmasked)
            assert openings <= 1
            own = [private_key(2 * n - 2), private_key(2 * n - 1)]
            Adversary(f, colluders, own).check_learned()

    def test_signatures_for_another_roster(self) -> None:
        """All clients sign the same list, for two rosters."""
        groups = ([0, 1, 2], [3, 4, 5, 6])
        f, _ = self.shared(8, 6, 1, groups)
        message = encode(Survivors(survivors=tuple(range(8)), dropped=()))
        signed = {}
        for group in groups:
            for k in group:
                self.upload(f, k, group)
                signed[k] = signature(f.act(k, message, stage="confirm"))
        del signed[6]
        for k in range(7):
            with pytest.raises(ProtocolError, match=SIGNATURE):
                f.act(k, f.confirmations(k, range(8), signed), stage="unmask")
        Adversary(f, [7], [private_key(14), private_key(15)]).check_learned()

    @staticmethod
    def upload(f: Federation, client: int, group: Collection[int]) -> None:
        """With the boxes of its own group; everyone is said to have shared."""
        senders = tuple(sender for sender in group if sender != client)
        boxes = tuple(box_for(f, sender, client) for sender in senders)
        relay = Relay(sharers=tuple(f.everyone), senders=senders, boxes=boxes)
        f.act(client, encode(relay), stage="upload")


class TestTwoSetsOfSharers:
    """One client is told that only colluders, and those who will be called dropped, have shared with it.

    It masks with these alone, and so stands alone in the sum once their mask keys are recovered.
    """

    ODD, GONE, OTHER = 0, 1, 2

    def until_unmask(self) -> tuple[Federation, dict[int, bytes]]:
        """To the others, all have shared. The odd client's signature is forged, and isn't in the sample."""
        graph = make_graph(5, 4, colluders=2, checked=3)
        f = Federation(make_terms(graph)).to("upload")
        sharers = (self.ODD, self.GONE, *COLLUDERS)
        boxes = tuple(box_for(f, sender, self.ODD) for sender in sharers[1:])
        told = encode(Relay(sharers=sharers, senders=sharers[1:], boxes=boxes))
        for client in f.everyone:
            f.act(client, told if client == self.ODD else None)
        survivors = tuple(k for k in f.everyone if k != self.GONE)
        message = encode(Survivors(survivors=survivors, dropped=(self.GONE,)))
        with pytest.raises(ProtocolError, match=PARTITION):
            f.act(self.ODD, message, stage="confirm")
        digest = Confirm(survivors=hashlib.sha256(message).digest())
        f.act(self.OTHER, message, stage="confirm")
        signers = {k: STRANGER if k == self.ODD else IDENTITIES[k] for k in survivors}
        signed = {k: signature(f.forge(k, digest, signer=one, stage="confirm")) for k, one in signers.items()}
        seeds = range(100)
        f.clients[self.OTHER]._random = next(
            Random(seed) for seed in seeds if 0 not in Random(seed).sample(range(4), 3)
        )
        return f, signed

    def test_its_tag_gives_it_away(self) -> None:
        f, signed = self.until_unmask()
        with pytest.raises(ProtocolError, match="client 0 masked its vector for other clients than those"):
            f.act(self.OTHER, f.confirmations(self.OTHER, signed, signed), stage="unmask")
        Adversary(f, COLLUDERS).check_learned()

    def test_without_tags_it_would_be_opened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(masked_client, "_check_tags", lambda *_: None)
        f, signed = self.until_unmask()
        f.act(self.OTHER, f.confirmations(self.OTHER, signed, signed), stage="unmask")
        assert frozenset({self.ODD}) in Adversary(f, COLLUDERS).open_sums()


class TestSubstitutedKeys:
    @staticmethod
    def everyone_replaced(f: Federation) -> bytes:
        return f.roster_with({k: f.advert(k, signer=STRANGER) for k in f.everyone if k != VICTIM})

    def test_refused(self) -> None:
        f = Federation(make_terms(GRAPH)).to("share")
        with pytest.raises(ProtocolError, match=SIGNATURE):
            f.act(VICTIM, self.everyone_replaced(f))
        own = [private_key(number) for number in range(10)]
        Adversary(f, (), own).check_learned()
        f.finish()
        Adversary(f, (), own).check_learned(f.everyone)

    def test_a_client_that_doesnt_verify_adverts_would_be_opened(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With one weakened check the adversary of these tests does read the client's vector."""

        def unverified(data: bytes, *_: object) -> tuple[int, bytes]:
            message = decode(data, Signed)
            return message.sender, message.body

        monkeypatch.setattr(masked_client, "verify_message", unverified)
        f = Federation(make_terms(GRAPH)).to("share")
        f.act(VICTIM, self.everyone_replaced(f))
        f.act(VICTIM, encode(Relay(sharers=(0, 1, 2, 3, 4), senders=(), boxes=())), stage="upload")
        adversary = Adversary(f, (), [private_key(number) for number in range(10)])
        assert set(adversary.open_sums()) == {frozenset({VICTIM})}
        with pytest.raises(AssertionError, match="both secrets of client 0"):
            adversary.check_learned()
        Adversary(f, (), [private_key(number) for number in range(4)]).check_learned()


class TestOtherTerms:
    """A client, or the server, that goes by something else than what was agreed on."""

    @pytest.mark.parametrize(
        "other",
        [
            {"question": hashlib.sha256(b"another public set").digest()},
            {"size": 7},
            {"bits": 9},
            {"noise_deviation": 1.0},
            {"threshold": 3},
            {"colluders": 1},
            {"share_threshold": 2},
            {"checked": 3},
            {"degree": 3},
        ],
        ids=lambda other: next(iter(other)),
    )
    def test_for_one_client(self, other: dict[str, object]) -> None:
        """It is refused by the server, and where the server plays along, by all clients, and refuses them."""
        agreed = {"n": 5, "threshold": 4, "colluders": 2, "share_threshold": 3}
        f = Federation(make_terms(make_graph(**agreed)))
        asked = {
            "question": QUESTION,
            "size": f.size,
            **{k: other[k] for k in other.keys() & {"question", "size"}},
        }
        changed = {k: other[k] for k in other.keys() - {"question", "size", "bits", "noise_deviation"}}
        terms = make_terms(
            make_graph(**{**agreed, **changed}),  # type: ignore[arg-type]
            **{k: other[k] for k in other.keys() & {"bits", "noise_deviation"}},  # type: ignore[arg-type]
        )
        odd = MaskedClient(IDENTITIES[3], terms)
        advert = odd.advertise(SESSION, f.number, **asked)  # type: ignore[arg-type]
        with pytest.raises(ProtocolError, match="message of another roster"):
            f.server.receive(advert)
        f.to("share")
        roster = f.roster_with({3: advert})
        for client in (0, 1, 2, 4):
            with pytest.raises(ProtocolError, match="message of another roster"):
                f.act(client, roster)
        with pytest.raises(ProtocolError, match="message of another roster"):
            odd.share(roster)
        Adversary(f, COLLUDERS).check_learned()
        f.finish()
        Adversary(f, COLLUDERS).check_learned({0, 1, 2})

    @pytest.mark.parametrize("lower", [{"threshold": 3}, {"threshold": 3, "colluders": 0}, {"colluders": 0}])
    def test_a_server_that_lowers_the_threshold(self, lower: dict[str, int]) -> None:
        """Its own core refuses honest clients; one that doesn't gets fewer of them, and they refuse."""
        f = Federation(make_terms(GRAPH))
        graph = make_graph(**{"n": 5, "threshold": 4, "colluders": 2, **lower})
        server = MaskedServer(make_terms(graph), session=SESSION, round=4, question=QUESTION, size=6)
        f.to("share")
        for k in f.everyone:
            with pytest.raises(ProtocolError, match="message of another roster"):
                server.receive(f.sent["advertise"][k])
        for k in (0, 1, 2):
            with pytest.raises(ProtocolError, match="at least 4 clients must advertise, got 3"):
                f.act(k, f.roster_with({3: b"", 4: b""}))
        f.finish()

    def test_another_place_among_the_pinned(self) -> None:
        """Two clients pin the same identities in another order: they don't work together."""
        f = Federation(make_terms(GRAPH)).to("share")
        terms = make_terms(GRAPH)
        swapped = (terms.pinned[1], terms.pinned[0], *terms.pinned[2:])
        odd = MaskedClient(IDENTITIES[3], type(terms)(pinned=swapped, neighbourhood=GRAPH, bits=8))
        advert = odd.advertise(SESSION, 4, question=QUESTION, size=6)
        with pytest.raises(ProtocolError, match="message of another roster"):
            f.act(VICTIM, f.roster_with({3: advert}))


SPARSE = make_graph(8, 6, colluders=2, degree=4, share_threshold=3)


class TestRandomGraph:
    """Where each client has holders of its own."""

    @staticmethod
    def holders(f: Federation, client: int) -> tuple[int, ...]:
        return body_of(f.sent["share"][client], Boxes).holders

    @pytest.mark.parametrize("stage", ["upload", "confirm"])
    def test_too_few_of_a_clients_holders(self, stage: str) -> None:
        """The server drops all but share_threshold - 1 of them, with t clients left."""
        f = Federation(make_terms(SPARSE)).to(stage)
        for client in f.everyone:
            gone = self.holders(f, client)[:2]
            left = tuple(k for k in f.everyone if k not in gone)
            if stage == "upload":
                relay = decode(f.given["upload"][client], Relay)
                kept = [(k, box) for k, box in zip(relay.senders, relay.boxes, strict=True) if k in left]
                message = encode(
                    Relay(
                        sharers=left, senders=tuple(k for k, _ in kept), boxes=tuple(box for _, box in kept)
                    )
                )
            else:
                message = encode(Survivors(survivors=left, dropped=gone))
            with pytest.raises(ProtocolError, match=r"at least 3 of this client's holders must .* got 2"):
                f.act(client, message)
        Adversary(f, (6, 7)).check_learned()
        f.finish()
        Adversary(f, (6, 7)).check_learned(range(6))

    def test_too_few_of_them_have_advertised(self) -> None:
        """The holders that a client has drawn are those that it keeps, so that the same roster is refused."""
        chosen = self.holders(Federation(make_terms(SPARSE)).to("upload"), VICTIM)
        f = Federation(make_terms(SPARSE)).to("share")
        for one, other in combinations(chosen, 2):
            with pytest.raises(ProtocolError, match="holders must have advertised, got 2"):
                f.act(VICTIM, f.roster_with({one: b"", other: b""}))
        f.finish()
        assert self.holders(f, VICTIM) == chosen
        Adversary(f, (6, 7)).check_learned(range(6))

    def test_adverts_are_verified_when_boxes_come_too(self) -> None:
        """A roster isn't verified where the client has no holder; a box from there is then refused."""
        f = Federation(make_terms(SPARSE)).to("share")
        f.collect([VICTIM])
        (far, *_) = {*f.everyone} - {VICTIM, *self.holders(f, VICTIM)}
        twin = Federation(make_terms(SPARSE)).to("share")
        twin.act(VICTIM, twin.roster_with({far: twin.advert(far, signer=STRANGER)}))
        relay = Relay(sharers=tuple(range(8)), senders=(far,), boxes=(bytes(80),))
        with pytest.raises(ProtocolError, match=SIGNATURE):
            twin.act(VICTIM, encode(relay), stage="upload")
        Adversary(twin, (6, 7)).check_learned()

    @pytest.mark.parametrize("which", ["mask_key", "share_key"])
    def test_another_clients_key_where_the_client_has_no_holder(self, which: str) -> None:
        """It is noticed once a box comes from there."""
        holders = self.holders(Federation(make_terms(SPARSE)).to("upload"), VICTIM)
        f = Federation(make_terms(SPARSE)).to("share")
        (far, *_) = {*f.everyone} - {VICTIM, *holders}
        copied = body_of(f.adverts[holders[0]], Advertise)
        f.act(VICTIM, f.roster_with({far: f.advert(far, **{which: getattr(copied, which)})}))
        relay = Relay(sharers=tuple(range(8)), senders=(far,), boxes=(bytes(80),))
        with pytest.raises(ProtocolError, match="two clients of the roster have the same public key"):
            f.act(VICTIM, encode(relay), stage="upload")

    def test_the_server_cant_have_holders_drawn_again(self) -> None:
        """It shows a client a roster of which only colluders' adverts are valid, over and over.

        That is taken if the holders happen to be colluders: with the chance of one draw, however often tried.
        """
        graph = make_graph(8, 6, colluders=4, degree=2, share_threshold=2)
        chance, tries, taken = comb(4, 2) / comb(7, 2), 200, 0
        f = Federation(make_terms(graph)).to("share")
        roster = f.roster_with({k: f.advert(k, signer=STRANGER) for k in (1, 2, 3)})
        client, turn = f.clients[VICTIM], f.clients[VICTIM]._turn
        for seed in range(tries):
            client._turn, client._random = turn, Random(seed)
            for _ in range(10):
                try:
                    client.share(roster)
                except ProtocolError:
                    continue
                taken += 1
                break
        assert abs(taken / tries - chance) < 4 * sqrt(chance * (1 - chance) / tries)


class TestForgedSignatures:
    """A client verifies a sample of ``checked`` among t signatures, of which some are forged."""

    @staticmethod
    def asked(forged: int, checked: int) -> tuple[Federation, bytes]:
        """Six signatures are asked for; the last ``forged`` of them are by strangers."""
        graph = make_graph(8, 6, colluders=3, checked=checked)
        f = Federation(make_terms(graph)).to("unmask")
        given = decode(f.given["unmask"][VICTIM], Confirmations)
        false = (signature(f.forge(k, list_hash(f), signer=STRANGER, stage="confirm")) for k in range(forged))
        signatures = (*given.signatures[: 6 - forged], *false)
        return f, edit(f.given["unmask"][VICTIM], Confirmations, signatures=signatures)

    @pytest.mark.parametrize(
        ("forged", "checked"), [(1, 1), (1, 3), (1, 5), (2, 1), (2, 2), (3, 2), (3, 3), (4, 1), (5, 1)]
    )
    def test_they_pass_as_often_as_computed(self, forged: int, checked: int) -> None:
        f, message = self.asked(forged, checked)
        client, turn = f.clients[VICTIM], f.clients[VICTIM]._turn
        chance, tries, passed = comb(6 - forged, checked) / comb(6, checked), 1000, 0
        for seed in range(tries):
            client._turn, client._random = turn, Random(seed)
            try:
                client.unmask(message)
            except ProtocolError:
                continue
            passed += 1
        assert abs(passed / tries - chance) < 4 * sqrt(chance * (1 - chance) / tries)

    @pytest.mark.parametrize(("forged", "checked"), [(1, 6), (2, 5), (3, 4), (4, 3), (6, 1), (5, 2)])
    def test_more_than_can_be_missed(self, forged: int, checked: int) -> None:
        f, message = self.asked(forged, checked)
        for seed in range(50):
            f.clients[VICTIM]._random = Random(seed)
            with pytest.raises(ProtocolError, match=SIGNATURE):
                f.act(VICTIM, message)
        f.finish()

    def test_the_server_cant_have_a_sample_drawn_again(self) -> None:
        """After one refusal all are verified: a second sample could miss what the first one met."""
        f, message = self.asked(1, 1)
        client, turn = f.clients[VICTIM], f.clients[VICTIM]._turn
        refused = 0
        for seed in range(60):
            client._turn, client._random = turn, Random(seed)
            try:
                client.unmask(message)
            except ProtocolError:
                refused += 1
                for _ in range(20):
                    with pytest.raises(ProtocolError, match=SIGNATURE):
                        client.unmask(message)
                assert client.unmask(f.given["unmask"][VICTIM])
        assert 0 < refused < 60


def test_no_message_is_taken_from_another_type() -> None:
    """Neither core's messages in the other direction."""
    f = Federation(make_terms(GRAPH)).to("share")
    with pytest.raises(MessageError, match="valid Roster"):
        f.act(VICTIM, f.sent["advertise"][1])
    f.finish()
