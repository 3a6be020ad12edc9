"""Clients' linear models on features that are learnt from the public set, once, and shared by all of them.

A head isn't trained by steps: it is a sum over records, and what a consensus adds to it is another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from securefd import features
from securefd.defenses.head import DIMENSIONS, ClassSums, Head, Whitening, class_sums, on_grid
from securefd.features import Features
from securefd.fleet import State
from securefd.rng import generator

Inputs = NDArray[np.float32]
Labels = NDArray[np.int64]

KEPT = 4
"""Sets of inputs whose features are kept: public, test and records, and one more."""


_LOOKING_UP = Lock()
"""Clients answer side by side, and share one basis."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    """Of one set of inputs: features ``(n, p)``, and by dimensions what `Whitening` makes of them."""

    features: Inputs
    whitened: dict[int, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Basis:
    """What all heads of a federation stand on. ``public``: features of the public set, ``(n, p)``."""

    learnt: Features
    public: Inputs
    device: str = "cpu"
    _whitenings: dict[int, Whitening] = field(default_factory=dict, init=False, repr=False)
    _kept: dict[bytes, _Kept] = field(default_factory=dict, init=False, repr=False)
    _rows: dict[bytes, Inputs] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, learnt: Features, public: Inputs, device: str = "cpu") -> Basis:
        """``public``: the public inputs themselves."""
        return cls(learnt=learnt, public=learnt(public, device=device), device=device)

    @classmethod
    def learn(cls, public: Inputs, *, seed: int, device: str = "cpu") -> Basis:
        """Learn from the public inputs: the same for the same ``seed`` of a run."""
        drawn = int(generator(seed, "features").integers(2**63))
        return cls.of(features.learn(public, seed=drawn, device=device), public, device)

    def whitening(self, dimensions: int) -> Whitening:
        """That of so many principal directions."""
        if dimensions not in self._whitenings:
            self._whitenings[dimensions] = Whitening.of(self.public, dimensions=dimensions)
        return self._whitenings[dimensions]

    def whitened(self, x: Inputs, dimensions: int) -> NDArray[np.float64]:
        """Of inputs ``(n, ...)`` together; their features are kept for the next who asks."""
        key = hashlib.sha256(x.tobytes()).digest()
        with _LOOKING_UP:
            if key not in self._kept:
                while len(self._kept) >= KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = _Kept(features=self.learnt(x, device=self.device))
            kept = self._kept[key]
            if dimensions not in kept.whitened:
                kept.whitened[dimensions] = self.whitening(dimensions)(kept.features)
            return kept.whitened[dimensions]

    def each(self, x: Inputs, dimensions: int) -> NDArray[np.float64]:
        """Of records ``(n, ...)`` one by one, so that no bit of one depends on the others.

        Features of a record are kept for the next who has it: shadow federations share all of theirs.
        """
        keys = [hashlib.sha256(row.tobytes()).digest() for row in x]
        fresh = [k for k, key in enumerate(keys) if key not in self._rows]
        found = self.learnt.each(x[fresh], device=self.device)
        self._rows.update(zip([keys[k] for k in fresh], found, strict=True))
        rows = np.array([self._rows[key] for key in keys], dtype=np.float32)
        return self.whitening(dimensions).each(rows.reshape(len(x), self.public.shape[1]))


def blank(n_classes: int) -> State:
    """A head that has seen nothing, and stands on no feature."""
    return _state(np.zeros((0, n_classes)))


def fitted(basis: Basis, x: Inputs, y: Labels, n_classes: int) -> State:
    """Run by one client: a head on its own records, without any noise."""
    dimensions = min(DIMENSIONS, basis.public.shape[1])
    whitening = basis.whitening(dimensions)
    sums = class_sums(basis.whitened(x, dimensions), y, n_classes)
    return _state(Head.of(sums, len(x), whitening.second_moment).weights)


def released(basis: Basis, x: Inputs, y: Labels, mechanism: ClassSums) -> State:
    """Run by one client, after it has paid: a head on its own records, from one noised sum."""
    whitening = basis.whitening(mechanism.dimensions)
    sums = mechanism(basis.each(x, mechanism.dimensions), y)
    return _state(Head.of(sums, len(x), whitening.second_moment).weights)


def counted(basis: Basis, public: Inputs, counts: Labels, voters: int, dimensions: int) -> State:
    """A head on public inputs, each with how many of so many ``voters`` are for each class.

    ``counts``: ``(n, n_classes)``, with noise as likely. Each vote is a record as good as any other.
    """
    whitening = basis.whitening(dimensions)
    by_class = on_grid(basis.whitened(public, dimensions)).T @ counts
    sums = counts.shape[1] * by_class - by_class.sum(axis=1, keepdims=True)
    return _state(Head.of(sums, len(public) * voters, whitening.second_moment).weights)


def digested(basis: Basis, state: State, records: int, public: Inputs, labels: Labels) -> State:
    """Run by one client: its head of ``records`` own records, and public inputs with ``labels`` beside them.

    Weights are linear in sums, so those of both together are a mean of those of each.
    """
    own = state["own"].double().numpy()
    dimensions, n_classes = own.shape
    sums = class_sums(basis.whitened(public, dimensions), labels, n_classes)
    theirs = Head.of(sums, len(public), basis.whitening(dimensions).second_moment).weights
    both = (records * own + len(public) * theirs) / (records + len(public))
    return {"own": state["own"], "weight": torch.from_numpy(both.astype(np.float32))}


def logits(basis: Basis, state: State, x: Inputs) -> NDArray[np.float32]:
    """Run by one client: ``(n, n_classes)``, logarithms of probabilities."""
    head = Head(weights=state["weight"].double().numpy())
    return head.logits(basis.whitened(x, len(head.weights))).astype(np.float32)


def _state(weights: NDArray[np.float64]) -> State:
    """``own``: from the own records alone; ``weight``: what is answered with, ``(d, n_classes)`` both."""
    tensor = torch.from_numpy(weights.astype(np.float32))
    return {"own": tensor, "weight": tensor.clone()}
