"""Shadow classifier: learn from shadow models what answers about their own training records look like.

Source: Shokri et al. 2017, "Membership Inference Attacks Against Machine Learning Models". One logistic
regression serves all classes: it sees how a confidence compares with what is usual for its class instead of
being fitted to each class by itself, for which there are seldom records enough.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from securefd.attacks.answers import Answers, References
from securefd.attacks.known import check_membership, finite
from securefd.errors import AuditError

ROWS = 20_000
"""Most answers of shadow models that it learns from, drawn alike in every audit; fewer are all used."""

TOP = 10
"""Most classes whose probabilities it sees, the likeliest first."""

_CERTAIN = 20.0
"""Confidences are cut at this, lest a probability of 0 or 1 outweigh all others."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def shadow_classifier(targets: Answers, references: References) -> Floats:
    """Log-odds ``(t, n)`` that each answer is about a record of the model's own training set.

    Raises:
        AuditError: shapes that don't fit, NaN, or membership that isn't boolean or is all one value.
    """
    known = references.answers
    if known.probabilities.ndim != 3 or known.probabilities.shape[1:] != targets.probabilities.shape[1:]:
        raise AuditError(
            f"targets must be (t, n, C) and references (m, n, C), "
            f"got {targets.probabilities.shape} and {known.probabilities.shape}"
        )
    if references.membership.shape != known.probabilities.shape[:2]:
        raise AuditError(
            f"membership must be {known.probabilities.shape[:2]}, got {references.membership.shape}"
        )
    check_membership(references.membership)
    learnt = _drawn(references.membership)
    labels = targets.labels
    confidence = _cut(known.confidence.reshape(-1)[learnt])
    usual = _by_class(confidence, labels[learnt % len(labels)], targets.probabilities.shape[2])

    rows = _features(known, usual, learnt)
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    model = LogisticRegression(solver="newton-cholesky")
    model.fit((rows - mean) / spread, references.membership.reshape(-1)[learnt])
    every = np.arange(targets.confidence.size)
    scores = model.decision_function((_features(targets, usual, every) - mean) / spread)
    return np.asarray(scores.reshape(targets.confidence.shape), dtype=np.float64)


def _drawn(membership: Bools) -> Ints:
    """Which of the ``m * n`` answers are learnt from: some of either kind."""
    if membership.size <= ROWS:
        return np.arange(membership.size)
    rng = np.random.default_rng(0)
    flat = membership.reshape(-1)
    kinds = [np.flatnonzero(flat == kind) for kind in (False, True)]
    return np.concatenate([rng.permutation(kind)[: ROWS // 2] for kind in kinds])


def _by_class(confidence: Floats, labels: Ints, n_classes: int) -> Floats:
    """Mean confidence ``(C,)`` in records of each class; that of all records for a class without any."""
    count = np.bincount(labels, minlength=n_classes)
    total = np.bincount(labels, weights=confidence, minlength=n_classes)
    return np.where(count > 0, total / np.maximum(count, 1), confidence.mean())


def _features(answers: Answers, usual: Floats, rows: Ints) -> Floats:
    """``(len(rows), TOP + 3)`` of ``rows`` among all answers, model after model."""
    n_classes = answers.probabilities.shape[2]
    values = finite(answers.probabilities.reshape(-1, n_classes)[rows], "probabilities")
    labels = answers.labels[rows % len(answers.labels)]
    confidence = _cut(answers.confidence.reshape(-1)[rows])
    right = values.argmax(axis=1) == labels
    likeliest = -np.sort(-values, axis=1)[:, :TOP]
    return np.column_stack([likeliest, confidence, confidence - usual[labels], right])


def _cut(confidence: Floats) -> Floats:
    return np.clip(confidence, -_CERTAIN, _CERTAIN)
