"""Clients that lie: answers that pull a consensus away from what honest clients say.

Each attack knows the honest answers, as liars who work together with the server could, and gives rows that
are class probabilities, so that no bound on values shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from securefd.errors import AuditError

Floats = NDArray[np.float64]
Lies = Callable[[Floats, int, np.random.Generator], Floats]

ROUNDING = 0.05
"""Answers that travelled on a grid add up to 1 no better than this."""


def lies(name: str, honest: Floats, liars: int, rng: np.random.Generator) -> Floats:
    """Answers ``(liars, m, C)`` of liars beside ``honest`` ones ``(n, m, C)``; ``name`` is one of `ATTACKS`.

    Raises:
        AuditError: an unknown attack, no liar, or honest answers that aren't class probabilities.
    """
    if name not in ATTACKS:
        raise AuditError(f"attack must be one of {', '.join(ATTACKS)}, got {name!r}")
    if honest.ndim != 3 or not len(honest) or honest.shape[2] < 2:
        raise AuditError(f"honest answers must be (n, m, C) with C >= 2, got shape {honest.shape}")
    if not (np.isfinite(honest).all() and (honest >= 0).all()):
        raise AuditError("honest answers must be finite and >= 0; some aren't")
    if not (np.abs(honest.sum(axis=-1) - 1) < ROUNDING).all():
        worst = float(np.abs(honest.sum(axis=-1) - 1).max())
        raise AuditError(f"honest answers must add up to 1 over classes, got rows that are {worst:.3g} off")
    if not liars >= 1:
        raise AuditError(f"liars must be at least 1, got {liars}")
    return ATTACKS[name](honest, liars, rng)


def _one_hot(classes: NDArray[np.integer], n_classes: int, liars: int) -> Floats:
    return np.repeat(np.eye(n_classes)[classes][None], liars, axis=0)


def _opposite(honest: Floats, liars: int, _: np.random.Generator) -> Floats:
    """All mass on the class that honest clients together find least likely.

    Source: Roux et al. 2024, "On the Byzantine-Resilience of Distillation-Based Federated Learning", loss
    maximisation attack.
    """
    return _one_hot(honest.mean(axis=0).argmin(axis=-1), honest.shape[2], liars)


def _covariance(honest: Floats, liars: int, _: np.random.Generator) -> Floats:
    """All mass on the class that is least like the likeliest one, by how honest answers vary together.

    Source: the same, class prior attack, with the covariance of the honest mean answers over inputs.
    """
    mean = honest.mean(axis=0)
    centred = mean - mean.mean(axis=0)
    covariance = centred.T @ centred / len(mean)
    return _one_hot(covariance[mean.argmax(axis=-1)].argmin(axis=-1), honest.shape[2], liars)


def _rank_shift(honest: Floats, liars: int, rng: np.random.Generator) -> Floats:
    """An honest client's own values in another order: its largest moves to its second likeliest class, and
    every other one step along, so that the values themselves give nothing away.

    Source: Tang et al. 2024, "A Logits Poisoning Attack in Federated Distillation" (FDLA).
    """
    copied = honest[rng.integers(0, len(honest), liars)]
    order = np.argsort(-copied, axis=-1, kind="stable")
    shifted = np.empty_like(copied)
    np.put_along_axis(shifted, np.roll(order, -1, axis=-1), np.take_along_axis(copied, order, -1), -1)
    return shifted


def _colluding(honest: Floats, liars: int, _: np.random.Generator) -> Floats:
    """All liars repeat that honest answer, input by input, that is farthest from the honest mean's opinion:
    within the spread of honest answers, where no rule can tell them from honest clients.

    Source: the same as `_opposite`, hiding in plain sight (HIPS).
    """
    likeliest = honest.mean(axis=0).argmax(axis=-1)
    agreement = np.take_along_axis(honest, likeliest[None, :, None], axis=-1)[..., 0]
    worst = agreement.argmin(axis=0)
    return np.repeat(honest[worst, np.arange(honest.shape[1])][None], liars, axis=0)


def _random(honest: Floats, liars: int, rng: np.random.Generator) -> Floats:
    """All mass on a class drawn by each liar for each input: what lies without a plan do."""
    n_classes = honest.shape[2]
    return np.eye(n_classes)[rng.integers(0, n_classes, (liars, honest.shape[1]))]


ATTACKS: Mapping[str, Lies] = {
    "random": _random,
    "one-hot opposite": _opposite,
    "covariance-guided": _covariance,
    "rank-shift": _rank_shift,
    "colluding": _colluding,
}
"""By name."""
