"""Exact draws by inversion: of one uniform number, as many bits are drawn as decide.

X = k where P(X < k) <= u < P(X <= k), for u uniform in [0, 1). A table holds the first 64 bits of each
P(X <= k), and 64 bits of u are drawn. Where they leave it open between two neighbours, 192 more are drawn,
and the probabilities are computed to as many and a few, from bounds below and above; and so on until it is
decided. So P(X = k) is what it should be, not nearly, and no k that is possible is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.csprng import Stream, Words

Weights = Callable[[int], tuple[list[int], list[int]]]
"""``weights(bits)``: of 0, 1, 2, ..., each in proportion to its probability; bounds below and bounds above,
all in one unit. Those that aren't listed are together at most 2**-bits of all. Bounds may be as far apart as
they like, but the more bits, the closer they must come."""

MORE = 192
"""Bits that are drawn when those before didn't decide."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inversion:
    """A distribution on 0, 1, 2, ..., given by its ``weights``, with its table.

    ``coarse[k]`` <= 2**64 P(X <= k) <= ``coarse[k] + slack``. It ends with the first that is 2**64 - 1:
    beyond it nothing can be told with 64 bits.
    """

    weights: Weights = field(repr=False)
    coarse: Words = field(repr=False)
    slack: int

    @classmethod
    def of(cls, weights: Weights) -> Inversion:
        """The table of ``weights``."""
        low, high = _cumulated(weights, 128)
        coarse = [each >> 64 for each in low]
        coarse = coarse[: bisect_right(coarse, (1 << 64) - 2) + 1]
        slack = max(-(-above >> 64) - below for above, below in zip(high, coarse, strict=False))
        return cls(weights=weights, coarse=np.array(coarse, dtype=np.uint64), slack=slack)

    def draw(self, words: Words, stream: Stream) -> NDArray[np.int64]:
        """One draw for each of ``words``, ``(n,)`` uniform; ``stream`` gives the bits that are wanted beside.

        With a word w, u is in [w, w + 1) / 2**64. Entries above w are at least w + 1, and so are above u. The
        others are at most u if entry + slack <= w holds for the largest of them.
        """
        found = np.searchsorted(self.coarse, words, side="right")
        # Where none is as small as w, this wraps to something large.
        distance = words - self.coarse[np.maximum(found, 1) - 1]
        for index in np.flatnonzero(distance < np.uint64(self.slack)):
            found[index] = self.decide(int(words[index]), stream)
        return found

    def decide(self, word: int, stream: Stream) -> int:
        """The draw for a ``word`` that is too short to tell, by as many bits more as it takes."""
        bits = 64
        while True:
            word, bits = word << MORE | stream.number(MORE), bits + MORE
            low, high = _cumulated(self.weights, bits)
            k = bisect_right(high, word)
            # The last of ``high`` is all of 2**bits, so that there is a k.
            if word < low[k]:
                return k


def _cumulated(weights: Weights, bits: int) -> tuple[list[int], list[int]]:
    """Bounds below and above 2**bits P(X <= k), k = 0, 1, ....

    For A = the weights up to k, B = the others listed and R = the rest, P(X <= k) = A / (A + B + R). That is
    at most A / (A + B), and at least A / (A + B) - 2**-bits; either grows with A and falls with B.
    """
    smallest, largest = (list(accumulate(each)) for each in weights(bits))
    low, high = [], []
    for least, most in zip(smallest, largest, strict=True):
        low.append(max(0, (least << bits) // (least + largest[-1] - most) - 1))
        high.append(-((-most << bits) // (most + smallest[-1] - least)))
    return low, high
