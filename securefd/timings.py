"""How long one piece of each kind of work takes on this machine: a gradient step, an answer, a sealed sum.

Everything is timed on the code that a run uses, with zeros in place of data, in models that are thrown away.
No record is looked at, no file is written, and no random stream of a run is touched.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from securefd import features
from securefd.defenses.neighbourhood import choose
from securefd.defenses.quantise import quantise
from securefd.defenses.sealed import make_sealing
from securefd.defenses.shares import NoiseShare
from securefd.encoders import encoder
from securefd.features import Features
from securefd.fleet import Lesson, Objective, initial, predict, stack_size, train
from securefd.given import Given
from securefd.methods import Own
from securefd.models import ModelSpec, Shape
from securefd.private import DpSgdPlan
from securefd.recipe import Recipe
from securefd.self_training import Answers, self_trained

PATIENCE = 0.1
"""Seconds that the timing of one kind of work may take, about; if a single step takes longer, that step."""
LEAST_STEPS, MOST_STEPS = 4, 8
"""Beyond the first two: a difference of fewer says little where steps differ by chance."""
MOST_BYTES = 1 << 24
"""Of zeros in place of records."""
MOST_VALUES = 20_000
"""Of an answer, when it is rounded, noised or sealed; more of them take in proportion."""
FEW_RECORDS, MORE_RECORDS = 100, 400
"""That trees are fitted to; what it takes is a line through both."""
MOST_COLUMNS = 256
"""The same; more of them take in proportion, or in that of their square root where trees look at so many."""
PART_OF_TREES = 10
"""One in so many trees of a forest, or steps of boosting, is made."""
MASKED, ENCRYPTED = 8, 4
"""Clients that seal a sum together; more of them take in proportion to pairs, or to clients."""


@contextmanager
def apart() -> Iterator[None]:
    """With one thread an operation, as in a run, and torch's own generator as it was afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            _warm()
            yield
    finally:
        torch.set_num_threads(threads)


def _warm() -> None:
    """What is done for the first time in a process takes longer."""
    spec = ModelSpec(name="logistic", shape=(1,), n_classes=2)
    gradient_step(
        spec,
        2,
        Objective(loss="cross_entropy", steps=1, batch_size=1, learning_rate=1e-3),
        device="cpu",
        workers=1,
    )


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """How long it takes once, after it was done before; if that alone took long, how long that was."""
    first = _once(work, device)
    return first if first > 3 * PATIENCE else _once(work, device)


def slope(work: Callable[[int], object], device: str = "cpu") -> float:
    """Seconds of one step more, where ``work`` takes as many steps as it is given, 2 or more."""
    two = seconds(lambda: work(2), device)
    if two > 2 * PATIENCE:
        return two / 2
    more = LEAST_STEPS if two > PATIENCE / 2 else MOST_STEPS
    longer = _once(lambda: work(2 + more), device)
    return max(longer - two, 0.1 * longer) / more


