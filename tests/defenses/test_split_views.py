"""A server that shows some clients something else than others: no two of their sums are ever opened.

What has left clients is judged by `Adversary`, as in `test_malicious_server`.
"""

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from random import Random

import pytest

from securefd.defenses import masked_client
from securefd.defenses.identity import Place
from securefd.defenses.masks import agreement
from securefd.defenses.neighbourhood import choose
from securefd.errors import ProtocolError, SealingError
from securefd.messages import (
    Confirm,
    Relay,
    Survivors,
    decode,
    encode,
)
from tests.defenses.masked_adversary import Adversary
from tests.defenses.masked_attacks import (
    COLLUDERS,
    GRAPH,
    PARTITION,
    SIGNATURE,
    box_for,
    signature,
)
from tests.defenses.masked_parties import (
    IDENTITIES,
    STRANGER,
    Federation,
    body_of,
    make_graph,
    make_terms,
    private_key,
)

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
        """More than was agreed on; and nobody can agree on so many."""
        with pytest.raises(SealingError, match="colluders must be at least 0 and below"):
            make_graph(n, t, colluders=c)
        honest, colluders = list(range(n - c)), list(range(n - c, n))
        groups = (honest[: t - c], honest[t - c :])
        assert len(groups[1]) == t - c
        terms = make_terms(make_graph(n, t, colluders=c - 1))
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
        monkeypatch.setattr(masked_client, "check_tags", lambda *_: None)
        f, signed = self.until_unmask()
        f.act(self.OTHER, f.confirmations(self.OTHER, signed, signed), stage="unmask")
        assert frozenset({self.ODD}) in Adversary(f, COLLUDERS).open_sums()
