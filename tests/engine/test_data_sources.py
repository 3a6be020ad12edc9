"""Every kind of source, from real files."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

from securefd.config import DataConfig, OwnerPartition
from securefd.data import load_split
from securefd.data.encoding import TableEncoder
from securefd.data.splits import Split
from securefd.errors import DataError

RNG = np.random.default_rng(0)
STEMS = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}


def idx_bytes(values: np.ndarray[Any, Any]) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx(folder: Path, part: str, n: int, *, zipped: bool) -> np.ndarray[Any, Any]:
    images = RNG.integers(0, 256, size=(n, 5, 4), dtype=np.uint8)
    labels = (np.arange(n) % 3).astype(np.uint8)
    for kind, values in (("images", images), ("labels", labels)):
        name = f"{part}-{STEMS[kind]}"
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
        else:
            (folder / name).write_bytes(idx_bytes(values))
    return images


def total(split: Split) -> int:
    return sum(len(client) for client in split.clients)


def rows(x: np.ndarray[Any, Any]) -> set[bytes]:
    return {row.tobytes() for row in x}


def test_digits() -> None:
    split = load_split(DataConfig(source="digits", public=500, test=300), 5, seed=7)
    assert split.input_shape == (1, 8, 8)
    assert split.n_classes == 10
    assert (len(split.public), len(split.test), total(split)) == (500, 300, 997)
    for x in (split.public, split.test.x, *(client.x for client in split.clients)):
        assert x.dtype == np.float32
        assert x.min() == 0
        assert x.max() == 1


def test_breast_cancer_is_scaled_by_its_public_records() -> None:
    split = load_split(DataConfig(source="breast-cancer", public=100, test=150), 3, seed=7)
    assert split.input_shape == (30,)
    assert split.test.class_names == ("benign", "malignant")
    np.testing.assert_allclose(split.public.mean(axis=0), 0, atol=1e-5)
    assert total(split) == 569 - 250
    private = np.concatenate([client.x for client in split.clients])
    assert not np.allclose(private.mean(axis=0), 0, atol=1e-3)
    assert np.mean(np.concatenate([c.y for c in split.clients] + [split.test.y])) < 0.5  # malignant is rarer


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_folder_with_its_own_test_files(tmp_path: Path, zipped: bool) -> None:
    train = write_idx(tmp_path, "train", 60, zipped=zipped)
    test = write_idx(tmp_path, "t10k", 20, zipped=zipped)
    for given in ("", str(tmp_path), 20):
        split = load_split(DataConfig(source="idx", path=str(tmp_path), public=10, test=given), 4, seed=7)
        assert split.input_shape == (1, 5, 4)
        np.testing.assert_array_equal(split.test.x[:, 0], (test / 255).astype(np.float32))
        assert (len(split.public), total(split)) == (10, 50)
        private = np.concatenate([client.x for client in split.clients])
        assert rows(np.concatenate([split.public, private])) == rows(
            (train[:, None] / 255).astype(np.float32)
        )


def test_idx_test_count_draws_from_the_test_files(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", 60, zipped=True)
    test = write_idx(tmp_path, "t10k", 20, zipped=True)
    split = load_split(DataConfig(source="idx", path=str(tmp_path), public=10, test=8), 4, seed=7)
    assert len(rows(split.test.x)) == 8
    assert rows(split.test.x) < rows((test[:, None] / 255).astype(np.float32))


def test_idx_without_test_files_and_with_public_files(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    for folder in (source, other):
        folder.mkdir()
    write_idx(source, "train", 60, zipped=False)
    public = write_idx(other, "train", 15, zipped=True)
    expected = (public[:, None] / 255).astype(np.float32)
    for path in (other, other / "train-images-idx3-ubyte.gz"):
        split = load_split(DataConfig(source="idx", path=str(source), public=str(path), test=12), 4, seed=7)
        np.testing.assert_array_equal(split.public, expected)
        assert (len(split.test), total(split)) == (12, 48)


def test_npz_images_are_left_as_they_are(tmp_path: Path) -> None:
    x = RNG.random((40, 2, 3, 3))
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(40) % 2)
    split = load_split(DataConfig(source="npz", path=str(tmp_path / "a.npz"), public=10, test=10), 2, seed=7)
    parts = [split.public, split.test.x, *(client.x for client in split.clients)]
    assert rows(np.concatenate(parts)) == rows(x.astype(np.float32))


def test_npz_table_with_public_and_test_files(tmp_path: Path) -> None:
    for name, n in (("a", 40), ("public", 30), ("test", 20)):
        np.savez(tmp_path / f"{name}.npz", x=RNG.normal(5, 3, (n, 4)), y=np.arange(n) % 2 + 10)
    config = DataConfig(
        source="npz",
        path=str(tmp_path / "a.npz"),
        public=str(tmp_path / "public.npz"),
        test=str(tmp_path / "test.npz"),
    )
    split = load_split(config, 3, seed=7)
    assert (len(split.public), len(split.test), total(split)) == (30, 20, 40)
    assert split.test.class_names == ("10", "11")
    np.testing.assert_allclose(split.public.std(axis=0), 1, atol=1e-5)


def table(n: int, hospitals: int = 3) -> pa.Table:
    return pa.table(
        {
            "age": RNG.integers(20, 90, n),
            "hospital": [f"h{i % hospitals}" for i in range(n)],
            "ward": [("north", "south", "west")[i % 3] for i in range(n)],
            "marker": RNG.normal(size=n),
            "diagnosis": [("ill", "healthy")[i % 2] for i in range(n)],
        }
    )


def write(data: pa.Table, path: Path) -> str:
    if path.suffix == ".csv":
        pa.csv.write_csv(data, path)
    else:
        pa.parquet.write_table(data, path)
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_with_owners(tmp_path: Path, kind: str) -> None:
    config = DataConfig(
        source=kind,
        path=write(table(120), tmp_path / f"a.{kind}"),
        label="diagnosis",
        owner="hospital",
        public=30,
        test=write(table(20).drop(["hospital"]), tmp_path / f"test.{kind}"),
        partition=OwnerPartition(kind="owner"),
        bounds={"age": (20.0, 90.0)},
    )
    split = load_split(config, 3, seed=7)
    assert split.test.class_names == ("healthy", "ill")
    # age, marker, three wards and `unseen`; neither label nor owner.
    assert split.input_shape == (6,)
    assert isinstance(split.encoder, TableEncoder)
    assert split.encoder.numeric_names == ("age", "marker")
    for i, client in enumerate(split.clients):
        assert client.owner is not None
        assert set(client.owner) == {i}
        assert client.owner_names == ("h0", "h1", "h2")
        assert 0 <= client.x[:, 0].min() < client.x[:, 0].max() <= 1
        np.testing.assert_array_equal(client.x[:, 2:].sum(axis=1), 1)
    assert total(split) == 90


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_public_table_needs_no_labels_and_any_column_order(tmp_path: Path, kind: str) -> None:
    public = table(25).select(["marker", "ward", "age"])
    config = DataConfig(
        source=kind,
        path=write(table(60).drop(["hospital"]), tmp_path / f"a.{kind}"),
        label="diagnosis",
        public=write(public, tmp_path / f"p.{kind}"),
        test=10,
    )
    split = load_split(config, 3, seed=7)
    np.testing.assert_allclose(split.public[:, :2].mean(axis=0), 0, atol=1e-6)
    ages = np.asarray(public["age"], dtype=float)
    np.testing.assert_allclose(split.public[:, 0], (ages - ages.mean()) / ages.std(), rtol=1e-5, atol=1e-6)


def test_parquet_types(tmp_path: Path) -> None:
    n = 40
    data = pa.table(
        {
            "flag": pa.array([i % 2 == 0 for i in range(n)]),
            "price": pa.array(range(n), pa.decimal128(10, 2)),
            "town": pa.array([f"t{i % 2}" for i in range(n)]).dictionary_encode(),
            "owner": pa.array([2**62 + i % 2 for i in range(n)]),  # equal as floats
            "y": pa.array([i % 2 for i in range(n)], pa.int8()),
        }
    )
    config = DataConfig(
        source="parquet",
        path=write(data, tmp_path / "a.parquet"),
        label="y",
        owner="owner",
        public=10,
        test=10,
        partition=OwnerPartition(kind="owner"),
    )
    split = load_split(config, 2, seed=7)
    assert split.input_shape == (5,)
    assert split.clients[0].owner_names == (str(2**62), str(2**62 + 1))


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_image_folders(tmp_path: Path, mode: str, channels: int) -> None:
    pixels: list[np.ndarray[Any, Any]] = []

    def save(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = RNG.integers(0, 256, size=(4, 6) if mode == "L" else (4, 6, 3), dtype=np.uint8)
        Image.fromarray(array).save(path)
        pixels.append(array if mode == "RGB" else array[:, :, None])

    for name in ("dog", "cat"):
        for i in range(12):
            save(tmp_path / "train" / name / f"{i}.png")
        save(tmp_path / "test" / name / "0.png")
    for i in range(5):
        save(tmp_path / "public" / f"{i}.bmp")
    (tmp_path / "train" / ".DS_Store").write_bytes(b"x")
    config = DataConfig(
        source="images",
        path=str(tmp_path / "train"),
        public=str(tmp_path / "public"),
        test=str(tmp_path / "test"),
    )
    split = load_split(config, 2, seed=7)
    assert split.input_shape == (channels, 4, 6)
    assert split.test.class_names == ("cat", "dog")
    assert split.test.y.tolist() == [0, 1]
    expected = (np.stack(pixels[-5:]).transpose(0, 3, 1, 2) / 255).astype(np.float32)
    np.testing.assert_array_equal(split.public, expected)
    assert total(split) == 24


FUNCTIONS = """
import numpy as np
from securefd.data import Dataset

