"""A recipe is what a configuration means for learning: queries, layouts, objectives."""

from pathlib import Path

import numpy as np
import pytest

from securefd.config import Config, SealingConfig, StudentConfig
from securefd.defenses.quantise import quantise
from securefd.errors import ModelError
from securefd.methods import METHODS
from securefd.recipe import Recipe
from tests.engine.samples import DPSGD, N_CLASSES, TREE, config


@pytest.fixture
def settings(tmp_path: Path):
    return lambda *models, **changes: config(tmp_path, *models, **changes)


def recipe(settings: Config) -> Recipe:
    return Recipe.of(settings, (4,), N_CLASSES)


def test_one_model_a_client_in_the_order_of_the_groups(settings) -> None:
    made = recipe(settings("mlp", "forest", "mlp"))
    assert [spec.name for spec in made.models] == ["mlp", "forest", "mlp"]
    assert {(spec.shape, spec.n_classes) for spec in (*made.models, made.student)} == {((4,), N_CLASSES)}


def test_queries_are_drawn_anew_each_round_and_known_to_everyone(settings) -> None:
    one, again = recipe(settings(queries=10)), recipe(settings(queries=10))
    rounds = [one.queries(number, 24) for number in range(20)]
    for number, queries in enumerate(rounds):
        assert len(queries) == 10
        assert (np.diff(queries) > 0).all()
        assert queries[0] >= 0
        assert queries[-1] < 24
        np.testing.assert_array_equal(queries, again.queries(number, 24))
    assert len({tuple(queries) for queries in rounds}) == 20
    assert set(np.concatenate(rounds)) == set(range(24))


def test_no_more_queries_than_public_inputs(settings) -> None:
    np.testing.assert_array_equal(recipe(settings(queries=24)).queries(0, 7), np.arange(7))


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_what_it_needs(settings, name: str) -> None:
    made = recipe(settings(name=name))
    row = METHODS[name]
    assert (made.student is not None) == row.public
    assert len(made.queries(0, 24)) == (12 if row.public else 0)
    assert made.balanced == (name == "balanced")
    assert made.digest().loss == row.loss
    assert made.local().loss == "cross_entropy"
    assert (made.local().distance_weight > 0) == (name == "fd")
    assert not made.private


def test_lengths_of_training(settings) -> None:
    made = recipe(
        settings(
            local_steps=5, digest_steps=7, batch_size=9, learning_rate=0.5, student=StudentConfig(steps=11)
        )
    )
    assert [made.local().steps, made.digest().steps, made.final().steps] == [5, 7, 11]
    assert (made.local().batch_size, made.local().learning_rate) == (9, 0.5)


def test_bits_come_from_the_method_or_the_sealing(settings) -> None:
    assert recipe(settings()).bits == recipe(settings(sealing=SealingConfig(kind="masked"))).bits == 20
    assert recipe(settings(sealing=SealingConfig(kind="homomorphic"))).bits < 16
    assert recipe(settings(name="cfd", bits=3)).bits == 3
    assert recipe(settings(name="fedct")).bits == 1


def test_decoding_undoes_the_grid(settings) -> None:
    made = recipe(settings(name="balanced"))
    rng = np.random.default_rng(0)
    arrays = (rng.random((5, N_CLASSES)) * 40, rng.random(N_CLASSES) * 40)
    vector = quantise(arrays, made.blocks(5), made.bits)
    np.testing.assert_allclose(made.decoded(vector, 5), arrays[0], atol=1000 / 2**20)


def test_private_by_dpsgd_only(settings) -> None:
    assert recipe(settings(privacy={**DPSGD, "epsilon": 4.0})).private
    assert not recipe(settings(privacy={**DPSGD, "route": "none"})).private


def test_a_students_factory_must_make_a_network(settings) -> None:
    with pytest.raises(
        ModelError, match=r"student\.model must be a network, because .* got '.*:tree', .*: choose"
    ):
        recipe(settings(student=StudentConfig(model=TREE)))


def test_models_are_checked_before_anything_is_trained(settings) -> None:
    with pytest.raises(ModelError, match="needs images"):
        recipe(settings("mlp", "cnn", "mlp"))
