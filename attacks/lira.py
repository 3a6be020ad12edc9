"""LiRA: how much likelier is a confidence if the record was trained on than if it wasn't?

Source of all: Carlini et al. 2022, "Membership Inference Attacks From First Principles", algorithm 1, with
medians for centres and spreads of residuals as in TF-Privacy's ``compute_score_lira``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.known import attackable, check_references, knowable, some

ENOUGH_FOR_OWN_SPREAD = 32
"""From so many shadows of every record on, each record's own standard deviation is used."""

_BLOCK = 1 << 19
"""Confidences that are sorted at a time, 4 MB."""

_TINY_SPREAD = 1e-30

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def lira(target: Floats, shadows: Floats, membership: Bools) -> Floats:
    """Log-likelihood ratio of IN against OUT, online, with a Gaussian for each record.

    ``target``: ``(n,)`` logit-scaled confidences of the attacked model, or ``(..., n)`` of several.
    ``shadows``: ``(m, n)`` those of shadow models. ``membership``: ``(m, n)`` whether shadow m trained on
    record n. Returns scores of the target's shape, NaN for records without 2 IN and 2 OUT shadows.

    Spreads are each record's own if every record that can be scored has 32 IN and 32 OUT shadows, otherwise
    pooled over records from the residuals (not from raw values, which differ between records).

    Raises:
        AuditError: shapes that don't fit, NaN, membership all one value, or no record that can be scored.
    """
    target, shadows = check_references(target, shadows, membership)
    kept = np.flatnonzero(some(attackable(membership), len(shadows), online=True))
    n_in = membership.sum(axis=0)[kept]
    own = bool(min(n_in.min(), len(shadows) - n_in.max()) >= ENOUGH_FOR_OWN_SPREAD)
    inside, outside = _fit(shadows, membership, kept)
    scores = np.full(target.shape, np.nan)
    chosen = target[..., kept]
    scores[..., kept] = inside.log_density(chosen, own=own) - outside.log_density(chosen, own=own)
    return scores


def lira_offline(target: Floats, shadows: Floats, membership: Bools) -> Floats:
    """How far above the OUT shadows, in standard deviations: one-sided, and no IN shadow is used.

    Shapes as for ``lira``; NaN for records without 2 OUT shadows. The score ranks as
    ``Pr[Z <= phi]`` does and, unlike that, never saturates at 1. Each record's own spread is used
    if every record that can be scored has 32 OUT shadows.

    Raises:
        AuditError: as ``lira``.
    """
    target, shadows = check_references(target, shadows, membership)
    kept = np.flatnonzero(some(knowable(membership), len(shadows), online=False))
    own = bool((~membership).sum(axis=0)[kept].min() >= ENOUGH_FOR_OWN_SPREAD)
    _, outside = _fit(shadows, membership, kept)
    scores = np.full(target.shape, np.nan)
    scores[..., kept] = outside.standardised(target[..., kept], own=own)
    return scores


@dataclass(frozen=True, kw_only=True, eq=False)
class _Gaussians:
    """One a record: ``centre`` and ``spread`` ``(k,)``, and the spread of all residuals."""

    centre: Floats = field(repr=False)
    spread: Floats = field(repr=False)
    pooled: float

    def standardised(self, target: Floats, *, own: bool) -> Floats:
        spread = (self.spread if own else self.pooled) + _TINY_SPREAD
        return np.asarray((target - self.centre) / spread, dtype=np.float64)

    def log_density(self, target: Floats, *, own: bool) -> Floats:
        """Up to a constant."""
        spread = (self.spread if own else self.pooled) + _TINY_SPREAD
        return np.asarray(-0.5 * self.standardised(target, own=own) ** 2 - np.log(spread), dtype=np.float64)


@dataclass(eq=False)
class _Fit:
    """Gaussians that are filled in block by block."""

    centre: Floats
    spread: Floats
    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, place: slice, values: Floats, used: Bools) -> None:
        """Of records ``place``, from ``values`` ``(b, m)`` where ``used``."""
        count = used.sum(axis=1)
        centre = _median(values, used, count)
        # From the centre, so that squares keep their digits however far from 0 the values are.
        residuals = np.where(used, values - centre[:, None], 0.0)
        sums = residuals.sum(axis=1)
        means = sums / np.maximum(count, 1)
        deviations = np.where(used, residuals - means[:, None], 0.0)
        own = np.einsum("bm,bm->b", deviations, deviations)
        self.centre[place] = centre
        self.spread[place] = np.sqrt(own / np.maximum(count, 1))
        self.count += int(count.sum())
        self.total += float(sums.sum())
        self.squares += float((own + means * sums).sum())

    def gaussians(self) -> _Gaussians:
        mean = self.total / max(self.count, 1)
        variance = max(self.squares / max(self.count, 1) - mean**2, 0.0)
        return _Gaussians(centre=self.centre, spread=self.spread, pooled=float(np.sqrt(variance)))


def _fit(shadows: Floats, membership: Bools, kept: Ints) -> tuple[_Gaussians, _Gaussians]:
    """Of records ``kept``: with IN shadows, and with OUT shadows."""
    inside, outside = (_Fit(np.empty(len(kept)), np.empty(len(kept))) for _ in range(2))
    for place, values, member in _by_record(shadows, membership, kept):
        inside.add(place, values, member)
        outside.add(place, values, ~member)
    return inside.gaussians(), outside.gaussians()


def _by_record(shadows: Floats, membership: Bools, kept: Ints) -> Iterator[tuple[slice, Floats, Bools]]:
    """Some records ``(b, m)`` at a time, their shadows side by side, as sorting wants them."""
    size = max(1, _BLOCK // len(shadows))
    for start in range(0, len(kept), size):
        place = slice(start, min(start + size, len(kept)))
        chosen: Ints | slice = kept[place]
        if kept[place][-1] - kept[place][0] + 1 == len(kept[place]):
            chosen = slice(kept[place][0], kept[place][-1] + 1)  # a view, which nothing need be copied to
        yield (
            place,
            np.ascontiguousarray(shadows[:, chosen].T),
            np.ascontiguousarray(membership[:, chosen].T),
        )


def _median(values: Floats, used: Bools, count: Ints) -> Floats:
    """Median ``(b,)`` of each row ``(m,)`` over the used entries; infinite without any."""
    ordered = np.sort(np.where(used, values, np.inf), axis=1)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0)[:, None] // 2, axis=1)[:, 0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[1] - 1)[:, None], axis=1)[:, 0]
    return np.asarray((low + high) / 2, dtype=np.float64)
