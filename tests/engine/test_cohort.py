"""A cohort: who learns what, from which records, and that nothing else changes."""

import numpy as np
import pytest
import torch

from securefd.cohort import SMALLEST_PROBABILITY, Cohort, Member, log_prior
from securefd.fleet import LARGEST_STACK, Objective
from securefd.models import ModelSpec
from tests.engine.samples import N_CLASSES, NET, TREE, points, pool, same

LOCAL = Objective(loss="cross_entropy", steps=12, batch_size=8, learning_rate=0.05)
DIGEST = Objective(loss="cross_entropy", steps=12, batch_size=8, learning_rate=0.05)
RECORDS = pool(60)
PUBLIC, PUBLIC_LABELS = points(20, seed=1)
TARGET = np.eye(N_CLASSES)[PUBLIC_LABELS]


def spec(name: str) -> ModelSpec:
    return ModelSpec(name=name, shape=(4,), n_classes=N_CLASSES)


def members(*names: str, federations: int = 1) -> list[Member]:
    """Clients of equal shares of the pool; each federation has the same ones."""
    rows = np.array_split(np.random.default_rng(0).permutation(len(RECORDS.x)), len(names))
    return [
        Member(federation=f, client=k, model=spec(name), rows=rows[k])
        for f in range(federations)
        for k, name in enumerate(names)
    ]


def cohort(*names: str, **settings: object) -> Cohort:
    return Cohort(members(*names), RECORDS, **{"seed": 3, **settings})  # type: ignore[arg-type]


def accuracy(logits: np.ndarray) -> float:
    return float((logits.argmax(-1) == PUBLIC_LABELS).mean())


def test_everyone_starts_and_learns_differently_and_repeatably() -> None:
    one, again = cohort("mlp", "mlp", "logistic"), cohort("mlp", "mlp", "logistic")
    assert not same(one.states[0], one.states[1])
    for each in (one, again):
        each.fit("fit 0", LOCAL)
    assert all(same(one.states[k], again.states[k]) for k in range(3))
    assert not same(cohort("mlp", seed=4).states[0], cohort("mlp").states[0])


def test_a_users_network_draws_its_own_randomness() -> None:
    """Dropout comes from torch's one generator: whatever drew from it before, a run repeats."""
    learnt = []
    for seed in (1, 2):
        clients = cohort(NET, NET)
        torch.manual_seed(seed)
        clients.fit("fit 0", LOCAL)
        learnt.append(clients.states[1])
    assert same(*learnt)


