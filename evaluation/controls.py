"""Tests of the audit itself: evidence of which the truth is known, under the audit's own coins and code."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from scipy.stats import norm

from securefd.attacks.answers import Answers, Records
from securefd.attacks.candidates import Evidence, Part
from securefd.attacks.table import Attack
from securefd.errors import AuditError
from securefd.evaluation.bounding import Terms, bounded
from securefd.evaluation.findings import Control, Finding
from securefd.evaluation.game import Game
from securefd.evaluation.scoring import Tried, attacks_on, measurable, references_of, scores
from securefd.evaluation.statistics import auc
from securefd.evaluation.trials import trials_of

NULL_LEVEL = 1e-3
"""Chance that the null control of a sound audit cries wolf, and that the unprotected one does."""

FOUND_AUC = 0.9
"""What each attack must reach at least where membership itself is the signal."""

LEAST_SHARE = 0.25
"""Of what could be certified, where membership itself is the signal."""

MOST_COINS = 200
"""Controls use so many of the audit's coins."""

_CLASSES, _POPULATION, _DEPTH = 4, 60, 3
_SURE = 10.0
"""Logit-scaled confidence, of either sign, where membership is planted."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def controls(
    game: Game,
    *,
    delta: float,
    alpha: float,
    rng: np.random.Generator,
    unprotected: Evidence | None = None,
) -> tuple[Control, ...]:
    """The controls of an audit; ``alpha`` is the level of one of its bounds.

    ``unprotected``: what could be held against records that nothing protects, or None where nobody knows.
    """
    some = game.first(MOST_COINS)
    made = [
        null_control(_noise(some, rng), some, delta=delta),
        planted_control(_planted(some, rng), some, delta=delta, alpha=alpha),
    ]
    if unprotected is not None:
        made.append(unprotected_control(unprotected, game))
    return tuple(made)


def null_control(piece: Evidence, game: Game, *, delta: float) -> Control:
    """Passes unless evidence that was drawn without knowledge of membership seems to know it.

    Every attack, and every design, is given the same part of the level: the AUCs of the trial federations
    must average one half, and no bound may be above 0. Given references and evidence the trials' coins are
    independent, so the variance of that average is the rank-sum test's.
    """
    attacks = attacks_on(piece)
    level = NULL_LEVEL / (len(attacks) + 2)
    least, worst = 1.0, attacks[0].name
    tried = []
    for attack in attacks:
        try:
            p_value = _p_value(attack, piece, game)
            tried.append(Tried.of(attack, piece, game))
        except AuditError as error:
            return Control(kind="null", attack=attack.name, measured=str(error), passed=False)
        least, worst = min((least, worst), (p_value, attack.name))
    found = bounded(piece.observer, tried, game, Terms(promise=None, delta=delta, alpha=level))
    largest = max((_bound_of(outcome) for outcome in found.outcomes), default=0.0)
    return Control(
        kind="null",
        attack=f"all {len(attacks)} attacks on random answers",
        measured=(
            f"smallest p of an AUC against one half {least:.2g} ({worst}; {level:.2g} would fail), largest "
            f"epsilon bound {largest:.2f}"
        ),
        passed=bool(least > level and largest == 0),
    )


def planted_control(piece: Evidence, game: Game, *, delta: float, alpha: float) -> Control:
    """Passes if every attack finds membership where it is all that answers tell.

    The bounds must reach a quarter of what these trials could certify at all: coins that fall unevenly cost
    a test of one run some of its guesses.
    """
    attacks = attacks_on(piece)
    lowest, worst = 2.0, ""
    tried = []
    for attack in attacks:
        try:
            tried.append(Tried.of(attack, piece, game))
        except AuditError as error:
            return Control(kind="positive", attack=attack.name, measured=str(error), passed=False)
        lowest, worst = min((lowest, worst), (tried[-1].measured.auc.value, attack.name))
    found = bounded(piece.observer, tried, game, Terms(promise=None, delta=delta, alpha=alpha))
    shares = [_share_of(outcome) for outcome in found.outcomes]
    return Control(
        kind="positive",
        attack=f"all {len(attacks)} attacks on planted membership",
        measured=(
            f"smallest AUC {lowest:.3f} ({worst}), bounds at least {100 * min(shares):.0f}% of what could be "
            "certified"
        ),
        passed=bool(lowest >= FOUND_AUC and min(shares) >= LEAST_SHARE),
    )


def unprotected_control(piece: Evidence, game: Game) -> Control:
    """Passes if some attack tells members where nothing protects them, from the model that trained on them.

    Where even then nothing is found, that nothing was found elsewhere means nothing.
    """
    attacks = attacks_on(piece)
    level = NULL_LEVEL / len(attacks)
    least, best, area = 1.0, attacks[0].name, 0.5
    for attack in attacks:
        try:
            value = _mean_auc(attack, piece, game)
            p_value = _p_value(attack, piece, game)
        except AuditError:
            continue
        if value > 0.5 and p_value < least:
            least, best, area = p_value, attack.name, value
    return Control(
        kind="positive",
        attack="attacks on a client's model without protection",
        measured=f"AUC {area:.3f} ({best}), p = {least:.2g} against one half ({level:.2g} is needed)",
        passed=bool(least < level),
    )


def _p_value(attack: Attack, piece: Evidence, game: Game) -> float:
    """Two-sided, of the trial federations' mean AUC against one half."""
    excess, variance = 0.0, 0.0
    for row, coin in _trials(attack, piece, game):
        n_in, n_out = int(coin.sum()), int((~coin).sum())
        excess += auc(row, coin).value - 0.5
        variance += (n_in + n_out + 1) / (12 * n_in * n_out)
    return float(2 * norm.sf(abs(excess) / math.sqrt(variance)))


