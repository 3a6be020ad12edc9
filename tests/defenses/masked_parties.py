"""The parties of a masked sum between two stages, and forged messages.

`Federation` moves the bytes of a round and keeps them; every test bends one thing.
"""

import gc
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TypeVar

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from securefd.defenses import masked_client
from securefd.defenses.carriers import Vector
from securefd.defenses.identity import Identity, Place, sign_message
from securefd.defenses.masked_client import MaskedClient
from securefd.defenses.masked_server import STAGES, MaskedServer, OpenedSum
from securefd.defenses.masks import TAG_BYTES
from securefd.defenses.neighbourhood import Neighbourhood
from securefd.defenses.terms import Terms
from securefd.messages import (
    Advertise,
    Boxes,
    Confirmations,
    Message,
    Relay,
    Roster,
    Signed,
    Upload,
    decode,
    encode,
)

SESSION = b"session-of-tests"
OTHER_SESSION = b"another-session!"
QUESTION = hashlib.sha256(b"what was asked").digest()
IDENTITIES = [Identity(private=Ed25519PrivateKey.from_private_bytes(bytes([k + 1]) * 32)) for k in range(10)]
STRANGER = Identity(private=Ed25519PrivateKey.from_private_bytes(bytes([99]) * 32))
Drops = Mapping[str, Collection[int]]
"""Who drops out, by the first stage at which a client doesn't answer."""
NOBODY: Drops = {}

LOW_ORDER = {
    "zero": bytes(32),
    "one": b"\x01" + bytes(31),
    "minus one": b"\xec" + b"\xff" * 30 + b"\x7f",
    "order eight": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "order eight too": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    "p": b"\xed" + b"\xff" * 30 + b"\x7f",
    "p + 1": b"\xee" + b"\xff" * 30 + b"\x7f",
    "zero, another encoding": bytes(31) + b"\x80",
}
"""Public keys that give the same secret with everyone."""

M = TypeVar("M", bound=Message)


def make_graph(
    n: int,
    threshold: int,
    *,
    colluders: int = 0,
    degree: int | None = None,
    share_threshold: int | None = None,
    checked: int | None = None,
) -> Neighbourhood:
    """By hand, sound or not; by default complete, threshold - 1 holders recover, all signatures verified."""
    return Neighbourhood(
        n_clients=n,
        threshold=threshold,
        colluders=colluders,
        honest_minimum=2,
        degree=n - 1 if degree is None else degree,
        share_threshold=threshold - 1 if share_threshold is None else share_threshold,
        checked=threshold if checked is None else checked,
        secrecy_failure=1.0,
        unneeded_abort=1.0,
    )


def make_terms(graph: Neighbourhood, *, bits: int = 8, noise_deviation: float = 0.0) -> Terms:
    return Terms(
        pinned=tuple(identity.public for identity in IDENTITIES[: graph.n_clients]),
        neighbourhood=graph,
        bits=bits,
        noise_deviation=noise_deviation,
    )


def private_key(number: int) -> X25519PrivateKey:
    """One of the adversary's own keys."""
    return X25519PrivateKey.from_private_bytes(hashlib.sha256(b"adversary %d" % number).digest())


def public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def body_of(message: bytes, kind: type[M]) -> M:
    return decode(decode(message, Signed).body, kind)


def edit(message: bytes, kind: type[M], **changes: object) -> bytes:
    """The same message with some fields changed."""
    return encode(msgspec.structs.replace(decode(message, kind), **changes))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sent:
    """What one client sent, having been given something; at upload, what it hid."""

    client: int
    stage: str
    given: bytes
    message: bytes
    hidden: Vector | None = None


