"""The client's side of a masked sum: five methods, one a stage, bytes in and bytes out.

What is promised, and how a round goes, is in ``securefd.defenses.masks``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random, SystemRandom
from typing import TypeVar

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securefd.defenses import shamir
from securefd.defenses.carriers import RingSealer, Sealer, Vector
from securefd.defenses.identity import Identity, Place, Rounds, sign_message, verify_signature
from securefd.defenses.masked_checks import Checks, check_ascending, check_distinct, check_tags
from securefd.defenses.masks import agree, agreement, derivation, positions_hash
from securefd.defenses.quantise import check_grid
from securefd.defenses.terms import PROTOCOL, Terms
from securefd.errors import ProtocolError, SealingError
from securefd.messages import (
    Advertise,
    Boxes,
    Confirm,
    Confirmations,
    Relay,
    Reveal,
    Roster,
    Survivors,
    Upload,
    decode,
    encode,
)

NONCE = bytes(12)
"""Of every box: its key is derived for it alone. A box is AES-256-GCM over the share of the mask key, then
that of the seed, without associated data, under a key from both clients' share keys.
"""
_SHARE = 32


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Keys:
    """Between ``advertise`` and ``share``. ``chosen``: the holders, drawn with the first roster in order."""

    place: Place
    size: int
    mask_key: X25519PrivateKey
    share_key: X25519PrivateKey
    advert: bytes
    chosen: tuple[int, ...] = ()

    @property
    def public(self) -> tuple[bytes, bytes]:
        return (
            self.mask_key.public_key().public_bytes_raw(),
            self.share_key.public_key().public_bytes_raw(),
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Shared:
    """Between ``share`` and ``upload``.

    ``peers``: the public keys of the holders; ``secrets``: what their share keys and the own one agree on.
    """

    keys: _Keys
    place: Place
    roster: Roster
    seed: bytes
    holders: tuple[int, ...]
    peers: Mapping[int, Advertise]
    secrets: Mapping[int, bytes]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Uploaded:
    """After ``upload``.

    ``shares``: of each client that chose this one, of its mask key and of its seed; ``tags``: what each of
    them has to show if it masked for the same sharers.
    """

    place: Place
    seed: bytes
    holders: tuple[int, ...]
    sharers: tuple[int, ...]
    shares: Mapping[int, tuple[bytes, bytes]]
    tags: Mapping[int, bytes]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Confirmed:
    """After ``confirm``, until ``unmask``. ``sampled``: signatures were sampled already, and refused."""

    uploaded: _Uploaded
    survivors: tuple[int, ...]
    body: bytes
    sampled: bool = False


_Turn = _Keys | _Shared | _Uploaded | _Confirmed
T = TypeVar("T", bound=_Turn)


class MaskedClient:
    """Run by one client. A refusal is a typed error, changes nothing, and lets nothing out.

    Nor does it let the server try its luck again: after one this client keeps the holders that it drew, and
    verifies all signatures instead of another sample.

    The keys of a round are new and never stored; each is dropped as soon as it isn't needed any more (Python
    can't overwrite them in memory). ``terms``: what this client has agreed to, its own identity among the
    pinned ones.
    """

    def __init__(self, identity: Identity, terms: Terms, *, _random: Random | None = None) -> None:
        if identity.public not in terms.pinned:
            raise SealingError(
                "a client's own identity must be among the pinned ones; pin it, or give the right key"
            )
        self._identity, self._terms = identity, terms
        self._position = terms.pinned.index(identity.public)
        self._checks = Checks(terms=terms, position=self._position)
        self._random = SystemRandom() if _random is None else _random
        self._rounds = Rounds()
        self._turn: _Turn | None = None

    def advertise(self, session: bytes, round: int, *, question: bytes, size: int) -> bytes:  # noqa: A002
        """Run by the client, first. Returns its two public keys for this round, made only now.

        ``question``: the SHA-256 of what this client was asked; ``size``: how many values it will seal.
        ``ProtocolError`` unless the round is later than all others of the session that it took part in. An
        earlier round that wasn't finished is given up, and its keys with it.
        """
        place = Place(
            protocol=PROTOCOL,
            session=session,
            round=round,
            stage="advertise",
            roster=self._terms.digest(question=question, size=size),
        )
        mask_key, share_key = (
            X25519PrivateKey.from_private_bytes(shamir.draw_secret(_random=self._random.randbytes))
            for _ in range(2)
        )
        body = Advertise(
            mask_key=mask_key.public_key().public_bytes_raw(),
            share_key=share_key.public_key().public_bytes_raw(),
        )
        advert = sign_message(self._identity, place, self._position, encode(body))
        self._rounds.enter(session, round)
        self._turn = _Keys(place=place, size=size, mask_key=mask_key, share_key=share_key, advert=advert)
        return advert

    def share(self, roster: bytes) -> bytes:
        """Run by the client, after ``advertise``. Returns encrypted shares for the holders it chooses now.

        ``roster``: what the server sent. It must hold this client's own advertisement, unchanged, and at
        least t others. Holders are chosen after everybody's keys are fixed, so that nobody can choose keys,
        or who takes part, by the graph.
        """
        keys = self._at(_Keys, "share", "advertise")
        adverts = decode(roster, Roster)
        self._checks.roster(adverts, keys.advert)
        place = keys.place.at("share", agreement(keys.place, roster))
        if not keys.chosen:
            keys = self._turn = replace(keys, chosen=self._choose())
        holders = tuple(position for position in keys.chosen if adverts.adverts[position])
        self._checks.alive(holders, "have advertised")
        peers = {position: self._checks.advert(adverts, keys.place, position) for position in holders}
        check_distinct(peers, keys.public)
        seed = shamir.draw_secret(_random=self._random.randbytes)
        threshold = self._terms.neighbourhood.share_threshold
        key_shares, seed_shares = (
            shamir.split(secret, holders, threshold, _random=self._random.randbytes)
            for secret in (keys.mask_key.private_bytes_raw(), seed)
        )
        derive = derivation(place)
        secrets = {holder: agree(keys.share_key, peers[holder].share_key, holder) for holder in holders}
        boxes = [
            AESGCM(derive.box_key(secrets[holder], self._position, holder)).encrypt(
                NONCE, key_shares[holder] + seed_shares[holder], None
            )
            for holder in holders
        ]
        body = Boxes(seed_hash=hashlib.sha256(seed).digest(), holders=holders, boxes=tuple(boxes))
        message = sign_message(self._identity, place, self._position, encode(body))
        self._turn = _Shared(
            keys=keys,
            place=place,
            roster=adverts,
            seed=seed,
            holders=holders,
            peers=peers,
            secrets=secrets,
        )
        return message

    def upload(
        self, relay: bytes, vector: Vector, *, noise: Vector | None = None, sealer: Sealer | None = None
    ) -> bytes:
        """Run by the client, after ``share``. Returns its masked vector, the only form in which it leaves.

        ``relay``: what the server sent. At least t clients must have shared, and enough of the own holders;
        every box must open. ``vector``: ``(size,)`` int64 in [0, 2**bits). ``noise``: ``(size,)`` int64, this
        client's share, given exactly if the terms say so; it is never truncated. ``sealer``: by default
        words of the terms' ring.
        """
        shared = self._at(_Shared, "upload", "share")
        keys, terms = shared.keys, self._terms
        values = self._noised(vector, noise, keys.size)
        sealer = RingSealer(terms=terms) if sealer is None else sealer
        if sealer.name != terms.carrier:
            raise SealingError(
                f"values must travel by {terms.carrier}, as agreed, got {sealer.name}; use that carrier"
            )
        message = decode(relay, Relay)
        sharers = self._checks.relay(message, shared.roster)
        alive = set(sharers)
        own = [position for position in shared.holders if position in alive]
        self._checks.alive(own, "have shared")
        neighbours = sorted({*own, *message.senders})
        peers, secrets = dict(shared.peers), dict(shared.secrets)
        for position in message.senders:
            if position not in peers:
                peers[position] = self._checks.advert(shared.roster, keys.place, position)
                secrets[position] = agree(keys.share_key, peers[position].share_key, position)
        check_distinct(peers, keys.public)
        derive = derivation(shared.place)
        shares = {
            sender: self._open(box, derive.box_key(secrets[sender], sender, self._position), sender)
            for sender, box in zip(message.senders, message.boxes, strict=True)
        }
        masks = {
            peer: derive.pair_key(agree(keys.mask_key, peers[peer].mask_key, peer), self._position, peer)
            for peer in neighbours
        }
        sealed = sealer.seal(
            values,
            [derive.self_key(shared.seed, self._position)]
            + [key for peer, key in masks.items() if peer > self._position],
            [key for peer, key in masks.items() if peer < self._position],
        )
        seen = positions_hash(sharers)
        tags = tuple(derive.tag(secrets[holder], self._position, holder, seen) for holder in own)
        place = shared.place.at("upload", shared.place.roster)
        upload = sign_message(self._identity, place, self._position, encode(Upload(values=sealed, tags=tags)))
        self._turn = _Uploaded(
            place=place,
            seed=shared.seed,
            holders=shared.holders,
            sharers=sharers,
            shares=shares,
            tags={
                sender: derive.tag(secrets[sender], sender, self._position, seen)
                for sender in message.senders
            },
        )
        return upload

    def confirm(self, survivors: bytes) -> bytes:
        """Run by the client, after ``upload``. Returns its signature under the one list that it accepts.

        ``survivors``: what the server sent. Survivors and dropped must be disjoint and together exactly those
        who shared; this client and enough of its holders must be among the survivors, and those at least t.
        """
        uploaded = self._at(_Uploaded, "confirm", "upload")
        message = decode(survivors, Survivors)
        alive = self._checks.positions(message.survivors, "survivors")
        check_ascending(message.dropped, "dropped")
        if both := sorted({*alive} & {*message.dropped}):
            raise ProtocolError(
                f"clients {both} are said to have survived and to have dropped out; nothing was signed, "
                "because both secrets of a client would open its vector"
            )
        if {*alive, *message.dropped} != {*uploaded.sharers}:
            raise ProtocolError(
                "survivors and dropped must together be exactly the clients that shared, "
                f"got {len(alive)} and {len(message.dropped)} of {len(uploaded.sharers)}; nothing was signed"
            )
        members = set(alive)
        own = [position for position in uploaded.holders if position in members]
        self._checks.alive(own, "have survived")
        body = encode(Confirm(survivors=hashlib.sha256(survivors).digest()))
        place = uploaded.place.at("confirm", uploaded.place.roster)
        signed = sign_message(self._identity, place, self._position, body)
        self._turn = _Confirmed(uploaded=uploaded, survivors=alive, body=body)
        return signed

    def unmask(self, confirmations: bytes) -> bytes:
        """Run by the client, last. Returns its seed, and one share of each client that chose it as holder.

        ``confirmations``: t survivors' signatures under the list that this client signed. As many of them as
        the terms say are verified, drawn only now. Each survivor that it holds a share of must have masked
        its vector for the sharers that this client knows of. Afterwards every secret of the round is gone.
        """
        turn = self._at(_Confirmed, "unmask", "confirm")
        message = decode(confirmations, Confirmations)
        senders = self._checks.positions(message.senders, "confirmations")
        if len(senders) != self._terms.threshold or len(message.signatures) != len(senders):
            raise ProtocolError(
                f"exactly {self._terms.threshold} confirmations are needed, got {len(senders)} clients and "
                f"{len(message.signatures)} signatures; nothing was revealed"
            )
        if strangers := sorted({*senders} - {*turn.survivors}):
            raise ProtocolError(f"clients {strangers} confirmed a list they aren't on; nothing was revealed")
        place = turn.uploaded.place.at("confirm", turn.uploaded.place.roster)
        checked = len(senders) if turn.sampled else self._terms.neighbourhood.checked
        drawn = self._random.sample(range(len(senders)), checked)
        self._turn = replace(turn, sampled=True)
        for index in sorted(drawn):
            public = self._terms.pinned[senders[index]]
            verify_signature(place, senders[index], turn.body, message.signatures[index], public)
        alive, shares = set(turn.survivors), turn.uploaded.shares
        survived = [position for position in sorted(shares) if position in alive]
        check_tags(message, {position: turn.uploaded.tags[position] for position in survived})
        dropped = [position for position in sorted(shares) if position not in alive]
        body = Reveal(
            seed=turn.uploaded.seed,
            survivors=tuple(survived),
            seed_shares=tuple(shares[position][1] for position in survived),
            dropped=tuple(dropped),
            key_shares=tuple(shares[position][0] for position in dropped),
        )
        place = place.at("unmask", place.roster)
        reveal = sign_message(self._identity, place, self._position, encode(body))
        self._turn = None
        return reveal

    def _noised(self, vector: Vector, noise: Vector | None, size: int) -> Vector:
        check_grid(vector, self._terms.bits, size)
        if (noise is not None) != (self._terms.noise_deviation > 0):
            agreed = "noise" if noise is None else "no noise"
            raise SealingError(f"{agreed} was agreed on; give the noise that the terms ask for, or none")
        if noise is None:
            return vector
        if not isinstance(noise, np.ndarray) or noise.dtype != np.int64 or noise.shape != vector.shape:
            raise SealingError(
                f"noise must be int64 of shape {vector.shape}, as the vector is; round it exactly"
            )
        return vector + noise

    def _at(self, kind: type[T], stage: str, before: str) -> T:
        if not isinstance(self._turn, kind):
            raise ProtocolError(f"{stage} comes once a round, after {before}; start a new round")
        return self._turn

    def _choose(self) -> tuple[int, ...]:
        """The own holders, ascending: drawn from all other pinned clients, whoever takes part."""
        n, degree = len(self._terms.pinned), self._terms.neighbourhood.degree
        others = [position for position in range(n) if position != self._position]
        return tuple(sorted(self._random.sample(others, degree))) if degree < n - 1 else tuple(others)

    def _open(self, box: bytes, key: bytes, sender: int) -> tuple[bytes, bytes]:
        try:
            plain = AESGCM(key).decrypt(NONCE, box, None)
        except InvalidTag as error:
            raise ProtocolError(
                f"the box from client {sender} wasn't made for this client, round and roster, or was altered"
            ) from error
        return plain[:_SHARE], plain[_SHARE:]
