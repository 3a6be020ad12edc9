"""A manifest holds a run to its configuration, its data and its versions, and tells nothing about records."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from securefd import manifest
from securefd.config import Config, PerformanceConfig
from securefd.data.splits import Split, commit, load_split, public_hash
from securefd.errors import RunMismatch
from securefd.folder import read_json
from tests.engine.samples import config


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    return config(tmp_path)


@pytest.fixture
def split(settings: Config) -> Split:
    return load_split(settings.data, 3, settings.seed)


@pytest.fixture
def run(tmp_path: Path, settings: Config, split: Split) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    manifest.establish(folder, settings, split)
    return folder


def test_it_pins_the_public_set_and_commits_to_private_records(run: Path, split: Split) -> None:
    written = read_json(run / "manifest.json")
    assert written["public set"] == {"sha256": public_hash(split.public), "inputs": 24}
    assert written["input shape"] == [4]
    assert written["classes"] == ["0", "1", "2"]
    salts = [(run / "clients" / str(k) / "salt").read_bytes() for k in range(3)]
    salts.append((run / "salt").read_bytes())
    assert len(set(salts)) == 4
    assert {len(salt) for salt in salts} == {32}
    expected = [commit(own, salt) for own, salt in zip([*split.clients, split.test], salts, strict=True)]
    assert [each["commitment"] for each in (*written["clients"], written["test set"])] == expected


def test_commitments_of_one_data_set_differ_from_run_to_run(
    tmp_path: Path, run: Path, settings: Config, split: Split
) -> None:
    (tmp_path / "other").mkdir()
    other = manifest.establish(tmp_path / "other", settings, split)
    assert other["clients"] != read_json(run / "manifest.json")["clients"]
    assert other["public set"] == read_json(run / "manifest.json")["public set"]


def test_the_same_again_changes_nothing(run: Path, settings: Config, split: Split) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    manifest.establish(run, settings, split)
    faster = settings.model_copy(update={"performance": PerformanceConfig(workers=7)})
    manifest.establish(run, faster, split)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rounds": 3}, "differs in method"),
        ({"seed": 6}, "differs in seed"),
        ({"student": {"model": "mlp"}, "sealing": {"kind": "masked"}}, "differs in sealing, student"),
    ],
)
def test_another_configuration(tmp_path: Path, run: Path, split: Split, changes: dict, what: str) -> None:
    with pytest.raises(RunMismatch, match=f"holds a run of another configuration .*{what}.*; choose another"):
        manifest.establish(run, config(tmp_path, **changes), split)


@pytest.mark.parametrize("client", [0, 2])
def test_other_private_records(run: Path, settings: Config, split: Split, client: int) -> None:
    own = split.clients[client]
    x = own.x.copy()
    x[-1, -1] += 1e-3
    clients = [*split.clients]
    clients[client] = replace(own, x=x)
    changed = replace(split, clients=tuple(clients))
    with pytest.raises(RunMismatch, match="was made with other private records; restore them, or choose"):
        manifest.establish(run, settings, changed)
    with pytest.raises(RunMismatch, match="other private records"):
        manifest.check_data(run, read_json(run / "manifest.json"), changed)
    manifest.check_data(run, read_json(run / "manifest.json"), split)


def test_another_label_of_one_record(run: Path, settings: Config, split: Split) -> None:
    own = split.clients[1]
    changed = replace(own, y=np.roll(own.y, 1))
    clients = (split.clients[0], changed, split.clients[2])
    with pytest.raises(RunMismatch, match="other private records"):
        manifest.establish(run, settings, replace(split, clients=clients))


def test_another_test_set(run: Path, settings: Config, split: Split) -> None:
    test = replace(split.test, y=np.roll(split.test.y, 1))
    with pytest.raises(RunMismatch, match="was made with other test set; restore"):
        manifest.establish(run, settings, replace(split, test=test))


def test_another_public_set(run: Path, settings: Config, split: Split) -> None:
    with pytest.raises(RunMismatch, match="was made with other public set; restore"):
        manifest.establish(run, settings, replace(split, public=split.public[::-1].copy()))


def test_other_versions(run: Path, settings: Config, split: Split, monkeypatch) -> None:
    installed = manifest.versions()
    assert {"securefd", "python", "torch", "numpy", "scikit-learn"} <= installed.keys()
    monkeypatch.setattr(manifest, "versions", lambda: {**installed, "torch": "1.0"})
    with pytest.raises(RunMismatch, match=r"other versions of Python or of the packages .* \(manifest.json"):
        manifest.establish(run, settings, split)


def test_it_holds_no_seed_of_noise_and_no_salt(run: Path, split: Split) -> None:
    text = (run / "manifest.json").read_text()
    for k in range(3):
        salt = (run / "clients" / str(k) / "salt").read_bytes()
        assert salt.hex() not in text
        assert public_hash(split.clients[k].x) not in text
    assert (run / "salt").read_bytes().hex() not in text
    assert json.loads(text)["format"] == manifest.FORMAT
    assert not set(os.listdir(run)) - {"config.toml", "manifest.json", "clients", "salt"}
