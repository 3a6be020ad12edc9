"""What does a class look like to a client? Reconstructed from its answers and a model that knows public data.

An inverse network learns, on the public inputs that a client answered, from the pair of both models' answers
back to the input. It is then asked about a pair that no public input gives: a client that is sure of a class
where the public model is not. What comes out leans to what that client alone has seen of the class.

Beside it stands a mean of public inputs, weighted by a client's answers, which needs no network. Neither
draws what no public input resembles. Measured on digits: four clients' MLPs, one of which holds a class with
black and white swapped, or turned by 90 degrees; 500 public inputs, some of which look so too; one digit each
of two seeds. Structural similarity to that client's class mean; the nearest class mean of usual public inputs
is at -0.28 to -0.20 where swapped, at -0.03 and 0.29 where turned:

==========================  ============  ==============  ===================
such public inputs          `invert`      `class_means`   `invert`, no client
==========================  ============  ==============  ===================
none, swapped               -0.02, 0.05   -0.51, -0.47    -0.62, -0.57
none, turned                0.04, 0.20    -0.05, 0.25     -0.12, -0.02
5, swapped                  0.90, 0.86    0.91, 0.94      -0.67, -0.59
5, turned                   0.78, 0.81    0.88, 0.94      0.02, -0.02
20, swapped                 0.85, 0.87    0.97, 0.98      -0.65, -0.61
20, turned                  0.82, 0.83    0.96, 0.98      0.15, -0.06
==========================  ============  ==============  ===================

Of a class that a client holds as it is in public, `class_means` are at 0.95 to 0.98 by its answers and mostly
at 0.93 to 0.97 by the student's: what an attack draws says something only beside what was known anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from securefd.errors import AuditError

TEMPERATURE = 3.0
"""Answers are softened by it, so that the inverse network can tell sure answers apart."""

GAP = 5.0
"""How unsure the public model is said to be of the class asked about: its logit there is ``1 / GAP``."""

SMALLEST_PICTURE = 7
"""Pixels each way; anything smaller is within one window of the structural similarity."""

STEPS = 600
HIDDEN = 256
BATCH = 128
_LEAST = 1e-6

Floats = NDArray[np.float64]


def invert(
    public_model: Floats,
    client: Floats | None,
    x: NDArray[np.float32],
    *,
    seed: int = 0,
    steps: int = STEPS,
    device: str = "cpu",
) -> Floats:
    """Representatives ``(C, ...)`` of all classes, as ``client`` sees them.

    ``public_model``, ``client``: ``(m, C)`` class probabilities on public inputs ``x`` ``(m, ...)``. Without
    a client the representatives are those of the public model's own answers: a baseline that knows no
    private record, made with the same network.

    Source: Takahashi, Liu and Liu 2023, "Breaching FedMD: Image Recovery via Paired-Logits Inversion Attack",
    section 4; without its prior from translated images. The single-answer inversion is Yang et al. 2019.

    Raises:
        AuditError: arrays that don't fit, aren't finite, or fewer than 2 inputs.
    """
    _check(public_model, x, "public_model")
    if client is not None:
        _check(client, x, "client")
        if client.shape != public_model.shape:
            raise AuditError(f"client must be {public_model.shape}, got {client.shape}")
    n_classes = public_model.shape[1]
    seen = [_softened(public_model)] + ([] if client is None else [_softened(client)])
    sure = np.eye(n_classes)
    unsure = np.full((n_classes, n_classes), 1.0) + (math.exp(1 / GAP) - 1) * np.eye(n_classes)
    unsure /= unsure.sum(axis=1, keepdims=True)
    asked = [sure] if client is None else [unsure, sure]
    flat = x.reshape(len(x), -1)
    with _one_thread():
        network = _fit(np.concatenate(seen, axis=1), flat, seed, steps, device)
        with torch.no_grad():
            drawn = network(torch.from_numpy(np.concatenate(asked, axis=1).astype(np.float32)).to(device))
    # Nothing looks brighter or darker than anything public did.
    found = np.clip(drawn.cpu().numpy().astype(np.float64), flat.min(axis=0), flat.max(axis=0))
    return np.asarray(found.reshape(n_classes, *x.shape[1:]), dtype=np.float64)


def class_means(answers: Floats, x: NDArray[np.float32]) -> Floats:
    """Representatives ``(C, ...)``: inputs ``x`` ``(m, ...)`` weighted by ``answers`` ``(m, C)`` for a class.

    Of the public model's answers it is what is known of classes anyway, of a client's it is an attack. A
    class that no answer speaks of looks like all inputs together.

    Raises:
        AuditError: arrays that don't fit, aren't finite, or fewer than 2 inputs.
    """
    _check(answers, x, "answers")
    weights = np.where(answers.sum(axis=0) > 0, answers, 1.0)
    means = weights.T @ x.reshape(len(x), -1).astype(np.float64) / weights.sum(axis=0)[:, None]
    return np.asarray(means.reshape(-1, *x.shape[1:]), dtype=np.float64)


def structural_similarity(a: Floats, b: Floats, *, reach: float) -> float:
    """Mean SSIM of two images ``(..., H, W)`` whose values span ``reach``: 1 where they are the same.

    Source: Wang et al. 2004, equation 13, with its Gaussian window of 1.5 pixels.

    Raises:
        AuditError: images of different shapes, or no span.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise AuditError(f"images must have one shape (..., H, W), got {a.shape} and {b.shape}")
    if not reach > 0:
        raise AuditError(f"reach must be > 0, got {reach}")
    window = (0.0,) * (a.ndim - 2) + (1.5, 1.5)

    def smooth(values: Floats) -> Floats:
        return np.asarray(gaussian_filter(values, window, truncate=3.5), dtype=np.float64)

    first, second = (0.01 * reach) ** 2, (0.03 * reach) ** 2
    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    together = smooth(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + first) * (2 * together + second)
    return float((likeness / ((mean_a**2 + mean_b**2 + first) * (variance_a + variance_b + second))).mean())


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same sums on every machine; and threads that wait for each other cost such small networks most."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _softened(probabilities: Floats) -> Floats:
    logs = np.log(np.maximum(probabilities, _LEAST)) / TEMPERATURE
    raised = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float64)


def _fit(answers: Floats, flat: NDArray[np.float32], seed: int, steps: int, device: str) -> nn.Module:
    """From answers ``(m, c)`` to inputs ``(m, d)``, by squared error."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(answers.shape[1], HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, flat.shape[1]),
        ).to(device)
    inputs = torch.from_numpy(answers.astype(np.float32)).to(device)
    targets = torch.from_numpy(flat).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    order = np.random.default_rng(seed)
    for _ in range(steps):
        rows = torch.from_numpy(order.integers(0, len(flat), min(BATCH, len(flat)))).to(device)
        optimizer.zero_grad()
        loss: Tensor = nn.functional.mse_loss(network(inputs[rows]), targets[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


def _check(answers: Floats, x: NDArray[np.float32], name: str) -> None:
    if answers.ndim != 2 or answers.shape[1] < 2 or len(answers) != len(x) or len(x) < 2:
        raise AuditError(
            f"{name} must be (m, C) for m >= 2 public inputs and C >= 2, got shape {answers.shape} for "
            f"{len(x)} inputs"
        )
    if not (np.isfinite(answers).all() and (answers >= 0).all() and np.isfinite(x).all()):
        raise AuditError(f"{name} and inputs must be finite, and answers >= 0; some aren't")
