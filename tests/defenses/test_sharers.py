"""A server that shows one client other sharers than everybody else, on a graph where that could pay.

The victim masks with only those holders that it is shown. If these are called dropped later, their keys come
out, and the victim's other holders give away its seed: unless its tags have told them what it was shown.
"""

from random import Random

import numpy as np
import pytest

from securefd.defenses import masked_client, shamir
from securefd.defenses.identity import Identity
from securefd.defenses.masked_client import MaskedClient
from securefd.defenses.masked_server import MaskedServer
from securefd.defenses.masks import agree, apply_masks, derivation
from securefd.defenses.neighbourhood import Neighbourhood
from securefd.defenses.terms import Terms
from securefd.errors import ProtocolError
from securefd.messages import Relay, Reveal, Signed, Upload, decode, encode

N, THRESHOLD, DEGREE, SHARES = 12, 7, 8, 3
SIZE, BITS = 40, 8
ASKED = {"question": bytes(32), "size": SIZE}
VICTIM = 0


class Split:
    """A round up to the confirmations, in which the victim is shown three of its eight holders only."""

    def __init__(self) -> None:
        identities = [Identity.generate() for _ in range(N)]
        graph = Neighbourhood(
            n_clients=N,
            threshold=THRESHOLD,
            colluders=0,
            honest_minimum=2,
            degree=DEGREE,
            share_threshold=SHARES,
            checked=THRESHOLD,
            secrecy_failure=1.0,
            unneeded_abort=0.0,
        )
        pinned = tuple(identity.public for identity in identities)
        self.terms = Terms(pinned=pinned, neighbourhood=graph, bits=BITS)
        self.clients = [MaskedClient(identity, self.terms) for identity in identities]
        self.server = MaskedServer(self.terms, session=b"s" * 32, round=1, **ASKED)
        self.vectors = [Random(k).choices(range(1 << BITS), k=SIZE) for k in range(N)]
        for client in self.clients:
            self.server.receive(client.advertise(b"s" * 32, 1, **ASKED))
        roster = self.server.roster()
        for client in self.clients:
            self.server.receive(client.share(roster))
        relays = self.server.relays()
        holders = self.server._boxes[VICTIM].holders
        self.shown, self.others = holders[:SHARES], holders[SHARES:]
        outsiders = [k for k in range(1, N) if k not in holders]
        sharers = tuple(sorted((VICTIM, *self.shown, *outsiders)))
        relay = decode(relays[VICTIM], Relay)
        kept = [(k, box) for k, box in zip(relay.senders, relay.boxes, strict=True) if k in self.shown]
        lie = Relay(sharers=sharers, senders=tuple(k for k, _ in kept), boxes=tuple(box for _, box in kept))
        self.upload = self.clients[VICTIM].upload(encode(lie), np.array(self.vectors[VICTIM]))
        # This server core is honest and refuses such an upload; a dishonest one counts it in.
        body = decode(decode(self.upload, Signed).body, Upload)
        with pytest.raises(ProtocolError, match="a tag for each of its 8 holders"):
            self.server.receive(self.upload)
        self.server._heard.add(VICTIM)
        self.server._tags[VICTIM] = dict.fromkeys(holders, body.tags[0])
        for k in range(1, N):
            if k not in self.shown:
                self.server.receive(self.clients[k].upload(relays[k], np.array(self.vectors[k])))
        survivors = self.server.survivors()
        for k in range(1, N):
            if k not in self.shown:
                self.server.receive(self.clients[k].confirm(survivors))
        self.confirmations = self.server.confirmations()


def test_holders_reveal_nothing_of_a_client_that_was_shown_other_sharers() -> None:
    split = Split()
    for holder in split.others:
        with pytest.raises(ProtocolError, match="client 0 masked its vector for other clients"):
            split.clients[holder].unmask(split.confirmations[holder])


def test_a_withheld_tag_is_no_way_out() -> None:
    split = Split()
    holder = split.others[0]
    message = decode(split.confirmations[holder], masked_client.Confirmations)
    place = message.owners.index(VICTIM)
    shorter = masked_client.Confirmations(
        senders=message.senders,
        signatures=message.signatures,
        owners=message.owners[:place] + message.owners[place + 1 :],
        tags=message.tags[:place] + message.tags[place + 1 :],
    )
    with pytest.raises(ProtocolError, match="a tag of each survivor"):
        split.clients[holder].unmask(encode(shorter))


def test_without_tags_the_victim_would_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_client, "check_tags", lambda *_: None)
    split = Split()
    reveals = {}
    for k in range(1, N):
        if k not in split.shown:
            signed = decode(split.clients[k].unmask(split.confirmations[k]), Signed)
            reveals[k] = decode(signed.body, Reveal)
    server, derive = split.server, derivation(split.server._place)

    def shares(owner: int, owners: str, values: str) -> dict[int, bytes]:
        return {
            k: getattr(reveal, values)[getattr(reveal, owners).index(owner)]
            for k, reveal in reveals.items()
            if owner in getattr(reveal, owners)
        }

    words = np.frombuffer(
        decode(decode(split.upload, Signed).body, Upload).values, split.terms.ring(SIZE).dtype
    ).copy()
    seed = shamir.recover(shares(VICTIM, "survivors", "seed_shares"), SHARES)
    apply_masks(words, [], [derive.self_key(seed, VICTIM)])
    for dropped in split.shown:
        secret = shamir.recover(shares(dropped, "dropped", "key_shares"), SHARES)
        private = masked_client.X25519PrivateKey.from_private_bytes(secret)
        key = derive.pair_key(agree(private, server._keys[VICTIM].mask_key, VICTIM), VICTIM, dropped)
        apply_masks(words, [], [key])  # the victim has the lower position: it added
    assert words.tolist() == split.vectors[VICTIM]
