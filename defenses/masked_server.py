"""The server's side of a masked sum: it takes messages one by one, and closes one stage after the other.

What is promised, and how a round goes, is in ``securefd.defenses.masks``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import msgpack
from numpy.typing import NDArray

from securefd.defenses import shamir
from securefd.defenses.carriers import Adder, RingAdder
from securefd.defenses.identity import Place, verify_message
from securefd.defenses.masks import agree, agreement, derivation
from securefd.defenses.terms import PROTOCOL, Terms
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import (
    KIB,
    LIMITS,
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

STAGES = ("advertise", "share", "upload", "confirm", "unmask")
_ANY = X25519PrivateKey.from_private_bytes(bytes(32))
"""Of no use but to find public keys of low order: they give no shared secret with any private key."""
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, kw_only=True)
class OpenedSum:
    """The sum ``total`` ``(size,)`` of the vectors of ``clients``, by their positions."""

    total: NDArray[np.int64]
    clients: tuple[int, ...]


class MaskedServer:
    """Run by the server, one a round.

    ``receive`` takes the messages of the current stage, in any order. ``roster``, ``relays``, ``survivors``,
    ``confirmations`` and ``open_sum`` each close a stage: what comes later for it is refused, and whoever
    didn't answer has dropped out. A refusal is a typed error and changes nothing: a bad message costs its
    sender a place, and nobody else, unless the sender has copied another client's keys before that one spoke.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        session: bytes,
        round: int,  # noqa: A002
        question: bytes,
        size: int,
        adder: Adder | None = None,
    ) -> None:
        self._terms = terms
        digest = terms.digest(question=question, size=size)
        self._place = Place(protocol=PROTOCOL, session=session, round=round, stage="advertise", roster=digest)
        self._adder = RingAdder(terms, size) if adder is None else adder
        if self._adder.name != terms.carrier:
            raise SealingError(
                f"values must travel by {terms.carrier}, as agreed, got {self._adder.name}; use that carrier"
            )
        self._awaited = set(range(len(terms.pinned)))
        self._heard: set[int] = set()
        self._adverts: dict[int, bytes] = {}
        self._keys: dict[int, Advertise] = {}
        self._taken: set[bytes] = set()
        self._boxes: dict[int, Boxes] = {}
        self._held: dict[int, list[int]] = {}
        self._tags: dict[int, dict[int, bytes]] = {}
        self._alive: set[int] = set()
        self._list = b""
        self._signatures: dict[int, bytes] = {}
        self._reveals: dict[int, Reveal] = {}
        self._opened = False

    @property
    def stage(self) -> str:
        """Whose messages are taken now."""
        return self._place.stage

    @property
    def received(self) -> tuple[int, ...]:
        """The clients whose messages of this stage were taken."""
        return tuple(sorted(self._heard))

    def receive(self, message: bytes) -> int:
        """Run by the server: take one client's message of this stage; returns the client's position.

        Refused: a message of another stage, round, session or agreement, by a stranger or a client that has
        dropped out, a second one, and one that an honest client wouldn't have sent.
        """
        limit = LIMITS[Boxes] + (self._adder.most_bytes if self.stage == "upload" else 0)
        sender, body = verify_message(message, self._place, self._terms.pinned, limit)
        if sender in self._heard:
            raise ProtocolError(
                f"client {sender} sent a second message at stage {self.stage}; the first one counts"
            )
        if sender not in self._awaited:
            raise ProtocolError(f"client {sender} has dropped out, and stage {self.stage} can't be joined")
        if self.stage == "advertise":
            self._take_advert(sender, message, _read(sender, body, Advertise, KIB))
        elif self.stage == "share":
            self._take_boxes(sender, _read(sender, body, Boxes))
        elif self.stage == "upload":
            self._take_upload(sender, _read(sender, body, Upload, limit))
        elif self.stage == "confirm":
            if _read(sender, body, Confirm).survivors != hashlib.sha256(self._list).digest():
                raise ProtocolError(f"client {sender} confirmed another list of survivors")
            self._signatures[sender] = decode(message, Signed).signature
        else:
            self._take_reveal(sender, _read(sender, body, Reveal))
        self._heard.add(sender)
        return sender

    def roster(self) -> bytes:
        """Run by the server, after the advertisements: the same message for every client."""
        self._check_close("advertise")
        positions = range(len(self._terms.pinned))
        message = encode(Roster(adverts=tuple(self._adverts.get(position, b"") for position in positions)))
        self._next("share", agreement(self._place, message))
        return message

    def relays(self) -> dict[int, bytes]:
        """Run by the server, after the boxes: for each client that shared, the boxes made for it."""
        self._check_close("share")
        sharers = tuple(sorted(self._boxes))
        received: dict[int, list[tuple[int, bytes]]] = {position: [] for position in sharers}
        for sender in sharers:
            for holder, box in zip(self._boxes[sender].holders, self._boxes[sender].boxes, strict=True):
                if holder in received:
                    received[holder].append((sender, box))
        self._held = {holder: [sender for sender, _ in boxes] for holder, boxes in received.items()}
        self._next("upload")
        common = encode(Relay(sharers=sharers, senders=(), boxes=()))
        return {
            holder: _completed(common, [sender for sender, _ in boxes], [box for _, box in boxes])
            for holder, boxes in received.items()
        }

    def survivors(self) -> bytes:
        """Run by the server, after the uploads: the list that every survivor is asked to confirm."""
        self._check_close("upload")
        self._alive = set(self._heard)
        dropped = self._boxes.keys() - self._alive
        self._list = encode(Survivors(survivors=tuple(sorted(self._alive)), dropped=tuple(sorted(dropped))))
        self._next("confirm")
        return self._list

    def confirmations(self) -> dict[int, bytes]:
        """Run by the server, after the confirmations: t of them and its tags, for each that confirmed."""
        self._check_close("confirm")
        senders = tuple(sorted(self._signatures))[: self._terms.threshold]
        signatures = tuple(self._signatures[sender] for sender in senders)
        common = encode(Confirmations(senders=senders, signatures=signatures, owners=(), tags=()))
        messages = {}
        for holder in sorted(self._signatures):
            owners = [owner for owner in self._held[holder] if owner in self._alive]
            messages[holder] = _completed(common, owners, [self._tags[owner][holder] for owner in owners])
        self._next("unmask")
        return messages

    def open_sum(self) -> OpenedSum:
        """Run by the server, last: remove the masks that are left in the sum.

        ``ProtocolError`` while too few clients have revealed, and more may still do so; ``SealingError`` if
        what is opened can't be a sum of values within their bounds.
        """
        self._check_close("unmask")
        if self._opened:
            raise ProtocolError("this round's sum was opened already; a second opening is refused")
        leftover = list(self._leftover())
        added = [key for was_added, key in leftover if not was_added]
        subtracted = [key for was_added, key in leftover if was_added]
        clients = tuple(sorted(self._alive))
        total = self._adder.open(added, subtracted, clients)
        self._opened = True
        return OpenedSum(total=total, clients=clients)

    def _check_close(self, stage: str) -> None:
        if self.stage != stage:
            raise ProtocolError(f"the round is at stage {self.stage}, so stage {stage} can't be closed now")
        found, needed = len(self._heard), self._terms.threshold
        if found < needed:
            raise ProtocolError(
                f"stage {stage} needs at least {needed} clients, got {found}: wait for more, or start a new "
                "round; nothing is opened below that"
            )

    def _next(self, stage: str, agreed: bytes | None = None) -> None:
        """Whoever was heard is awaited; the others have dropped out."""
        self._place = self._place.at(stage, self._place.roster if agreed is None else agreed)
        self._awaited, self._heard = self._heard, set()

    def _take_advert(self, sender: int, message: bytes, advert: Advertise) -> None:
        keys = {advert.mask_key, advert.share_key}
        if len(keys) < 2 or keys & self._taken:
            raise ProtocolError(f"client {sender} advertised a key that is taken; every client makes its own")
        for key in keys:
            # With a key of low order in the roster, every other client would refuse it.
            agree(_ANY, key, sender)
        self._taken |= keys
        self._adverts[sender], self._keys[sender] = message, advert

    def _take_boxes(self, sender: int, boxes: Boxes) -> None:
        holders, graph = boxes.holders, self._terms.neighbourhood
        if sorted(set(holders)) != list(holders) or len(boxes.boxes) != len(holders):
            raise ProtocolError(
                f"client {sender} must name each holder once, in order, with one box for each"
            )
        if not graph.share_threshold <= len(holders) <= graph.degree:
            raise ProtocolError(
                f"client {sender} must choose {graph.share_threshold} to {graph.degree} holders that have "
                f"advertised, got {len(holders)}"
            )
        if sender in holders or not {*holders} <= self._keys.keys():
            raise ProtocolError(f"client {sender} must choose holders among the others that have advertised")
        self._boxes[sender] = boxes

    def _take_upload(self, sender: int, upload: Upload) -> None:
        holders = [holder for holder in self._boxes[sender].holders if holder in self._boxes]
        if len(upload.tags) != len(holders):
            raise ProtocolError(
                f"client {sender} must send a tag for each of its {len(holders)} holders that have shared, "
                f"got {len(upload.tags)}"
            )
        try:
            self._adder.add(upload.values)
        except ProtocolError as error:
            raise type(error)(f"the upload of client {sender} can't be added: {error}") from error
        self._tags[sender] = dict(zip(holders, upload.tags, strict=True))

    def _take_reveal(self, sender: int, reveal: Reveal) -> None:
        if hashlib.sha256(reveal.seed).digest() != self._boxes[sender].seed_hash:
            raise ProtocolError(f"client {sender} revealed another seed than the one that it shared")
        held = self._held[sender]
        survived = tuple(owner for owner in held if owner in self._alive)
        dropped = tuple(owner for owner in held if owner not in self._alive)
        if (
            (reveal.survivors, reveal.dropped) != (survived, dropped)
            or len(reveal.seed_shares) != len(survived)
            or len(reveal.key_shares) != len(dropped)
        ):
            raise ProtocolError(
                f"client {sender} must reveal one share of each client that it holds shares of: a seed's of "
                "survivors, a mask key's of those who dropped out"
            )
        self._reveals[sender] = reveal

    def _leftover(self) -> Iterator[tuple[bool, bytes]]:
        """The masks that are still in the sum, and whether they were added to it."""
        derive = derivation(self._place)
        for client in sorted(self._alive):
            yield True, derive.self_key(self._seed(client), client)
        for client in sorted(self._boxes.keys() - self._alive):
            neighbours = {*self._boxes[client].holders, *self._held[client]} & self._alive
            if neighbours:
                private = self._mask_key(client)
                for peer in sorted(neighbours):
                    secret = agree(private, self._keys[peer].mask_key, peer)
                    yield peer < client, derive.pair_key(secret, client, peer)

    def _seed(self, client: int) -> bytes:
        if client in self._reveals:
            return self._reveals[client].seed
        seed = shamir.recover(self._shares(client, survived=True), self._terms.neighbourhood.share_threshold)
        if hashlib.sha256(seed).digest() != self._boxes[client].seed_hash:
            raise self._unrecoverable(client)
        return seed

    def _mask_key(self, client: int) -> X25519PrivateKey:
        secret = shamir.recover(
            self._shares(client, survived=False), self._terms.neighbourhood.share_threshold
        )
        private = X25519PrivateKey.from_private_bytes(secret)
        if private.public_key().public_bytes_raw() != self._keys[client].mask_key:
            raise self._unrecoverable(client)
        return private

    def _shares(self, client: int, *, survived: bool) -> dict[int, bytes]:
        found = {}
        for holder in self._boxes[client].holders:
            if holder not in self._reveals:
                continue
            reveal = self._reveals[holder]
            owners, shares = (
                (reveal.survivors, reveal.seed_shares) if survived else (reveal.dropped, reveal.key_shares)
            )
            found[holder] = shares[owners.index(client)]
        needed = self._terms.neighbourhood.share_threshold
        if len(found) < needed:
            raise ProtocolError(
                f"client {client} dropped out, and {needed} of its holders must reveal their shares, got "
                f"{len(found)}: wait for more, or start a new round; nothing was opened"
            )
        return found

    def _unrecoverable(self, client: int) -> ProtocolError:
        return ProtocolError(
            f"the shares of client {client} don't recover what it committed to: it, or one of its holders, "
            "lied; start a new round; nothing was opened"
        )


def _completed(common: bytes, *own: Sequence[object]) -> bytes:
    """A message whose last fields are one client's ``own``; ``common`` is that message with these empty.

    What all clients get alike grows with their number, and is encoded once: encoding it for each of them
    again took up to a seventh of the server's time among 1,000.
    """
    # An empty array is one byte.
    return b"".join([common[: -len(own)], *map(msgpack.encode, own)])


def _read(sender: int, body: bytes, kind: type[M], limit: int | None = None) -> M:
    try:
        return decode(body, kind, limit)
    except MessageError as error:
        raise MessageError(f"client {sender} signed what isn't a message of this stage: {error}") from error