def _mean_auc(attack: Attack, piece: Evidence, game: Game) -> float:
    return float(np.mean([auc(row, coin).value for row, coin in _trials(attack, piece, game)]))


def _trials(attack: Attack, piece: Evidence, game: Game) -> list[tuple[Floats, Bools]]:
    found = scores(attack, piece, game, trials_of(game), references_of(game))
    return measurable(found, game.coins(piece.candidates)[trials_of(game)])


def _bound_of(outcome: object) -> float:
    """A design that couldn't be tried certified nothing."""
    return (outcome.epsilon_bound or 0.0) if isinstance(outcome, Finding) else 0.0


def _share_of(outcome: object) -> float:
    if not isinstance(outcome, Finding) or not outcome.epsilon_power:
        return 1.0  # nothing could have been certified, which says nothing against the code
    return (outcome.epsilon_bound or 0.0) / outcome.epsilon_power


def _noise(game: Game, rng: np.random.Generator) -> Evidence:
    """Answers that know nothing."""
    federations, n = game.membership.shape

    def confidences() -> Floats:
        return rng.standard_normal((federations, n, _DEPTH))

    return _evidence(
        softmax(2 * rng.standard_normal((federations, n, _CLASSES)), axis=-1),
        softmax(2 * rng.standard_normal((federations, _POPULATION, _CLASSES)), axis=-1),
        rng,
        rounds=confidences(),
        nearby=confidences(),
        others=confidences(),
        resampled=confidences(),
    )


def _planted(game: Game, rng: np.random.Generator) -> Evidence:
    """Answers that are sure of the labels of members, and of no label of anyone else."""
    federations, n = game.membership.shape
    sure = _SURE * np.where(game.membership, 1, -1)

    def confidences(centre: Floats) -> Floats:
        return centre[..., None] + rng.standard_normal((federations, n, _DEPTH))

    nobody = np.full((federations, n), -_SURE)
    return _evidence(
        _about(sure + rng.standard_normal(sure.shape)),
        _about(rng.standard_normal((federations, _POPULATION)) - _SURE),
        rng,
        rounds=confidences(sure),
        nearby=confidences(sure),
        others=confidences(nobody),
        resampled=confidences(nobody),
    )


def _about(confidence: Floats) -> Floats:
    """Probabilities ``(F, n, C)`` with logit-scaled ``confidence`` in the label, the rest spread evenly."""
    columns = np.arange(confidence.shape[1])
    probabilities = np.repeat(expit(-confidence)[..., None] / (_CLASSES - 1), _CLASSES, axis=-1)
    probabilities[:, columns, columns % _CLASSES] = expit(confidence)
    return probabilities


def _evidence(
    probabilities: Floats, population: Floats, rng: np.random.Generator, **confidences: Floats
) -> Evidence:
    """About records whose features tell nothing, and whose labels take turns."""
    n, z = probabilities.shape[1], population.shape[1]
    labels, population_labels = np.arange(n) % _CLASSES, np.arange(z) % _CLASSES
    records = Records(
        labels=labels,
        features=rng.standard_normal((n, _DEPTH)),
        population_labels=population_labels,
        population_features=rng.standard_normal((z, _DEPTH)),
    )
    answers = Answers(
        probabilities=probabilities,
        labels=labels,
        population=population,
        population_labels=population_labels,
        **confidences,
    )
    part = Part(candidates=np.arange(n), answers=answers, records=records)
    return Evidence(observer="control", signal="control", parts=(part,))
