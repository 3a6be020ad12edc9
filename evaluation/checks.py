"""What statistics of scores ask of their arguments; each refusal is one sentence."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from securefd.errors import AuditError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def checked_scores(scores: Floats, member: Bools, *, least: int) -> tuple[Floats, Bools]:
    """Both ``(n,)``, without NaN, with at least ``least`` members and as many others."""
    scores, member = np.asarray(scores, dtype=np.float64), np.asarray(member)
    if scores.ndim != 1 or member.shape != scores.shape:
        raise AuditError(f"scores and member must be (n,) each, got shapes {scores.shape} and {member.shape}")
    if member.dtype != np.bool_:
        raise AuditError(f"member must be boolean, got {member.dtype}")
    if np.isnan(scores).any():
        raise AuditError(f"scores must not be NaN; {int(np.isnan(scores).sum())} of {len(scores)} are")
    n_in = int(member.sum())
    if not (n_in >= least and len(member) - n_in >= least):
        raise AuditError(
            f"at least {least} members and {least} non-members are needed, "
            f"got {n_in} and {len(member) - n_in}"
        )
    return scores, member


def check_count(name: str, value: int, most: int, what: str) -> None:
    """``value`` is one of 0 to ``most``, which is ``what``."""
    if not (0 <= value <= most < math.inf and value == int(value) and most == int(most)):
        raise AuditError(f"{name} must be 0 to {most}, {what}, got {value}")


def check_share(name: str, value: float) -> None:
    """``value`` lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise AuditError(f"{name} must be between 0 and 1, got {value}")


def check_delta(delta: float) -> None:
    """``delta`` is one of a guarantee that promises anything."""
    if not 0 <= delta < 1:
        raise AuditError(f"delta must be in [0, 1), got {delta}")
