"""How far one unit of privacy moves a vector of integers: what noise is sized against.

Answers are noised as integers, on the grid of ``securefd.defenses.quantise`` with s = 2**bits - 1 levels, and
these distances are between integer vectors. So rounding is part of what is measured, whichever way it goes,
and nothing has to be added for it.

Two vectors of one client can differ in everything: its data set is another one, and so its model is.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from securefd.defenses.claims import Relation
from securefd.defenses.quantise import Block, check_bits
from securefd.errors import PrivacyError


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Largest distances between the sums of two neighbouring data sets, integers all.

    ``added``: squared L2 distance if a unit is added or removed; ``replaced``: if it is replaced by another
    one. ``added_l1`` and ``replaced_l1``: the L1 distances, which Skellam noise needs too.
    """

    added: int
    replaced: int
    added_l1: int
    replaced_l1: int

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not getattr(self, name) >= 1:
                raise PrivacyError(f"sensitivity {name} must be at least 1, got {getattr(self, name)}")

    def squared(self, relation: Relation) -> int:
        """The squared L2 distance under ``relation``."""
        return self.replaced if relation == "replace-one" else self.added

    def absolute(self, relation: Relation) -> int:
        """The L1 distance under ``relation``."""
        return self.replaced_l1 if relation == "replace-one" else self.added_l1


def of_client(blocks: Sequence[Block], bits: int) -> Sensitivity:
    """One client's whole answer on the grid, in one release; unit of privacy: one client.

    With s = 2**bits - 1 levels, m rows of a simplex block and d entries of the others:

    - Row of a simplex block: non-negative, with a sum of at most s. Two of them, a and b, have
      ||a - b||_1 <= 2 s, and ||a - b||_2^2 = ||a||^2 + ||b||^2 - 2 <a, b> <= 2 s^2, since no entry is
      negative and ||a||_2 <= ||a||_1 <= s. One alone has ||a||_1 <= s and ||a||_2^2 <= s^2.
    - Any other entry is in [0, s], so that two of them differ by at most s.

    All that together: replaced = 2 s^2 m + s^2 d (L1: 2 s m + s d), added = s^2 m + s^2 d (L1: s m + s d).
    For m queries answered with probabilities, soft or one-hot, that is Delta_2 = s sqrt(2 m); with clipped
    logits of C classes, s sqrt(m C); for ``balanced`` with its bound B = s on counts, Delta_2 = B sqrt(2 m +
    C). Several releases compose in the accounting.

    One record moves the answer of its client no less: what a model answers may change wholly with a single
    record, since nothing bounds how training follows one, and soft answers have the same bounds. So answers
    aren't noised for records; what they are computed from is (`dpsgd`, `head`, ``securefd.pate``). Class
    counts of ``balanced`` are another matter: a record changes one of them by 1, or two if it is replaced
    (`noise.CountNoise`).
    """
    check_bits(bits)
    levels = (1 << bits) - 1
    rows = sum(block.size // block.shape[-1] for block in blocks if block.simplex and block.size)
    entries = sum(block.size for block in blocks if not block.simplex)
    return Sensitivity(
        added=levels * levels * (rows + entries),
        replaced=levels * levels * (2 * rows + entries),
        added_l1=levels * (rows + entries),
        replaced_l1=levels * (2 * rows + entries),
    )


def composed(one: Sensitivity, times: int) -> Sensitivity:
    """The same release ``times`` times, as one long vector."""
    if not times >= 1:
        raise PrivacyError(f"times must be at least 1, got {times}")
    return Sensitivity(
        added=one.added * times,
        replaced=one.replaced * times,
        added_l1=one.added_l1 * times,
        replaced_l1=one.replaced_l1 * times,
    )
