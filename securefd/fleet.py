"""Training many models of one architecture at once, and one by one as the reference.

The parameters of ``k`` models are stacked, ``torch.func`` runs the network on the stack, and because the
models share nothing, the gradient of the summed loss is each model's own gradient; an optimiser that works
weight by weight (Adam) then updates all of them in one call. Small models are bound by the cost of
launching operations, so this is several times faster than training them one after the other.

Convolutions of larger images are bound by arithmetic instead. There the forward pass goes model by model,
and the stack shares what is left: the batch, the loss, one backward pass and one update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import one_hot

from securefd.losses import LOSSES, distance
from securefd.models import ModelSpec
from securefd.stacked import stacked

State = dict[str, Tensor]
"""A model's weights by name."""

STACKED_WEIGHTS = 400_000
"""Weights in one stack, about what a core's cache holds. It and the next three are constants, not settings:
what is stacked together changes the last bits of a sum, and results must not depend on the machine."""
SMALLEST_STACK, LARGEST_STACK = 8, 16
SMALL_IMAGE = 16
"""Pixels of the longer side up to which convolutions over a stack are faster than one after another."""

PREDICT_ROWS = 256
"""Inputs a forward pass: with more, activations leave the cache and a CNN takes twice as long."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised: a loss of the table, and how.

    ``distance_weight``: weight of the squared distance to the lesson's anchors (method ``fd``), else 0.
    """

    loss: str
    steps: int
    batch_size: int
    learning_rate: float
    temperature: float = 1.0
    distance_weight: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """What one model learns from in one stage.

    ``x``: ``(n, ...)`` inputs, shared between lessons where they are the same. ``rows``: ``(r,)`` the rows
    of ``x`` and ``target`` that are this model's. ``target``: ``(n,)`` labels or ``(n, n_classes)`` soft
    targets. ``order``: draws the batches. ``log_prior``: ``(n_classes,)`` added to the logits within the
    loss (balanced softmax). ``anchors``: ``(n_classes, n_classes)`` logits that records of each class are
    drawn to, NaN rows where there is none; with labels only. ``rehearsal``: a second lesson, whose loss is
    added step by step, so that what was learnt from others isn't forgotten over the own records.
    """

    x: Tensor
    target: Tensor
    rows: NDArray[np.int64]
    order: np.random.Generator
    log_prior: Tensor | None = None
    anchors: Tensor | None = None
    rehearsal: Lesson | None = None


