"""What liars do to each combination rule: the consensus with them, beside the one without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.poisoning import ATTACKS, lies
from securefd.defenses.robust import RULES
from securefd.errors import AuditError
from securefd.evaluation.findings import Poisoned
from securefd.methods import method_named

FRACTIONS = (0.1, 0.2, 0.3, 0.4)
"""Of all clients, those that lie."""

FEWEST_HONEST = 3

MEAN = "mean"

Floats = NDArray[np.float64]


def poisoned(
    honest: Floats,
    rng: np.random.Generator,
    *,
    rules: Sequence[str] = (MEAN, *RULES),
    fractions: Sequence[float] = FRACTIONS,
    rounds: int = 1,
) -> Iterator[Poisoned]:
    """Each attack against each rule, beside ``honest`` answers ``(n, m, C)`` of clients that tell the truth.

    Liars come on top, so many that they are about ``fraction`` of all, and at least one: of few clients that
    is more than a tenth, and `Poisoned.liars` says so. After ``rounds`` with the same answers: only
    `expguard`, whose weights fall from round to round, does better in later ones.

    Raises:
        AuditError: answers that aren't probabilities, fewer than 3 clients, a fraction out of (0, 1), or no
            round.
    """
    if honest.ndim != 3 or len(honest) < FEWEST_HONEST:
        raise AuditError(f"honest answers must be (n, m, C) of 3 clients or more, got {honest.shape}")
    for fraction in fractions:
        if not 0 < fraction < 1:
            raise AuditError(f"fraction must be between 0 and 1, got {fraction}")
    truths = {rule: combined(rule, honest, rounds) for rule in rules}
    for attack in ATTACKS:
        for fraction in fractions:
            liars = max(1, round(fraction * len(honest) / (1 - fraction)))
            everyone = np.concatenate([honest, lies(attack, honest, liars, rng)])
            for rule in rules:
                moved = combined(rule, everyone, rounds)
                yield Poisoned(
                    rule=rule,
                    attack=attack,
                    fraction=fraction,
                    liars=liars,
                    agreement=float((moved.argmax(-1) == truths[rule].argmax(-1)).mean()),
                    shift=float(np.abs(moved - truths[rule]).sum(axis=-1).mean()),
                )


def combined(rule: str, answers: Floats, rounds: int = 1) -> Floats:
    """The consensus ``(m, C)`` by which the method of that name combines; ``mean`` for those that add up.

    Of the last of ``rounds`` with the same answers, which matters to rules that remember.
    """
    if not rounds >= 1:
        raise AuditError(f"rounds must be at least 1, got {rounds}")
    if rule == MEAN:
        return np.asarray(answers.mean(axis=0), dtype=np.float64)
    method = method_named(rule)
    if method.combine_individual is None:
        raise AuditError(f"rule must be mean or one that combines answers one by one, got {rule!r}")
    consensus, weights = method.combine_individual(answers, None, method.options)
    for _ in range(rounds - 1):
        if weights is None:
            break
        consensus, weights = method.combine_individual(answers, weights, method.options)
    return consensus
