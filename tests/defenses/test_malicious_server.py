"""A server that doesn't follow the protocol: each attack is refused, and has unmasked nobody.

What has left clients is judged by `Adversary`, which tries to recover both secrets of every honest client and
to open sums over each choice of them. That it can is shown with weakened clients, and with one
colluder more than was agreed on.
"""

import hashlib

import pytest

from securefd.defenses import masked_checks
from securefd.defenses.masked_client import MaskedClient
from securefd.defenses.masked_server import STAGES, MaskedServer
from securefd.errors import MessageError, ProtocolError
from securefd.messages import (
    Confirm,
    Confirmations,
    Relay,
    Signed,
    Survivors,
    decode,
    encode,
)
from tests.defenses.masked_adversary import Adversary
from tests.defenses.masked_attacks import (
    ATTACKS,
    COLLUDERS,
    GRAPH,
    PARTITION,
    SIGNATURE,
    VICTIM,
    signature,
)
from tests.defenses.masked_parties import (
    IDENTITIES,
    LOW_ORDER,
    OTHER_SESSION,
    QUESTION,
    SESSION,
    STRANGER,
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

        monkeypatch.setattr(masked_checks, "verify_message", unverified)
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
            {"threshold": 5},
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

    @pytest.mark.parametrize("lower", [{"threshold": 3, "colluders": 0}, {"colluders": 0}])
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


def test_no_message_is_taken_from_another_type() -> None:
    """Neither core's messages in the other direction."""
    f = Federation(make_terms(GRAPH)).to("share")
    with pytest.raises(MessageError, match="valid Roster"):
        f.act(VICTIM, f.sent["advertise"][1])
    f.finish()
