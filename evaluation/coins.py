"""Which record takes part in which shadow federation: independent fair coins from a private, committed seed.

The seed comes fresh from the operating system and stays in the run's folder. Its salted hash may be shown
to anyone before or after: it tells nothing about the coins, and no other seed fits it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securefd.errors import AuditError
from securefd.folder import make, read_bytes, write_bytes

SECRET_BYTES = 32

FEW = 40
"""A client with fewer records could be left without any by chance (2^-40 and more), so some of them stay."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Coins:
    """A seed and a salt, both private."""

    seed: bytes = field(repr=False)
    salt: bytes = field(repr=False)

    @property
    def commitment(self) -> str:
        """Salted SHA-256 of the seed, in hex: may be published."""
        return hashlib.sha256(b"securefd audit coins\0" + self.salt + self.seed).hexdigest()

    def flips(self, federations: int, candidates: int) -> Bools:
        """Membership ``(federations, candidates)``: one bit of SHAKE-256 each, a stream a federation."""
        rows = [self._bits(f"federation {number}", candidates) for number in range(federations)]
        return np.array(rows, dtype=np.bool_).reshape(federations, candidates)

    def generator(self, label: str) -> np.random.Generator:
        """Other randomness of the audit that nobody may know beforehand."""
        return np.random.default_rng(int.from_bytes(self._stream(label, SECRET_BYTES), "big"))

    def _bits(self, label: str, count: int) -> Bools:
        stream = np.frombuffer(self._stream(label, -(-count // 8)), dtype=np.uint8)
        return np.unpackbits(stream, count=count).astype(np.bool_)

    def _stream(self, label: str, size: int) -> bytes:
        return hashlib.shake_256(b"securefd\0" + self.seed + label.encode()).digest(size)


def coins_of(folder: Path) -> Coins:
    """The coins of the audit in ``folder``, thrown once; the seed's file is its owner's only.

    Raises AuditError if the seed and its commitment, which lies beside it, don't fit each other.
    """
    make(folder)
    secret, published = folder / "coins", folder / "commitment"
    if not secret.exists():
        write_bytes(secret, os.urandom(2 * SECRET_BYTES))
        published.unlink(missing_ok=True)
    content = read_bytes(secret)
    coins = Coins(seed=content[:SECRET_BYTES], salt=content[SECRET_BYTES:])
    if not published.exists():
        write_bytes(published, f"{coins.commitment}\n".encode())
    if len(content) != 2 * SECRET_BYTES or read_bytes(published).decode().strip() != coins.commitment:
        raise AuditError(
            f"the seed in {secret} isn't the one that {published.name} commits to; remove the folder "
            f"{folder} to audit afresh"
        )
    return coins


def always_in(labels: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of one client's ``rows`` that take part in every shadow federation and aren't candidates.

    None for a client with ``FEW`` records or more. Of fewer, two, of different classes if it has them: fixed
    beforehand, so that the coins of all others stay independent and fair.
    """
    if len(rows) >= FEW:
        return np.empty(0, dtype=np.int64)
    others = rows[labels[rows] != labels[rows[0]]]
    return np.array([rows[0], *(others if len(others) else rows[1:])[:1]], dtype=np.int64)
