"""Whole rounds of the masked protocol, and the derivations that they are made of.

An implementation of its own, naive and slow on purpose: from the descriptions in the docstrings of
`securefd.defenses.masks`, its neighbours and `securefd.messages`. Everything random is a SHA-256 of its name,
and is listed among a vector's inputs.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from primitives import (
    aes_ctr,
    aes_gcm,
    ed25519_public,
    ed25519_sign,
    hkdf,
    pack,
    recover,
    sha256,
    split,
    x25519,
)

PROTOCOL = b"securefd/masked/2"
STAGES = ("advertise", "share", "upload", "confirm", "unmask")


def statement(session: bytes, number: int, stage: str, sender: int, roster: bytes, body: bytes) -> bytes:
    numbers = number.to_bytes(8, "big"), sender.to_bytes(8, "big")
    fields = (PROTOCOL, session, numbers[0], stage.encode(), numbers[1], roster, sha256(body))
    return b"".join(len(one).to_bytes(4, "big") + one for one in fields)


def derive(
    label: str,
    secret: bytes,
    one: int,
    other: int,
    *,
    session: bytes,
    number: int,
    agreement: bytes,
    more: bytes = b"",
    size: int = 32,
) -> bytes:
    places = struct.pack(">QII", number, one, other)
    return hkdf(secret, session, PROTOCOL + label.encode() + b"\0" + places + agreement + more, size)


def hash_of(positions: Sequence[int]) -> bytes:
    return sha256(struct.pack(f">{len(positions)}I", *positions))


def tail(deviation: float, size: int) -> int:
    s = math.log(2 * size * 2.0**40)
    return math.ceil(deviation * math.sqrt(2 * s) + s / 3) if deviation else 0


def words(stream: bytes, bits: int) -> list[int]:
    width = bits // 8
    return [int.from_bytes(stream[i : i + width], "little") for i in range(0, len(stream), width)]


def made(*name: object) -> bytes:
    """32 bytes that stand for random ones."""
    return sha256("/".join(map(str, ("securefd test vectors", *name))).encode())


def picked(population: Sequence[int], count: int, *name: object) -> list[int]:
    """What stands for a random sample, in the order in which it was drawn."""
    return sorted(population, key=lambda one: made(*name, one))[:count]


@dataclass(frozen=True, kw_only=True)
class Example:
    """``leaves``: clients by the first stage at which they don't answer any more."""

    name: str
    about: str
    n_clients: int
    threshold: int
    colluders: int
    honest_minimum: int
    degree: int
    share_threshold: int
    checked: int
    bits: int
    noise_deviation: float
    size: int
    round: int
    leaves: Mapping[str, Sequence[int]]

    def terms(self) -> dict[str, Any]:
        others = ("name", "about", "size", "round", "leaves")
        return {name: value for name, value in asdict(self).items() if name not in others}


def clients_of(example: Example) -> list[dict[str, Any]]:
    """Each client's secrets, choices and vector."""
    found = []
    for k in range(example.n_clients):
        others = [other for other in range(example.n_clients) if other != k]
        complete = example.degree == len(others)
        values = [int.from_bytes(made("value", k, i), "big") % 2**example.bits for i in range(example.size)]
        most = math.ceil(example.noise_deviation)
        noise = [
            int.from_bytes(made("noise", k, i), "big") % (2 * most + 1) - most for i in range(example.size)
        ]
        identity = made("identity", k)
        powers = range(1, example.share_threshold)
        found.append(
            {
                "identity": identity,
                "public": ed25519_public(identity),
                "mask_private": made("mask key", k),
                "share_private": made("share key", k),
                "chosen": others if complete else picked(others, example.degree, "holders", k),
                "seed": made("seed", k),
                "key_coefficients": [made("coefficient of the mask key", k, power) for power in powers],
                "seed_coefficients": [made("coefficient of the seed", k, power) for power in powers],
                # sums at both ends of what can be: no value, the largest one
                "vector": [0, 2**example.bits - 1, *values[2:]],
                "noise": [-most, most, *noise[2:]] if most else None,
                "checked": picked(range(example.threshold), example.checked, "checked", k),
            }
        )
    return found


