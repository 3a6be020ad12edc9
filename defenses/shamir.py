"""Secret sharing: any ``threshold`` of the holders recover a 32-byte secret, fewer learn nothing about it.

Shamir 1979, How to Share a Secret: the secret is the constant term of a polynomial of degree threshold - 1
over the field of P = 2**256 - 189 elements, all other coefficients are uniform, and the holder at position p
gets the value at x = p + 1. Any threshold - 1 values fit every secret equally often, so they tell nothing,
whatever computing power looks at them.

Not promised: that shares are right (a holder that hands in a wrong one changes what is recovered), nor that
the time taken is independent of the secret (Python's integers aren't constant-time).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache

from securefd.errors import SealingError

P = 2**256 - 189
"""The largest prime below 2**256: nearly every 32-byte string is an element of the field."""
SIZE = 32
"""Bytes of a secret and of a share, big-endian."""

_POSITIONS = 1 << 32
"""Positions are below this, far fewer than the field has elements, so that no two share an x."""
_LAZY = 32
"""Steps of Horner's rule between two reductions modulo P: x is small, and so the sum grows slowly."""

Random = Callable[[int], bytes]
"""``random(n)``: n uniform bytes."""


def draw_secret(*, _random: Random = os.urandom) -> bytes:
    """Return a uniform secret below P, from the operating system's generator: it can always be shared."""
    return _element(_random).to_bytes(SIZE, "big")


def split(
    secret: bytes, holders: Sequence[int], threshold: int, *, _random: Random = os.urandom
) -> dict[int, bytes]:
    """Run by whoever owns ``secret``. Returns one share for each position in ``holders``.

    ``SealingError`` unless 1 <= threshold <= len(holders), positions are distinct and in [0, 2**32), and the
    secret is 32 bytes below P. The polynomial is dropped: a second split of a secret is independent of it.
    """
    _check_threshold(threshold)
    _check_positions(holders)
    if len(set(holders)) != len(holders):
        raise SealingError(f"holders must be distinct, got {list(holders)}")
    if not threshold <= len(holders):
        raise SealingError(f"threshold must be at most the {len(holders)} holders, got {threshold}")
    constant = _to_element(secret, "a secret to split")
    # The leading coefficient may be zero: were it not, threshold - 1 shares would rule out one secret.
    coefficients = [*(_element(_random) for _ in range(threshold - 1)), constant]
    blocks = [coefficients[start : start + _LAZY] for start in range(0, threshold, _LAZY)]
    return {holder: _evaluate(blocks, holder + 1).to_bytes(SIZE, "big") for holder in holders}


def recover(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Run by whoever may learn the secret. ``shares``: one a position, at least ``threshold`` of them.

    Only the ``threshold`` lowest positions count. **A wrong share gives a wrong secret, without an error**,
    and a surplus of shares doesn't change that: the caller must check the secret against a commitment.
    ``SealingError`` for too few shares, or any that is not 32 bytes below P.
    """
    _check_threshold(threshold)
    _check_positions(shares)
    if not len(shares) >= threshold:
        raise SealingError(
            f"{threshold} shares are needed to recover a secret, got {len(shares)}; wait for more holders"
        )
    values = {holder: _to_element(share, f"the share of {holder}") for holder, share in shares.items()}
    holders = tuple(sorted(shares)[:threshold])
    coefficients = _lagrange_at_zero(holders)
    total = sum(factor * values[holder] for factor, holder in zip(coefficients, holders, strict=True))
    return (total % P).to_bytes(SIZE, "big")


@lru_cache(maxsize=256)
def _lagrange_at_zero(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Return the factors that make a value at zero of the values at ``holders``; public, so safe to keep.

    The factor of i is the product over j != i of x_j / (x_j - x_i): products of small integers first, then
    one inversion for all (Montgomery's trick).
    """
    points = [holder + 1 for holder in holders]
    denominators = [x * math.prod(y - x for y in points if y != x) for x in points]
    products = [1]
    for denominator in denominators:
        products.append(products[-1] * denominator % P)
    inverse = math.prod(points) * pow(products[-1], -1, P) % P
    factors = []
    for before, denominator in zip(reversed(products[:-1]), reversed(denominators), strict=True):
        factors.append(inverse * before % P)
        inverse = inverse * denominator % P
    return tuple(reversed(factors))


def _evaluate(blocks: Sequence[Sequence[int]], x: int) -> int:
    """Horner's rule modulo P; ``blocks`` hold the coefficients, the leading one first."""
    value = 0
    for block in blocks:
        for coefficient in block:
            value = value * x + coefficient
        value %= P
    return value


def _element(random: Random) -> int:
    """Draw uniformly from the field: strings of P and more are drawn again."""
    while True:
        value = int.from_bytes(random(SIZE), "big")
        if value < P:
            return value


def _to_element(data: bytes, name: str) -> int:
    # The value stays out of the message: it is a secret.
    if len(data) != SIZE:
        raise SealingError(f"{name} must be {SIZE} bytes, got {len(data)}")
    value = int.from_bytes(data, "big")
    if not value < P:
        raise SealingError(f"{name} must be below 2**256 - 189; draw it with draw_secret")
    return value


def _check_threshold(threshold: int) -> None:
    if not threshold >= 1:
        raise SealingError(f"threshold must be at least 1, got {threshold}")


def _check_positions(holders: Collection[int]) -> None:
    # Position -1 would be x = 0, whose share is the secret.
    wrong = [holder for holder in holders if not 0 <= holder < _POSITIONS]
    if wrong:
        raise SealingError(f"a holder's position must be in [0, 2**32), got {wrong[0]}")
