"""One-sided LiRA of a server that has no shadows: other clients, or surrogates, stand in for OUT models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.known import finite
from securefd.errors import AuditError

Floats = NDArray[np.float64]


def above_peers(own: Floats, peers: Floats) -> Floats:
    """How far a client's confidence lies above that of peers that don't hold the record.

    ``own``: ``(t, n)`` logit-scaled confidences; ``peers``: ``(t, n, k)``. Returns ``(t, n)`` standard
    deviations above the peers' mean. A handful of peers has no spread to speak of, so one is pooled over the
    records of each target from residuals; a single peer has none, and the differences' own size serves.

    Source: Shi et al. 2025, "Unveiling Client Privacy Leakage from Public Dataset Usage in Federated
    Distillation", co-operative and distillation-based LiRA; Galichin et al. 2024, "GLiRA".

    Raises:
        AuditError: shapes that don't fit, or NaN.
    """
    own, peers = finite(own, "own"), finite(peers, "peers")
    if own.ndim != 2 or peers.ndim != 3 or peers.shape[:2] != own.shape or not peers.shape[2]:
        raise AuditError(
            f"own must be (t, n) and peers (t, n, k) with k >= 1, got {own.shape} and {peers.shape}"
        )
    size = peers.shape[2]
    mean = peers.mean(axis=2)
    if size > 1:
        variance = ((peers - mean[..., None]) ** 2).sum(axis=2).mean(axis=1) / (size - 1)
    else:
        variance = ((own - mean) ** 2).mean(axis=1)
    return np.asarray((own - mean) / (np.sqrt(variance)[:, None] + 1e-30), dtype=np.float64)
