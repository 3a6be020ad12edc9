"""Exact sums under encryption: BFV by TenSEAL (Microsoft SEAL), its parameters, and how ciphertexts travel.

**Packing.** A slot holds an integer modulo the plain modulus t, and three fields of 16 bits fill 48 bits of
it, less than t. Sums stay inside their fields while bits + ceil(log2 N) <= 16 (``value_bits``).

**Decryption is always correct** for the sum of up to ``MAX_CLIENTS`` encryptions that were made as SEAL makes
them: in the worst case of all random choices and for all plaintexts, not just probably. It has to be so:
where decryption can fail, whoever sees results can learn the key from them, exact scheme or not (IND-CPA-D,
eprint 2024/116 and 2024/127). Write n for the degree, q for the product of the ciphertext primes, p for the
special prime, s for the secret key. Norms are the largest absolute coefficient.

1. *Key.* (b, a) with b = -(a s + e) modulo q p. s is ternary; e is a difference of two sums of 21 bits, so
   its norm is at most 21 (``sample_poly_cbd``; SEAL's other sampler, a clipped normal, stays below 20).
2. *Encryption of zero.* (b u + e0, a u + e1) modulo q p, u ternary, e0 and e1 as e. Of it times (1, s)
   remains e0 + e1 s - e u, of norm at most E = 21 + 21 n + 21 n.
3. *Division by p*, each polynomial rounded to the nearest integers (``divide_and_round_q_last_inplace``; p is
   odd, so errors r0, r1 are below 1/2). Times (1, s) that leaves the former error / p + r0 + r1 s modulo q:
   norm at most E / p + (1 + n) / 2.
4. *The plaintext m* in [0, t) is added as floor((q m + (t + 1) / 2) / t), which differs from q m / t by at
   most 1/2 + 1 / (2 t) (``multiply_add_plain_with_scaling_variant``).

Together a fresh ciphertext is q m / t + v modulo q with |v| <= E / p + (1 + n) / 2 + 1/2 + 1 / (2 t) < 2,050,
which is ``FRESH_NOISE``. Sums add up the m and the v. A sum of m that exceeds t adds no noise: q m / t is
taken, not floor(q / t) m, and q t / t is 0 modulo q.

5. *Decryption* of q m / t + v (``decrypt_scale_and_round``) multiplies by t g for a prime g of 61 bits, and
   converts from q to {t, g}, which yields floor(g t x / q) minus 0 or 1, since q has two primes. That is g m
   plus an error between g t v / q - 2 and g t v / q, which is removed exactly if it lies in (-g/2, g/2). So
   m is right whenever |v| < q / (2 t) (1 - 6 / g), and q / (2 t) = 4,194,284.5.

Hence N encryptions are opened correctly while N * 2,050 < 4,194,284, up to 2,045; ``MAX_CLIENTS`` is 2,000.

**Security** of a ciphertext: 109 bits of q p at degree 4,096 with a ternary key is at the limit that the
homomorphic encryption standard (2018) gives for 128 bits.

**How ciphertexts travel.** TenSEAL reads and writes ciphertexts in compressed form, with a header that says
how many polynomials follow and at which level. Here a ciphertext has one form and one size only: its
4 x 4,096 coefficients of 36 bits, 73,728 bytes. What comes from others is checked against the primes, added
up as integers, and only then put behind a header of our own making: no foreign header reaches SEAL's parser.

TenSEAL wraps too large values, truncates fractions and warns on standard output about long vectors. So only
int64 in [0, t) is passed to it, 4,096 at a time.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tenseal
from numpy.typing import NDArray

from securefd.errors import MessageError, SealingError

SLOTS = 4096
FIELDS, FIELD_BITS = 3, 16
PER_PART = SLOTS * FIELDS
"""Values in one ciphertext."""
PLAIN_MODULUS = 562_949_953_216_513
"""The largest prime below 2**49 that is 1 modulo 2 * SLOTS, as slots require."""
CIPHERTEXT_PRIMES = (68_719_230_977, 68_719_403_009)
SPECIAL_PRIME = 137_438_822_401
FRESH_NOISE = 2_050
MAX_CLIENTS = 2_000
PART_BYTES = 73_728
"""Of one ciphertext: two polynomials of 4,096 coefficients modulo two primes, 36 bits each."""

_PRIME_BITS = (36, 36, 37)
_SCHEME_BFV, _SCHEME_CKKS = 1, 2
PARAMETERS = struct.unpack(
    "<4Q",
    hashlib.blake2b(
        struct.pack("<6Q", _SCHEME_BFV, SLOTS, *CIPHERTEXT_PRIMES, SPECIAL_PRIME, PLAIN_MODULUS),
        digest_size=32,
    ).digest(),
)
"""How SEAL identifies these parameters: a context with any other is refused."""

Slots = NDArray[np.int64]
Words = NDArray[np.uint64]

_SHAPE = (2, len(CIPHERTEXT_PRIMES), SLOTS)
_COUNT = 2 * len(CIPHERTEXT_PRIMES) * SLOTS
_LOW_BYTES = 4 * _COUNT
_PRIMES = np.array(CIPHERTEXT_PRIMES, dtype=np.uint64)[:, None]
_UNKNOWN = "TenSEAL does something else than what was proven and tested; use tenseal 0.3.18"


def value_bits(n_clients: int) -> int:
    """Return the most bits a value may have so that the sum over ``n_clients`` fits its field."""
    if not 2 <= n_clients <= MAX_CLIENTS:
        raise SealingError(f"homomorphic sums need 2..{MAX_CLIENTS} clients, got {n_clients}")
    return FIELD_BITS - (n_clients - 1).bit_length()


def n_parts(size: int) -> int:
    """Ciphertexts that ``size`` values need."""
    return -(-size // PER_PART)


def pack(vector: NDArray[np.int64]) -> Slots:
    """``(d,)`` fields of 16 bits to ``(parts, SLOTS)`` slots of three fields, lowest first, then zeros."""
    padded = np.zeros(n_parts(vector.size) * PER_PART, dtype=np.int64)
    padded[: vector.size] = vector
    fields = padded.reshape(-1, SLOTS, FIELDS)
    return fields[..., 0] | fields[..., 1] << FIELD_BITS | fields[..., 2] << 2 * FIELD_BITS


def unpack(slots: Slots, size: int, largest: int) -> NDArray[np.int64]:
    """Reverse ``pack``; ``SealingError`` unless fields are at most ``largest`` and padding is zero."""
    shifts = np.arange(FIELDS, dtype=np.int64) * FIELD_BITS
    values = (slots[..., None] >> shifts & (1 << FIELD_BITS) - 1).ravel()
    if (
        int(slots.max()) >= 1 << FIELDS * FIELD_BITS
        or int(values[:size].max()) > largest
        or values[size:].any()
    ):
        raise SealingError(
            "what was opened can't be a sum of this round: it was damaged or made with another key; "
            "start a new round"
        )
    return values[:size]


def write_words(words: Words) -> bytes:
    """``(2, 2, SLOTS)`` coefficients of 36 bits: all low 32 bits, then the high 4, two to a byte."""
    flat = words.reshape(-1)
    high = (flat >> np.uint64(32)).astype(np.uint8)
    return flat.astype("<u4").tobytes() + (high[0::2] | high[1::2] << 4).tobytes()


def read_words(part: bytes) -> Words:
    """Reverse ``write_words``; ``MessageError`` unless every coefficient is below its prime."""
    pairs = np.frombuffer(part, dtype=np.uint8, offset=_LOW_BYTES)
    words = np.empty(_COUNT, dtype=np.uint64)
    words[0::2] = pairs & 15
    words[1::2] = pairs >> 4
    words <<= np.uint64(32)
    words |= np.frombuffer(part, dtype="<u4", count=_COUNT)
    shaped = words.reshape(_SHAPE)
    if not (shaped < _PRIMES).all():
        raise MessageError("a coefficient of a ciphertext isn't below its prime; encrypt again")
    return shaped


def read_parts(data: bytes, parts: int) -> list[Words]:
    """Read ``parts`` ciphertexts, one after the other; ``MessageError`` for bytes that can't be these."""
    if len(data) != parts * PART_BYTES:
        raise MessageError(
            f"{parts} ciphertexts must have {parts * PART_BYTES} bytes, got {len(data)}; send them whole"
        )
    return [read_words(data[start : start + PART_BYTES]) for start in range(0, len(data), PART_BYTES)]


