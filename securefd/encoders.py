"""Networks whose outputs are features: the body that is learnt from public inputs, and of a student."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WIDTH = 256
"""Features of an image."""
SMALL_IMAGE = 16
"""Pixels of the shorter side below which an image isn't halved at once."""


class Standardised(nn.Module):
    """Columns less their mean, by their standard deviation; one that doesn't vary is 0."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("deviation", torch.ones(columns))

    def fit(self, public: Tensor) -> None:
        """Take mean and deviation of ``(n, columns)``."""
        exact = public.double()
        deviation = exact.std(dim=0, correction=0)
        self.mean.copy_(exact.mean(dim=0))
        self.deviation.copy_(torch.where(deviation > 0, deviation, torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, columns)`` to the same."""
        return (x - self.mean) / self.deviation


class InRange(nn.Module):
    """Values by the least and the largest of the public ones, which become 0 and 1."""

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))

    def fit(self, public: Tensor) -> None:
        """Take them from images of any shape."""
        self.low.copy_(public.min())
        self.high.copy_(public.max() if public.max() > public.min() else public.min() + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images to the same."""
        return (x - self.low) / (self.high - self.low)

    def inverse(self, x: Tensor) -> Tensor:
        """Back to values as they were."""
        return self.low + (self.high - self.low) * x


def encoder(shape: tuple[int, ...]) -> nn.Sequential:
    """`InRange`, three convolutions, and a layer of 256 features: ``(n, c, h, w)`` to ``(n, 256)``."""
    channels, height, width = shape
    stride = 2 if min(height, width) >= SMALL_IMAGE else 1
    places = [min(3, _halved(side, stride)) for side in (height, width)]
    return nn.Sequential(
        InRange(),
        nn.Conv2d(channels, 32, 5, stride=stride, padding=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d((places[0], places[1])),
        nn.Flatten(),
        nn.Linear(128 * places[0] * places[1], WIDTH),
        nn.BatchNorm1d(WIDTH),
        nn.ReLU(),
    )


def _halved(side: int, stride: int) -> int:
    """Pixels of a side after the first two convolutions."""
    return math.ceil(math.ceil(side / stride) / 2)
