"""The models that clients and students may be: small networks, scikit-learn estimators, the user's own."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from torch import Tensor, nn

from securefd.encoders import WIDTH, encoder
from securefd.errors import ModelError

Shape = tuple[int, ...]


def logistic(shape: Shape, n_classes: int) -> nn.Module:
    """Multinomial logistic regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), n_classes))


def mlp(shape: Shape, n_classes: int) -> nn.Module:
    """One hidden layer of 128 units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 128), nn.ReLU(), nn.Linear(128, n_classes))


def cnn(shape: Shape, n_classes: int) -> nn.Module:
    """Two convolutions and one hidden layer: 106,122 weights on 28 × 28 grey images with ten classes.

    Strides do what pooling would: the same number of weights at a quarter of the arithmetic. Images below
    16 pixels are halved once instead of twice.
    """
    channels, height, width = _image(shape, "cnn")
    kernel, stride = (5, 2) if min(height, width) >= 16 else (3, 1)
    flat = 32 * math.ceil(math.ceil(height / stride) / 2) * math.ceil(math.ceil(width / stride) / 2)
    return nn.Sequential(
        nn.Conv2d(channels, 16, kernel, stride=stride, padding=kernel // 2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, 64),
        nn.ReLU(),
        nn.Linear(64, n_classes),
    )


class ResidualBlock(nn.Module):
    """Two convolutions with group normalisation around a shortcut; ``stride`` halves the image."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(4, width_out)
        self.second = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(4, width_out)
        self.shortcut: nn.Module = (
            nn.Identity()
            if stride == 1 and width_in == width_out
            else nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width_in, h, w)`` to ``(n, width_out, h / stride, w / stride)``."""
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, two residual blocks, and the mean over positions."""

    def __init__(self, shape: Shape, n_classes: int) -> None:
        super().__init__()
        channels, height, width = _image(shape, "resnet")
        stride = 2 if min(height, width) >= 16 else 1
        self.stem = nn.Conv2d(channels, 16, 3, stride=stride, padding=1, bias=False)
        self.stem_norm = nn.GroupNorm(4, 16)
        self.blocks = nn.Sequential(ResidualBlock(16, 32, 2), ResidualBlock(32, 32, 2))
        self.head = nn.Linear(32, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, h, w)`` to logits ``(n, n_classes)``."""
        features = self.blocks(torch.relu(self.stem_norm(self.stem(x))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def resnet(shape: Shape, n_classes: int) -> nn.Module:
    """A small residual network; its group normalisation mixes no records, so that DP-SGD accepts it."""
    return ResNet(shape, n_classes)


def encoded(shape: Shape, n_classes: int) -> nn.Module:
    """The network that features are learnt with, and a layer on top: for a student, which starts from them.

    Batch normalisation mixes the inputs of a batch, which for a student are public.
    """
    body = encoder(_image(shape, ENCODER))
    return nn.Sequential(body, nn.Linear(WIDTH, n_classes))


NETWORKS: Mapping[str, Callable[[Shape, int], nn.Module]] = {
    "logistic": logistic,
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
}


def forest(seed: int, *, balanced: bool) -> BaseEstimator:
    """A random forest of 100 trees."""
    return RandomForestClassifier(
        n_estimators=100,
        min_samples_leaf=2,
        random_state=seed,
        n_jobs=1,
        class_weight="balanced" if balanced else None,
    )


def boosting(seed: int, *, balanced: bool) -> BaseEstimator:
    """Gradient boosting on histograms."""
    return HistGradientBoostingClassifier(
        max_iter=50, random_state=seed, early_stopping=False, class_weight="balanced" if balanced else None
    )


ESTIMATORS: Mapping[str, Callable[..., BaseEstimator]] = {"forest": forest, "boosting": boosting}


HEAD = "head"
"""A linear model on features of the public set: a client's only, made by ``securefd.heads``."""
ENCODER = "encoder"
"""A network that starts from features of the public set: a student's only."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Enough to build a model again: name, input shape without the batch, number of classes."""

    name: str
    shape: Shape
    n_classes: int

    @cached_property
    def is_estimator(self) -> bool:
        """Whether it is refitted rather than trained by gradient steps."""
        return self.name in ESTIMATORS or (":" in self.name and isinstance(self._made(0), BaseEstimator))

    @property
    def is_head(self) -> bool:
        """Whether it is a sum over records, on public features."""
        return self.name == HEAD

    @property
    def is_network(self) -> bool:
        """Whether it is trained by gradient steps."""
        return not self.is_estimator and not self.is_head

    @property
    def is_encoder(self) -> bool:
        """Whether it starts from features that were learnt from the public set."""
        return self.name == ENCODER

    @property
    def is_ours(self) -> bool:
        """Whether it is a network of the zoo: those can be trained as a fleet."""
        return self.name in NETWORKS

    def check(self) -> None:
        """Build it and, if it is a network, have it answer two inputs, so that faults show before training.

        Raises ModelError where that fails, or the answer isn't ``(n, n_classes)`` logits.
        """
        if self.is_estimator:
            return
        if self.is_head:
            if len(self.shape) not in (1, 3):
                raise ModelError(
                    "model 'head' needs images (channels, height, width) or rows of a table, got inputs of "
                    f"shape {self.shape}; choose another model"
                )
            return
        module = self.network(0).eval()
        try:
            with torch.no_grad():
                logits = module(torch.zeros(2, *self.shape))
        except Exception as error:
            raise ModelError(
                f"model {self.name!r} failed on inputs of shape {self.shape} ({_said(error)}); correct it"
            ) from error
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape != (2, self.n_classes):
            raise ModelError(
                f"model {self.name!r} must answer (n, {self.n_classes}) logits, got {shape} for n = 2; "
                "give its last layer one output a class"
            )

    def network(self, seed: int) -> nn.Module:
        """A freshly initialised network, the same for the same seed."""
        module = self._made(seed)
        if not isinstance(module, nn.Module):
            raise ModelError(
                f"model {self.name!r} must be a network here, got {type(module).__name__}; choose another"
            )
        return module

    def estimator(self, seed: int, *, balanced: bool) -> BaseEstimator:
        """A fresh, unfitted estimator; ``balanced`` weighs classes equally where the estimator can."""
        if self.name in ESTIMATORS:
            return ESTIMATORS[self.name](seed, balanced=balanced)
        made = self._made(seed)
        assert isinstance(made, BaseEstimator)
        return made

    def _made(self, seed: int) -> nn.Module | BaseEstimator:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.is_ours:
                return NETWORKS[self.name](self.shape, self.n_classes)
            if self.is_encoder:
                return encoded(self.shape, self.n_classes)
            factory = _imported(self.name)
            try:
                made = factory(self.shape, self.n_classes, seed)
            except Exception as error:
                raise ModelError(
                    f"model {self.name!r} failed ({_said(error)}); it is called with shape, n_classes, seed"
                ) from error
        if isinstance(made, nn.Module):
            return made
        if isinstance(made, BaseEstimator) and is_classifier(made) and hasattr(made, "predict_proba"):
            return made
        raise ModelError(
            f"model {self.name!r} must return a torch.nn.Module or a scikit-learn classifier with "
            f"predict_proba, got {type(made).__name__}; correct the factory"
        )


def _imported(name: str) -> Callable[[Shape, int, int], object]:
    module, _, function = name.partition(":")
    if not (module and function):
        known = ", ".join([*NETWORKS, *ESTIMATORS])
        raise ModelError(
            f"model must be one of {known} or 'package.module:factory', got {name!r}; choose one of them"
        )
    try:
        factory: Callable[[Shape, int, int], object] = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise ModelError(
            f"model {name!r} can't be imported ({_said(error)}); install its package or correct the name"
        ) from error
    return factory


def _said(error: Exception) -> str:
    """A library's error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _image(shape: Shape, model: str) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ModelError(
            f"model {model!r} needs images (channels, height, width), got inputs of shape {shape}; "
            "choose logistic, mlp, forest or boosting for tables"
        )
    channels, height, width = shape
    return channels, height, width
