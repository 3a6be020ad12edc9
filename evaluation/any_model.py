"""The audit of any model, from arrays: what it answers about records that it was, and wasn't, trained on.

Nothing here needs a federation. The target's own records were members or not; shadows are models like it,
trained by whoever audits, whose members are known. What is found is about *this* target.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from securefd.attacks.answers import Answers, Records
from securefd.attacks.candidates import Evidence, Part
from securefd.attacks.signals import SUM_TOLERANCE
from securefd.attacks.table import Attack
from securefd.defenses.claims import Guarantee
from securefd.errors import AuditError
from securefd.evaluation.audit import DELTA, ERROR_LEVEL, doubted
from securefd.evaluation.bounding import Terms, in_one_run
from securefd.evaluation.controls import controls
from securefd.evaluation.findings import Audit, Finding, Outcome, Skipped
from securefd.evaluation.game import Game
from securefd.evaluation.gaussian_bounds import check_gaussian
from securefd.evaluation.scoring import Tried, attacks_on, measure, references_of, scores, turns

OBSERVER = "release"
"""Whoever may ask the target anything."""
SIGNAL = "scores"
LEAST_MODELS = 10
"""Shadows: half of them prepare the test of the target, each attacked with the others of that half."""
ARRAYS = ("target", "shadows", "membership", "member", "labels")
"""Of a file."""

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Ints = NDArray[np.integer]


def audit_scores(
    target: Floats,
    shadows: Floats,
    membership: Bools,
    labels: Ints,
    member: Bools,
    *,
    claim: Guarantee | None = None,
    coin_flips: bool = False,
    mechanism: str | None = None,
    delta: float = DELTA,
    error_level: float = ERROR_LEVEL,
) -> Audit:
    """Attack one model's answers, with those of shadow models of which it is known who trained them.

    ``target``: ``(n, C)`` logits or probabilities of the model that is audited, about n records. ``shadows``:
    ``(m, n, C)`` of models like it. ``membership``: ``(m, n)`` whether shadow m trained on record n.
    ``labels``: ``(n,)``. ``member``: ``(n,)`` whether the target trained on each. Rows that are non-negative
    and add up to 1 are probabilities, all others logits. Arrays may be memory-mapped.

    ``coin_flips``: whether each record's membership, in the target and in each shadow, was decided by an
    independent fair coin, as the bound on epsilon needs; halves of a fixed size are not that. Without it
    nothing is bounded. ``claim``: what is promised about one record of the target, to hold the bound against.
    ``mechanism``: "gaussian" where the target is made of a sum over all records plus Gaussian noise, for a
    second bound that knows its whole curve; of any other mechanism it would prove more than the truth.

    The attack and the number of guesses are chosen on half of the shadows; the target's coins are guessed
    once. AUC and TPR are this target's, with intervals over its records.

    Raises:
        AuditError: NaN, shapes that don't fit, fewer than 10 shadows or 2 members or non-members, membership
            all one value, coin flips that weren't, or a mechanism that isn't Gaussian.
    """
    piece, game = _as_game(target, shadows, membership, labels, member)
    if coin_flips:
        _check_coins(game.membership)
    if mechanism is not None:
        check_gaussian(mechanism)
    outcomes: list[Outcome] = []
    tried = []
    for attack in attacks_on(piece):
        try:
            made = _of_target(attack, piece, game)
        except AuditError as error:
            name = f"{attack.name} on {SIGNAL}"
            outcomes.append(Skipped(subject="this run", observer=OBSERVER, attack=name, reason=str(error)))
            continue
        tried.append(made)
        outcomes.append(_measured(made))
    rng = np.random.default_rng(0)  # of signals that have nothing to do with the arrays
    checks = controls(game, delta=delta, alpha=error_level, rng=rng)
    if coin_flips:
        alpha = error_level / (1 if mechanism is None else 2)
        terms = Terms(promise=claim, delta=delta, alpha=alpha, mechanism=mechanism)
        try:
            found = in_one_run(tried, game, terms, subject="this run")
            outcomes += [doubted(each, checks) for each in found]
        except AuditError as error:
            outcomes.append(
                Skipped(subject="this run", observer=OBSERVER, attack="in one run", reason=str(error))
            )
    return Audit(
        outcomes=tuple(outcomes), controls=checks, error_level=error_level, federations=game.federations
    )


def load_scores(path: str | Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of an ``.npz`` file, as `audit_scores` takes them: all of `ARRAYS`.

    Raises:
        AuditError: no such file, not one of arrays, or one that lacks some or holds others.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as file:
            if missing := [name for name in ARRAYS if name not in file.files]:
                raise AuditError(f"{path} lacks {', '.join(missing)}; it must hold {', '.join(ARRAYS)}")
            if unknown := sorted(set(file.files) - set(ARRAYS)):
                raise AuditError(
                    f"{path} holds {', '.join(unknown)}, which nobody asks for; it must hold "
                    f"{', '.join(ARRAYS)} and nothing else"
                )
            return {name: file[name] for name in ARRAYS}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise AuditError(f"{path} can't be read as an .npz file of arrays ({error})") from None


def _as_game(
    target: Floats, shadows: Floats, membership: Bools, labels: Ints, member: Bools
) -> tuple[Evidence, Game]:
    """The shadows, and the target as the last of the federations."""
    target, shadows = np.asanyarray(target), np.asanyarray(shadows)
    membership, member, labels = np.asarray(membership), np.asarray(member), np.asarray(labels)
    if target.ndim != 2 or target.shape[1] < 2:
        raise AuditError(f"target must be (n, C) with C >= 2, got shape {target.shape}")
    if shadows.ndim != 3 or shadows.shape[1:] != target.shape:
        raise AuditError(
            f"shadows must be (m, n, C) with the target's n and C, {target.shape}, got shape {shadows.shape}"
        )
    n = len(target)
    if len(shadows) < LEAST_MODELS:
        raise AuditError(
            f"at least {LEAST_MODELS} shadows are needed, got {len(shadows)}: half of them prepare the test "
            "of the target; train more of them, 64 for attacks at their best"
        )
    for name, value, shape in (("membership", membership, shadows.shape[:2]), ("member", member, (n,))):
        if value.shape != shape or value.dtype != np.bool_:
            raise AuditError(f"{name} must be {shape} and boolean, got shape {value.shape} of {value.dtype}")
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise AuditError(f"labels must be ({n},) integers, got shape {labels.shape} of {labels.dtype}")
    if n and not (labels.min() >= 0 and labels.max() < target.shape[1]):
        raise AuditError(f"labels must lie in 0..{target.shape[1] - 1}, got {labels.min()}..{labels.max()}")
    if not 2 <= member.sum() <= n - 2:
        raise AuditError(
            f"at least 2 members and 2 non-members are needed, got {int(member.sum())} and "
            f"{int((~member).sum())}"
        )
    probabilities = np.concatenate(
        [_probabilities(shadows, "shadows"), _probabilities(target, "target")[None]]
    )
    part = Part(
        candidates=np.arange(n),
        answers=Answers(probabilities=probabilities, labels=labels.astype(np.int64)),
        records=Records(labels=labels.astype(np.int64)),
    )
    evidence = Evidence(observer=OBSERVER, signal=SIGNAL, parts=(part,))
    return evidence, Game(membership=np.concatenate([membership, member[None]]))


def _probabilities(values: Floats, name: str) -> NDArray[np.floating]:
    """Rows that add up to 1, from these or from logits."""
    if not np.issubdtype(values.dtype, np.floating):
        raise AuditError(f"{name} must be floating-point logits or probabilities, got {values.dtype}")
    if not np.isfinite(values).all():
        raise AuditError(f"{name} must be finite; {int((~np.isfinite(values)).sum())} values are not")
    if (values >= 0).all() and (np.abs(values.sum(axis=-1) - 1) <= SUM_TOLERANCE).all():
        return values
    # In the precision of 16-bit logits, whoever is sure would look alike.
    return np.asarray(softmax(np.asarray(values, dtype=np.float64), axis=-1), dtype=np.float64)


def _check_coins(membership: Bools) -> None:
    """Refuse what independent fair coins would hardly ever do.

    Rows of one size: over m models that has a probability of about (1 / sqrt(pi n / 2))^(m - 1).
    """
    sizes = membership.sum(axis=1)
    models, n = membership.shape
    if models > 2 and (sizes == sizes[0]).all():
        raise AuditError(
            f"all {models} models have {sizes[0]} members of {n}, so no independent coins decided; a bound "
            "would be wrong: flip a coin for each record, or leave coin_flips out"
        )
    far = np.abs(sizes - n / 2) > 6 * np.sqrt(n) / 2
    if far.any():
        raise AuditError(
            f"a model has {int(sizes[far][0])} members of {n}, which fair coins would never give; a bound "
            "would be wrong: flip a coin for each record, or leave coin_flips out"
        )


def _of_target(attack: Attack, piece: Evidence, game: Game) -> Tried:
    """The attack on the last model, and on half of the shadows in their turn."""
    every = np.arange(game.federations)
    found = scores(attack, piece, game, every[-1:], every[:-1])
    return Tried(
        piece=piece,
        attack=attack,
        everywhere=found,
        among_references=turns(attack, piece, game, references_of(game)),
        measured=measure(found, game.coins(piece.candidates)[-1:]),
    )


def _measured(tried: Tried) -> Finding:
    measured = tried.measured
    return Finding(
        subject="this run",
        observer=OBSERVER,
        attack=tried.name,
        n_in=measured.n_in,
        n_out=measured.n_out,
        auc=measured.auc.value,
        auc_interval=measured.auc.interval,
        tpr=measured.tpr,
        roc=measured.roc,
        delta=DELTA,
        judgement="INCONCLUSIVE",
        reason="an AUC bounds no epsilon; the test in one run does, where coins decided",
    )
