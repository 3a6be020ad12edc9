"""What attacks check before they score, and which records the references say enough about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.answers import Answers, Records, References
from securefd.errors import AuditError

LEAST_SHADOWS = 2
"""A record needs so many IN and so many OUT references, or it has no spread at all."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def attackable(membership: Bools, least: int = LEAST_SHADOWS) -> Bools:
    """Which records ``(n,)`` have ``least`` IN and ``least`` OUT references, or more; by ``(m, n)``."""
    n_in = membership.sum(axis=0)
    return np.asarray((n_in >= least) & (len(membership) - n_in >= least), dtype=np.bool_)


def knowable(membership: Bools, least: int = LEAST_SHADOWS) -> Bools:
    """Which records ``(n,)`` have ``least`` OUT references or more, by membership ``(m, n)``."""
    return np.asarray((~membership).sum(axis=0) >= least, dtype=np.bool_)


def check_references(target: Floats, shadows: Floats, membership: Bools) -> tuple[Floats, Floats]:
    """``target`` ``(..., n)`` and ``shadows`` ``(m, n)`` as float64.

    Raises:
        AuditError: shapes that don't fit, NaN, or membership that isn't boolean or is all one value.
    """
    target, shadows = finite(target, "target"), finite(shadows, "shadows")
    if shadows.ndim != 2 or target.shape[-1:] != shadows.shape[1:] or membership.shape != shadows.shape:
        raise AuditError(
            f"target must be (..., n), shadows and membership (m, n), "
            f"got {target.shape}, {shadows.shape} and {membership.shape}"
        )
    check_membership(membership)
    return target, shadows


def check_membership(membership: Bools) -> None:
    """Raise AuditError where it isn't boolean or says nothing."""
    if membership.dtype != np.bool_:
        raise AuditError(f"membership must be boolean, got {membership.dtype}")
    if membership.all() or not membership.any():
        raise AuditError(
            f"membership is all {bool(membership.size and membership.all())}; "
            "shadows must be trained with and without the records"
        )


def some(scored: Bools, n_shadows: int, *, online: bool) -> Bools:
    """``scored`` ``(n,)`` itself. AuditError if it says of no record that it can be scored."""
    if not scored.any():
        wanted = f"{LEAST_SHADOWS} IN and {LEAST_SHADOWS} OUT" if online else f"{LEAST_SHADOWS} OUT"
        raise AuditError(
            f"none of {len(scored)} records has {wanted} shadows among {n_shadows}; run more shadows"
        )
    return scored


def needed(references: References | None) -> References:
    """The references. AuditError where there are none."""
    if references is None:
        raise AuditError("this attack needs references; give shadow models with their membership")
    return references


def confidences(targets: Answers, records: Records) -> Floats:
    """``(t, n)`` of the targets about the records.

    Raises:
        AuditError: answers that aren't one model axis of answers about these records.
    """
    shape = targets.probabilities.shape
    if len(shape) != 3 or shape[1] != len(records.labels):
        raise AuditError(
            f"targets' probabilities must be (t, {len(records.labels)}, C), one row a record, got {shape}"
        )
    return finite(targets.confidence, "targets' confidences")


def signal_of(answers: Answers, name: str, n_records: int) -> Floats:
    """One of the answers' ``(t, n, k)`` signals, by its name.

    Raises:
        AuditError: it isn't there, isn't about these records, or isn't finite.
    """
    values = getattr(answers, name)
    if values is None:
        raise AuditError(f"this attack needs {name}; the view holds none")
    if values.ndim != 3 or values.shape[1] != n_records or not values.shape[2]:
        raise AuditError(f"{name} must be (t, {n_records}, k) with k >= 1, got shape {values.shape}")
    return finite(values, name)


def finite(values: NDArray[np.floating], name: str) -> Floats:
    """``values`` as float64. AuditError where some aren't finite."""
    checked = np.asarray(values, dtype=np.float64)
    if not np.isfinite(checked).all():
        raise AuditError(f"{name} must be finite; {int((~np.isfinite(checked)).sum())} values are not")
    return checked


def within_steps(steps: Floats, size: int, told: Floats) -> Floats:
    """Shares ``(steps + u) / (size + 1)``, where u in (0, 1) grows with ``told``.

    A share of ``size`` others takes few values, so many records would tie and low false-positive rates
    couldn't be measured. The order of different whole ``steps`` stays.
    """
    return np.asarray((steps + 0.5 + np.arctan(told) / np.pi) / (size + 1), dtype=np.float64)
