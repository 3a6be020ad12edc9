"""Two more architectures, named in configurations as ``benchmarks.architectures:...``."""

from __future__ import annotations

import math

from torch import nn


def wide_cnn(shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    """One wide convolution on large patches, and a hidden layer."""
    channels, height, width = shape
    flat = 48 * math.ceil(height / 3) * math.ceil(width / 3)
    return nn.Sequential(
        nn.Conv2d(channels, 48, 7, stride=3, padding=3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, 64),
        nn.ReLU(),
        nn.Linear(64, n_classes),
    )


def deep_mlp(shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, n_classes),
    )
