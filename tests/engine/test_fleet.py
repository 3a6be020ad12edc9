"""Models trained together against the same models trained one by one, on the same batches."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from securefd.fleet import (
    PREDICT_ROWS,
    Lesson,
    Objective,
    batches,
    initial,
    predict,
    stack_size,
    train,
    train_one_by_one,
)
from securefd.losses import distance
from securefd.models import NETWORKS, ModelSpec

N_CLASSES = 4
STEPS = 5
RATE = 1e-3
HARD = Objective(loss="cross_entropy", steps=STEPS, batch_size=8, learning_rate=RATE)
TOLERANCE = 1e-10
"""Of how far the weights moved, in float64: sums in another order."""
SINGLE = 1e-2
"""The same in float32, where Adam turns the rounding of tiny gradients into whole steps of a few weights."""

SHAPES = {"small": (1, 8, 9), "large": (2, 17, 20), "table": (11,)}
"""Below and above 16 pixels, where networks halve images once or twice and convolutions stack or don't."""


def spec_of(name, shape="small"):
    return ModelSpec(name=name, shape=SHAPES[shape], n_classes=N_CLASSES)


def pool(shape, n=60, seed=0):
    made = torch.Generator().manual_seed(seed)
    x = torch.rand((n, *shape), generator=made)
    return x, torch.randint(0, N_CLASSES, (n,), generator=made), torch.rand((n, N_CLASSES), generator=made)


def hard(shape, count, **more):
    x, y, _ = pool(shape)
    rows = [np.arange(k, 60, count + 1) for k in range(count)]
    return [
        Lesson(x=x, target=y, rows=own, order=np.random.default_rng(k), **more) for k, own in enumerate(rows)
    ]


def soft(shape, count):
    """Every model has a target of its own on shared inputs."""
    lessons = []
    for k in range(count):
        x, _, target = pool(shape, seed=1 + k)
        lessons.append(
            Lesson(
                x=pool(shape)[0] if k == 0 else lessons[0].x,
                target=target / target.sum(-1, keepdim=True),
                rows=np.arange(len(x)),
                order=np.random.default_rng(100 + k),
            )
        )
    return lessons


def with_prior(shape, count):
    priors = torch.randn((count, N_CLASSES), generator=torch.Generator().manual_seed(3))
    return [replace(each, log_prior=own) for each, own in zip(hard(shape, count), priors, strict=True)]


def with_anchors(shape, count):
    anchors = 3 * torch.randn((count, N_CLASSES, N_CLASSES), generator=torch.Generator().manual_seed(4))
    anchors -= anchors.mean(-1, keepdim=True)
    anchors[:, 1] = torch.nan
    return [replace(each, anchors=own) for each, own in zip(hard(shape, count), anchors, strict=True)]


def with_rehearsal(shape, count):
    pairs = zip(with_prior(shape, count), soft(shape, count), strict=True)
    return [replace(each, rehearsal=second) for each, second in pairs]


CASES = {
    "hard": (hard, HARD),
    "soft": (soft, HARD),
    "kl": (soft, replace(HARD, loss="kl", temperature=3.0)),
    "l1": (soft, replace(HARD, loss="l1")),
    "prior": (with_prior, HARD),
    "anchors": (with_anchors, replace(HARD, distance_weight=0.5)),
    "rehearsal": (with_rehearsal, HARD),
}


def starts(spec, count):
    return [initial(spec, seed) for seed in range(count)]


def between(states, others):
    """The Euclidean distance of all weights."""
    squares = [
        (state[name] - other[name]).double().square().sum()
        for state, other in zip(states, others, strict=True)
        for name in state
    ]
    return float(sum(squares)) ** 0.5


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, "small") for name in NETWORKS]
    + [(name, "large") for name in ("cnn", "resnet")]
    + [(name, "table") for name in ("logistic", "mlp")],
)
@pytest.mark.usefixtures("double")
def test_together_and_one_by_one_learn_the_same(name, shape, case):
    lessons, objective = CASES[case]
    spec = spec_of(name, shape)
    before = starts(spec, 3)
    together = train(spec, before, lessons(spec.shape, 3), objective)
    one_by_one = train_one_by_one(spec, before, lessons(spec.shape, 3), objective)
    moved = between(one_by_one, before)
    assert moved > RATE
    assert between(together, one_by_one) < TOLERANCE * moved


@pytest.mark.parametrize("name", NETWORKS)
def test_so_they_do_in_single_precision(name):
    spec = spec_of(name)
    before = starts(spec, 3)
    together = train(spec, before, with_rehearsal(spec.shape, 3), HARD)
    one_by_one = train_one_by_one(spec, before, with_rehearsal(spec.shape, 3), HARD)
    assert all(value.dtype == torch.float32 for state in together for value in state.values())
    assert between(together, one_by_one) < SINGLE * between(one_by_one, before)


@pytest.mark.parametrize("case", ["prior", "anchors", "rehearsal"])
@pytest.mark.parametrize("way", [train, train_one_by_one])
def test_what_a_lesson_adds_to_the_loss_matters(way, case):
    lessons, objective = CASES[case]
    spec = spec_of("mlp")
    before = starts(spec, 2)
    plain = way(spec, before, hard(spec.shape, 2), objective)
    more = way(spec, before, lessons(spec.shape, 2), objective)
    assert between(more, plain) > 10 * SINGLE * between(plain, before)


