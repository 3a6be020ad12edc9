"""Homomorphic sums: the server adds ciphertexts, and a key holder that isn't the server opens their sum.

TenSEAL's BFV (exact integers). A fresh key each round, and exactly one opening under it.

What is promised, and to whom:

- Against a server that follows the protocol and doesn't collude with the key holder: it learns the sum and
  nothing else, under ring learning with errors (128 bits by the homomorphic encryption standard: degree
  4096, 109 bits of modulus) and Ed25519. A server that *doesn't* follow it can have one client's ciphertext
  opened in place of the sum, or craft ciphertexts that disclose the key: nothing is promised against it.
- Against the key holder: it sees ciphertexts' sum only. Together with the server it sees every answer.
- Against other clients: a client sees the public context only.
- The sum itself is not private; only noise protects what the sum reveals.
- **Every client must be present** in a round, or it ends with a ``ProtocolError`` and nothing is opened.

**Decryption is always correct** for up to ``MAX_CLIENTS`` honest encryptions, in the worst case, not just
probably. Write n for the degree, q for the product of the two ciphertext primes, p for the special prime and
t for the plain modulus. SEAL encrypts modulo q * p and divides by p, so a fresh ciphertext's noise is at most

- (21 n + 21 + 21 n) / p < 0.001 for the error terms: u and s are ternary, errors at most 21 (centred
  binomial);
- (1 + n) / 2 for rounding both polynomials after the division, the second of them times s;
- 1/2 + 1/(2t) for rounding q * message / t. Together less than ``FRESH_NOISE`` = 2,050.

Sums add noise up; a coefficient that wraps modulo t adds none, since q * message / t is rounded, not q / t.
A sum of N is opened correctly while N * 2,050 < q / (2t) = 4,194,284, that is for N <= 2,045;
``MAX_CLIENTS`` = 2,000 leaves 2% for SEAL's approximate scaling when it decrypts. Three 16-bit fields
fill 48 bits of a slot, less than t, and bits + ceil(log2 N) <= 16 keeps sums inside their fields.

TenSEAL itself wraps too large values, truncates fractions, warns on standard output about long vectors, and
opens damaged or foreign ciphertexts to garbage without an error. Here every bound is checked and
vectors are cut to the slot count before it is called; signatures are verified before its parser sees a
byte; and an opened sum must fit its fields and end in the zeros it was padded with.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import tenseal
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
from securefd.defenses.quantise import check_grid
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import LARGEST_CIPHERTEXT, LIMITS, Ciphertexts, KeyContext, decode, encode

PROTOCOL = b"securefd/homomorphic/1"
SLOTS = 4096
FIELDS, FIELD_BITS = 3, 16
PLAIN_MODULUS = 562_949_953_216_513
"""The least prime above 2**49 that is 1 modulo 2 * SLOTS, as slots require."""
CIPHERTEXT_PRIMES = (68_719_230_977, 68_719_403_009)
SPECIAL_PRIME = 137_438_822_401
FRESH_NOISE = 2_050
MAX_CLIENTS = 2_000
_PER_PART = SLOTS * FIELDS
_SCHEME_BFV = 1
PARAMETERS = struct.unpack(
    "<4Q",
    hashlib.blake2b(
        struct.pack("<6Q", _SCHEME_BFV, SLOTS, *CIPHERTEXT_PRIMES, SPECIAL_PRIME, PLAIN_MODULUS),
        digest_size=32,
    ).digest(),
)
"""How SEAL identifies these parameters: a context with any other is refused."""


def value_bits(n_clients: int) -> int:
    """Return the most bits a value may have so that the sum over ``n_clients`` fits its field."""
    if not 2 <= n_clients <= MAX_CLIENTS:
        raise SealingError(f"homomorphic sums need 2..{MAX_CLIENTS} clients, got {n_clients}")
    return FIELD_BITS - (n_clients - 1).bit_length()


def _check_bits(bits: int, n_clients: int) -> None:
    most = value_bits(n_clients)
    if not 1 <= bits <= most:
        raise SealingError(f"homomorphic sums of {n_clients} clients need bits in 1..{most}, got {bits}")


def _n_parts(size: int) -> int:
    return -(-size // _PER_PART)


def pack(vector: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(d,)`` fields of 16 bits to ``(parts, SLOTS)`` slots of three fields, lowest first, then zeros."""
    padded = np.zeros(_n_parts(vector.size) * _PER_PART, dtype=np.int64)
    padded[: vector.size] = vector
    fields = padded.reshape(-1, SLOTS, FIELDS)
    return fields[..., 0] | fields[..., 1] << FIELD_BITS | fields[..., 2] << 2 * FIELD_BITS


