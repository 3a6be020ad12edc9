"""Attacks on one model alone, without shadows or a population: what it is sure of, it may have seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.known import finite
from securefd.attacks.signals import log_probability_of, probability_of

Floats = NDArray[np.float64]


def loss_attack(confidence: Floats) -> Floats:
    """Minus the cross-entropy, from logit-scaled confidences of any shape.

    Source: Yeom et al. 2018, "Privacy Risk in Machine Learning", adversary 2, as a score.

    Raises:
        AuditError: confidences that aren't finite.
    """
    return log_probability_of(finite(confidence, "confidence"))


def confidence_attack(confidence: Floats) -> Floats:
    """The probability of the label, from logit-scaled confidences of any shape.

    For whoever sees decisions only, it is the share of noisy copies that are given the label.

    Source: Salem et al. 2019, "ML-Leaks"; Choquette-Choo et al. 2021, "Label-Only Membership
    Inference Attacks".

    Raises:
        AuditError: confidences that aren't finite.
    """
    return probability_of(finite(confidence, "confidence"))