@dataclass(kw_only=True)
class Round:
    """A whole round, stage by stage, clients and server at once; ``messages`` and ``derived`` go to JSON."""

    example: Example
    clients: list[dict[str, Any]]
    messages: dict[str, Any] = field(default_factory=dict)
    statements: dict[str, bytes] = field(default_factory=dict)
    derived: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one = self.example
        needed = one.n_clients * (2**one.bits - 1) + 1 + 2 * tail(one.noise_deviation, one.size)
        self.ring_bits = next(bits for bits in (8, 16, 32, 64) if needed <= 2 ** min(bits, 63))
        self.session, self.question = made(one.name, "session")[:20], made(one.name, "question")
        agreed = (
            PROTOCOL,
            "ring",
            [client["public"] for client in self.clients],
            (one.threshold, one.colluders, one.honest_minimum),
            (one.degree, one.share_threshold, one.checked),
            (one.bits, self.ring_bits, one.noise_deviation),
            (self.question, one.size),
        )
        self.digest = self.agreement = sha256(pack(agreed))
        self.derived |= {"ring_bits": self.ring_bits, "terms_digest": self.digest}

    def present(self, stage: str) -> list[int]:
        gone = {k for one in STAGES[: STAGES.index(stage) + 1] for k in self.example.leaves.get(one, ())}
        return [k for k in range(self.example.n_clients) if k not in gone]

    def sign(self, stage: str, sender: int, body: bytes) -> bytes:
        """The whole message; the first one of a stage is shown with what was signed."""
        place = (self.session, self.example.round, stage, sender, self.agreement)
        signed = statement(*place, body)
        self.statements.setdefault(stage, signed)
        client = self.clients[sender]
        return pack(("signed", *place, body, ed25519_sign(client["identity"], client["public"], signed)))

    def by_position(self, found: Mapping[int, bytes]) -> list[bytes | None]:
        return [found.get(k) for k in range(self.example.n_clients)]

    def key(self, label: str, secret: bytes, one: int, other: int, **rest: Any) -> bytes:
        place: dict[str, Any] = {
            "session": self.session,
            "number": self.example.round,
            "agreement": self.agreement,
        }
        return derive(label, secret, one, other, **place, **rest)

    def advertise(self) -> None:
        for client in self.clients:
            client["mask_public"] = x25519(client["mask_private"])
            client["share_public"] = x25519(client["share_private"])
        adverts = {}
        for k in self.present("advertise"):
            body = pack(("advertise", self.clients[k]["mask_public"], self.clients[k]["share_public"]))
            adverts[k] = self.sign("advertise", k, body)
        roster = pack(("roster", [advert or b"" for advert in self.by_position(adverts)]))
        self.agreement = sha256(self.digest + sha256(roster))
        self.derived["agreement"] = self.agreement
        self.messages |= {"advertise": self.by_position(adverts), "roster": roster}

    def share(self) -> None:
        sent, listed = {}, []
        self.holders = {}
        self.boxes = {}
        for k in self.present("share"):
            client = self.clients[k]
            self.holders[k] = sorted({*client["chosen"]} & {*self.present("advertise")})
            for holder in self.holders[k]:
                secret = x25519(client["share_private"], self.clients[holder]["share_public"])
                key = self.key("box", secret, k, holder)
                key_share = split(client["mask_private"], client["key_coefficients"], holder)
                seed_share = split(client["seed"], client["seed_coefficients"], holder)
                box = aes_gcm(key, bytes(12), key_share + seed_share)
                self.boxes[k, holder] = (key_share, seed_share, box)
                listed.append(
                    {
                        "sender": k,
                        "holder": holder,
                        "secret": secret,
                        "key": key,
                        "key_share": key_share,
                        "seed_share": seed_share,
                        "box": box,
                    }
                )
            boxes = [self.boxes[k, holder][2] for holder in self.holders[k]]
            sent[k] = self.sign("share", k, pack(("boxes", sha256(client["seed"]), self.holders[k], boxes)))
        self.derived["boxes"] = listed
        self.messages["share"] = self.by_position(sent)

    def relay(self) -> None:
        sharers, relays = self.present("share"), {}
        self.senders = {k: [sender for sender in sharers if k in self.holders[sender]] for k in sharers}
        for k in sharers:
            boxes = [self.boxes[sender, k][2] for sender in self.senders[k]]
            relays[k] = pack(("relay", sharers, self.senders[k], boxes))
        self.messages["relays"] = self.by_position(relays)

    def neighbours(self, k: int) -> list[int]:
        return sorted({*self.holders[k], *self.senders[k]} & {*self.present("share")})

    def keystream(self, key: bytes) -> list[int]:
        return words(aes_ctr(key, 0, self.example.size * self.ring_bits // 8), self.ring_bits)

    def make_masks(self) -> None:
        """All pairwise and own masks."""
        pairs, selves = [], []
        self.own, self.pair = {}, {}
        for k in self.present("share"):
            key = self.key("self", self.clients[k]["seed"], k, k)
            self.own[k] = self.keystream(key)
            selves.append({"client": k, "key": key})
            for peer in self.neighbours(k):
                if peer > k:
                    secret = x25519(self.clients[k]["mask_private"], self.clients[peer]["mask_public"])
                    key = self.key("pair", secret, k, peer)
                    self.pair[k, peer] = self.keystream(key)
                    pairs.append({"low": k, "high": peer, "secret": secret, "key": key})
        self.derived |= {"pairs": pairs, "selves": selves}

    def make_tags(self) -> None:
        """Of those who upload, for each of their holders that has shared: who they saw share."""
        sharers = self.present("share")
        seen = hash_of(sharers)
        self.tags = {}
        for k in self.present("upload"):
            for holder in self.holders[k]:
                if holder in sharers:
                    secret = x25519(self.clients[k]["share_private"], self.clients[holder]["share_public"])
                    self.tags[k, holder] = self.key("tag", secret, k, holder, more=seen, size=16)
        listed = [{"sender": k, "holder": holder, "tag": tag} for (k, holder), tag in self.tags.items()]
        self.derived |= {"sharers": sharers, "sharers_hash": seen, "tags": listed}

    def upload(self) -> None:
        self.make_masks()
        self.make_tags()
        self.values, sent = {}, {}
        for k in self.present("upload"):
            total = list(self.clients[k]["vector"])
            parts = [self.clients[k]["noise"] or [0] * len(total), self.own[k]]
            parts += [self.pair[k, peer] for peer in self.neighbours(k) if peer > k]
            parts += [[-word for word in self.pair[peer, k]] for peer in self.neighbours(k) if peer < k]
            for part in parts:
                total = [(one + other) % 2**self.ring_bits for one, other in zip(total, part, strict=True)]
            self.values[k] = total
            packed = b"".join(word.to_bytes(self.ring_bits // 8, "little") for word in total)
            tags = [tag for (sender, _), tag in self.tags.items() if sender == k]
            sent[k] = self.sign("upload", k, pack(("upload", packed, tags)))
        self.messages["upload"] = self.by_position(sent)

    def confirm(self) -> None:
        survivors = self.present("upload")
        self.dropped = sorted({*self.present("share")} - {*survivors})
        listed = pack(("survivors", survivors, self.dropped))
        sent = {}
        for k in self.present("confirm"):
            sent[k] = self.sign("confirm", k, pack(("confirm", sha256(listed))))
        first = sorted(sent)[: self.example.threshold]
        # a signature is the last field of a message
        signatures = [sent[k][-64:] for k in first]
        confirmations = {}
        for k in sent:
            owners = [sender for sender in self.senders[k] if sender in survivors]
            tags = [self.tags[owner, k] for owner in owners]
            confirmations[k] = pack(("confirmations", first, signatures, owners, tags))
        self.messages |= {
            "survivors": listed,
            "confirm": self.by_position(sent),
            "confirmations": self.by_position(confirmations),
        }

    def unmask(self) -> None:
        sent = {}
        for k in self.present("unmask"):
            survived = [sender for sender in self.senders[k] if sender not in self.dropped]
            dropped = [sender for sender in self.senders[k] if sender in self.dropped]
            seed_shares = [self.boxes[sender, k][1] for sender in survived]
            key_shares = [self.boxes[sender, k][0] for sender in dropped]
            body = pack(("reveal", self.clients[k]["seed"], survived, seed_shares, dropped, key_shares))
            sent[k] = self.sign("unmask", k, body)
        self.messages["unmask"] = self.by_position(sent)

    def open_sum(self) -> dict[str, Any]:
        """Remove what is left of the masks, with recovered secrets only, and compare with the plain sum."""
        survivors, total = self.present("upload"), [0] * self.example.size
        left = [self.values[k] for k in survivors]
        for k in survivors:
            assert self.recovered(k, 1) == self.clients[k]["seed"]
            left.append([-word for word in self.own[k]])
        for gone in self.dropped:
            private = self.recovered(gone, 0)
            for peer in {*self.neighbours(gone)} & {*survivors}:
                secret = x25519(private, self.clients[peer]["mask_public"])
                mask = self.keystream(self.key("pair", secret, *sorted((gone, peer))))
                # it was added by the lower of the two positions
                left.append([-word if peer < gone else word for word in mask])
        for part in left:
            total = [one + other for one, other in zip(total, part, strict=True)]
        low = -tail(self.example.noise_deviation, self.example.size)
        opened = [(value - low) % 2**self.ring_bits + low for value in total]
        vectors = [self.clients[k]["vector"] for k in survivors]
        vectors += [self.clients[k]["noise"] for k in survivors if self.clients[k]["noise"]]
        assert opened == [sum(column) for column in zip(*vectors, strict=True)]
        return {"clients": survivors, "total": opened}

    def recovered(self, owner: int, which: int) -> bytes:
        """From the shares of the first holders that reveal: 0 for the mask key, 1 for the seed."""
        answered = [holder for holder in self.holders[owner] if holder in self.present("unmask")]
        enough = answered[: self.example.share_threshold]
        assert len(enough) == self.example.share_threshold
        return recover({holder: self.boxes[owner, holder][which] for holder in enough})


def play(example: Example) -> dict[str, Any]:
    clients = clients_of(example)
    inputs = {
        "session": made(example.name, "session")[:20],
        "round": example.round,
        "question": made(example.name, "question"),
        "size": example.size,
        "terms": example.terms(),
        "leaves": example.leaves,
        "clients": [dict(client) for client in clients],
    }
    one = Round(example=example, clients=clients)
    one.advertise()
    one.share()
    one.relay()
    one.upload()
    one.confirm()
    one.unmask()
    opened = one.open_sum()
    return {
        "about": example.about,
        "inputs": inputs,
        "derived": one.derived | {"statements": one.statements},
        "messages": one.messages,
        "opened": opened,
    }