rng = np.random.default_rng(3)
x = rng.random((30, 1, 2, 2))

def arrays():
    return x, ["no" if i % 3 else "yes" for i in range(30)]

def dataset():
    return Dataset(x=x.astype(np.float32), y=np.arange(30) % 2, class_names=("z", "a", "never"),
                   owner=np.arange(30) % 3, owner_names=("c", "b", "a"))

def broken():
    return 1 / 0
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "user_package_for_test").mkdir()
    (tmp_path / "user_package_for_test" / "data.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("user_package_for_test")]:
        del sys.modules[name]
    return "user_package_for_test.data"


def test_function_that_returns_arrays(user_module: str) -> None:
    split = load_split(DataConfig(source=f"{user_module}:arrays", public=6, test=6), 2, seed=7)
    assert split.test.class_names == ("no", "yes")
    assert (split.input_shape, total(split)) == ((1, 2, 2), 18)


def test_function_that_returns_a_dataset(user_module: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", x=np.ones((3, 1, 2, 2)), y=np.array(["a", "z", "never"]))
    np.savez(tmp_path / "numbers.npz", x=np.ones((3, 1, 2, 2)), y=np.array([1, 0, 2]))
    for test in ("test.npz", "numbers.npz"):
        config = DataConfig(
            source=f"{user_module}:dataset",
            public=6,
            test=str(tmp_path / test),
            partition=OwnerPartition(kind="owner"),
        )
        split = load_split(config, 3, seed=7)
        assert split.test.class_names == ("z", "a", "never")
        assert split.test.y.tolist() == [1, 0, 2]
        assert split.clients[0].owner_names == ("a", "b", "c")


def test_function_that_fails(user_module: str) -> None:
    with pytest.raises(DataError, match=r"failed with ZeroDivisionError \(division by zero\): it must be"):
        load_split(DataConfig(source=f"{user_module}:broken"), 2, seed=7)
