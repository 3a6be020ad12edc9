"""Tests that bound epsilon, each fixed by one half of the federations and made on the other.

The first half are references: for each observer they single out the evidence and the attack, and the coin
and threshold, or the number of guesses, that would have certified most among themselves. Then

* *one record*: each other federation is one trial of that coin. Given the references the trials are
  independent, because each is a fresh run with its own coins;
* *one run*: all coins of the last federation are guessed at once, with all others for shadows. Its coins
  are independent of one another and of all that was used to prepare.

Nothing about a test was chosen by looking at what it is made on, so one test an observer and design is all
that shares the error level, however many attacks were looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.candidates import Evidence
from securefd.attacks.table import LEAST_SHADOWS, attackable
from securefd.evaluation.game import Game
from securefd.evaluation.one_run import one_run_epsilon
from securefd.evaluation.scoring import Tried, references_of, scores
from securefd.evaluation.thresholds import best_threshold, fixed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

ONE_RECORD_RULE = (
    "attack, record and threshold fixed on the first half of the federations; "
    "each of the others is one independent trial"
)
ONE_RUN_RULE = (
    "attack and number of guesses fixed on the first half of the federations; "
    "all coins of the last federation, the others being its shadows"
)

LEAST_TRIALS = 2
"""With and without a record, each: fewer have no AUC."""

SHARES = (0.2, 0.1, 0.05, 0.02, 0.5)
"""Of a one-run test's coins: guessed to have fallen so, and as many to have fallen otherwise. Where none of
them would have certified anything, the first: fewer guesses could certify little even if all were right."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OneRecord:
    """Attack ``tried`` on one ``coin``, guessed to have fallen so above ``threshold``."""

    tried: Tried
    coin: int = field(repr=False)
    threshold: float = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class OneRun:
    """Attack ``tried`` on all coins, of which ``guesses`` are guessed either way."""

    tried: Tried
    guesses: int


def trials_of(game: Game) -> Ints:
    """The others."""
    return np.arange(game.federations // 2, game.federations)


def prepare_one_record(tried: Sequence[Tried], game: Game, *, delta: float, alpha: float) -> OneRecord | None:
    """What would have certified most on the references; None where they are too few to single out a coin."""
    best: tuple[tuple[float, float, float], OneRecord] | None = None
    known = references_of(game)
    exposed: dict[int, int | None] = {}
    for each in tried:
        if id(each.piece) not in exposed:
            exposed[id(each.piece)] = _exposed(each.piece, game)
        coin = exposed[id(each.piece)]
        if coin is None:
            continue
        seen, fell = each.among_references[:, coin], game.coins(each.piece.candidates)[known, coin]
        if not np.isfinite(seen).all():
            continue
        threshold = best_threshold(seen, fell, delta=delta, alpha=alpha)
        made = fixed(seen, fell, threshold=threshold, delta=delta, alpha=alpha)
        advantage = made.true_positives / made.n_in - made.false_positives / made.n_out
        merit = (made.epsilon, advantage, each.strength(game))
        if best is None or merit > best[0]:
            best = merit, OneRecord(tried=each, coin=coin, threshold=threshold)
    return None if best is None else best[1]


def try_one_record(test: OneRecord, game: Game) -> tuple[Floats, Bools]:
    """Scores and coins ``(t, g)`` of the federations that didn't prepare the test, which is about one g."""
    piece, targets = test.tried.piece, trials_of(game)
    found = scores(test.tried.attack, piece, game, targets, references_of(game))
    return found, game.coins(piece.candidates)[targets]


def prepare_one_run(tried: Sequence[Tried], game: Game, *, delta: float, alpha: float) -> OneRun | None:
    """What would have certified most if each reference had been the one run; None without references."""
    best: tuple[tuple[float, int, float], OneRun] | None = None
    known = references_of(game)
    for each in tried:
        fell = game.coins(each.piece.candidates)[known]
        for rank, share in enumerate(SHARES):
            guesses = max(1, round(share * fell.shape[1]))
            right = [
                _right(row[~np.isnan(row)], coin[~np.isnan(row)], guesses)
                for row, coin in zip(each.among_references, fell, strict=True)
                if (~np.isnan(row)).sum() >= 2 * guesses
            ]
            if not right:
                continue
            mean = float(np.mean(right))
            bound = one_run_epsilon(int(mean), 2 * guesses, fell.shape[1], delta=delta, alpha=alpha)
            merit = (bound, -rank, mean / guesses)
            if best is None or merit > best[0]:
                best = merit, OneRun(tried=each, guesses=guesses)
    return None if best is None else best[1]


def try_one_run(test: OneRun, game: Game) -> tuple[Floats, Bools]:
    """Scores and coins ``(g,)`` of the last federation, all others being its shadows; NaN where unknown."""
    every = np.arange(game.federations)
    piece = test.tried.piece
    (found,) = scores(test.tried.attack, piece, game, every[-1:], every[:-1])
    return found, game.coins(piece.candidates)[-1]


def _right(scored: Floats, fell: Bools, guesses: int) -> int:
    order = np.argsort(scored, kind="stable")
    return int(fell[order[-guesses:]].sum() + (~fell[order[:guesses]]).sum())


def _exposed(piece: Evidence, game: Game) -> int | None:
    """The coin that shows most in the references' confidences; None if none fell both ways often enough.

    In the trials too it has to have fallen both ways. That looks at their coins, and not at what they show:
    given all coins, the trials are still independent of what is chosen here.
    """
    known, coins = references_of(game), game.coins(piece.candidates)
    fell = coins[known]
    # One more than an attack needs: each reference is scored by the others.
    eligible = attackable(fell, LEAST_SHADOWS + 1) & attackable(coins[trials_of(game)], LEAST_TRIALS)
    if not eligible.any():
        return None
    told = game.told(piece.confidence[known], piece.candidates)
    return int(np.argmax(np.where(eligible, _separation(told, fell), -np.inf)))


def _separation(confidence: Floats, fell: Bools) -> Floats:
    """How many standard deviations ``(g,)`` lie between the confidences of either side of a coin.

    The variance is half the coin's own and half everyone's, lest a few values that agree by chance win.
    """
    n_in = np.maximum(fell.sum(axis=0), 1)
    n_out = np.maximum((~fell).sum(axis=0), 1)
    mean_in = np.where(fell, confidence, 0.0).sum(axis=0) / n_in
    mean_out = np.where(fell, 0.0, confidence).sum(axis=0) / n_out
    variance = ((confidence - np.where(fell, mean_in, mean_out)) ** 2).mean(axis=0)
    return np.asarray(
        (mean_in - mean_out) / np.sqrt((variance + variance.mean()) / 2 + 1e-30), dtype=np.float64
    )
