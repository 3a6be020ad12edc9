"""A checkpoint holds all that decides how a federation goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from securefd.checkpoint import pack, pack_state, restore, unpack_state
from securefd.federation import Federations
from securefd.folder import read_arrays, write_arrays
from securefd.methods import METHODS
from securefd.recipe import Recipe
from tests.engine.samples import N_CLASSES, NET, TREE, config, pictures, points, pool, same
from tests.engine.test_federation import play_round

Arrays = dict[str, NDArray[Any]]


def test_a_state_round_trips_through_a_file(tmp_path: Path) -> None:
    state = {"w": torch.tensor([[1.5, -2.0]]), "seen": torch.tensor(3), "empty": torch.zeros(0, 2)}
    write_arrays(
        tmp_path / "s", pack_state("client.1", state) | pack_state("client.11", {"w": torch.ones(9)})
    )
    found = unpack_state("client.1", read_arrays(tmp_path / "s"))
    assert same(found, state)
    assert found["seen"].shape == ()
    found["w"] += 1  # what a file gave can't be written to; this is a copy


def equal(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(value, other[name], equal_nan=value.dtype.kind == "f") for name, value in one.items()
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_federation_goes_on_as_if_it_had_never_stopped(tmp_path: Path, name: str) -> None:
    """Every kind of client, every method: what is restored has the same future, bit for bit."""
    settings = config(tmp_path, "mlp", TREE, NET, "forest", name=name, rounds=3)
    recipe = Recipe.of(settings, (4,), N_CLASSES)
    public = points(24, seed=9)[0]
    rows = [np.array_split(np.arange(80), 4)]

    def fresh() -> Federations:
        return Federations(recipe, pool(80), rows, public)

    whole, restored = fresh(), fresh()
    for number in range(2):
        play_round(whole, number)
    write_arrays(tmp_path / "checkpoint", pack(whole))
    restore(restored, read_arrays(tmp_path / "checkpoint"))
    assert equal(pack(whole), pack(restored))
    np.testing.assert_array_equal(whole.clients.logits(public), restored.clients.logits(public))
    for played in (whole, restored):
        play_round(played, 2)
        played.finish()
    assert equal(pack(whole), pack(restored))
    np.testing.assert_array_equal(whole.clients.logits(public), restored.clients.logits(public))


def test_networks_for_images(tmp_path: Path) -> None:
    settings = config(tmp_path, "cnn", "resnet", "boosting", images=True)
    recipe = Recipe.of(settings, (1, 8, 8), N_CLASSES)
    x, y = pictures(30)
    records, public = type(pool())(x=x, y=y, n_classes=N_CLASSES), pictures(24, seed=2)[0]
    whole, restored = (Federations(recipe, records, [[np.arange(30)] * 3], public) for _ in range(2))
    play_round(whole, 0)
    write_arrays(tmp_path / "checkpoint", pack(whole))
    restore(restored, read_arrays(tmp_path / "checkpoint"))
    np.testing.assert_array_equal(whole.clients.logits(public), restored.clients.logits(public))


def test_it_holds_no_records(tmp_path: Path) -> None:
    """Weights, consensus, labels of public inputs: nothing has a row a private record."""
    recipe = Recipe.of(config(tmp_path, "mlp", TREE, "logistic"), (4,), N_CLASSES)
    played = Federations(recipe, pool(77), [np.array_split(np.arange(77), 3)], points(24, seed=9)[0])
    play_round(played, 0)
    arrays = pack(played)
    sizes = {len(own) for own in np.array_split(np.arange(77), 3)} | {77}
    assert not [name for name, value in arrays.items() if value.shape[:1] and value.shape[0] in sizes]
    assert {name.split(".")[0] for name in arrays} == {
        *("cache", "client", "digested", "labels", "student", "taught")
    }
