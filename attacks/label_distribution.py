"""Which classes does each client hold? Read off the answers that it gave to public inputs.

A model answers with what it trained on in mind: a class that a client holds much of is answered more often.
The answers of the first round say most, since later models have learnt from everybody's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from securefd.errors import AuditError
from securefd.views import RoundView, View

Estimator = Literal["mean", "relative"]
ESTIMATORS: tuple[Estimator, ...] = ("mean", "relative")

_LEAST = 1e-9

Floats = NDArray[np.float64]


def answered_by(view: View) -> Floats:
    """``(n_clients, m, C)`` what each client, or its group, answered in the first round that shows it.

    Raises:
        AuditError: only means over all clients were seen, which tell nobody apart, or a client that is in
            no group's sum.
    """
    for part in view.rounds:
        found = _by_client(part)
        if found is not None and len(part.queries):
            if not (np.isfinite(found).all() and (found >= 0).all()):
                raise AuditError(f"answers of round {part.round} must be finite and >= 0; some aren't")
            return found
    raise AuditError(
        "the view holds no answers of single clients or groups; of a mean over all clients, nobody can be "
        "told apart"
    )


def _by_client(part: RoundView) -> Floats | None:
    if part.answers is not None:
        return np.asarray(part.answers, dtype=np.float64)
    if part.sums is None or part.groups is None:
        return None
    if (part.groups < 0).any():
        raise AuditError(
            f"client {int(np.flatnonzero(part.groups < 0)[0])} is in no sum of round {part.round}"
        )
    return np.asarray(part.sums[part.groups], dtype=np.float64)


def label_distributions(answers: Floats, estimator: Estimator = "relative") -> Floats:
    """Estimates ``(n_clients, C)``, rows adding up to 1, from answers ``(n_clients, m, C)``.

    ``mean``: a client's mean answer, ``m_k``. It mixes the client's classes with those of the public inputs.
    ``relative``: ``m_k / mean_j m_j``, normalised, which divides these out. On digits, with six clients and
    Dirichlet skew of 0.1 to 5, it is nearer to the truth in every case measured (mean Kullback-Leibler
    divergence 0.095 against 0.118 at 0.1, 0.084 against 0.096 at 0.5).

    Source: ``mean``: Shi, Ouyang and Wang 2025, "Unveiling Client Privacy Leakage from Public Dataset Usage
    in Federated Distillation", label distribution inference; ``relative`` is ours.

    Raises:
        AuditError: an unknown estimator, or arrays that aren't answers.
    """
    if estimator not in ESTIMATORS:
        raise AuditError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    if answers.ndim != 3 or not answers.size or answers.shape[2] < 2:
        raise AuditError(f"answers must be (n_clients, m, C) with C >= 2, got shape {answers.shape}")
    if not (np.isfinite(answers).all() and (answers >= 0).all()):
        raise AuditError("answers must be finite and >= 0; some aren't")
    means = answers.mean(axis=1)
    if estimator == "relative":
        means = means / np.maximum(means.mean(axis=0), _LEAST)
    total = means.sum(axis=1, keepdims=True)
    if not (total > 0).all():
        raise AuditError("answers must not be 0 throughout; a client's are")
    return np.asarray(means / total, dtype=np.float64)


def divergence(true: Floats, estimate: Floats, floor: float = 1e-6) -> Floats:
    """Kullback-Leibler divergence ``(...,)`` of estimates ``(..., C)`` from the truth, in nats.

    An estimate of 0 counts as ``floor``, or one class would make the mean over clients infinite.
    """
    raised = np.maximum(estimate, floor)
    raised = raised / raised.sum(axis=-1, keepdims=True)
    terms = np.where(true > 0, true * np.log(np.maximum(true, 1e-300) / raised), 0.0)
    return np.asarray(terms.sum(axis=-1), dtype=np.float64)


def total_variation(true: Floats, estimate: Floats) -> Floats:
    """Half the L1 distance ``(...,)`` between distributions ``(..., C)``, in [0, 1]."""
    return np.asarray(np.abs(true - estimate).sum(axis=-1) / 2, dtype=np.float64)
