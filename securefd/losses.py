"""Losses of distillation, on logits; each returns one loss for each example.

All take logits ``(..., C)`` and return ``(...,)``: leading dimensions (a batch, a stack of clients) are
kept, and whoever trains takes the mean over examples. Nothing here divides by a batch size or sums
over one, so a loss means the same for one example as for a thousand.

Targets that are probabilities must be probabilities: `cross_entropy` of a target that doesn't sum to
1 is unbounded below or scaled at will (public implementations fed it raw logits). They aren't
checked here, in the inner loop, but where a consensus is made: every target of `methods` that meets
`cross_entropy` or `kl` is normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot, softmax

Loss = Callable[[Tensor, Tensor, float], Tensor]
"""``(logits, target, temperature)`` to a loss for each example; only `kl` reads the temperature."""


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -Σ_c target_c log softmax(logits)_c.

    ``target``: ``(..., C)`` probabilities; hard labels as one-hot vectors.
    """
    return -(target * log_softmax(logits, dim=-1)).sum(dim=-1)


def kl(logits: Tensor, target_probabilities: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T² KL(q_T ‖ softmax(logits / T)), the teacher first (Hinton et al. 2015, section 2).

    ``target_probabilities``: ``(..., C)`` teacher's probabilities q at temperature 1. They are softened
    here: q_T ∝ q^(1/T), which for q = softmax(z) is softmax(z / T), as if the teacher's logits were at
    hand. T² keeps gradients of one size for every T. A zero in q stays zero and costs nothing.
    """
    teacher = softmax(target_probabilities.log() / temperature, dim=-1)
    predicted = log_softmax(logits / temperature, dim=-1)
    return temperature**2 * (torch.xlogy(teacher, teacher) - teacher * predicted).sum(dim=-1)


def squared(logits: Tensor, target: Tensor) -> Tensor:
    """Return Σ_c (softmax(logits)_c - target_c)²: the Brier score.

    ``target``: ``(..., C)``, any numbers whose mean is a probability vector, such as probabilities with
    noise, negative ones too. The loss is least, on average, at that mean, whatever the noise is, so that a
    student averages noise out over many inputs.
    """
    return (softmax(logits, dim=-1) - target).square().sum(dim=-1)


def l1(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return the mean over classes of |logits - target| (FedMD's digest)."""
    return (logits - target_logits).abs().mean(dim=-1)


def distance(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return the mean over classes of the squared difference, after centring ``logits`` over classes.

    ``target_logits`` are centred already (`methods.clipped`). For ``fd``: added to the local loss with
    its weight, where another client has the example's class.
    """
    centred = logits - logits.mean(dim=-1, keepdim=True)
    return (centred - target_logits).square().mean(dim=-1)


def balanced_cross_entropy(logits: Tensor, labels: Tensor, log_prior: Tensor) -> Tensor:
    """Return the cross-entropy of softmax(logits + log_prior): balanced softmax (Ren et al. 2020, eq. 4).

    ``labels``: ``(...,)`` int64. ``log_prior``: log class counts of the client's own data, ``(C,)`` or
    broadcastable to the logits; finite, so floored where a class is absent or a noised count isn't
    positive. Class frequencies are explained by the prior, so that softmax(logits) alone is the
    posterior under equally frequent classes.
    """
    adjusted = logits + log_prior
    return cross_entropy(adjusted, one_hot(labels, logits.shape[-1]).to(logits.dtype))


def _cross_entropy(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    return cross_entropy(logits, target)


def _squared(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    return squared(logits, target)


def _l1(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    return l1(logits, target)


def _distance(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    return distance(logits, target)


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": _cross_entropy,
    "kl": kl,
    "squared": _squared,
    "l1": _l1,
    "distance": _distance,
}
