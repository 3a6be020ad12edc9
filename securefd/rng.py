"""Randomness of experiments: one seed, and an independent stream for every purpose.

For splits, initialisation and order only. Noise and keys come from the operating system's generator.
"""

from __future__ import annotations

import hashlib
import json
from operator import index

import numpy as np


def generator(seed: int, *labels: str | int) -> np.random.Generator:
    """The stream that ``seed`` and ``labels`` name, e.g. ``generator(7, "partition")``.

    Same arguments, same stream, on every machine; other labels, or the same in another order or
    grouping, give an independent one, so a new consumer of randomness never shifts an old one.
    Raises TypeError for labels that are neither text nor integers.
    """
    # JSON keeps 1 and "1", and ("a", "b") and ("ab",), apart.
    name = json.dumps([index(seed), *(label if isinstance(label, str) else index(label) for label in labels)])
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest, "big"))))
