"""What one run of a mechanism proves, from many canaries that were each put in by a coin of its own.

Source: Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run".
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betainc, betaincinv, expit, gammaln, logit

from securefd.errors import AuditError
from securefd.evaluation.checks import Bools, Floats, check_count, check_delta, check_share

_HALVINGS = 60


def one_run(
    scores: Floats,
    included: Bools,
    *,
    delta: float,
    alpha: float,
    positives: int,
    negatives: int,
    rng: np.random.Generator | None = None,
) -> float:
    """Lower bound on epsilon from one run; above the truth in at most ``alpha`` of experiments.

    The ``positives`` highest of the ``(m,)`` scores are guessed to be in, the ``negatives`` lowest out, and
    nothing is said of the others. Both numbers are fixed before these scores were seen. Each canary is
    ``included`` by an independent fair coin: halves of a fixed size are not that, and break the bound.

    Where a tie lies across a cut, its records must not be told apart by their order, which may know the
    coins. With ``rng``, a generator that knows nothing of the coins, they are drawn; without, none of the
    tied are guessed, while the guesses still count as made, as if they had all been wrong. Either holds.

    Raises:
        AuditError: NaN, shapes that differ, fewer than 2 canaries, more guesses than canaries, or delta or
            alpha out of range.
    """
    scores, included = np.asarray(scores, dtype=np.float64), np.asarray(included)
    _check_canaries(scores, included)
    canaries = len(scores)
    check_count("positives", positives, canaries, "the number of canaries")
    check_count("negatives", negatives, canaries - positives, "the canaries that are left")
    high, low = guessed(scores, positives, negatives, rng)
    correct = int(included[high].sum() + (~included[low]).sum())
    return one_run_epsilon(correct, positives + negatives, canaries, delta=delta, alpha=alpha)


def guessed(
    scores: Floats, positives: int, negatives: int, rng: np.random.Generator | None
) -> tuple[Bools, Bools]:
    """Which records ``(m,)`` are guessed in, and which out; a tie across a cut is drawn, or left out."""
    if rng is None:
        ordered = np.sort(scores)
        highest_left = ordered[len(scores) - positives - 1] if positives < len(scores) else -np.inf
        lowest_left = ordered[negatives] if negatives < len(scores) else np.inf
        return scores > highest_left, scores < lowest_left
    order = np.lexsort((rng.random(len(scores)), scores))
    high, low = np.zeros(len(scores), dtype=np.bool_), np.zeros(len(scores), dtype=np.bool_)
    high[order[len(scores) - positives :]] = True
    low[order[:negatives]] = True
    return high, low


def one_run_epsilon(correct: int, guesses: int, canaries: int, *, delta: float, alpha: float) -> float:
    """Largest epsilon that ``correct`` of ``guesses`` right, among ``canaries`` coins, refutes; 0 if none.

    Of an (epsilon, delta) mechanism, so many are right with probability at most

        P(X >= correct) + 2 canaries delta max_i P(correct > X >= correct - i) / i,   1 <= i <= correct,

    X ~ Bin(guesses, e^epsilon / (1 + e^epsilon)). Every epsilon where this is below ``alpha`` is refuted. At
    delta = 0 the largest is the logit of Clopper and Pearson's bound on the share that is right; elsewhere
    it is found by halving below that.

    Source: the main theorem for approximate privacy, as computed in the paper's appendix D.

    Raises:
        AuditError: counts that can't be, or delta or alpha out of range.
    """
    check_count("guesses", guesses, canaries, "the number of canaries")
    check_count("correct", correct, guesses, "the number of guesses")
    check_delta(delta)
    check_share("alpha", alpha)
    if correct == 0:
        return 0.0
    high = float(logit(betaincinv(correct, guesses - correct + 1, alpha)))
    if not high > 0:
        return 0.0
    if delta == 0:
        return high
    chances = _Chances(correct, guesses)
    if chances.at_most(0.0, 2 * canaries * delta) >= alpha:
        return 0.0
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if chances.at_most(middle, 2 * canaries * delta) < alpha:
            low = middle
        else:
            high = middle
    return low


def one_run_power(guesses: int, canaries: int, *, delta: float, alpha: float) -> float:
    """Largest epsilon that so many guesses could certify: the bound when all of them are right."""
    return one_run_epsilon(guesses, guesses, canaries, delta=delta, alpha=alpha)


class _Chances:
    """Bounds on the chance of so many right guesses; what doesn't depend on epsilon is computed once."""

    def __init__(self, correct: int, guesses: int) -> None:
        self._correct, self._guesses = correct, guesses
        self._below = np.arange(correct - 1, -1, -1, dtype=np.float64)
        self._ways = gammaln(guesses + 1) - gammaln(self._below + 1) - gammaln(guesses - self._below + 1)

    def at_most(self, epsilon: float, slack: float) -> float:
        """The chance at ``epsilon``; ``slack``: what the second term is multiplied by."""
        right, wrong = float(expit(epsilon)), float(expit(-epsilon))
        reached = float(betainc(self._correct, self._guesses - self._correct + 1, right))
        logs = self._ways + self._below * math.log(right) + (self._guesses - self._below) * math.log(wrong)
        nearly = np.cumsum(np.exp(logs)) / np.arange(1, self._correct + 1)
        return reached + slack * float(nearly.max())


def _check_canaries(scores: Floats, included: Bools) -> None:
    if scores.ndim != 1 or included.shape != scores.shape:
        raise AuditError(
            f"scores and included must be (m,) each, got shapes {scores.shape} and {included.shape}"
        )
    if included.dtype != np.bool_:
        raise AuditError(f"included must be boolean, got {included.dtype}")
    if np.isnan(scores).any():
        raise AuditError(f"scores must not be NaN; {int(np.isnan(scores).sum())} of {len(scores)} are")
    if not len(scores) >= 2:
        raise AuditError(f"at least 2 canaries are needed, got {len(scores)}")