class CiphertextSum:
    """Run by the server: adds ciphertexts as they come. It needs no key, and holds one sum in memory.

    Adding ciphertexts is adding their coefficients. Up to ``MAX_CLIENTS`` of 36 bits each stay far below 64
    bits, so they are reduced once, at the end.
    """

    def __init__(self, size: int) -> None:
        """``size``: values that every client has encrypted."""
        if not size >= 1:
            raise SealingError(f"a vector to seal must hold at least 1 value, got {size}")
        self._words = np.zeros((n_parts(size), *_SHAPE), dtype=np.uint64)
        self.count = 0

    def add(self, data: bytes) -> None:
        """Add one client's ciphertexts. A refusal (``MessageError``, ``SealingError``) changes nothing."""
        if not self.count < MAX_CLIENTS:
            raise SealingError(
                f"a homomorphic sum is over at most {MAX_CLIENTS} clients; form smaller groups"
            )
        for total, words in zip(self._words, read_parts(data, len(self._words)), strict=True):
            total += words
        self.count += 1

    def total(self) -> bytes:
        """The ciphertexts of the sum of what was added so far."""
        return b"".join(write_words(words % _PRIMES) for words in self._words)


@dataclass(frozen=True, kw_only=True, eq=False)
class PublicKey:
    """What clients encrypt with."""

    context: Any = field(repr=False)

    @classmethod
    def load(cls, data: bytes) -> PublicKey:
        """Parse a context that its holder signed.

        ``SealingError`` unless it is public and has our parameters; ``MessageError`` if it isn't a context.
        """
        try:
            context = tenseal.context_from(data, n_threads=1)
            sealed = context.seal_context().data
            parameters = tuple(sealed.key_parms_id())
            scheme = int(sealed.key_context_data().parms().scheme().value)
            public = context.has_public_key() and not context.is_private()
        except (RuntimeError, ValueError, TypeError) as error:
            raise MessageError("the key holder's context can't be read; ask for a new one") from error
        if scheme == _SCHEME_CKKS:
            raise SealingError(
                "a CKKS context was refused: its approximate results disclose the key to whoever reads them "
                "(IND-CPA-D), and here others than the key's owner do; use BFV"
            )
        if not public or parameters != PARAMETERS:
            raise SealingError(
                "the key holder's context must hold a public key only, under this project's parameters"
            )
        return cls(context=context)

    def encrypt(self, slots: Slots) -> bytes:
        """``(parts, SLOTS)`` int64 in [0, PLAIN_MODULUS) to as many ciphertexts, one after the other."""
        if slots.dtype != np.int64 or slots.ndim != 2 or slots.shape[1] != SLOTS or not slots.size:
            raise SealingError(
                f"slots must be int64 of shape (parts, {SLOTS}), got {slots.dtype} {slots.shape}"
            )
        if slots.min() < 0 or slots.max() >= PLAIN_MODULUS:
            raise SealingError(f"slots must be in [0, {PLAIN_MODULUS}), got {slots.min()}..{slots.max()}")
        return b"".join(map(self._encrypt, slots))

    def _encrypt(self, row: Slots) -> bytes:
        _, words = _unwrap(tenseal.bfv_vector(self.context, row).serialize())
        return write_words(words)