def unpack(slots: NDArray[np.int64], size: int, largest: int) -> NDArray[np.int64]:
    """Reverse ``pack``; ``SealingError`` unless fields are at most ``largest`` and padding is zero."""
    shifts = np.arange(FIELDS, dtype=np.int64) * FIELD_BITS
    values = (slots[..., None] >> shifts & (1 << FIELD_BITS) - 1).ravel()
    if (
        int(slots.max()) >= 1 << FIELDS * FIELD_BITS
        or int(values[:size].max()) > largest
        or values[size:].any()
    ):
        raise SealingError(
            "what was opened can't be a sum of this round: it was damaged or made with another key"
        )
    return values[:size]


def _load_context(data: bytes) -> Any:
    """Parse a context that its holder signed; ``SealingError`` unless public and with our parameters."""
    try:
        context = tenseal.context_from(data)
        parameters = tuple(context.seal_context().data.key_parms_id())
        public = context.has_public_key() and not context.is_private()
    except (RuntimeError, ValueError, TypeError) as error:
        raise MessageError("the key holder's context can't be read") from error
    if not public or parameters != PARAMETERS:
        raise SealingError(
            "the key holder's context must hold a public key only, under this project's parameters"
        )
    return context


def _load_ciphertext(context: Any, data: bytes) -> Any:
    """Parse one signed ciphertext; ``MessageError`` unless it is a full one as encryption makes it.

    SEAL itself refuses other parameters when it loads; these ones leave a single level to be at.
    """
    try:
        vector = tenseal.bfv_vector_from(context, data)
        parts = vector.ciphertext()
        sound = vector.size() == SLOTS and len(parts) == 1 and parts[0].size() == 2
    except (RuntimeError, ValueError, TypeError) as error:
        raise MessageError("a ciphertext can't be read") from error
    if not sound:
        raise MessageError(f"a ciphertext must hold {SLOTS} slots in two polynomials")
    return vector


def _limit(size: int) -> int:
    return _n_parts(size) * (LARGEST_CIPHERTEXT + 8) + OVERHEAD


