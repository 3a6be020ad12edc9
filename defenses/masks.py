"""Masked sums: the server learns the sum of all clients' vectors and nothing else about them.

After Bonawitz et al. 2017 (eprint 2017/281), pairwise masks only. Every two clients agree on a fresh X25519
secret; the one with the lower position adds, the other subtracts, a keystream derived from it, so that all
masks cancel in the sum over *all* clients.

What is promised, and to whom:

- Against the server and the network, honest or not, alone or with up to n - 2 of the n clients: the vectors
  of the other clients stay hidden behind their sum, under X25519 (gap Diffie-Hellman), HKDF-SHA256,
  AES-256-CTR and Ed25519 being secure. With n - 1 colluding clients the sum *is* the last client's vector.
- Against other clients: the same; a client sees public keys only.
- The sum itself is not private; only noise protects what the sum reveals.
- Nothing is promised about dropouts: **every client must be present**. If one is missing, the round ends with
  a ``ProtocolError`` and what was uploaded stays masked. There are no secret shares with which a mask
  could be removed, and the server can deny service at will.
- Nothing is promised about clients that lie within the value bound, nor about the questions: that every
  client was asked the same public inputs is for the engine to check.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from securefd.defenses.identity import (
    OVERHEAD,
    Identity,
    Place,
    Rounds,
    check_pinned,
    cohort_hash,
    collect,
    sign_message,
    verify_message,
)
from securefd.defenses.quantise import check_bits, check_grid
from securefd.errors import ProtocolError, SealingError
from securefd.messages import LIMITS, Advertise, Roster, Upload, decode, encode

PROTOCOL = b"securefd/masked/1"
CHUNK = 256 << 10
"""Bytes of keystream made at a time: they stay in the cache until they are added."""
_BLOCK = 16

Ring = NDArray[np.uint32] | NDArray[np.uint64]


def ring_width(bits: int, n_clients: int) -> int:
    """Bytes of a ring (4 or 8) in which the sum of ``n_clients`` values of ``bits`` bits never wraps."""
    check_bits(bits)
    largest = n_clients * ((1 << bits) - 1)
    if largest < 1 << 32:
        return 4
    if largest < 1 << 63:
        return 8
    raise SealingError(f"{n_clients} clients of {bits} bits need a ring of more than 63 bits; lower the bits")


def mask_key(secret: bytes, *, session: bytes, round: int, pair: tuple[int, int], roster: bytes) -> bytes:  # noqa: A002
    """Derive a pair's 32-byte AES key from its X25519 ``secret`` by HKDF-SHA256, for one round and roster.

    salt = session; info = PROTOCOL | round (8 bytes, big-endian) | lower and higher position (4 bytes each,
    big-endian) | SHA-256 of the roster message.
    """
    low, high = sorted(pair)
    info = PROTOCOL + round.to_bytes(8, "big") + low.to_bytes(4, "big") + high.to_bytes(4, "big") + roster
    return HKDF(algorithm=SHA256(), length=32, salt=session, info=info).derive(secret)


def apply_masks(ring: Ring, added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
    """Add and subtract, in place and modulo the ring, one AES-256-CTR keystream a key.

    The counter starts at zero: a key serves one vector only. Words are little-endian.
    """
    operations = ((np.add, added), (np.subtract, subtracted))
    streams = [
        (operation, Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK))).encryptor())
        for operation, keys in operations
        for key in keys
    ]
    word = ring.dtype.newbyteorder("<")
    step = min(CHUNK // word.itemsize, ring.size)
    zeros = memoryview(bytes(step * word.itemsize))
    keystream = bytearray(len(zeros) + _BLOCK - 1)
    for start in range(0, ring.size, step):
        part = ring[start : start + step]
        mask = np.frombuffer(keystream, dtype=word, count=part.size)
        for operation, stream in streams:
            stream.update_into(zeros[: part.nbytes], keystream)
            operation(part, mask, out=part)
    keystream[:] = bytes(len(keystream))


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """One round of one client, between its advertisement and its upload."""

    place: Place
    private: X25519PrivateKey
    advert: bytes


class MaskedClient:
    """Run by one client. Bytes in, bytes out: ``advertise``, then ``upload``, once each a round.

    ``pinned``: the identities of all clients in the agreed order; ``identity`` is one of them. The key of
    a round is new, never stored, and dropped as the upload is made (Python can't overwrite it in memory).
    """

    def __init__(
        self,
        identity: Identity,
        pinned: Sequence[bytes],
        *,
        _generate: Callable[[], X25519PrivateKey] = X25519PrivateKey.generate,
    ) -> None:
        self._pinned = check_pinned(pinned)
        if identity.public not in self._pinned:
            raise SealingError("a client's own identity must be among the pinned ones")
        self._identity = identity
        self._position = self._pinned.index(identity.public)
        self._generate = _generate
        self._rounds = Rounds()
        self._turn: _Turn | None = None

    def advertise(self, session: bytes, round: int) -> bytes:  # noqa: A002
        """Run by the client, first. Returns its signed public key for this round, made only now.

        ``ProtocolError`` unless the round is later than all others of the session that it took part in.
        An earlier round that wasn't uploaded is given up.
        """
        private = self._generate()
        body = encode(Advertise(public_key=private.public_key().public_bytes_raw()))
        roster = cohort_hash(self._pinned)
        place = Place(protocol=PROTOCOL, session=session, round=round, stage="advertise", roster=roster)
        advert = sign_message(self._identity, place, self._position, body)
        self._rounds.enter(session, round)
        self._turn = _Turn(place=place, private=private, advert=advert)
        return advert

    def upload(self, roster: bytes, vector: NDArray[np.int64], bits: int) -> bytes:
        """Run by the client, after ``advertise``. Returns the masked vector, the only thing that leaves it.

        ``roster``: what the server sent. It must hold, for this round, one advertisement signed by each
        pinned identity, this client's own unchanged. ``vector``: ``(d,)`` int64 in [0, 2**bits).
        A refusal changes nothing; after a success the round's key is gone.
        """
        turn = self._turn
        if turn is None:
            raise ProtocolError("upload comes once a round, after advertise")
        check_grid(vector, bits)
        width = ring_width(bits, len(self._pinned))
        public_keys = self._peers(roster, turn)
        digest = hashlib.sha256(roster).digest()
        keys = {peer: self._pair_key(turn, peer, public, digest) for peer, public in public_keys.items()}
        self._turn = None
        ring = vector.astype(f"<u{width}")
        apply_masks(
            ring,
            added=[key for peer, key in keys.items() if peer > self._position],
            subtracted=[key for peer, key in keys.items() if peer < self._position],
        )
        body = encode(Upload(width=width, values=ring.tobytes()))
        return sign_message(self._identity, turn.place.at("upload", digest), self._position, body)

    def _peers(self, roster: bytes, turn: _Turn) -> dict[int, bytes]:
        """Verify the roster against the pinned identities; the other clients' public keys by position."""
        adverts = decode(roster, Roster).adverts
        if len(adverts) != len(self._pinned):
            raise ProtocolError(f"the roster must hold all {len(self._pinned)} clients, got {len(adverts)}")
        if adverts[self._position] != turn.advert:
            raise ProtocolError("the roster doesn't hold this client's own advertisement at its position")
        keys: dict[int, bytes] = {}
        for position, advert in enumerate(adverts):
            sender, body = verify_message(advert, turn.place, self._pinned)
            if sender != position:
                raise ProtocolError(f"the roster holds client {sender} at position {position}")
            keys[position] = decode(body, Advertise).public_key
        if len(set(keys.values())) != len(keys):
            raise ProtocolError("two clients of the roster have the same public key")
        del keys[self._position]
        return keys

    def _pair_key(self, turn: _Turn, peer: int, public: bytes, roster: bytes) -> bytes:
        try:
            secret = turn.private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise ProtocolError(f"client {peer} advertised a key that gives no shared secret") from error
        pair = (self._position, peer)
        return mask_key(secret, session=turn.place.session, round=turn.place.round, pair=pair, roster=roster)


class MaskedServer:
    """Run by the server, one a round: ``roster``, then ``open_sum``.

    ``bits`` and ``size``: the bits a value and the number of values of every vector in this round.
    """

    def __init__(
        self,
        pinned: Sequence[bytes],
        *,
        session: bytes,
        round: int,  # noqa: A002
        bits: int,
        size: int,
    ) -> None:
        self._pinned = check_pinned(pinned)
        if not size >= 1:
            raise SealingError(f"a vector to seal must hold at least 1 value, got {size}")
        roster = cohort_hash(self._pinned)
        self._place = Place(protocol=PROTOCOL, session=session, round=round, stage="advertise", roster=roster)
        self._bits, self._size = bits, size
        self._width = ring_width(bits, len(self._pinned))
        self._digest: bytes | None = None
        self._opened = False

    def roster(self, adverts: Sequence[bytes]) -> bytes:
        """Run by the server, first: every client's advertisement, in any order, to the roster for all."""
        if self._digest is not None:
            raise ProtocolError("a round has one roster, and this one has it already")
        found = collect(adverts, self._place, self._pinned, limit=LIMITS[Advertise])
        message = encode(Roster(adverts=tuple(advert for advert, _ in found)))
        self._digest = hashlib.sha256(message).digest()
        return message

    def open_sum(self, uploads: Sequence[bytes]) -> NDArray[np.int64]:
        """Run by the server, last: every client's upload, in any order, to the sum ``(size,)``.

        ``ProtocolError`` unless each client's signed upload for this roster is there exactly once, and
        ``SealingError`` if the sum can't be one of values within the bound. A refusal changes nothing.
        """
        if self._digest is None:
            raise ProtocolError("open_sum comes after roster")
        if self._opened:
            raise ProtocolError("this round's sum was opened already")
        place = self._place.at("upload", self._digest)
        limit = self._size * self._width + OVERHEAD
        total = np.zeros(self._size, dtype=f"<u{self._width}")
        for _, body in collect(uploads, place, self._pinned, limit):
            message = decode(body, Upload, limit)
            if message.width != self._width or len(message.values) != total.nbytes:
                raise ProtocolError(f"an upload must hold {self._size} words of {self._width} bytes")
            total += np.frombuffer(message.values, dtype=total.dtype)
        largest = len(self._pinned) * ((1 << self._bits) - 1)
        if not int(total.max()) <= largest:
            raise SealingError(
                f"the sum must be at most {largest}: a client left the bound or used another mask"
            )
        self._opened = True
        return total.astype(np.int64)
