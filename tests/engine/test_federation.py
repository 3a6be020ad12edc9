"""Federations: each method plays, and federations side by side don't touch one another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from securefd.config import Config
from securefd.defenses.sealing import PartialSum
from securefd.errors import DataError
from securefd.federation import Asked, Consensus, Federations
from securefd.fleet import State
from securefd.methods import METHODS
from securefd.recipe import Recipe
from tests.engine.samples import N_CLASSES, TREE, config, points, pool, same

PUBLIC = points(24, seed=9)[0]
RECORDS = pool(90)
ROWS = np.array_split(np.arange(90), 3)
Settings = Callable[..., Config]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return lambda *models, **changes: config(tmp_path, *models, **changes)


def federations(settings: Config, *rows: list[np.ndarray], **changes: object) -> Federations:
    recipe = Recipe.of(settings, (4,), N_CLASSES)
    return Federations(recipe, RECORDS, rows or [ROWS], PUBLIC, **changes)  # type: ignore[arg-type]


def play_round(played: Federations, number: int) -> tuple[Asked, list[Consensus]]:
    """One round as a run plays it, without sealing."""
    played.fit(number)
    asked = played.ask(number)
    vectors = played.answer(asked)
    totals = [np.sum(own, axis=0) for own in vectors]
    parts = [[PartialSum(total=own, clients=(k,)) for k, own in enumerate(each)] for each in vectors]
    consensus = played.combine(asked, totals, parts)
    if played.recipe.method.public:
        played.digest(asked, consensus)
    else:
        played.set_anchors(totals, vectors)
    return asked, consensus


def play(played: Federations) -> list[tuple[Asked, list[Consensus]]]:
    rounds = [play_round(played, number) for number in range(played.recipe.settings.rounds)]
    played.finish()
    return rounds


def student(played: Federations, federation: int = 0) -> State:
    assert played.students is not None
    return played.students.states[federation]


@pytest.mark.parametrize("name", METHODS)
def test_each_method_plays(settings: Settings, name: str) -> None:
    played = federations(settings("mlp", "logistic", TREE, name=name, local_steps=40))
    row = METHODS[name]
    for number, (asked, (consensus,)) in enumerate(play(played)):
        assert asked.round == number
        shape = (12, N_CLASSES) if row.public else (N_CLASSES, N_CLASSES)
        assert consensus.target.shape == shape
        assert (
            consensus.mean.shape
            == consensus.fresh.shape
            == ((len(asked.asked), N_CLASSES) if row.public else shape)
        )
        assert np.isfinite(consensus.target).all()
        if row.loss in ("cross_entropy", "kl"):
            np.testing.assert_allclose(consensus.target.sum(-1), 1.0, atol=1e-6)
    labels = points(24, seed=9)[1]
    assert ((played.clients.logits(PUBLIC).argmax(-1) == labels).mean(-1) > 0.6).all()
    if row.public:
        assert played.students is not None
        assert len(student(played)) == 2  # weights and biases of a logistic regression
    else:
        assert played.students is None


def test_the_mean_is_that_of_the_clients_answers(settings: Settings) -> None:
    played = federations(settings("mlp", "forest", "logistic"))
    played.fit(0)
    asked = played.ask(0)
    own = softmax(played.clients.logits(PUBLIC[asked.queries]).astype(np.float64), axis=-1)
    (vectors,) = played.answer(asked)
    (consensus,) = played.combine(asked, [np.sum(vectors, axis=0)])
    np.testing.assert_allclose(consensus.mean, own.mean(axis=0), atol=2**-20)
    np.testing.assert_allclose(consensus.target, softmax(own.mean(axis=0) / 0.1, axis=-1), atol=1e-4)


def test_a_broadcast_is_what_float32_carries(settings: Settings) -> None:
    _, (consensus,) = play_round(federations(settings()), 0)
    np.testing.assert_array_equal(consensus.fresh, consensus.fresh.astype(np.float32).astype(np.float64))


@pytest.mark.parametrize("name", METHODS)
def test_federations_side_by_side_equal_single_ones(settings: Settings, name: str) -> None:
    """A stack of another height may round differently, so logits are held to a tolerance."""
    rng = np.random.default_rng(1)
    others = [own[rng.random(len(own)) < 0.6] for own in ROWS]
    chosen = settings("mlp", TREE, "mlp", name=name)
    single, beside = federations(chosen, ROWS), federations(chosen, ROWS, others)
    one, both = play(single), play(beside)
    for (_, (alone,)), (_, pair) in zip(one, both, strict=True):
        np.testing.assert_allclose(alone.target, pair[0].target, atol=1e-4)
    logits = beside.clients.logits(PUBLIC)
    np.testing.assert_allclose(single.clients.logits(PUBLIC), logits[:3], atol=1e-3)
    assert (logits[0] != logits[3]).any()


def test_a_federation_does_not_see_its_neighbour(settings: Settings) -> None:
    """Stacked alike, whatever the neighbour holds: bit for bit."""
    chosen = settings()
    one = federations(chosen, ROWS, [own[:5] for own in ROWS])
    other = federations(chosen, ROWS, [own[5:] for own in ROWS])
    for each in (one, other):
        play(each)
    assert same(student(one), student(other))
    assert not same(student(one, 1), student(other, 1))
    assert all(same(one.clients.states[k], other.clients.states[k]) for k in range(3))


@pytest.mark.parametrize("name", ["balanced", "cfd"])
def test_workers_change_no_bit(settings: Settings, name: str) -> None:
    played = [
        federations(settings("mlp", "forest", TREE, name=name), ROWS, ROWS, workers=workers)
        for workers in (1, 2)
    ]
    for each in played:
        play(each)
    one, two = (each.clients.logits(PUBLIC) for each in played)
    np.testing.assert_array_equal(one, two)


def test_dual_distillation_broadcasts_the_student(settings: Settings) -> None:
    played = federations(settings(name="cfd", bits=3))
    played.fit(0)
    asked = played.ask(0)
    (vectors,) = played.answer(asked)
    (consensus,) = played.combine(asked, [np.sum(vectors, axis=0)])
    assert played.students is not None
    own = softmax(played.students.logits(PUBLIC[asked.asked])[0].astype(np.float64), axis=-1)
    assert np.abs(consensus.fresh - own).max() <= 1 / 7
    np.testing.assert_allclose(consensus.fresh * 7, np.rint(consensus.fresh * 7), atol=1e-9)
    # the clients digest the broadcast, the student what the clients said
    np.testing.assert_array_equal(played.caches[0].lookup(asked.queries), consensus.fresh)
    np.testing.assert_allclose(played.taught[0].lookup(asked.queries), consensus.mean, atol=1e-6)
    before = student(played)
    played.digest(asked, [consensus])
    assert same(student(played), before)


def test_a_cache_asks_only_for_what_is_new(settings: Settings) -> None:
    played = federations(
        settings("mlp", "forest", TREE, name="dsfl-power", queries=24, rounds=3, cache_rounds=1)
    )
    rounds = play(played)
    assert [len(asked.asked) for asked, _ in rounds] == [24, 0, 24]
    (_, (first,)), (_, (second,)), _ = rounds
    np.testing.assert_array_equal(second.target, first.target)
    assert second.fresh.shape == (0, N_CLASSES)


def test_a_cache_mixes_old_and_new(settings: Settings) -> None:
    played = federations(settings(name="dsfl-power"))
    _, (asked, (second,)) = play(played)
    assert 0 < len(asked.asked) < 12
    new = np.isin(asked.queries, asked.asked)
    np.testing.assert_array_equal(second.target[new], second.fresh)
    np.testing.assert_array_equal(second.target[~new], played.caches[0].lookup(asked.queries[~new]))


def test_fd_draws_clients_to_the_others_means(settings: Settings) -> None:
    # Class 2 is client 2's alone.
    rows = [np.flatnonzero(np.isin(RECORDS.y, classes)) for classes in ((0, 1), (0, 1), (1, 2))]
    played = federations(settings(name="fd", local_steps=30), rows)
    asked, (consensus,) = play_round(played, 0)
    assert len(asked.asked) == 0
    own = []
    for k in range(3):
        logits, labels = played.clients.records_logits(k)
        centred = np.clip(logits - logits.mean(-1, keepdims=True), -10, 10)
        own.append({c: centred[labels == c].mean(0) for c in range(3) if (labels == c).any()})
    anchors = played.anchors
    np.testing.assert_allclose(anchors[0][0], own[1][0], atol=1e-3)  # type: ignore[index]
    np.testing.assert_allclose(anchors[0][1], (own[1][1] + own[2][1]) / 2, atol=1e-3)  # type: ignore[index]
    np.testing.assert_allclose(anchors[0][2], own[2][2], atol=1e-3)  # type: ignore[index]
    assert np.isnan(anchors[2][2]).all()  # type: ignore[index]
    np.testing.assert_allclose(consensus.target[0], (own[0][0] + own[1][0]) / 2, atol=1e-3)
    before = played.clients.states[0]
    played.fit(1)
    assert not same(played.clients.states[0], before)
    assert all(np.isfinite(value.numpy()).all() for value in played.clients.states[2].values())


def test_rehearsal_takes_the_place_of_a_digest_until_the_last_round(settings: Settings) -> None:
    played = federations(settings(name="balanced"))
    played.fit(0)
    asked = played.ask(0)
    (vectors,) = played.answer(asked)
    (consensus,) = played.combine(asked, [np.sum(vectors, axis=0)])
    before = dict(played.clients.states)
    played.digest(asked, [consensus])
    assert all(same(before[k], played.clients.states[k]) for k in before)
    np.testing.assert_array_equal(played.digested, asked.queries)
    play_round(played, 1)  # the last one
    after = dict(played.clients.states)
    asked = played.ask(1)
    assert not same(before[0], after[0])

    without = federations(settings(name="balanced"))
    without.fit(0)
    without.fit(1)  # nothing was digested, so nothing is rehearsed
    rehearsed = federations(settings(name="balanced"))
    play_round(rehearsed, 0)
    rehearsed.fit(1)
    assert not same(without.clients.states[0], rehearsed.clients.states[0])


def test_the_student_ends_with_everything_that_was_ever_answered(settings: Settings) -> None:
    played = federations(settings(rounds=3))
    seen = set()
    for number in range(3):
        asked, _ = play_round(played, number)
        seen |= set(asked.queries.tolist())
    assert set(np.flatnonzero(played.taught[0].made >= 0)) == seen
    before = student(played)
    played.finish()
    assert not same(student(played), before)


def test_counts_are_the_true_ones_unless_others_are_given(settings: Settings) -> None:
    chosen = settings(name="balanced")
    given = [[np.array([7.0, 0.0, 3.0])] * 3]
    for played, expected in (
        (federations(chosen), np.array([30.0, 30.0, 30.0])),
        (federations(chosen, counts=given), np.array([21.0, 0.0, 9.0])),
    ):
        asked = played.ask(0)
        (vectors,) = played.answer(asked)
        counts = np.sum(vectors, axis=0)[-N_CLASSES:] / (2**played.recipe.bits - 1) * 1000
        np.testing.assert_allclose(counts, expected, atol=0.01)


def test_a_client_without_records_is_refused(settings: Settings) -> None:
    with pytest.raises(DataError, match="client 1 has no records to learn from; give it some"):
        federations(settings(), [ROWS[0], ROWS[1][:0], ROWS[2]])
