"""What an adversary of a masked sum learns: the server, the network and colluders together.

It takes all that clients sent, and tries to recover secrets and to open sums.
"""

import contextlib
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securefd.defenses import shamir
from securefd.defenses.carriers import Vector
from securefd.defenses.masked_client import NONCE
from securefd.defenses.masks import Derivation, apply_masks
from securefd.defenses.ring import tail
from securefd.errors import MessageError
from securefd.messages import (
    Advertise,
    Boxes,
    Relay,
    Reveal,
    Roster,
    Signed,
    Upload,
    decode,
)
from tests.defenses.masked_parties import Federation, Sent, body_of, public


@dataclass(frozen=True, kw_only=True, eq=False)
class _Dealt:
    """What one client dealt out in one round: its boxes, and the roster that it was shown."""

    client: int
    group: tuple[bytes, int, bytes]
    boxes: Boxes
    adverts: dict[int, Advertise]


class Adversary:
    """The server, the network and ``colluders`` together: all that clients sent, and the private keys it has.

    ``own``: keys that it advertised in others' names.
    """

    def __init__(
        self,
        federation: Federation,
        colluders: Collection[int] = (),
        own: Iterable[X25519PrivateKey] = (),
    ) -> None:
        self.terms, self.log = federation.terms, federation.log
        self.honest = [k for k in federation.everyone if k not in colluders]
        keys = chain(own, *(federation.privates[k] for k in colluders))
        self.privates = {public(key): key for key in keys}

    def check_learned(self, *sums: Collection[int]) -> None:
        """No honest client's seed and mask key, and exactly the sums over these honest clients."""
        for dealt in self.dealt():
            both = self.seed(dealt) is not None and self.mask_key(dealt) is not None
            assert not both, f"both secrets of client {dealt.client} came out"
        assert set(self.open_sums()) == {frozenset(clients) for clients in sums}

    def dealt(self) -> Iterator[_Dealt]:
        """One for each round in which an honest client shared."""
        for sent in self.log:
            if sent.stage == "share" and sent.client in self.honest:
                yield _Dealt(
                    client=sent.client,
                    group=_group(sent.message),
                    boxes=body_of(sent.message, Boxes),
                    adverts=dict(_readable(sent.given)),
                )

    def seed(self, dealt: _Dealt) -> bytes | None:
        """A client's seed, if it is in reach."""
        for reveal in self._reveals(dealt.group, dealt.client):
            return reveal.seed
        _, seeds = self._shares(dealt)
        for seed in self._recovered(seeds):
            if hashlib.sha256(seed).digest() == dealt.boxes.seed_hash:
                return seed
        return None

    def mask_key(self, dealt: _Dealt) -> X25519PrivateKey | None:
        """A client's private mask key, if it is in reach."""
        keys, _ = self._shares(dealt)
        for secret in self._recovered(keys):
            private = X25519PrivateKey.from_private_bytes(secret)
            if public(private) == dealt.adverts[dealt.client].mask_key:
                return private
        return None

    def open_sums(self) -> dict[frozenset[int], Vector]:
        """All sums over honest clients' vectors that it can compute; each is compared with the truth."""
        known = dict(self.privates)
        groups: dict[tuple[bytes, int, bytes], dict[int, _Dealt]] = {}
        for dealt in self.dealt():
            groups.setdefault(dealt.group, {})[dealt.client] = dealt
            if private := self.mask_key(dealt):
                known[public(private)] = private
        found: dict[frozenset[int], Vector] = {}
        for group, members in groups.items():
            uploads = {
                sent.client: sent
                for sent in self.log
                if sent.stage == "upload" and sent.client in members and _group(sent.message) == group
            }
            seeds = {k: seed for k in uploads if (seed := self.seed(members[k])) is not None}
            for part in chain.from_iterable(combinations(seeds, r + 1) for r in range(len(seeds))):
                removed = self._removed(group, part, members, uploads, seeds, known)
                if removed is not None:
                    found[frozenset(part)] = self._opened([uploads[k] for k in part], *removed)
        return found

    def _removed(
        self,
        group: tuple[bytes, int, bytes],
        part: Collection[int],
        members: Mapping[int, _Dealt],
        uploads: Mapping[int, Sent],
        seeds: Mapping[int, bytes],
        known: Mapping[bytes, X25519PrivateKey],
    ) -> tuple[list[bytes], list[bytes]] | None:
        """The keys of all masks that are left in the sum over ``part``, or None if one is out of reach."""
        session, number, agreed = group
        derive = Derivation(session=session, round=number, agreement=agreed)
        neighbours = {k: _neighbours(members[k], uploads[k]) for k in part}
        added = [derive.self_key(seeds[k], k) for k in part]
        subtracted: list[bytes] = []
        for one in part:
            for other in neighbours[one]:
                if other in part and one in neighbours[other]:
                    continue
                mine, theirs = (members[one].adverts[k].mask_key for k in (one, other))
                if mine in known:
                    secret = known[mine].exchange(_public(theirs))
                elif theirs in known:
                    secret = known[theirs].exchange(_public(mine))
                else:
                    return None
                (added if one < other else subtracted).append(derive.pair_key(secret, one, other))
        return added, subtracted

    def _opened(self, uploads: Collection[Sent], added: list[bytes], subtracted: list[bytes]) -> Vector:
        truth = np.sum([sent.hidden for sent in uploads if sent.hidden is not None], axis=0)
        ring = self.terms.ring(truth.size)
        words = np.zeros(truth.size, ring.dtype)
        for sent in uploads:
            words += np.frombuffer(body_of(sent.message, Upload).values, ring.dtype)
        apply_masks(words, subtracted, added)
        total = ring.decode(words, low=-tail(self.terms.noise_deviation, truth.size))
        assert np.array_equal(total, truth)
        return total

    def _shares(self, dealt: _Dealt) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """By holder, the shares of a client's mask key and of its seed, from boxes and from reveals."""
        keys, seeds = {}, {}
        derive = Derivation(session=dealt.group[0], round=dealt.group[1], agreement=dealt.group[2])
        mine = dealt.adverts[dealt.client].share_key
        for holder, box in zip(dealt.boxes.holders, dealt.boxes.boxes, strict=True):
            private = self.privates.get(dealt.adverts[holder].share_key)
            if private is not None:
                key = derive.box_key(private.exchange(_public(mine)), dealt.client, holder)
                plain = AESGCM(key).decrypt(NONCE, box, None)
                keys[holder], seeds[holder] = plain[:32], plain[32:]
        for holder in dealt.boxes.holders:
            for reveal in self._reveals(dealt.group, holder):
                if dealt.client in reveal.survivors:
                    seeds[holder] = reveal.seed_shares[reveal.survivors.index(dealt.client)]
                if dealt.client in reveal.dropped:
                    keys[holder] = reveal.key_shares[reveal.dropped.index(dealt.client)]
        return keys, seeds

    def _reveals(self, group: tuple[bytes, int, bytes], client: int) -> Iterator[Reveal]:
        for sent in self.log:
            if (sent.stage, sent.client) == ("unmask", client) and _group(sent.message) == group:
                yield body_of(sent.message, Reveal)

    def _recovered(self, shares: Mapping[int, bytes]) -> Iterator[bytes]:
        """What each choice of enough shares gives: some of them may be wrong."""
        threshold = self.terms.neighbourhood.share_threshold
        for chosen in combinations(sorted(shares), threshold):
            yield shamir.recover({holder: shares[holder] for holder in chosen}, threshold)


def _group(message: bytes) -> tuple[bytes, int, bytes]:
    """Session, round and agreement that a message was signed for."""
    signed = decode(message, Signed)
    return signed.session, signed.round, signed.roster


def _readable(roster: bytes) -> Iterator[tuple[int, Advertise]]:
    """The keys in a roster; places that don't matter to a client aren't read, and may hold anything."""
    for position, advert in enumerate(decode(roster, Roster).adverts):
        with contextlib.suppress(MessageError):
            yield position, body_of(advert, Advertise)


def _neighbours(dealt: _Dealt, upload: Sent) -> set[int]:
    relay = decode(upload.given, Relay)
    return {*relay.senders} | ({*dealt.boxes.holders} & {*relay.sharers})


def _public(key: bytes) -> X25519PublicKey:
    return X25519PublicKey.from_public_bytes(key)