def test_everyone_takes_its_records_in_an_order_of_its_own() -> None:
    twins = [Member(federation=0, client=k, model=spec("mlp"), rows=np.arange(60)) for k in range(3)]
    clients = Cohort(twins, RECORDS, seed=3)
    for learn in (
        lambda: clients.fit("fit 0", LOCAL),
        lambda: clients.digest("digest 0", DIGEST, PUBLIC, [TARGET]),
    ):
        clients.states = dict.fromkeys(range(3), clients.states[0])
        learn()
        assert not any(same(clients.states[i], clients.states[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_federations_share_their_randomness() -> None:
    """A shadow starts and goes as the federation that it shadows: only the records differ."""
    shadows = Cohort(members("mlp", "forest", federations=2), RECORDS, seed=3)
    assert same(shadows.states[0], shadows.states[2])
    shadows.fit("fit 0", LOCAL)
    logits = shadows.logits(PUBLIC)
    np.testing.assert_allclose(logits[:2], logits[2:], atol=1e-4)


def test_a_stage_has_batches_of_its_own() -> None:
    one, other = cohort("mlp", "mlp"), cohort("mlp", "mlp")
    one.fit("fit 0", LOCAL)
    other.fit("fit 1", LOCAL)
    assert not same(one.states[0], other.states[0])


@pytest.mark.parametrize(
    "names", [["logistic"] * (LARGEST_STACK + 3), ["mlp", NET, "boosting", "forest", NET]]
)
def test_workers_change_no_bit(names: list[str]) -> None:
    alone, together = cohort(*names, workers=1), cohort(*names, workers=2)
    for each in (alone, together):
        each.fit("fit 0", LOCAL)
        each.digest("digest 0", DIGEST, PUBLIC, [TARGET])
    np.testing.assert_array_equal(alone.logits(PUBLIC), together.logits(PUBLIC))


def test_learning_replaces_states_and_leaves_the_old_ones_alone() -> None:
    clients = cohort("mlp", NET)
    before = {
        index: {name: value.clone() for name, value in s.items()} for index, s in clients.states.items()
    }
    held = dict(clients.states)
    clients.fit("fit 0", LOCAL)
    clients.digest("digest 0", DIGEST, PUBLIC, [TARGET])
    for index, state in held.items():
        assert same(state, before[index])
        assert not same(clients.states[index], state)


def test_everyone_learns_from_its_own_records_only() -> None:
    """Other clients' records may be anything."""
    own = members("mlp", "forest", "mlp")
    x = RECORDS.x.copy()
    x[own[2].rows] = np.nan
    poisoned = type(RECORDS)(x=x, y=RECORDS.y, n_classes=N_CLASSES)
    clean, beside = Cohort(own, RECORDS, seed=3), Cohort(own, poisoned, seed=3)
    for each in (clean, beside):
        each.fit("fit 0", LOCAL)
    for k in (0, 1):
        np.testing.assert_array_equal(clean.logits_of(k, PUBLIC), beside.logits_of(k, PUBLIC))
    assert np.isnan(beside.logits_of(2, PUBLIC)).all()


@pytest.mark.parametrize("name", ["logistic", "mlp", "forest", "boosting", TREE, NET])
def test_each_kind_learns_the_consensus(name: str) -> None:
    records = pool(150)
    clients = Cohort([Member(federation=0, client=0, model=spec(name), rows=np.arange(150))], records, seed=3)
    objective = Objective(loss="cross_entropy", steps=80, batch_size=16, learning_rate=0.05)
    clients.fit("fit 0", objective)
    alone = accuracy(clients.logits_of(0, PUBLIC))
    public, labels = points(600, seed=2)  # an estimator weighs them against its own records
    clients.digest("digest 0", objective, public, [np.eye(N_CLASSES)[(labels + 1) % N_CLASSES]])
    assert alone > 0.8
    assert accuracy(clients.logits_of(0, PUBLIC)) < 0.2


def test_federations_digest_their_own_consensus() -> None:
    clients = Cohort(members("mlp", "forest", federations=2), RECORDS, seed=3)
    clients.fit("fit 0", LOCAL)
    other = np.eye(N_CLASSES)[(PUBLIC_LABELS + 1) % N_CLASSES]
    clients.digest("digest 0", DIGEST, PUBLIC, [TARGET, other])
    np.testing.assert_array_equal(clients.pseudo_labels(1), PUBLIC_LABELS)
    np.testing.assert_array_equal(clients.pseudo_labels(3), (PUBLIC_LABELS + 1) % N_CLASSES)
    assert clients.pseudo_labels(0) is None


def test_fewer_records_than_a_batch() -> None:
    few = [Member(federation=0, client=0, model=spec("mlp"), rows=np.array([4]))]
    clients = Cohort(few, RECORDS, seed=3)
    clients.fit("fit 0", Objective(loss="cross_entropy", steps=30, batch_size=64, learning_rate=0.05))
    logits, labels = clients.records_logits(0)
    assert logits.argmax(-1).tolist() == labels.tolist() == [RECORDS.y[4]]


@pytest.mark.parametrize("name", ["forest", "boosting", TREE])
def test_an_estimator_that_knows_one_class(name: str) -> None:
    rows = np.flatnonzero(RECORDS.y == 1)
    clients = Cohort([Member(federation=0, client=0, model=spec(name), rows=rows)], RECORDS, seed=3)
    clients.fit("fit 0", LOCAL)
    logits = clients.logits_of(0, PUBLIC)
    np.testing.assert_allclose(logits[:, 1], 0.0)
    np.testing.assert_allclose(logits[:, [0, 2]], np.log(SMALLEST_PROBABILITY), rtol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "forest", "boosting", NET])
def test_no_questions_no_answers(name: str) -> None:
    clients = cohort(name, name)
    clients.fit("fit 0", LOCAL)
    assert clients.logits(PUBLIC[:0]).shape == (2, 0, N_CLASSES)


def test_estimators_come_back_from_pseudo_labels() -> None:
    clients, resumed = (cohort("forest", "mlp", TREE) for _ in range(2))
    clients.fit("fit 0", LOCAL)
    clients.digest("digest 0", DIGEST, PUBLIC, [TARGET])
    clients.digest("digest 1", DIGEST, PUBLIC[:5], [TARGET[:5]])
    labels = {index: clients.pseudo_labels(index) for index in (0, 2)}
    resumed.restore_estimators(PUBLIC[:5], labels)  # type: ignore[arg-type]
    for index in (0, 2):
        np.testing.assert_array_equal(clients.logits_of(index, PUBLIC), resumed.logits_of(index, PUBLIC))


def test_fitting_again_leaves_an_estimator_as_it_digested() -> None:
    clients = cohort("forest", "mlp")
    clients.fit("fit 0", LOCAL)
    clients.digest("digest 0", DIGEST, PUBLIC, [TARGET])
    before = clients.logits(PUBLIC)
    clients.fit("fit 1", LOCAL)
    after = clients.logits(PUBLIC)
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[1] != after[1]).any()


def test_class_counts_weigh_the_loss() -> None:
    """A client that holds nearly one class only still learns the others, if the loss knows the counts."""
    rows = np.concatenate([np.flatnonzero(RECORDS.y == 0), np.flatnonzero(RECORDS.y == 1)[:2]])
    member = Member(federation=0, client=0, model=spec("logistic"), rows=rows)
    counts = np.bincount(RECORDS.y[rows], minlength=N_CLASSES).astype(np.float64)
    plain, balanced = (Cohort([member], RECORDS, seed=3) for _ in range(2))
    plain.fit("fit 0", LOCAL)
    balanced.fit("fit 0", LOCAL, counts=[counts])
    second = RECORDS.x[RECORDS.y == 1]
    margins = [
        each.logits_of(0, second)[:, 1] - each.logits_of(0, second)[:, 0] for each in (plain, balanced)
    ]
    assert margins[1].mean() > margins[0].mean()


@pytest.mark.parametrize("counts", [[0, 0, 0], [5, 0, 1], [1e9, 0, 3]])
def test_a_prior_is_finite_and_keeps_the_order(counts: list[float]) -> None:
    prior = log_prior(np.array(counts, dtype=np.float64))
    assert torch.isfinite(prior).all()
    assert prior.dtype == torch.float32
    assert (np.diff(prior.numpy()[np.argsort(counts)]) >= 0).all()


def test_a_prior_of_present_classes_is_their_log_count() -> None:
    np.testing.assert_allclose(log_prior(np.array([30.0, 10.0, 5.0])), np.log([30, 10, 5]), rtol=1e-6)


def test_anchors_draw_the_logits_of_their_class() -> None:
    wanted = np.array([[8.0, -4.0, -4.0], [np.nan] * 3, [-9.0, 4.0, 5.0]])
    clients = cohort("mlp", "mlp")
    objective = Objective(
        loss="cross_entropy", steps=150, batch_size=16, learning_rate=0.02, distance_weight=5.0
    )
    clients.fit("fit 0", objective, anchors=[wanted, wanted])
    logits, labels = clients.records_logits(0)
    centred = logits - logits.mean(-1, keepdims=True)
    assert np.isfinite(logits).all()
    assert np.abs(centred[labels == 0].mean(0) - wanted[0]).max() < 1.0
    assert np.abs(centred[labels == 2].mean(0) - wanted[2]).max() < 1.5  # the cross-entropy pulls as well
