"""What a run folder says of itself: versions, the public set's hash, commitments to private data."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from securefd import __version__
from securefd.canaries import commitments, draw_secrets
from securefd.config import Config, config_hash, parse_config, to_toml
from securefd.data.dataset import Dataset
from securefd.data.splits import Split, commit, public_hash
from securefd.errors import RunMismatch
from securefd.folder import make, read_bytes, read_json, write_bytes, write_json

FORMAT = 1
DEPENDENCIES = (
    "torch",
    "opacus",
    "tenseal",
    "cryptography",
    "numpy",
    "scipy",
    "scikit-learn",
    "dp-accounting",
)
SALT_BYTES = 32
_OTHERS = {
    "classes": "other classes",
    "clients": "other private records",
    "versions": "other versions of Python or of the packages it depends on (manifest.json lists them)",
}


def establish(folder: Path, config: Config, split: Split) -> dict[str, Any]:
    """Write the configuration and manifest of a new run, or hold those of an old one to what is asked now.

    Raises RunMismatch, naming what differs, for a folder of another configuration, data or version.
    """
    written = folder / "config.toml"
    if written.exists():
        _same_config(folder, config)
    else:
        write_bytes(written, to_toml(config).encode())
    make(folder / "clients")
    for place in _salted(folder, split):
        _draw_salt(place)
    wanted = config.audit.canaries
    if wanted is not None and not (folder / "manifest.json").exists():
        draw_secrets(folder, len(split.clients))
    now = {
        "format": FORMAT,
        "configuration": config_hash(config),
        **_of_data(folder, split),
        **({} if wanted is None else {"canaries": commitments(folder, config, split)}),
        "device": config.performance.device,
        "versions": versions(),
    }
    if (folder / "manifest.json").exists():
        _same(folder, read_json(folder / "manifest.json"), now)
    else:
        write_json(folder / "manifest.json", now)
    return now


def check_data(folder: Path, manifest: Mapping[str, Any], split: Split) -> None:
    """Raise RunMismatch where ``split`` isn't what the run was made with: the files have changed since."""
    _same(folder, manifest, _of_data(folder, split))


def _of_data(folder: Path, split: Split) -> dict[str, Any]:
    test, *clients = (
        {"commitment": commit(own, read_bytes(path))} for path, own in _salted(folder, split).items()
    )
    return {
        "public set": {"sha256": public_hash(split.public), "inputs": len(split.public)},
        "input shape": list(split.input_shape),
        "classes": list(split.test.class_names),
        "test set": test,
        "clients": clients,
    }


def _salted(folder: Path, split: Split) -> dict[Path, Dataset]:
    """What is committed to, by the place of its salt: the test set, then what each client holds."""
    places = [folder / "clients" / str(index) / "salt" for index in range(len(split.clients))]
    return dict(zip([folder / "salt", *places], [split.test, *split.clients], strict=True))


def versions() -> dict[str, str]:
    """Versions of the code and of what its figures depend on."""
    found = {name: version(name) for name in DEPENDENCIES}
    return {"securefd": __version__, "python": platform.python_version(), **found}


def _same_config(folder: Path, config: Config) -> None:
    old = parse_config(read_bytes(folder / "config.toml").decode(), str(folder / "config.toml"))
    if config_hash(old) == config_hash(config):
        return
    before, after = old.model_dump(), config.model_dump()
    changed = [key for key in before if key != "performance" and before[key] != after[key]]
    raise RunMismatch(
        f"run folder {folder} holds a run of another configuration (it differs in {', '.join(changed)}); "
        "choose another folder, or restore the configuration"
    )


def _same(folder: Path, old: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key, value in now.items():
        if old.get(key) != value:
            what = _OTHERS.get(key, f"other {key}")
            raise RunMismatch(
                f"run folder {folder} was made with {what}; restore them, or choose another folder"
            )


def _draw_salt(path: Path) -> None:
    if not path.exists():
        make(path.parent)
        write_bytes(path, os.urandom(SALT_BYTES))
