"""The receiver operating characteristic of an attack as a few points that tell of no single record."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

Points = tuple[tuple[float, float], ...]
"""(false-positive rate, true-positive rate), rates rising; empty where there is no curve to tell."""

FPRS = tuple(
    round(base * 10.0**-power, 8) for power in (3, 2, 1) for base in (1, 1.3, 1.8, 2.4, 3.2, 4.2, 5.6, 7.5)
)
"""Eight a decade, evenly spaced on a log axis, from one in a thousand on."""

STEP = 0.001
"""True-positive rates are told in steps of this, or of `FEWEST` records if these are more."""

FEWEST = 5
"""Records: no point and no step between two points rests on fewer, among all targets together."""

COARSEST = 0.05
"""With steps wider than this there is nothing to see."""


def mean_curve(targets: Sequence[tuple[Floats, Bools]]) -> Points:
    """The mean over targets, each its scores and members ``(n,)``, of the true-positive rate at `FPRS`.

    At each rate it is the mean of what `statistics.tpr_at_fpr` gives, so a rate below one non-member of any
    target is left out; what is told is rounded to whole steps. Source: Fawcett 2006, section 6.1 (averages
    of curves at fixed false-positive rates).
    """
    members = sum(int(member.sum()) for _, member in targets)
    others = sum(int((~member).sum()) for _, member in targets)
    if not targets or FEWEST / members > COARSEST:
        return ()
    step = max(STEP, FEWEST / members)
    rates = np.mean([_rates(scores, member) for scores, member in targets], axis=0)
    told = np.minimum(1.0, np.round(np.round(rates / step) * step, 6))
    return tuple(
        (fpr, float(tpr))
        for fpr, tpr in zip(FPRS, told, strict=True)
        if np.isfinite(tpr) and fpr * others >= FEWEST
    )


def _rates(scores: Floats, member: Bools) -> Floats:
    """The largest true-positive rate at each of `FPRS`; NaN below one non-member."""
    others = np.sort(scores[~member])[::-1]
    shares = np.arange(len(others) + 1) / len(others)
    allowed = np.searchsorted(shares, FPRS, side="right") - 1
    members = np.sort(scores[member])
    above = len(members) - np.searchsorted(members, others[allowed], side="right")
    return np.where(allowed < 1, np.nan, above / len(members))
