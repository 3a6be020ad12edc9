"""Features of public inputs: the same for a seed, of each input alone, and better than pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from securefd.checkpoint import pack_state, unpack_state
from securefd.encoders import encoder
from securefd.errors import DataError, ModelError
from securefd.features import BATCH, Features, bent, contrast, learn
from securefd.folder import read_arrays, write_arrays
from tests.engine.samples import pictures, points, same

X, Y = pictures(48)


@pytest.fixture(scope="module")
def learnt() -> Features:
    return learn(X, seed=3, steps=20)


def test_the_seed_decides_everything(learnt: Features) -> None:
    before = torch.random.get_rng_state()
    torch.manual_seed(99)
    again = learn(X, seed=3, steps=20)
    assert torch.initial_seed() == 99
    assert same(again.state, learnt.state)
    assert not same(learn(X, seed=4, steps=20).state, learnt.state)
    torch.random.set_rng_state(before)


def test_features_of_an_image_depend_on_no_other_image(learnt: Features) -> None:
    one_by_one = learnt.each(X)
    assert one_by_one.shape == (48, 256)
    assert one_by_one.dtype == np.float32
    for k in (0, 7, 47):
        assert np.array_equal(learnt.each(X[k : k + 1])[0], one_by_one[k])
    np.testing.assert_allclose(learnt(X), one_by_one, atol=1e-5)
    np.testing.assert_allclose(learnt(np.concatenate([X] * 12))[-48:], one_by_one, atol=1e-5)


def test_labels_and_private_records_have_no_part(learnt: Features) -> None:
    state = {name: value.clone() for name, value in learnt.state.items()}
    learnt(pictures(500, seed=9)[0])
    learnt.each(pictures(20, seed=9)[0])
    assert same(learnt.state, state)


def test_they_are_kept_in_a_checkpoint(tmp_path: Path, learnt: Features) -> None:
    path = tmp_path / "features.safetensors"
    write_arrays(path, pack_state("features", learnt.state))
    again = Features(shape=(1, 8, 8), state=unpack_state("features", read_arrays(path)))
    assert np.array_equal(again(X), learnt(X))


def test_learning_tells_images_apart_that_were_bent() -> None:
    """Two views of an image are nearest to each other more often than by a network that learnt nothing."""
    images = torch.from_numpy(pictures(64, seed=5)[0])
    draw = torch.Generator().manual_seed(0)
    one, other = (bent(images, draw).numpy() for _ in range(2))

    def found(steps: int) -> float:
        features = learn(X, seed=1, steps=steps)
        a, b = (features(view) - features(X).mean(axis=0) for view in (one, other))
        a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
        return float((a @ b.T).diagonal().mean() - (a @ b.T).mean())

    assert found(60) > found(1) + 0.05


def test_bent_images_are_images_and_each_in_its_own_way() -> None:
    for channels in (1, 3):
        images = torch.rand((20, channels, 12, 9), generator=torch.Generator().manual_seed(0))
        seen = bent(images, torch.Generator().manual_seed(1))
        assert seen.shape == images.shape
        assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
        assert torch.equal(seen, bent(images, torch.Generator().manual_seed(1)))
        alike = bent(images[:1].expand(20, -1, -1, -1), torch.Generator().manual_seed(2))
        assert len({each.numpy().tobytes() for each in alike}) == 20


def test_the_loss_is_that_of_each_view_written_out() -> None:
    rng = np.random.default_rng(0)
    views = rng.normal(size=(10, 6))
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    total = 0.0
    for i in range(10):
        partner = (i + 5) % 10
        weights = {k: math.exp(views[i] @ views[k] / 0.3) for k in range(10) if k != i}
        total -= math.log(weights[partner] / sum(weights.values()))
    given = torch.from_numpy(views)
    assert float(contrast(given[:5], given[5:], 0.3)) == pytest.approx(total / 10)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (1, 16, 20), (2, 3, 5), (1, 1, 1)])
def test_images_of_every_size_have_256_features(shape: tuple[int, int, int]) -> None:
    assert encoder(shape).eval()(torch.zeros((2, *shape))).shape == (2, 256)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_few_public_images_are_enough_to_learn_something(n: int) -> None:
    assert np.isfinite(learn(X[:n], seed=0, steps=3)(X)).all()


def test_images_of_another_range_have_the_same_features() -> None:
    """Such as standardised ones, which are half below 0."""
    grey = np.round((X - X.min()) / (X.max() - X.min()) * 16) / 16  # so that floats round nothing
    one, other = (learn(each, seed=3, steps=5) for each in (grey, 4 * grey - 2))
    assert np.array_equal(one(grey), other(4 * grey - 2))
    assert np.isfinite(learn(np.full((4, 1, 8, 8), 3.0, dtype=np.float32), seed=0, steps=2)(X)).all()


def test_more_images_than_a_batch() -> None:
    many = pictures(BATCH + 30)[0]
    assert np.isfinite(learn(many, seed=0, steps=3)(X)).all()


def test_a_table_is_standardised_by_its_public_rows() -> None:
    public = (points(40)[0] * [1, 10, 0.1, 0] + [5, 0, -1, 3]).astype(np.float32)
    features = learn(public, seed=0)
    seen = features(public)
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(axis=0), [1, 1, 1, 0], atol=1e-5)
    other = points(10, seed=8)[0]
    expected = (other[:, :3] - public.mean(axis=0)[:3]) / public.std(axis=0)[:3]
    np.testing.assert_allclose(features.each(other)[:, :3], expected, rtol=1e-4)
    assert not features(other)[:, 3].any()
    assert same(learn(public, seed=1).state, features.state)


def test_nothing_to_look_at(learnt: Features) -> None:
    assert learnt(X[:0]).shape == learnt.each(X[:0]).shape == (0, 256)


def test_inputs_of_another_shape_are_refused(learnt: Features) -> None:
    with pytest.raises(DataError, match=r"must have shape \(1, 8, 8\), got \(1, 4, 8\)"):
        learnt(X[:, :, :4])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_public_inputs_that_are_not_finite_are_refused(bad: float) -> None:
    public = X.copy()
    public[3, 0, 2, 2] = bad
    with pytest.raises(DataError, match="finite"):
        learn(public, seed=0)


def test_public_inputs_that_teach_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="2 or more"):
        learn(X[:1], seed=0)
    with pytest.raises(ModelError, match=r"got \(3, 4\)"):
        learn(np.zeros((5, 3, 4), dtype=np.float32), seed=0)