def gradient_step(spec: ModelSpec, count: int, objective: Objective, *, device: str, workers: int) -> float:
    """One step of each of ``count`` networks of one kind, on zeros, as many of them abreast as in a run."""
    parts = -(-count // stack_size(spec)) if spec.is_ours else count
    abreast = min(workers, os.cpu_count() or 1, parts) if spec.is_ours else 1
    size = -(-count // parts)
    x = torch.zeros(objective.batch_size, *spec.shape)
    target = torch.full((objective.batch_size, spec.n_classes), 1 / spec.n_classes)
    rows = np.arange(objective.batch_size)

    def taken(steps: int, models: int) -> None:
        lessons = [Lesson(x=x, target=target, rows=rows, order=np.random.default_rng(0))] * models
        states = [initial(spec, 0)] * models
        train(spec, states, lessons, replace(objective, steps=steps), device=device, workers=abreast)

    alone = slope(lambda steps: taken(steps, 1), device)
    if size * abreast == 1:
        return alone * parts
    if alone * size > PATIENCE:  # bound by arithmetic: together they take as long as one after the other
        return alone * count / abreast
    return slope(lambda steps: taken(steps, size * abreast), device) * parts / abreast


def private_training(spec: ModelSpec, plan: DpSgdPlan, records: int, *, device: str) -> float:
    """All steps of one client with so many records."""
    fitting = MOST_BYTES // (4 * math.prod(spec.shape))
    rows = min(records, max(fitting, math.ceil(plan.expected_batch)))
    rate = plan.expected_batch / rows
    some = replace(plan, mechanism=replace(plan.mechanism, sampling_rate=rate))
    x, state = _zeros(rows, spec.shape), initial(spec, 0)
    given = Given(spec=spec, x=x, y=np.zeros(rows, dtype=np.int64), public=x[:1], device=device)

    def taken(steps: int) -> None:
        some.train(given, state, steps)

    taken(1)
    step = slope(taken, device)
    beginning = max(0.0, _once(lambda: taken(1), device) - step)
    return len(plan.parts) * beginning + sum(plan.parts) * step


def answer(spec: ModelSpec, *, device: str) -> float:
    """A network's, to one input."""
    x = torch.zeros(features.PREDICT_ROWS, *spec.shape)
    states = [initial(spec, 0)]
    return seconds(lambda: predict(spec, states, x, device=device), device) / len(x)


def rounded(recipe: Recipe) -> float:
    """One client's answer to one query, from logits to the grid."""
    queries = max(1, min(recipe.settings.queries, MOST_VALUES // recipe.n_classes))
    classes = (recipe.n_classes, recipe.n_classes)
    own = Own(
        logits=np.zeros((queries, recipe.n_classes)), counts=np.ones(classes[0]), classwise=np.zeros(classes)
    )
    blocks = recipe.blocks(queries)

    def made() -> None:
        quantise(recipe.method.answer(own, recipe.options), blocks, recipe.bits)

    return seconds(made) / queries


def contrastive_step(shape: Shape, public: int, *, device: str) -> float:
    """One step of learning features of images."""
    batch = min(features.BATCH, public, max(features.SMALL_BATCH, public // 3))
    few = _zeros(min(batch, features.SMALL_BATCH), shape)
    learnt = slope(lambda steps: features.learn(few, seed=0, device=device, steps=steps), device)
    return learnt * batch / len(few)


def feature(shape: Shape, *, one_by_one: bool, device: str) -> float:
    """Features of one image, in a batch or alone."""
    some = _features(shape)
    x = _zeros(16 if one_by_one else features.PREDICT_ROWS, shape)
    work = some.each if one_by_one else some
    return seconds(lambda: work(x, device=device), device) / len(x)


@dataclass(frozen=True, kw_only=True)
class Refit:
    """Seconds of fitting an estimator: ``each`` time, and for each ``record``; and of one ``answer``."""

    each: float
    record: float
    answer: float


def self_training_step(spec: ModelSpec, *, device: str) -> float:
    """One step of a student that learns from its own answers; labelling public inputs isn't in it."""
    public, state, learnt = _zeros(features.PREDICT_ROWS, spec.shape), initial(spec, 0), _features(spec.shape)
    values = np.full((len(public), spec.n_classes), 1 / spec.n_classes)
    answers = Answers(values=values, known=np.arange(len(public)))

    def taken(steps: int) -> None:
        rng = np.random.default_rng(0)
        more = steps + 1  # of 10 in all, its learning rate would have none to rise in
        self_trained(spec, state, public, answers, learnt, rounds=1, steps=more, rng=rng, device=device)

    return slope(taken, device)


def refit(spec: ModelSpec) -> Refit:
    """How deep trees grow depends on the records, which aren't looked at.

    These are random, around a centre for each class, and rounded, so that values recur as those of pixels and
    of answers do.
    """
    rng = np.random.default_rng(0)
    y = np.arange(MORE_RECORDS) % spec.n_classes
    columns = math.prod(spec.shape)
    centres = rng.normal(size=(spec.n_classes, min(columns, MOST_COLUMNS)))
    x = np.round(2 * (centres[y] + rng.normal(size=(len(y), centres.shape[1])))).astype(np.float32)
    estimator, part = _smaller(spec.estimator(0, balanced=False))
    wider = max(1.0, columns / MOST_COLUMNS)
    if estimator.get_params().get("max_features") == "sqrt":
        wider = math.sqrt(wider)
    few = seconds(lambda: estimator.fit(x[:FEW_RECORDS], y[:FEW_RECORDS]))
    more = seconds(lambda: estimator.fit(x, y))
    record = max(0.0, more - few) / (MORE_RECORDS - FEW_RECORDS)
    return Refit(
        each=wider * part * max(0.0, few - FEW_RECORDS * record),
        record=wider * part * record,
        answer=part * seconds(lambda: estimator.predict_proba(x)) / len(x),
    )


def sealed(kind: str, clients: int, pairs: float, values: int, bits: int) -> float:
    """One sum of ``values`` among ``clients``, of whom ``pairs`` share a mask, each seen from both sides."""
    some = min(values, MOST_VALUES)
    found = 0.0
    if "masked" in kind:
        few = min(clients, MASKED)
        found += _round("masked", few, some, bits) * pairs / (few * (few - 1))
    if "homomorphic" in kind:
        # A value takes as long however few bits it has; few of them fit with more clients than there are.
        fewer, more = (_round("homomorphic", n, some, 1) for n in (2, 2 + ENCRYPTED))
        found += fewer + max(0.0, more - fewer) / ENCRYPTED * (clients - 2)
    return found * values / some


def noised(share: NoiseShare, values: int) -> float:
    """One party's noise on so many values."""
    some = min(values, MOST_VALUES)
    return seconds(lambda: share.draw(some)) * values / some


def _round(kind: Literal["masked", "homomorphic"], clients: int, values: int, bits: int) -> float:
    """One whole round of sealing, with keys of this moment."""
    graph = choose(n_clients=clients, threshold=clients, colluders=0) if kind == "masked" else None
    sealing = make_sealing(kind, clients, bits, neighbourhood=graph)
    zeros = [np.zeros(values, dtype=np.int64)] * clients
    return seconds(lambda: sealing.run_round(os.urandom(32), 0, zeros, bits))


def _smaller(estimator: BaseEstimator) -> tuple[BaseEstimator, float]:
    """The same with a part of its trees or steps, if it has some, and how many such parts there are."""
    for name in ("n_estimators", "max_iter"):
        whole = estimator.get_params().get(name)
        if isinstance(whole, int) and whole >= PART_OF_TREES:
            return estimator.set_params(**{name: whole // PART_OF_TREES}), whole / (whole // PART_OF_TREES)
    return estimator, 1.0


def _features(shape: Shape) -> Features:
    """Some that nothing was learnt for."""
    if len(shape) != 3:
        return features.learn(_zeros(2, shape), seed=0)
    return Features(shape=shape, state=encoder(shape).state_dict())


def _zeros(rows: int, shape: Shape) -> NDArray[np.float32]:
    return np.zeros((rows, *shape), dtype=np.float32)


def _once(work: Callable[[], object], device: str) -> float:
    """Seconds on a machine that does nothing else: of the processor, where waiting for others took longer."""
    began, busy = time.perf_counter(), time.process_time()
    work()
    passed, busy = time.perf_counter() - began, time.process_time() - busy
    return min(passed, busy) if device == "cpu" else passed
