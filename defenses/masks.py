"""Masked sums: the server learns the sum of the surviving clients' vectors and nothing else about them.

After Bonawitz et al. 2017 (eprint 2017/281; the variant for active adversaries), with neighbours chosen as in
Bell et al. 2020 (eprint 2020/704) for malicious servers. Every client adds to its vector one keystream of its
own and one for each neighbour: its holders that have shared, and those that chose it as holder. Of two
neighbours the one at the lower position adds their keystream, the other subtracts it. The stages of a round:

========= ============================================ ====================================================
stage     client to server                             server to clients
========= ============================================ ====================================================
advertise two fresh X25519 keys, signed                the roster of these
share     for each holder that it chose, encrypted     each its own boxes, and who has shared
          shares of its mask key and its seed
upload    the masked vector; for each holder a tag:    the survivors: whose vectors are in the sum
          for which clients it was masked
confirm   a signature under that one list              t of these signatures; to each holder its tags
unmask    its seed; of each client it holds shares of, nothing: masks are removed, and the sum is opened
          one share: a seed's if the client survived,
          a mask key's if it dropped out
========= ============================================ ====================================================

What is promised, and to whom:

- Against the server and the network, whether they follow the protocol or not, together with up to c clients:
  the others' vectors stay hidden behind one sum over at least t - c of them (on a sparse graph: at least
  honest_minimum, since the server can leave out those whose neighbours it calls dropped), under X25519 (gap
  Diffie-Hellman), HKDF-SHA256, AES-256-CTR, AES-256-GCM, SHA-256 and Ed25519 being secure, and except with
  the probability that ``securefd.defenses.graph_failure`` computes.
- Against up to c other clients: the same.
- The sum itself is not private; only noise protects what the sum reveals.
- Clients may drop out at every stage. Below t of them the round ends, and nothing is opened.
- Not promised: that the sum is right where a client lies within the bound or sends garbage, or where the
  server keeps a box back; or that a round ends at all where the server or a client refuses to do its part.

Why the server can't loosen it. All that clients sign is bound to the hash of their terms (identities, n, t,
c, bounds, graph, question), and from the second stage on to the roster that they were shown, so that two
groups with different rosters refuse one another. A client signs one list of survivors a round, and reveals
shares only for a list that t clients signed; with c < 2t - n no two lists get there. Of each client it then
reveals one share, never both, and of a survivor only if that one's tag says that it masked its vector for the
very clients that are said to have shared: a client that was shown others might have masked with those alone
who are called dropped now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from securefd.defenses.identity import Place
from securefd.defenses.terms import PROTOCOL
from securefd.errors import ProtocolError

CHUNK = 256 << 10
"""Bytes of keystream made at a time: they stay in the cache until they are added."""
TAG_BYTES = 16
_BLOCK = 16

Words = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """Where all keys of one round come from: HKDF-SHA256 with salt = session.

    info = PROTOCOL | label (pair, self, box or tag, in ASCII) | 0 | round (8 bytes, big-endian) | two
    positions (4 bytes each, big-endian; pair: ascending; self: the own one twice; box and tag: sender, then
    holder) | agreement (32 bytes, see `agreement`) | for a tag: the `positions_hash` of the
    sharers. All keys have 32 bytes, tags the first 16 of theirs.
    """

    session: bytes
    round: int
    agreement: bytes

    def pair_key(self, secret: bytes, one: int, other: int) -> bytes:
        """The AES-256 key of the mask between two clients, from their X25519 ``secret``."""
        return self._derive(b"pair", secret, min(one, other), max(one, other))

    def self_key(self, seed: bytes, position: int) -> bytes:
        """The AES-256 key of a client's own mask, from its ``seed``."""
        return self._derive(b"self", seed, position, position)

    def box_key(self, secret: bytes, sender: int, holder: int) -> bytes:
        """The AES-256-GCM key of the one box from ``sender`` to ``holder``, from their X25519 ``secret``."""
        return self._derive(b"box", secret, sender, holder)

    def tag(self, secret: bytes, sender: int, holder: int, sharers: bytes) -> bytes:
        """What shows ``holder`` for which `positions_hash` ``sender`` masked; ``secret`` as of a box."""
        return self._derive(b"tag", secret, sender, holder, sharers)[:TAG_BYTES]

    def _derive(self, label: bytes, secret: bytes, one: int, other: int, more: bytes = b"") -> bytes:
        places = self.round.to_bytes(8, "big") + one.to_bytes(4, "big") + other.to_bytes(4, "big")
        info = PROTOCOL + label + b"\0" + places + self.agreement + more
        return HKDF(algorithm=SHA256(), length=32, salt=self.session, info=info).derive(secret)


def agreement(place: Place, roster: bytes) -> bytes:
    """What clients sign for from the second stage on: SHA-256(digest of terms | SHA-256(Roster message)).

    ``place``: of the advertisements, with the digest of the terms.
    """
    return hashlib.sha256(place.roster + hashlib.sha256(roster).digest()).digest()


def derivation(place: Place) -> Derivation:
    """Where the keys of a round come from, once there is an agreement."""
    return Derivation(session=place.session, round=place.round, agreement=place.roster)


def positions_hash(positions: Sequence[int]) -> bytes:
    """SHA-256 of positions, 4 bytes each, big-endian."""
    return hashlib.sha256(b"".join(position.to_bytes(4, "big") for position in positions)).digest()


def agree(private: X25519PrivateKey, public: bytes, peer: int) -> bytes:
    """The X25519 secret with ``peer``. ``ProtocolError`` for a key of low order, which gives none."""
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError(
            f"client {peer} advertised a key that gives no shared secret; leave it out of the next round"
        ) from error


def apply_masks(words: Words, added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
    """Add and subtract, in place and modulo the ring, one AES-256-CTR keystream a key.

    The counter starts at zero: a key serves one vector only. Words are little-endian.
    """
    operations = ((np.add, added), (np.subtract, subtracted))
    streams = [
        (operation, Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK))).encryptor())
        for operation, keys in operations
        for key in keys
    ]
    word = words.dtype.newbyteorder("<")
    step = min(CHUNK // word.itemsize, words.size)
    zeros = memoryview(bytes(step * word.itemsize))
    keystream = bytearray(len(zeros) + _BLOCK - 1)
    for start in range(0, words.size, step):
        part = words[start : start + step]
        mask = np.frombuffer(keystream, dtype=word, count=part.size)
        for operation, stream in streams:
            stream.update_into(zeros[: part.nbytes], keystream)
            operation(part, mask, out=part)
    keystream[:] = bytes(len(keystream))