@dataclass(frozen=True, kw_only=True, eq=False)
class SecretKey:
    """What the key holder decrypts with, and the public context for everyone else."""

    context: Any = field(repr=False)
    public: bytes = field(repr=False)
    _header: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> SecretKey:
        """Make a new key from the operating system's generator, and try it once.

        ``SealingError`` if this TenSEAL has chosen other parameters or writes ciphertexts otherwise.
        """
        context = tenseal.context(
            tenseal.SCHEME_TYPE.BFV,
            poly_modulus_degree=SLOTS,
            plain_modulus=PLAIN_MODULUS,
            coeff_mod_bit_sizes=list(_PRIME_BITS),
            n_threads=1,
        )
        if tuple(context.seal_context().data.key_parms_id()) != PARAMETERS:
            raise SealingError(_UNKNOWN)
        public = context.serialize(
            save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
        trial = np.arange(SLOTS, dtype=np.int64)[None] * (PLAIN_MODULUS // SLOTS)
        header, words = _unwrap(tenseal.bfv_vector(context, trial[0]).serialize())
        key = cls(context=context, public=public, _header=header)
        if not np.array_equal(key.decrypt([words]), trial):
            raise SealingError(_UNKNOWN)
        return key

    def decrypt(self, parts: Sequence[Words]) -> Slots:
        """``(parts, SLOTS)`` int64 in [0, PLAIN_MODULUS): garbage for what isn't under this key."""
        signed = [
            tenseal.bfv_vector_from(self.context, self._header + words.tobytes()).decrypt() for words in parts
        ]
        return np.array(signed, dtype=np.int64) % PLAIN_MODULUS


_WRAPPER = b"\x0a\x02\x80\x20\x12"
"""How TenSEAL writes a vector (protocol buffers): its sizes, here 4096, then the length of SEAL's bytes."""
_LENGTH_BYTES = 3
_SEAL_HEADER = struct.Struct("<HBBBBHQ")
_MAGIC, _NOT_COMPRESSED, _ZSTANDARD = 0xA15E, 0, 2
_IDENTIFIER_BYTES = 32
_FIELDS = struct.pack("<BQQQdQ", 0, 2, SLOTS, len(CIPHERTEXT_PRIMES), 1.0, 1)
"""Coefficients as they are (not transformed), two polynomials, their sizes; scales that BFV doesn't use."""
_MEMBERS = _IDENTIFIER_BYTES + len(_FIELDS) + _SEAL_HEADER.size + 8
"""Bytes before the coefficients: what identifies the parameters, fields, and the header of an array."""


def _unwrap(serialized: bytes) -> tuple[bytes, Words]:
    """Of what TenSEAL has written here: a header for uncompressed coefficients, and the coefficients.

    SEAL compresses by Zstandard, and TenSEAL doesn't let us choose.
    """
    import pyarrow  # slow to import, and only needed where something is encrypted

    start = len(_WRAPPER) + _LENGTH_BYTES
    magic, length, major, minor, mode, _, size = _SEAL_HEADER.unpack_from(serialized, start)
    compressed = memoryview(serialized)[start + _SEAL_HEADER.size :]
    if not (
        serialized.startswith(_WRAPPER)
        and (magic, length, mode) == (_MAGIC, _SEAL_HEADER.size, _ZSTANDARD)
        and size == _SEAL_HEADER.size + len(compressed)
    ):
        raise SealingError(_UNKNOWN)
    try:
        members = pyarrow.Codec("zstd").decompress(compressed, decompressed_size=_MEMBERS + 8 * _COUNT)
    except (OSError, ValueError) as error:
        raise SealingError(_UNKNOWN) from error
    leading = bytes(memoryview(members)[:_MEMBERS])
    if not (leading.startswith(_FIELDS, _IDENTIFIER_BYTES) and leading.endswith(struct.pack("<Q", _COUNT))):
        raise SealingError(_UNKNOWN)
    whole = _SEAL_HEADER.size + _MEMBERS + 8 * _COUNT
    header = (
        _WRAPPER
        + bytes((whole & 127 | 128, whole >> 7 & 127 | 128, whole >> 14))
        + _SEAL_HEADER.pack(_MAGIC, _SEAL_HEADER.size, major, minor, _NOT_COMPRESSED, 0, whole)
        + leading
    )
    words = np.frombuffer(members, dtype="<u8", offset=_MEMBERS).reshape(_SHAPE)
    return header, words