def test_the_reference_is_the_textbook_loop():
    spec = spec_of("logistic")
    (lesson,) = with_rehearsal(spec.shape, 1)
    (learnt,) = train_one_by_one(spec, starts(spec, 1), [lesson], HARD)

    module = spec.network(0)
    optimiser = torch.optim.Adam(module.parameters(), lr=RATE)
    (again,) = with_rehearsal(spec.shape, 1)
    own = batches(again.order, again.rows, STEPS, 8)
    others = batches(again.rehearsal.order, again.rehearsal.rows, STEPS, 8)
    for step in range(STEPS):
        logits = module(again.x[own[step]]) + again.log_prior
        recalled = module(again.rehearsal.x[others[step]])
        loss = cross_entropy(logits, again.target[own[step]])
        loss = loss + cross_entropy(recalled, again.rehearsal.target[others[step]])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert between([learnt], [module.state_dict()]) < 1e-6


def test_anchors_draw_the_logits_of_classes_that_have_one():
    spec = spec_of("logistic")

    def apart(weight):
        lessons = with_anchors(spec.shape, 2)
        objective = replace(HARD, steps=200, learning_rate=1e-2, distance_weight=weight)
        trained = train(spec, starts(spec, 2), lessons, objective)
        logits = torch.from_numpy(predict(spec, trained, lessons[0].x))
        drawn = [lesson.rows[lesson.target[lesson.rows] != 1] for lesson in lessons]
        return np.mean(
            [
                distance(logits[k, own], lesson.anchors[lesson.target[own]]).mean()
                for k, (lesson, own) in enumerate(zip(lessons, drawn, strict=True))
            ]
        )

    assert apart(10.0) < 0.2 * apart(1e-9)


@pytest.mark.parametrize(("name", "shape"), [("mlp", "small"), ("cnn", "small"), ("cnn", "large")])
def test_workers_change_no_bit(name, shape):
    spec = spec_of(name, shape)
    count = stack_size(spec) + 2
    alone = train(spec, starts(spec, count), hard(spec.shape, count), HARD, workers=1)
    assert between(train(spec, starts(spec, count), hard(spec.shape, count), HARD, workers=3), alone) == 0


def test_models_of_a_stack_share_nothing():
    spec = spec_of("mlp")
    before, lessons = starts(spec, 3), hard(spec.shape, 3)
    lessons[2] = replace(lessons[2], target=(lessons[2].target + 1) % N_CLASSES)
    changed = train(spec, before, lessons, HARD)
    first = train(spec, before, hard(spec.shape, 3), HARD)
    assert between(changed[:2], first[:2]) == 0
    assert between(changed[2:], first[2:]) > RATE


def test_what_was_given_stays_as_it_was():
    spec = spec_of("mlp")
    before, kept = starts(spec, 2), starts(spec, 2)
    train(spec, before, hard(spec.shape, 2), HARD)
    train_one_by_one(spec, before, hard(spec.shape, 2), HARD)
    assert between(before, kept) == 0
    assert train(spec, before, hard(spec.shape, 2), replace(HARD, steps=0)) == before


def test_a_network_of_the_users_own_is_trained_too(monkeypatch):
    def factory(shape, n_classes, seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), n_classes))

    module = ModuleType("zoo_of_a_user")
    module.factory = factory
    monkeypatch.setitem(sys.modules, "zoo_of_a_user", module)
    spec = replace(spec_of("logistic"), name="zoo_of_a_user:factory")
    before = [
        {f"1.{name[2:]}": value for name, value in each.items()} for each in starts(spec_of("logistic"), 3)
    ]
    trained = train(spec, before, with_rehearsal(spec.shape, 3), HARD, workers=2)
    ours = train(spec_of("logistic"), before, with_rehearsal(spec.shape, 3), HARD)
    assert between(trained, ours) < SINGLE * between(ours, before)


@pytest.mark.parametrize("n_rows", [3, 8, 20])
def test_batches_run_through_epoch_after_epoch(n_rows):
    rows = 7 * np.arange(n_rows)
    drawn = batches(np.random.default_rng(0), rows, 6, 8)
    assert drawn.shape == (6, 8)
    flat = drawn.ravel()
    for start in range(0, len(flat) - n_rows + 1, n_rows):
        assert sorted(flat[start : start + n_rows]) == list(rows)
    assert not np.array_equal(flat[:n_rows], rows) or n_rows == 3


def test_predictions_are_the_networks_own():
    spec = spec_of("cnn")
    states = starts(spec, 2)
    x = torch.rand((PREDICT_ROWS + 3, *spec.shape), generator=torch.Generator().manual_seed(0))
    logits = predict(spec, states, x)
    assert logits.shape == (2, PREDICT_ROWS + 3, N_CLASSES)
    for k in range(2):
        with torch.no_grad():
            expected = spec.network(k)(x).numpy()
        np.testing.assert_allclose(logits[k], expected, atol=1e-5)


def test_stacks_are_larger_for_smaller_models():
    sizes = [stack_size(replace(spec_of("mlp"), shape=(1, side, side))) for side in (8, 16, 40)]
    assert sizes[0] > sizes[1] > sizes[2] > 1
