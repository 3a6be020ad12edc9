"""What clients draw where nobody can know it before: holders among all others, and signatures to verify."""

from itertools import combinations
from math import comb, sqrt
from random import Random

import pytest

from securefd.errors import ProtocolError
from securefd.messages import (
    Advertise,
    Boxes,
    Confirmations,
    Relay,
    Survivors,
    decode,
    encode,
)
from tests.defenses.masked_adversary import Adversary
from tests.defenses.masked_attacks import (
    SIGNATURE,
    VICTIM,
    list_hash,
    signature,
)
from tests.defenses.masked_parties import (
    STRANGER,
    Federation,
    body_of,
    edit,
    make_graph,
    make_terms,
)

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

        There is one colluder more than was agreed on. Such a roster is taken if the holders happen to be
        colluders: with the chance of one draw, however often tried.
        """
        graph = make_graph(8, 6, colluders=3, degree=2, share_threshold=2)
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
