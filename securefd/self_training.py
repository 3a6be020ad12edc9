"""A student that learns from noisy answers in rounds: labels for all public inputs, training, new labels.

The answers are averaged over inputs that look alike (`Neighbours`), and give every public input a label. The
student learns those labels on inputs that are bent by chance. Then each input is labelled anew, by the
student's own probability and by the answers, averaged over inputs that look alike to the student; and so on.
All of it is of what was released and of public inputs, and costs no privacy.

All inputs are learnt from in every round: a student that learnt only from those it was surest of stayed wrong
about the others.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as PyTorch's own documentation calls it

from securefd.encoders import InRange
from securefd.features import Features, bent
from securefd.fleet import PREDICT_ROWS, State
from securefd.models import ModelSpec
from securefd.neighbours import Neighbours
from securefd.simplex import normalised

Floats = NDArray[np.float64]
Inputs = NDArray[np.float32]

BATCH = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 5e-3
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises; afterwards it falls to nothing."""
SMOOTHING = 0.1
"""Of labels, some of which are wrong."""
AVERAGING = 0.97
"""Of weights, step by step: labels are made, and the student is released, from their moving average."""
BENDING = 0.7
"""How much inputs are bent to be learnt from; features were learnt with 1."""
MILD = 0.35
"""How much they are bent for a second look at each, when they are labelled."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What was released: ``values`` ``(m, C)``, noisy, about the ``known`` ones of the public inputs."""

    values: Floats
    known: NDArray[np.int64]


def self_trained(
    spec: ModelSpec,
    state: State,
    public: Inputs,
    answers: Answers,
    learnt: Features,
    *,
    rounds: int,
    steps: int,
    rng: np.random.Generator,
    device: str = "cpu",
) -> State:
    """Return the weights of a student that started from ``state``; ``steps`` are those of all ``rounds``.

    ``public``: ``(n, ...)``. ``learnt``: features that say which inputs look alike, at first.
    """
    looks = Looks.of(public, rng)
    module = spec.network(0).to(device).train()
    module.load_state_dict(state)
    average = copy.deepcopy(module).eval()
    optimiser = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share_of_rate(step, steps))
    shares = _settled(learnt(public, device=device), answers, rng)
    ends = [steps * number // rounds for number in range(rounds + 1)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))  # a user's network may draw from torch's one generator
        for start, end in pairwise(ends):
            if start:
                own = _probabilities(average, looks, device)
                shares = own + _settled(_inner(average, public, learnt, device), answers, rng)
            labels = torch.from_numpy(shares.argmax(axis=-1))
            for step in range(start, end):
                rows = torch.from_numpy(rng.integers(len(public), size=BATCH))
                logits = module(looks(rows, BENDING).to(device))
                loss = F.cross_entropy(logits, labels[rows].to(device), label_smoothing=SMOOTHING)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                rates.step()
                _follow(average, module, min(AVERAGING, (step + 1) / (step + 11)))
    return {name: value.detach().cpu().clone() for name, value in average.state_dict().items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """Public inputs ``(n, ...)``, bent by chance where they are images: no two looks at one are the same."""

    inputs: Tensor
    scale: InRange
    draw: torch.Generator

    @classmethod
    def of(cls, public: Inputs, rng: np.random.Generator) -> Looks:
        """``rng`` seeds what bends them."""
        inputs, scale = torch.from_numpy(np.array(public, dtype=np.float32)), InRange()
        scale.fit(inputs)
        draw = torch.Generator().manual_seed(int(rng.integers(2**63)))
        return cls(inputs=inputs, scale=scale, draw=draw)

    def __call__(self, rows: Tensor, strength: float) -> Tensor:
        """A look at some of them, from 0 for as they are."""
        inputs = self.inputs[rows]
        if inputs.ndim != 4 or not strength:
            return inputs
        return self.scale.inverse(bent(self.scale(inputs), self.draw, strength))


def _share_of_rate(step: int, steps: int) -> float:
    """Of `LEARNING_RATE`: it rises in a line, and falls along a cosine."""
    rise = WARM_UP * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2 if step < steps else 0.0


def _settled(features: NDArray[np.floating], answers: Answers, rng: np.random.Generator) -> Floats:
    """Shares of the classes ``(n, C)`` by the answers to inputs that look alike."""
    found = Neighbours.of(features).settled(answers.values, answers.known, rng)
    return normalised(np.maximum(found, 0.0))


def _probabilities(module: nn.Module, looks: Looks, device: str) -> Floats:
    """What the student makes of each input ``(n, C)``, as it is and bent a little, on average."""
    rows = torch.split(torch.arange(len(looks.inputs)), PREDICT_ROWS)
    with torch.inference_mode():
        parts = [
            sum(module(looks(part, strength).to(device)).double().softmax(dim=-1) for strength in (0.0, MILD))
            for part in rows
        ]
    return np.asarray(torch.cat(parts).cpu().numpy() / 2)


def _inner(module: nn.Module, public: Inputs, learnt: Features, device: str) -> NDArray[np.float32]:
    """What goes into the last linear layer ``(n, p)``; for a network without one, the public features."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        return learnt(public, device=device)
    seen: list[Tensor] = []
    hook = layers[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1).cpu()))
    with torch.inference_mode():
        for part in torch.split(torch.from_numpy(public), PREDICT_ROWS):
            module(part.to(device))
    hook.remove()
    return np.asarray(torch.cat(seen).numpy())


def _follow(average: nn.Module, module: nn.Module, keep: float) -> None:
    """Move the average's weights, and what batch normalisation counts, towards the module's."""
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)
