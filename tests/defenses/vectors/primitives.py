"""What test vectors are made of: MessagePack, HKDF, X25519, Ed25519, AES-CTR, AES-GCM, Shamir's sharing.

From the standards that are named, naive and slow on purpose; only AES on single blocks is from a library.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

FIELD = 2**256 - 189
"""Order of the field of the shares."""

Point = tuple[int, int]


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# MessagePack: what these messages need of it, everything in its shortest form


def pack(value: object) -> bytes:
    if isinstance(value, bytes):
        return _head(len(value), {8: 0xC4, 16: 0xC5, 32: 0xC6}) + value
    if isinstance(value, str):
        text = value.encode()
        assert len(text) < 32
        return bytes([0xA0 + len(text)]) + text
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, int):
        assert value >= 0
        return bytes([value]) if value < 128 else _head(value, {8: 0xCC, 16: 0xCD, 32: 0xCE})
    assert isinstance(value, list | tuple)
    short = len(value) < 16
    head = bytes([0x90 + len(value)]) if short else _head(len(value), {16: 0xDC, 32: 0xDD})
    return head + b"".join(map(pack, value))


def _head(number: int, codes: Mapping[int, int]) -> bytes:
    bits = next(bits for bits in codes if number < 1 << bits)
    return bytes([codes[bits]]) + number.to_bytes(bits // 8, "big")


# HKDF-SHA256: RFC 5869


def hkdf(secret: bytes, salt: bytes, info: bytes, size: int = 32) -> bytes:
    key = hmac.digest(salt, secret, "sha256")
    output, block = b"", b""
    for number in range(1, -(-size // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        output += block
    return output[:size]


# X25519: RFC 7748

PRIME = 2**255 - 19


def x25519(scalar: bytes, point: bytes = (9).to_bytes(32, "little")) -> bytes:
    """The Montgomery ladder; with the base point by default, so that it gives a public key."""
    k = int.from_bytes(scalar, "little") & (1 << 254) - 8 | 1 << 254
    u = int.from_bytes(point, "little") % 2**255
    (x2, z2), (x3, z3) = (1, 0), (u, 1)
    for bit in reversed(range(255)):
        if k >> bit & 1:
            (x2, z2), (x3, z3) = (x3, z3), (x2, z2)
        plus, minus = (x2 + z2) ** 2 % PRIME, (x2 - z2) ** 2 % PRIME
        one, other = (x3 - z3) * (x2 + z2) % PRIME, (x3 + z3) * (x2 - z2) % PRIME
        difference = plus - minus
        x3, z3 = (one + other) ** 2 % PRIME, u * (one - other) ** 2 % PRIME
        x2, z2 = plus * minus % PRIME, difference * (plus + 121665 * difference) % PRIME
        if k >> bit & 1:
            (x2, z2), (x3, z3) = (x3, z3), (x2, z2)
    return (x2 * pow(z2, -1, PRIME) % PRIME).to_bytes(32, "little")


# Ed25519: RFC 8032, in affine coordinates

ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE_D = -121665 * pow(121666, -1, PRIME) % PRIME


def _base() -> Point:
    """The point with y = 4/5 and even x: x**2 = (y**2 - 1) / (d y**2 + 1)."""
    y = 4 * pow(5, -1, PRIME) % PRIME
    square = (y * y - 1) * pow(CURVE_D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    assert (x * x - square) % PRIME == 0
    return (x if x % 2 == 0 else PRIME - x), y


def _add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    twist = CURVE_D * x1 * x2 * y1 * y2 % PRIME
    inverse = pow((1 + twist) * (1 - twist), -1, PRIME)
    x = (x1 * y2 + x2 * y1) * (1 - twist) * inverse % PRIME
    return x, (y1 * y2 + x1 * x2) * (1 + twist) * inverse % PRIME


def _times_base(scalar: int) -> bytes:
    """Double and add; returns the point as 32 bytes: y, and the lowest bit of x as the highest one."""
    total, power = (0, 1), _base()
    while scalar:
        if scalar & 1:
            total = _add(total, power)
        power, scalar = _add(power, power), scalar >> 1
    return (total[1] | (total[0] & 1) << 255).to_bytes(32, "little")


def _expand_identity(seed: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(seed).digest()
    return int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254, digest[32:]


def ed25519_public(seed: bytes) -> bytes:
    return _times_base(_expand_identity(seed)[0])


def ed25519_sign(seed: bytes, public: bytes, message: bytes) -> bytes:
    scalar, prefix = _expand_identity(seed)
    nonce = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % ORDER
    point = _times_base(nonce)
    challenge = int.from_bytes(hashlib.sha512(point + public + message).digest(), "little")
    return point + ((nonce + challenge * scalar) % ORDER).to_bytes(32, "little")


# AES-CTR and AES-GCM: NIST SP 800-38A and SP 800-38D, from AES on single blocks


def aes_ctr(key: bytes, counter: int, size: int) -> bytes:
    """Keystream from a counter of 128 bits, big-endian."""
    blocks = b"".join((counter + k).to_bytes(16, "big") for k in range(-(-size // 16)))
    return _aes(key, blocks)[:size]


def _aes(key: bytes, blocks: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(blocks)


def _ghash_times(one: int, other: int) -> int:
    """Multiply modulo x**128 + x**7 + x**2 + x + 1; the highest bit is the constant term."""
    product = 0
    for bit in reversed(range(128)):
        if one >> bit & 1:
            product ^= other
        other = other >> 1 ^ (0xE1 << 120 if other & 1 else 0)
    return product


def aes_gcm(key: bytes, nonce: bytes, plain: bytes, associated: bytes = b"") -> bytes:
    """Ciphertext and tag, for a nonce of 12 bytes."""
    first = int.from_bytes(nonce, "big") << 32 | 1
    cipher = bytes(a ^ b for a, b in zip(plain, aes_ctr(key, first + 1, len(plain)), strict=True))
    hash_key, tag = int.from_bytes(_aes(key, bytes(16)), "big"), 0
    padded = b"".join(part + bytes(-len(part) % 16) for part in (associated, cipher))
    padded += struct.pack(">QQ", 8 * len(associated), 8 * len(cipher))
    for start in range(0, len(padded), 16):
        tag = _ghash_times(tag ^ int.from_bytes(padded[start : start + 16], "big"), hash_key)
    return cipher + (tag ^ int.from_bytes(aes_ctr(key, first, 16), "big")).to_bytes(16, "big")


# Shamir's sharing: powers and fractions


def split(secret: bytes, coefficients: Sequence[bytes], holder: int) -> bytes:
    """The share of a holder; ``coefficients`` of x, x**2, ..."""
    terms = (secret, *coefficients)
    x = holder + 1
    value: int = sum(int.from_bytes(term, "big") * x**power for power, term in enumerate(terms))
    return (value % FIELD).to_bytes(32, "big")


def recover(shares: Mapping[int, bytes]) -> bytes:
    """Lagrange's formula at zero."""
    total = 0
    for i, share in shares.items():
        above = math.prod(j + 1 for j in shares if j != i)
        below = math.prod(j - i for j in shares if j != i)
        total += int.from_bytes(share, "big") * above * pow(below, -1, FIELD)
    return (total % FIELD).to_bytes(32, "big")
