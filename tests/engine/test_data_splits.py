"""Splits: seeded, disjoint even for identical records, and committed to."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import numpy as np
import pytest

from securefd.config import DataConfig, DirichletPartition
from securefd.data import Dataset, Split, commit, load_split, public_hash
from securefd.errors import DataError

SALT = bytes(range(32))


def digits(seed: int = 7, public: int = 500, test: int | str = 300) -> Split:
    config = DataConfig(
        source="digits",
        public=public,
        test=test,
        partition=DirichletPartition(kind="dirichlet", alpha=0.5),
    )
    return load_split(config, 5, seed)


def same(a: Split, b: Split) -> bool:
    return public_hash(a.public) == public_hash(b.public) and all(
        commit(x, SALT) == commit(y, SALT)
        for x, y in zip((a.test, *a.clients), (b.test, *b.clients), strict=True)
    )


def rows(x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> set[bytes]:
    return {row.tobytes() for row in x}


def test_one_seed_one_split() -> None:
    assert same(digits(), digits())
    assert not same(digits(), digits(seed=8))


def test_public_set_does_not_depend_on_the_test_set() -> None:
    assert public_hash(digits(test=100).public) == public_hash(digits(test=200).public)


def test_empty_test_is_the_default_count() -> None:
    assert same(digits(test=""), digits(test=300))


def test_no_public_set_is_possible_where_nothing_is_fitted() -> None:
    split = digits(public=0)
    assert split.public.shape == (0, 1, 8, 8)
    assert split.input_shape == (1, 8, 8)
    assert len(public_hash(split.public)) == 64


def test_public_records_are_not_in_the_order_of_the_source(tmp_path: Path) -> None:
    # Sources are often sorted by class, and the order would give the labels away.
    x = np.arange(100.0).reshape(100, 1, 1)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(100) // 50)
    split = load_split(DataConfig(source="npz", path=str(tmp_path / "a.npz"), public=50, test=10), 2, seed=7)
    values = split.public.ravel()
    assert abs(np.corrcoef(values, np.arange(50))[0, 1]) < 0.5


def test_identical_records_stay_on_one_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 60, 200).astype(float)[:, None] * [1.0, -1.0]
    x[0, 0] = -0.0  # the same number as 0.0
    x[0, 1] = 0.0
    np.savez(tmp_path / "a.npz", x=x[:, :, None], y=np.arange(200) % 3)
    config = DataConfig(source="npz", path=str(tmp_path / "a.npz"), public=50, test=40)
    for seed in range(5):
        split = load_split(config, 3, seed)
        assert (len(split.public), len(split.test)) == (50, 40)
        private = np.concatenate([client.x for client in split.clients])
        parts = [rows(part + np.float32(0)) for part in (split.public, split.test.x, private)]
        assert len(private) == 110
        assert len(set().union(*parts)) == sum(map(len, parts))


def test_identical_records_that_make_a_count_impossible(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.repeat(np.eye(4), 5, axis=0)[:, :, None], y=np.arange(20) % 2)
    config = DataConfig(source="npz", path=str(tmp_path / "a.npz"), public=7, test=5)
    with pytest.raises(
        DataError, match=r"data\.public = 7 can't be split off exactly, .*: use 5, or remove dup"
    ):
        load_split(config, 2, 7)
    split = load_split(config.model_copy(update={"public": 5}), 2, 7)
    assert len(rows(split.public)) == len(rows(split.test.x)) == 1


def test_split_off_public_records_avoid_a_given_test_set(tmp_path: Path) -> None:
    x = np.arange(30.0)[:, None, None]
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(30) % 2)
    np.savez(tmp_path / "t.npz", x=x[-5:] + 100, y=np.arange(5) % 2)
    config = DataConfig(source="npz", path=str(tmp_path / "a.npz"), public=10, test=str(tmp_path / "t.npz"))
    split = load_split(config, 2, 7)
    assert len(split.test) == 5
    assert not rows(split.public) & rows(split.test.x)


def test_public_hash_is_over_type_shape_and_values() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    expected = hashlib.sha256(b"securefd public set\0<f4 (3, 2)\0" + x.astype("<f4").tobytes()).hexdigest()
    assert public_hash(x) == expected
    assert public_hash(x.astype(">f4")) == expected
    assert public_hash(np.asfortranarray(x)) == expected
    others = [x.reshape(2, 3), x.astype(np.float64), x + 1, x[::-1]]
    assert expected not in {public_hash(other) for other in others}


def test_commitment_is_a_salted_mac_over_records_and_labels() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    y = np.array([0, 1, 1])
    data = Dataset(x=x, y=y, class_names=("a", "b"))
    message = (
        b"securefd private records\0<f4 (3, 2)\0"
        + x.astype("<f4").tobytes()
        + b"<i8 (3,)\0"
        + y.astype("<i8").tobytes()
    )
    expected = hmac.new(SALT, message, hashlib.sha256).hexdigest()
    assert commit(data, SALT) == expected
    assert commit(data, SALT[::-1]) != expected
    assert commit(Dataset(x=x, y=1 - y, class_names=("a", "b")), SALT) != expected
    assert commit(Dataset(x=x + 1, y=y, class_names=("a", "b")), SALT) != expected
    with pytest.raises(DataError, match="at least 16 bytes, got 15"):
        commit(data, SALT[:15])


def test_private_values_stay_out_of_repr() -> None:
    data = Dataset(
        x=np.full((2, 2), 123.25, np.float32),
        y=np.array([0, 1]),
        class_names=("a", "b"),
        owner=np.array([1, 0]),
        owner_names=("p", "q"),
    )
    assert "123.25" not in repr(data)
    assert "array" not in repr(data)
    assert "Dataset" not in repr(digits())


def test_dataset_takes_records_in_order() -> None:
    data = Dataset(
        x=np.arange(6, dtype=np.float32).reshape(3, 2),
        y=np.array([0, 1, 1]),
        class_names=("a", "b", "c"),
        owner=np.array([1, 0, 1]),
        owner_names=("p", "q"),
    )
    taken = data.take(np.array([2, 0]))
    assert (len(taken), taken.n_classes) == (2, 3)
    np.testing.assert_array_equal(taken.x, [[4, 5], [0, 1]])
    assert taken.y.tolist() == [1, 0]
    assert taken.owner is not None
    assert taken.owner.tolist() == [1, 1]
    assert len(data.take(np.array([], dtype=np.int64))) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((3, 2))}, "x must be float32 .* got float64"),
        ({"x": np.zeros(3, np.float32)}, r"of shape \(n, ...\), got float32 of shape \(3,\)"),
        ({"y": np.array([0, 1])}, r"y must be int64 of shape \(3,\)"),
        ({"y": np.array([0.0, 1.0, 1.0])}, "y must be int64 .* got float64"),
        ({"y": np.array([0, 1, 2])}, "y must lie in 0 to 1, got 0 to 2"),
        ({"y": np.array([0, 1, -1])}, "y must lie in 0 to 1, got -1 to 1"),
        ({"owner": np.array([0, 1, 2])}, "owner must lie in 0 to 1, got 0 to 2"),
    ],
)
def test_dataset_refuses_what_does_not_fit(change: dict[str, object], message: str) -> None:
    good = {
        "x": np.zeros((3, 2), np.float32),
        "y": np.array([0, 1, 1]),
        "class_names": ("a", "b"),
        "owner": np.array([0, 1, 1]),
        "owner_names": ("p", "q"),
    }
    with pytest.raises(DataError, match=message):
        Dataset(**(good | change))  # type: ignore[arg-type]
