"""Models: shapes, seeds, and every way in which a user's factory can be wrong."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from securefd.defenses.dpsgd import check_module, check_separate
from securefd.errors import ModelError
from securefd.models import ESTIMATORS, HEAD, NETWORKS, ModelSpec
from securefd.rules import MODELS
from tests.engine.samples import HERE, NET, TREE, points

IMAGES = [(1, 28, 28), (1, 8, 8), (3, 32, 32), (3, 17, 9)]
TABLES = [(4,), (30,)]


def spec(name: str, shape: tuple[int, ...] = (4,), n_classes: int = 3) -> ModelSpec:
    return ModelSpec(name=name, shape=shape, n_classes=n_classes)


def weights(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_answer_images_with_logits(name: str, shape: tuple[int, ...]) -> None:
    model = spec(name, shape, 7)
    model.check()
    module = model.network(0).eval()
    assert module(torch.rand(2, *shape)).shape == (2, 7)
    check_module(module)
    check_separate(module, shape)


@pytest.mark.parametrize("shape", TABLES, ids=str)
@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_networks_answer_tables_with_logits(name: str, shape: tuple[int, ...]) -> None:
    assert spec(name, shape, 2).network(0)(torch.rand(5, *shape)).shape == (5, 2)


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_tables_refuse_networks_for_images(name: str) -> None:
    with pytest.raises(
        ModelError, match=rf"model '{name}' needs images .* got inputs of shape \(30,\); choose"
    ):
        spec(name, (30,)).check()


def test_numbers_of_weights() -> None:
    counts = {name: weights(spec(name, (1, 28, 28), 10).network(0)) for name in NETWORKS}
    assert counts["cnn"] == 106_122
    assert counts["logistic"] == 784 * 10 + 10
    assert counts["mlp"] == 784 * 128 + 128 + 128 * 10 + 10


@pytest.mark.parametrize("name", [*NETWORKS, NET])
def test_a_seed_gives_one_network_and_leaves_other_randomness_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    model = spec(name, (1, 8, 8))
    one, again, other = (model.network(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, again[key]) for key, value in one.items())
    assert not all(torch.equal(value, other[key]) for key, value in one.items())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_rules_of_a_configuration_know_the_same_names() -> None:
    assert {*NETWORKS, *ESTIMATORS, HEAD} == set(MODELS)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_repeat_with_their_seed(name: str, balanced: bool) -> None:
    model = spec(name)
    assert model.is_estimator
    model.check()
    x, y = points(60)
    answers = [model.estimator(seed, balanced=balanced).fit(x, y).predict_proba(x) for seed in (1, 1)]
    np.testing.assert_array_equal(*answers)
    assert model.estimator(1, balanced=balanced).class_weight == ("balanced" if balanced else None)


def test_kinds_of_estimators() -> None:
    assert isinstance(spec("forest").estimator(0, balanced=False), RandomForestClassifier)
    assert isinstance(spec("boosting").estimator(0, balanced=False), HistGradientBoostingClassifier)


def test_a_factory_of_networks() -> None:
    model = spec(NET)
    model.check()
    assert not model.is_estimator
    assert not model.is_ours
    assert model.network(0)(torch.rand(5, 4)).shape == (5, 3)


def test_a_factory_of_estimators() -> None:
    model = spec(TREE)
    model.check()
    assert model.is_estimator
    made = model.estimator(7, balanced=True)
    assert isinstance(made, DecisionTreeClassifier)
    assert made.random_state == 7
    with pytest.raises(ModelError, match="must be a network here, got DecisionTreeClassifier"):
        model.network(0)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "no_such_package.models:net",
            "can't be imported .*No module named 'no_such_package'.*; install its",
        ),
        (f"{HERE}:nowhere", "can't be imported .*nowhere.*; install its package or correct the name"),
        (f"{HERE}:nothing", "must return a torch.nn.Module or a scikit-learn .* got NoneType; correct"),
        (f"{HERE}:without_probabilities", "classifier with predict_proba, got SVC; correct the factory"),
        (f"{HERE}:failing", "failed .*KeyError: .*weights.*it is called with shape, n_classes, seed"),
        (f"{HERE}:one_output", r"must answer \(n, 3\) logits, got \(2, 1\) for n = 2; give its last layer"),
        (f"{HERE}:wrong_width", r"failed on inputs of shape \(4,\) \(RuntimeError: .*; correct it"),
        (f"{HERE}:pair", r"must answer \(n, 3\) logits, got tuple for n = 2"),
        ("lenet", "must be one of logistic, mlp, cnn, resnet, forest, boosting or .* got 'lenet'"),
    ],
)
def test_faults_show_before_training(name: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        spec(name).check()
    assert "\n" not in str(caught.value)
