"""From one observer's views to evidence: confidences about candidates, federation by federation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.observe import NoSignal, observe
from securefd.attacks.signals import logit_confidence
from securefd.errors import AuditError
from securefd.evaluation.findings import Skipped, Subject
from securefd.views import View


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What one observer can hold against the candidates, in each of F federations.

    ``signal``: where it comes from, such as ``answers`` or ``student``. ``candidates``: ``(k,)`` columns of
    the membership that it concerns. ``confidence``: ``(F, k)``, logit-scaled.
    """

    observer: str
    signal: str
    candidates: NDArray[np.int64] = field(repr=False)
    confidence: NDArray[np.float64] = field(repr=False)


def gather(
    views: Sequence[View],
    x: NDArray[np.float32],
    labels: NDArray[np.int64],
    client: NDArray[np.int64],
    *,
    subject: Subject,
) -> tuple[Evidence | Skipped, ...]:
    """All evidence of one observer about candidates ``x`` ``(n, ...)``, or why there is none.

    ``views``: its views of F federations that were asked the same queries; one view for ``this run``.
    ``labels``: ``(n,)`` true classes. ``client``: ``(n,)`` whose record each candidate is, or would be.

    Raises:
        AuditError: no view at all, or arrays of different lengths. Every other failure is an outcome.
    """
    if not views:
        raise AuditError("an observer needs at least one view, got none")
    if not len(x) == len(labels) == len(client):
        raise AuditError(
            f"x, labels and client must be equally long, got {len(x)}, {len(labels)} and {len(client)}"
        )
    observer = views[0].observer
    try:
        signals = observe(views, x, client)
        if isinstance(signals, NoSignal):
            return (Skipped(subject=subject, observer=observer, attack="all", reason=signals.reason),)
        return tuple(
            Evidence(
                observer=observer,
                signal=signal.name,
                candidates=signal.candidates,
                confidence=logit_confidence(signal.probabilities, labels[signal.candidates]),
            )
            for signal in signals
        )
    except AuditError as error:
        return (Skipped(subject=subject, observer=observer, attack="all", reason=str(error)),)
