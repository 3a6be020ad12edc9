"""Evidence and games made of arrays."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from securefd.attacks.answers import Answers, Records
from securefd.attacks.candidates import Evidence, Part
from securefd.defenses.claims import Guarantee
from securefd.evaluation.game import Game
from securefd.evaluation.scoring import Tried, attacks_on

DELTA = 1e-5
CLASSES = 3


def coins(federations: int, records: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([1, seed]).random((federations, records)) < 0.5


def noise(federations: int, records: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([2, seed]).standard_normal((federations, records))


def probabilities(confidence: np.ndarray) -> np.ndarray:
    """With logit-scaled confidences ``(F, n)`` in label ``n % CLASSES``, the rest spread evenly."""
    columns = np.arange(confidence.shape[1])
    found = np.repeat(expit(-confidence)[..., None] / (CLASSES - 1), CLASSES, axis=-1)
    found[:, columns, columns % CLASSES] = expit(confidence)
    return found


def evidence(
    confidence: np.ndarray, observer="release", signal="student", candidates=None, **more
) -> Evidence:
    n = confidence.shape[1]
    labels = np.arange(n) % CLASSES
    answers = Answers(probabilities=probabilities(confidence), labels=labels, **more)
    part = Part(
        candidates=np.arange(n) if candidates is None else candidates,
        answers=answers,
        records=Records(labels=labels),
    )
    return Evidence(observer=observer, signal=signal, parts=(part,))


def tried(piece: Evidence, game: Game, *names: str) -> list[Tried]:
    """The named attacks, or all."""
    chosen = [attack for attack in attacks_on(piece) if not names or attack.name in names]
    return [Tried.of(attack, piece, game) for attack in chosen]


def promise(epsilon: float, delta: float = DELTA, unit="record", relation="add-or-remove") -> Guarantee:
    return Guarantee(epsilon=epsilon, delta=delta, unit=unit, relation=relation)


def paired(federations: int, pairs: int, seed: int = 0) -> Game:
    """A game of replace-one: candidates 2g and 2g + 1 are a pair."""
    fell = coins(federations, pairs, seed)
    membership = np.empty((federations, 2 * pairs), dtype=np.bool_)
    membership[:, ::2], membership[:, 1::2] = fell, ~fell
    return Game(membership=membership, pairs=np.arange(2 * pairs).reshape(-1, 2))