class Federation:
    """Clients and a server between two stages of a round. ``before``: an earlier round of these clients."""

    def __init__(
        self,
        terms: Terms,
        *,
        number: int = 4,
        size: int = 6,
        session: bytes = SESSION,
        seed: int = 0,
        before: "Federation | None" = None,
    ) -> None:
        self.terms, self.number, self.size, self.session = terms, number, size, session
        n = len(terms.pinned)
        self.log: list[Sent] = before.log if before else []
        self.privates: dict[int, list[X25519PrivateKey]] = (
            before.privates if before else {k: [] for k in range(n)}
        )
        self.clients: list[MaskedClient] = (
            before.clients
            if before
            else [MaskedClient(IDENTITIES[k], terms, _random=Random(f"{seed} {k}")) for k in range(n)]
        )
        rng = np.random.default_rng([number, n, seed])
        self.vectors: list[Vector] = [rng.integers(0, 1 << terms.bits, size) for _ in range(n)]
        self.noise: list[Vector | None] = [
            rng.integers(-40, 20, size) if terms.noise_deviation > 0 else None for _ in range(n)
        ]
        self.server = MaskedServer(terms, session=session, round=number, question=QUESTION, size=size)
        self.given: dict[str, dict[int, bytes]] = {stage: {} for stage in STAGES}
        self.sent: dict[str, dict[int, bytes]] = {stage: {} for stage in STAGES}

    @property
    def stage(self) -> str:
        return self.server.stage

    @property
    def everyone(self) -> range:
        return range(len(self.clients))

    @property
    def roster(self) -> bytes:
        return next(iter(self.given["share"].values()))

    @property
    def adverts(self) -> list[bytes]:
        return list(decode(self.roster, Roster).adverts)

    def act(self, client: int, given: bytes | None = None, *, stage: str | None = None) -> bytes:
        """A client does its part of a stage, with what the honest server gave it or with ``given``."""
        stage, core = stage or self.stage, self.clients[client]
        hidden = None
        if stage == "advertise":
            given = b""
            sent = core.advertise(self.session, self.number, question=QUESTION, size=self.size)
            assert isinstance(core._turn, masked_client._Keys)
            self.privates[client] += [core._turn.mask_key, core._turn.share_key]
        else:
            given = self.given[stage][client] if given is None else given
            if stage == "share":
                sent = core.share(given)
            elif stage == "upload":
                vector, noise = self.vectors[client], self.noise[client]
                hidden = vector if noise is None else vector + noise
                sent = core.upload(given, vector, noise=noise)
            else:
                sent = core.confirm(given) if stage == "confirm" else core.unmask(given)
        self.log.append(Sent(client=client, stage=stage, given=given, message=sent, hidden=hidden))
        return sent

    def collect(self, clients: Iterable[int]) -> None:
        """These clients do their part, and the server takes it."""
        for client in clients:
            message = self.sent[self.stage][client] = self.act(client)
            assert self.server.receive(message) == client

    def close(self) -> OpenedSum | None:
        heard = self.server.received
        if self.stage == "unmask":
            return self.server.open_sum()
        if self.stage == "share":
            self.given["upload"] = self.server.relays()
            return None
        if self.stage == "confirm":
            self.given["unmask"] = self.server.confirmations()
            return None
        message = self.server.roster() if self.stage == "advertise" else self.server.survivors()
        self.given[self.stage] = dict.fromkeys(heard, message)
        return None

    def to(self, stage: str, drops: Drops = NOBODY) -> "Federation":
        """Play honestly until clients are to act at ``stage``; at each one ``drops`` drop out."""
        for current in STAGES[STAGES.index(self.stage) : STAGES.index(stage)]:
            assert self.stage == current
            present, done = self.given[current] or self.everyone, self.sent[current]
            gone = drops.get(current, ())
            self.collect(k for k in present if k not in gone and k not in done)
            self.close()
        return self

    def finish(self, drops: Drops = NOBODY) -> OpenedSum:
        """Play honestly to the end, and check the sum."""
        self.to("unmask", drops)
        gone = drops.get("unmask", ())
        self.collect(k for k in self.given["unmask"] if k not in gone and k not in self.sent["unmask"])
        opened = self.close()
        assert opened is not None
        assert opened.clients == tuple(sorted(self.sent["upload"]))
        assert np.array_equal(opened.total, self.plain_sum(opened.clients))
        return opened

    def plain_sum(self, clients: Iterable[int]) -> Vector:
        total = np.zeros(self.size, np.int64)
        for client in clients:
            noise = self.noise[client]
            total = total + self.vectors[client] + (0 if noise is None else noise)
        return total

    def place(self, stage: str | None = None) -> Place:
        """Where honest messages of a stage belong; the agreement is there once the roster is."""
        stage = stage or self.stage
        roster = self.server._place.roster
        if stage == "advertise":
            roster = self.terms.digest(question=QUESTION, size=self.size)
        return self.server._place.at(stage, roster)

    def forge(
        self, sender: int, body: Message | bytes, *, signer: Identity | None = None, **place: object
    ) -> bytes:
        """A signed message of the current stage as someone could forge it; ``place``: fields that differ."""
        here = self.place(str(place.get("stage", self.stage)))
        fields = {name: getattr(here, name) for name in ("protocol", "session", "round", "stage", "roster")}
        signed_for = Place(**{**fields, **place})
        data = body if isinstance(body, bytes) else encode(body)
        return sign_message(signer or IDENTITIES[sender], signed_for, sender, data)

    def advert(
        self,
        sender: int,
        *,
        mask_key: bytes | None = None,
        share_key: bytes | None = None,
        signer: Identity | None = None,
        **place: object,
    ) -> bytes:
        """An advertisement, by default of the adversary's own keys."""
        body = Advertise(
            mask_key=public(private_key(2 * sender)) if mask_key is None else mask_key,
            share_key=public(private_key(2 * sender + 1)) if share_key is None else share_key,
        )
        return self.forge(sender, body, signer=signer, **{"stage": "advertise", **place})

    def last(self, client: int, stage: str) -> Sent:
        """What a client sent last at a stage."""
        return next(one for one in reversed(self.log) if (one.client, one.stage) == (client, stage))

    def confirmations(self, client: int, survivors: Collection[int], signed: Mapping[int, bytes]) -> bytes:
        """Signatures by position, and the tags that survivors made for this client, or invented ones."""
        tags = {}
        for owner in decode(self.last(client, "upload").given, Relay).senders:
            if owner in survivors:
                upload = self.last(owner, "upload")
                sharers = decode(upload.given, Relay).sharers
                holders = body_of(self.last(owner, "share").message, Boxes).holders
                made = body_of(upload.message, Upload).tags
                tagged = dict(zip((k for k in holders if k in sharers), made, strict=True))
                tags[owner] = tagged.get(client, bytes(TAG_BYTES))
        return encode(
            Confirmations(
                senders=tuple(sorted(signed)),
                signatures=tuple(signed[k] for k in sorted(signed)),
                owners=tuple(tags),
                tags=tuple(tags.values()),
            )
        )

    def roster_with(self, adverts: Mapping[int, bytes]) -> bytes:
        """The roster that the server sent, with some places filled otherwise."""
        changed = self.adverts
        for position, advert in adverts.items():
            changed[position] = advert
        return encode(Roster(adverts=tuple(changed)))


def reachable(thing: object) -> list[object]:
    """All objects that can be reached from ``thing``, without code and classes."""
    found: dict[int, object] = {}
    left = [thing]
    while left:
        one = left.pop()
        if id(one) in found or isinstance(one, type | ModuleType | FunctionType | BuiltinFunctionType):
            continue
        found[id(one)] = one
        left += gc.get_referents(one)
    return list(found.values())