class KeyHolder:
    """Run by the key holder, which is not the server: ``context``, then ``open``, once each a round."""

    def __init__(self, identity: Identity, server: bytes, n_clients: int) -> None:
        value_bits(n_clients)
        self._identity, self._server, self._n_clients = identity, server, n_clients
        self._rounds = Rounds()
        self._context: Any = None
        self._place: Place | None = None

    def context(self, session: bytes, round: int) -> bytes:  # noqa: A002
        """Run by the key holder, first: make a new key; returns the signed public context for all.

        ``ProtocolError`` unless the round is later than all others of the session.
        """
        context = tenseal.context(
            tenseal.SCHEME_TYPE.BFV,
            poly_modulus_degree=SLOTS,
            plain_modulus=PLAIN_MODULUS,
            coeff_mod_bit_sizes=[36, 36, 37],
        )
        if tuple(context.seal_context().data.key_parms_id()) != PARAMETERS:
            raise SealingError(
                "TenSEAL chose other parameters than those that were proven; use tenseal 0.3.18"
            )
        public = context.serialize(
            save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
        place = _context_place(session, round, self._identity.public)
        message = sign_message(self._identity, place, 0, encode(KeyContext(context=public)))
        self._rounds.enter(session, round)
        self._context, self._place = context, _sum_place(place, message)
        return message

    def open(self, message: bytes, bits: int) -> NDArray[np.int64]:
        """Run by the key holder, last: the server's signed sum to ``(d,)`` int64.

        A message that isn't the server's for this round and key changes nothing. From the moment the key
        is used it is gone, even if what it opened can't be a sum and ``SealingError`` follows.
        """
        if self._place is None:
            raise ProtocolError("open comes once a round, after context; a second opening is refused")
        _check_bits(bits, self._n_clients)
        _, body = verify_message(message, self._place, (self._server,))
        total = decode(body, Ciphertexts)
        vectors = _load_parts(self._context, total)
        self._context, self._place = None, None
        slots = np.array([vector.decrypt() for vector in vectors], dtype=np.int64) % PLAIN_MODULUS
        return unpack(slots, total.size, self._n_clients * ((1 << bits) - 1))


class HomomorphicClient:
    """Run by one client: ``upload``, once a round. It pins all clients' identities and the key holder's."""

    def __init__(self, identity: Identity, pinned: Sequence[bytes], holder: bytes) -> None:
        self._pinned = check_pinned(pinned)
        if identity.public not in self._pinned:
            raise SealingError("a client's own identity must be among the pinned ones")
        self._identity, self._holder = identity, holder
        self._position = self._pinned.index(identity.public)
        self._rounds = Rounds()

    def upload(
        self,
        context: bytes,
        vector: NDArray[np.int64],
        *,
        session: bytes,
        round: int,  # noqa: A002
        bits: int,
    ) -> bytes:
        """Run by the client. Returns the signed ciphertexts of ``vector``, the only thing that leaves it.

        ``context``: the key holder's message for this session and round. ``vector``: ``(d,)`` int64 in
        [0, 2**bits). ``ProtocolError`` unless the round is later than all others of the session.
        """
        _check_bits(bits, len(self._pinned))
        check_grid(vector, bits)
        place = _context_place(session, round, self._holder)
        public = _read_context(context, place, self._holder)
        self._rounds.enter(session, round)
        parts = [tenseal.bfv_vector(public, slots).serialize() for slots in pack(vector).tolist()]
        body = encode(Ciphertexts(size=vector.size, parts=tuple(parts)))
        return sign_message(self._identity, _upload_place(place, context, self._pinned), self._position, body)


class HomomorphicServer:
    """Run by the server, one a round: ``add``. It holds the public context only."""

    def __init__(self, identity: Identity, pinned: Sequence[bytes], holder: bytes) -> None:
        self._pinned = check_pinned(pinned)
        value_bits(len(self._pinned))
        self._identity, self._holder = identity, holder
        self._rounds = Rounds()

    def add(
        self,
        context: bytes,
        uploads: Sequence[bytes],
        *,
        session: bytes,
        round: int,  # noqa: A002
        size: int,
    ) -> bytes:
        """Run by the server: every client's upload, in any order, to the signed sum for the key holder.

        ``ProtocolError`` unless each client's signed upload for this context is there exactly once, with
        ``size`` values. No ciphertext is parsed before all signatures were verified.
        """
        place = _context_place(session, round, self._holder)
        public = _read_context(context, place, self._holder)
        limit = _limit(size)
        found = collect(uploads, _upload_place(place, context, self._pinned), self._pinned, limit)
        messages = [decode(body, Ciphertexts, limit) for _, body in found]
        if any(message.size != size for message in messages):
            raise ProtocolError(f"every upload must hold {size} values")
        total = _load_parts(public, messages[0])
        for message in messages[1:]:
            for sum_part, part in zip(total, _load_parts(public, message), strict=True):
                sum_part.add_(part)
        body = encode(Ciphertexts(size=size, parts=tuple(part.serialize() for part in total)))
        self._rounds.enter(session, round)
        return sign_message(self._identity, _sum_place(place, context), 0, body)


def _context_place(session: bytes, round: int, holder: bytes) -> Place:  # noqa: A002
    """Where a key holder's context belongs."""
    return Place(
        protocol=PROTOCOL, session=session, round=round, stage="context", roster=cohort_hash((holder,))
    )


def _upload_place(place: Place, context: bytes, pinned: Sequence[bytes]) -> Place:
    return place.at("upload", hashlib.sha256(context + cohort_hash(pinned)).digest())


def _sum_place(place: Place, context: bytes) -> Place:
    return place.at("sum", hashlib.sha256(context).digest())


def _read_context(message: bytes, place: Place, holder: bytes) -> Any:
    _, body = verify_message(message, place, (holder,), LIMITS[KeyContext])
    return _load_context(decode(body, KeyContext).context)


def _load_parts(context: Any, message: Ciphertexts) -> list[Any]:
    if len(message.parts) != _n_parts(message.size):
        raise ProtocolError(f"{message.size} values need {_n_parts(message.size)} ciphertexts")
    return [_load_ciphertext(context, part) for part in message.parts]
