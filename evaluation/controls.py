"""Tests of the audit itself: signals of which the truth is known, under its own membership and code."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from securefd.errors import AuditError
from securefd.evaluation.findings import Control
from securefd.evaluation.statistics import auc, epsilon_lower_bound, epsilon_power
from securefd.evaluation.trials import ATTACKS, Attack, Trials, one_record, references, score, scored, turns

NULL_LEVEL = 1e-3
"""Chance that the null controls of a sound audit, all together, cry wolf."""

FOUND_AUC = 0.9
"""What an attack must reach at least where membership itself is the signal."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def controls(
    membership: Bools, *, delta: float, alpha: float, rng: np.random.Generator
) -> tuple[Control, ...]:
    """A null and a positive control of each attack; membership ``(F, n)``, ``alpha`` that of one bound."""
    noise = rng.standard_normal(membership.shape)
    leak = 20.0 * membership - 10.0 + rng.standard_normal(membership.shape)
    nulls = [null_control(attack, noise, membership, delta=delta) for attack in ATTACKS]
    positives = [positive_control(attack, leak, membership, delta=delta, alpha=alpha) for attack in ATTACKS]
    return (*nulls, *positives)


def null_control(attack: Attack, signal: Floats, membership: Bools, *, delta: float) -> Control:
    """Passes unless a signal ``(F, n)`` drawn without knowledge of membership seems to know it.

    Two tests share this attack's part of the level: the epsilon bound must be 0, and the AUCs of the trial
    federations must average one half. Given references and signals the trials' coins are independent, so
    the variance of that average is the rank-sum test's.
    """
    level = NULL_LEVEL / len(ATTACKS) / 2
    bound = _bound(one_record(attack, signal, membership, delta=delta, alpha=level), delta=delta, alpha=level)
    half = references(len(membership))
    scores = score(attack, signal[half:], signal[:half], membership[:half])
    try:
        federations = scored(scores, membership[half:])
    except AuditError as error:
        return Control(kind="null", attack=attack, measured=str(error), passed=False)
    excess, variance = 0.0, 0.0
    for row, member in federations:
        n_in, n_out = int(member.sum()), int((~member).sum())
        excess += auc(row, member).value - 0.5
        variance += (n_in + n_out + 1) / (12 * n_in * n_out)
    p_value = float(2 * norm.sf(abs(excess) / math.sqrt(variance)))
    return Control(
        kind="null",
        attack=attack,
        measured=f"random scores: AUC against one half has p = {p_value:.2g}, epsilon bound {bound:.2f}",
        passed=bool(p_value > level and bound == 0),
    )


def positive_control(
    attack: Attack, signal: Floats, membership: Bools, *, delta: float, alpha: float
) -> Control:
    """Passes if the attack finds membership in a signal ``(F, n)`` that is little else.

    The epsilon bound must reach half of what these trials could certify at all.
    """
    try:
        federations = scored(turns(attack, signal, membership), membership)
    except AuditError as error:
        return Control(kind="positive", attack=attack, measured=str(error), passed=False)
    trials = one_record(attack, signal, membership, delta=delta, alpha=alpha)
    bound = _bound(trials, delta=delta, alpha=alpha)
    power = epsilon_power(trials.n_in, trials.n_out, delta=delta, alpha=alpha)
    mean = float(np.mean([auc(*federation).value for federation in federations]))
    return Control(
        kind="positive",
        attack=attack,
        measured=f"planted membership: AUC {mean:.3f}, epsilon bound {bound:.2f} of at most {power:.2f}",
        passed=bool(mean >= FOUND_AUC and bound >= power / 2),
    )


def _bound(trials: Trials, *, delta: float, alpha: float) -> float:
    return epsilon_lower_bound(
        trials.true_positives, trials.n_in, trials.false_positives, trials.n_out, delta=delta, alpha=alpha
    )