def batches(
    order: np.random.Generator, rows: NDArray[np.int64], steps: int, batch_size: int
) -> NDArray[np.int64]:
    """``(steps, batch_size)`` rows: epoch after epoch in a fresh order, running on across batches."""
    needed = steps * batch_size
    epochs = [order.permutation(rows) for _ in range(-(-needed // len(rows)))]
    return np.concatenate(epochs)[:needed].reshape(steps, batch_size)


def train(
    spec: ModelSpec,
    states: Sequence[State],
    lessons: Sequence[Lesson],
    objective: Objective,
    *,
    device: str = "cpu",
    workers: int = 1,
) -> list[State]:
    """Train each model on its lesson, together where the architecture is ours; the states are new ones."""
    if objective.steps == 0:
        return list(states)
    n_parts = -(-len(states) // stack_size(spec)) if spec.is_ours else len(states)
    ends = [len(states) * part // n_parts for part in range(n_parts + 1)]
    parts = [slice(*pair) for pair in pairwise(ends)]

    def work(part: slice) -> list[State]:
        step = _train_stacked if spec.is_ours and len(states[part]) > 1 else train_one_by_one
        return step(spec, states[part], lessons[part], objective, device=device)

    if workers == 1 or len(parts) == 1:
        return [state for part in parts for state in work(part)]
    with ThreadPoolExecutor(workers) as pool:
        return [state for done in pool.map(work, parts) for state in done]


def train_one_by_one(
    spec: ModelSpec,
    states: Sequence[State],
    lessons: Sequence[Lesson],
    objective: Objective,
    *,
    device: str = "cpu",
) -> list[State]:
    """The reference, and the way of users' own networks: an ordinary loop for each model."""
    trained = []
    for state, lesson in zip(states, lessons, strict=True):
        module = spec.network(0).to(device).train()
        module.load_state_dict(state)
        optimiser = torch.optim.Adam(module.parameters(), lr=objective.learning_rate, fused=True)
        parts = [lesson] if lesson.rehearsal is None else [lesson, lesson.rehearsal]
        taken = [batches(part.order, part.rows, objective.steps, objective.batch_size) for part in parts]
        for step in range(objective.steps):
            optimiser.zero_grad()
            for part, rows in zip(parts, taken, strict=True):
                loss = _batch_loss(module, part, torch.from_numpy(rows[step]), objective, device)
                torch.autograd.backward(loss)
            optimiser.step()
        trained.append({name: value.detach().cpu().clone() for name, value in module.state_dict().items()})
    return trained


def stack_size(spec: ModelSpec) -> int:
    """How many models of this architecture train in one stack, at most."""
    n_weights = sum(value.numel() for value in spec.network(0).parameters())
    return min(LARGEST_STACK, max(SMALLEST_STACK, STACKED_WEIGHTS // n_weights))


def predict(
    spec: ModelSpec, states: Sequence[State], x: Tensor, *, device: str = "cpu"
) -> NDArray[np.float32]:
    """Logits ``(k, n, n_classes)`` of every model on the same inputs, one model at a time."""
    module = spec.network(0).to(device).eval()
    logits = np.empty((len(states), len(x), spec.n_classes), dtype=np.float32)
    with torch.inference_mode():
        for k, state in enumerate(states):
            module.load_state_dict(state)
            for start in range(0, len(x), PREDICT_ROWS):
                rows = slice(start, start + PREDICT_ROWS)
                logits[k, rows] = module(x[rows].to(device)).cpu().numpy()
    return logits


def initial(spec: ModelSpec, seed: int) -> State:
    """The weights that a model starts with."""
    return {name: value.detach().clone() for name, value in spec.network(seed).state_dict().items()}


def _batch_loss(module: nn.Module, lesson: Lesson, rows: Tensor, objective: Objective, device: str) -> Tensor:
    """The mean loss of one model on one batch."""
    target = lesson.target.index_select(0, rows).to(device)
    logits = module(lesson.x.index_select(0, rows).to(device))
    soft = target if target.is_floating_point() else one_hot(target, logits.shape[-1]).to(logits.dtype)
    adjusted = logits if lesson.log_prior is None else logits + lesson.log_prior.to(device)
    loss = LOSSES[objective.loss](adjusted, soft, objective.temperature)
    if lesson.anchors is not None:
        anchors = lesson.anchors.to(device)[target]
        known = ~anchors.isnan().any(-1)
        loss = loss + objective.distance_weight * known * distance(logits, anchors.nan_to_num())
    return loss.mean()


def _train_stacked(
    spec: ModelSpec,
    states: Sequence[State],
    lessons: Sequence[Lesson],
    objective: Objective,
    *,
    device: str = "cpu",
) -> list[State]:
    weights = {
        name: torch.stack([state[name] for state in states]).to(device).requires_grad_() for name in states[0]
    }
    forward = _forward(spec)
    optimiser = torch.optim.Adam(weights.values(), lr=objective.learning_rate, fused=True)
    feeds = [_Feed(lessons, spec.n_classes, objective, device)]
    if any(lesson.rehearsal is not None for lesson in lessons):
        rehearsals = [lesson.rehearsal for lesson in lessons if lesson.rehearsal is not None]
        assert len(rehearsals) == len(lessons)
        feeds.append(_Feed(rehearsals, spec.n_classes, objective, device))
    for step in range(objective.steps):
        optimiser.zero_grad()
        for feed in feeds:
            torch.autograd.backward(feed.loss(forward, weights, step))
        optimiser.step()
    trained = {name: value.detach().cpu() for name, value in weights.items()}
    return [{name: value[k].clone() for name, value in trained.items()} for k in range(len(states))]


Forward = Callable[[State, Tensor], Tensor]
"""Stacked weights and inputs ``(k, b, ...)`` to logits ``(k, b, n_classes)``."""


class _Feed:
    """Batches of several lessons, stacked, and their losses."""

    def __init__(self, lessons: Sequence[Lesson], n_classes: int, objective: Objective, device: str) -> None:
        self._objective = objective
        self._device = device
        drawn = [batches(each.order, each.rows, objective.steps, objective.batch_size) for each in lessons]
        self._rows = torch.from_numpy(np.stack(drawn, axis=1))
        self._x = [lesson.x for lesson in lessons]
        self._target = [lesson.target for lesson in lessons]
        # Labels become vectors once, not in every step and not for every lesson that shares them.
        distinct = {id(target): target for target in self._target}
        tables = {key: _soft(target, n_classes) for key, target in distinct.items()}
        self._soft = [tables[id(target)] for target in self._target]
        self._prior = _stack([lesson.log_prior for lesson in lessons], device)
        anchors = _stack([lesson.anchors for lesson in lessons], device)
        self._anchors = None if anchors is None else anchors.nan_to_num()
        self._known = None if anchors is None else ~anchors.isnan().any(-1)

    def loss(self, forward: Forward, weights: State, step: int) -> Tensor:
        """The sum over models of the mean loss on their batches of this step."""
        rows = self._rows[step]
        logits = forward(weights, _gather(self._x, rows).to(self._device))
        soft = _gather(self._soft, rows).to(self._device)
        adjusted = logits if self._prior is None else logits + self._prior[:, None]
        loss = LOSSES[self._objective.loss](adjusted, soft, self._objective.temperature)
        if self._anchors is not None and self._known is not None:
            place = (torch.arange(len(rows))[:, None], _gather(self._target, rows))
            apart = distance(logits, self._anchors[place])
            loss = loss + self._objective.distance_weight * self._known[place] * apart
        return loss.mean(-1).sum()


def _forward(spec: ModelSpec) -> Forward:
    network = spec.network(0).to("meta")

    def one_after_another(weights: State, x: Tensor) -> Tensor:
        models = zip(*(value.unbind() for value in weights.values()), strict=True)
        states = [dict(zip(weights, model, strict=True)) for model in models]
        return torch.stack(
            [functional_call(network, state, (own,)) for state, own in zip(states, x.unbind(), strict=True)]
        )

    if any(isinstance(layer, nn.Conv2d) for layer in network.modules()) and max(spec.shape[1:]) > SMALL_IMAGE:
        return one_after_another
    whole = stacked(network)

    def at_once(weights: State, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(whole, weights, (x.movedim(1, -1),)).mT
        return logits

    return at_once


def _gather(sources: Sequence[Tensor], rows: Tensor) -> Tensor:
    """``rows`` (k, b) of k sources ``(n, ...)``, stacked."""
    if all(source is sources[0] for source in sources):
        return sources[0].index_select(0, rows.flatten()).view(*rows.shape, *sources[0].shape[1:])
    return torch.stack([source.index_select(0, own) for source, own in zip(sources, rows, strict=True)])


def _soft(target: Tensor, n_classes: int) -> Tensor:
    return target if target.is_floating_point() else one_hot(target, n_classes).to(torch.float32)


def _stack(values: Sequence[Tensor | None], device: str) -> Tensor | None:
    present = [value for value in values if value is not None]
    if not present:
        return None
    assert len(present) == len(values)
    return torch.stack(present).to(device)
