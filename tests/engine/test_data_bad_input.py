"""What can't be read or trusted is refused in one sentence that says what to do."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from securefd.config import DataConfig
from securefd.data import load_split
from securefd.errors import DataError

X = np.random.default_rng(0).random((40, 3))
Y = np.arange(40) % 2


def refused(match: str, n_clients: int = 2, **config: Any) -> None:
    with pytest.raises(DataError, match=match) as caught:
        load_split(DataConfig(**({"public": 10, "test": 10} | config)), n_clients, seed=7)
    assert "\n" not in str(caught.value)


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("source", ["mnist", "", "Digits", "a.b", "a b:c", "os.path:", ":f"])
def test_unknown_source(source: str) -> None:
    refused(r"is unknown: use digits, .*or 'package.module:function'", source=source)


@pytest.mark.parametrize("source", ["idx", "npz", "csv", "parquet", "images"])
@pytest.mark.parametrize("path", ["", "/nowhere/at all"])
def test_missing_path(source: str, path: str) -> None:
    refused(rf"data.path = '{path}' is not a (file|folder): give the", source=source, path=path, label="y")


@pytest.mark.parametrize("key", ["public", "test"])
@pytest.mark.parametrize("source", ["digits", "breast-cancer"])
def test_missing_public_or_test_file(key: str, source: str) -> None:
    refused(rf"data.{key} = 'none.npz' is not a file", source=source, **{key: "none.npz"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"public": 1797}, "data.public must be a count from 0 to 1796, .* got 1797"),
        ({"public": -1}, "data.public must be a count from 0"),
        ({"public": 1000, "test": 797}, "data.test must be a count from 1 to 796, .* got 797"),
        ({"test": 0}, "data.test must be a count from 1 .* got 0"),
        ({"public": 1000, "test": 794, "n_clients": 4}, "3 private records can't go to 4 clients"),
        ({"public": ""}, "data.public = '' is not a file"),
    ],
)
def test_counts(config: dict[str, Any], message: str) -> None:
    refused(message, source="digits", **config)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            np.where(X > 0.9, np.nan, X),
            Y,
            r"column 'x\d' of .*a.npz has \d of 40 records with values .* missing",
        ),
        (np.where(X > 0.9, np.inf, X), Y, "not finite or beyond float32: fill them in"),
        (np.where(X > 0.9, -1e39, X), Y, "not finite or beyond float32: fill them in"),
        (np.where(X[:, :, None] > 0.9, np.nan, 0), Y, r"^x of .*a.npz has \d+ of 40 records with values"),
        ((X * 255).astype(np.uint8), Y, "must be floating point, got uint8: scale it"),
        (X[:, 0], Y, r"must have shape \(n, ...\) with n > 0, got \(40,\)"),
        (X[:0], Y[:0], r"with n > 0, got \(0, 3\)"),
        (X, Y[:-1], r"y of .* must have shape \(40,\), one label a record, got \(39,\)"),
        (X, Y + 0.5, "other than whole numbers below"),
        (X, Y * 1e300, "other than whole numbers below"),
        (X, np.where(Y == 0, np.nan, 1), "has 20 of 40 labels missing: fill them in"),
        (X, Y * 1j, "neither integers nor text"),
        (X, Y * 0, "has a single class, a classifier needs two"),
    ],
)
def test_npz_values(tmp_path: Path, x: Any, y: Any, message: str) -> None:
    refused(message, source="npz", path=npz(tmp_path / "a.npz", x=x, y=y))


def test_npz_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    refused("has no array 'y': use numpy.savez", source="npz", path=npz(path, x=X))
    refused("can't be read as an npz file", source="npz", path=npz(path, x=X.astype(object), y=Y))
    whole = Path(npz(path, x=X, y=Y)).read_bytes()
    for broken in (b"", b"hello", whole[:-40], whole[:200] + b"\0" * 50 + whole[250:]):
        path.write_bytes(broken)
        refused("can't be read as an npz file .*: write it again", source="npz", path=str(path))
    with path.open("wb") as file:
        np.save(file, X)
    refused("holds one array without a name", source="npz", path=str(path))


def test_public_and_test_must_have_the_form_of_the_source(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=X, y=Y)
    narrow = npz(tmp_path / "b.npz", x=X[:, :2], y=Y)
    deep = npz(tmp_path / "c.npz", x=X[:, :, None], y=Y)
    for key in ("public", "test"):
        refused(rf"data.{key} = .* differ in 'x2' \(1 in all\)", source="npz", path=path, **{key: narrow})
        refused(
            r"has records of shape \(3, 1\), the source has a table", source="npz", path=path, **{key: deep}
        )
        refused("is a table, the source has records of shape", source="npz", path=deep, **{key: path})
        refused("has 2 columns, the source has 30", source="breast-cancer", **{key: narrow})


def test_public_or_test_file_that_overlaps_private_records(tmp_path: Path) -> None:
    other = np.random.default_rng(1).random((20, 3))
    path = npz(tmp_path / "a.npz", x=X, y=Y)
    for name, copies in (("b.npz", X[:7]), ("c.npz", X[:7].astype(np.float32))):
        given = npz(tmp_path / name, x=np.concatenate([other, copies]), y=np.arange(27) % 2)
        refused(
            "contains exact copies of 7 private or test records: remove them",
            source="npz",
            path=path,
            public=given,
        )
        refused("contains exact copies of 7 records of the source", source="npz", path=path, test=given)
    clean = npz(tmp_path / "d.npz", x=other, y=np.arange(20) % 2)
    refused("exact copies of 20 test records", source="npz", path=path, public=clean, test=clean)
    refused("is the source itself: give a count or another path", source="npz", path=path, test=path)
    refused("contains exact copies of 40", source="npz", path=path, public=path)


def test_idx_files(tmp_path: Path) -> None:
    labels = tmp_path / "train-labels-idx1-ubyte"
    images = tmp_path / "train-images-idx3-ubyte.gz"
    refused(
        "has neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz", source="idx", path=str(tmp_path)
    )
    good = bytes((0, 0, 8, 3)) + struct.pack(">3I", 40, 2, 2) + bytes(range(160))
    images.write_bytes(gzip.compress(good))
    refused("has neither train-labels-idx1-ubyte", source="idx", path=str(tmp_path))
    labels.write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", 39) + bytes([0, 1, 2] * 13))
    refused("has 40 train images and 39 labels", source="idx", path=str(tmp_path))
    for broken, message in (
        (gzip.compress(good[:-1]), "announces 160 bytes of values and holds 159: download it again"),
        (gzip.compress(good + b"\0"), "announces 160 bytes of values and holds more"),
        (gzip.compress(good)[:-20], "can't be read"),
        (gzip.compress(good)[:30] + bytes(10) + gzip.compress(good)[40:], "can't be read"),
        (good, "can't be read"),
        (gzip.compress(b""), "starts with nothing"),
        (gzip.compress(b"\0\0\x0d" + good[3:]), "doesn't start like an IDX file .*starts with 00000d03"),
        (gzip.compress(bytes((0, 0, 8, 1)) + good[4:]), "in 3 dimensions"),
        (gzip.compress(bytes((0, 0, 8, 3)) + bytes(12)), "announces 0 bytes"),
    ):
        images.write_bytes(broken)
        refused(message, source="idx", path=str(tmp_path))


def test_idx_test_count_beyond_its_test_files(tmp_path: Path) -> None:
    for part, start in (("train", 0), ("t10k", 100)):
        pixels = bytes(range(start, start + 80))
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(
            bytes((0, 0, 8, 3)) + struct.pack(">3I", 20, 2, 2) + pixels
        )
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(
            bytes((0, 0, 8, 1)) + struct.pack(">I", 20) + bytes([0, 1] * 10)
        )
    refused("data.test must be 1 to 20, .* got 21", source="idx", path=str(tmp_path), public=5, test=21)
    refused("data.test must be 1 to 20, .* got 0", source="idx", path=str(tmp_path), public=5, test=0)
    public = str(tmp_path / "t10k-images-idx3-ubyte")
    refused(
        "contains exact copies of 20 test records", source="idx", path=str(tmp_path), public=public, test=""
    )


CSV = "age,ward,y\n" + "".join(f"{i},{'ab'[i % 2]},{'no' if i % 3 else 'yes'}\n" for i in range(40))


@pytest.mark.parametrize(
    ("text", "config", "message"),
    [
        (CSV, {"label": ""}, "data.label = '' is not a column of .*: use one of age, ward, y"),
        (CSV, {"label": "Y"}, "data.label = 'Y' is not a column of .*: use one of age, ward, y"),
        (CSV, {"owner": "clinic"}, "data.owner = 'clinic' is not a column"),
        (
            CSV.replace("\n7,", "\n,"),
            {},
            "column 'age' of .* has 1 of 40 records with values that are missing",
        ),
        (CSV.replace("\n7,", "\nNaN,"), {}, "column 'age' of .* has 1 of 40"),
        (CSV.replace("\n7,", "\ninf,"), {}, "column 'age' of .* has 1 of 40 records .* not finite"),
        (CSV.replace(",b,", ",b"), {}, "can't be read as csv .*: correct the file"),
        (CSV.replace("age,ward", "ward,ward"), {}, "more than one column 'ward': rename"),
        (CSV[:11], {}, "has a header and no records"),
        ("", {}, "can't be read as csv"),
        (
            CSV.replace("a,", ",").replace("b,", ",").replace("age,ward", "a,b"),
            {},
            "column 'b' of .* has no values",
        ),
        (
            CSV.replace(",b,", ",2020-01-01,").replace(",a,", ",2020-01-02,"),
            {},
            "type date32.*, must be number or text",
        ),
        ("y\n1\n2\n", {}, "has no feature column"),
    ],
)
def test_csv(tmp_path: Path, text: str, config: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    refused(message, source="csv", path=str(path), **({"label": "y"} | config))


def test_csv_whose_public_file_has_other_columns(tmp_path: Path) -> None:
    path, public = tmp_path / "a.csv", tmp_path / "p.csv"
    path.write_text(CSV)
    config = {"source": "csv", "path": str(path), "label": "y", "public": str(public)}
    public.write_text(CSV.replace("age", "years"))
    refused(r"same number columns, they differ in 'age' \(2 in all\)", **config)
    public.write_text(CSV.replace(",a,", ",1,").replace(",b,", ",2,"))
    refused("same number columns, they differ in 'ward'", **config)
    public.write_text(CSV)
    refused("contains exact copies of 40 private or test records", **config)


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    words = ["a", None] * 20
    numbers = [1, None] * 20
    config = {"source": "parquet", "path": str(path), "label": "y"}
    for columns, message in (
        ({"t": words, "y": Y}, "column 't' of .* has 20 of 40 records without a value"),
        ({"n": numbers, "y": Y}, "column 'n' of .* has 20 of 40 records with values that are missing"),
        ({"n": Y, "y": numbers}, "label column 'y' of .* has 20 of 40 labels missing"),
        ({"n": Y, "y": words}, "label column 'y' of .* has 20 of 40 labels that are neither"),
        ({"n": [[1, 2]] * 40, "y": Y}, "column 'n' of .* has type list.*, must be number or text"),
    ):
        pa.parquet.write_table(pa.table(columns), path)
        refused(message, **config)
    path.write_bytes(path.read_bytes()[:-10])
    refused("can't be read as parquet", **config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(15):
            shade = np.full((3, 4), i + 100 * (name == "dog"), np.uint8)
            Image.fromarray(shade).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_image_folders(folder: Path) -> None:
    config = {"source": "images", "path": str(folder)}
    empty = folder / "emu"
    empty.mkdir()
    refused("emu is empty: put images there or remove it", **config)
    empty.rmdir()
    (folder / "cat" / "kittens").mkdir()
    refused("kittens is a folder, must be an image", **config)
    (folder / "cat" / "kittens").rmdir()
    stray = folder / "dog.png"
    stray.write_bytes(b"")
    refused("dog.png is a file, data.path must hold one folder a class", **config)
    stray.unlink()
    bad = folder / "dog" / "x.png"
    whole = (folder / "dog" / "3.png").read_bytes()
    for content in (b"", b"hello", whole[:50], whole[:-30]):
        bad.write_bytes(content)
        refused("x.png can't be read as an image .*: replace or remove it", **config)
    Image.fromarray(np.zeros((4, 3), np.uint8)).save(bad)
    refused(r"x.png has shape \(1, 4, 3\), .* has \(1, 3, 4\)", **config)
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(bad)
    refused(r"x.png has shape \(3, 3, 4\), .*one size, all grayscale or all colour", **config)
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(bad)
    refused("x.png has mode I;16: convert it", **config)
    bad.unlink()
    refused("has records of shape|contains exact copies of 15", public=str(folder / "cat"), **config)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no_such_module_here:f", "failed with ModuleNotFoundError .*: it must be importable"),
        ("json:nothing", "failed with AttributeError"),
        ("json:__name__", "failed with TypeError"),
        ("os:getcwd", "failed with ValueError"),
        ("time:time", "failed with TypeError"),
    ],
)
def test_functions(source: str, message: str) -> None:
    refused(message, source=source)
