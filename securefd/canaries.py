"""Canaries: records that are made to test one run, each put among a client's records by a coin of its own.

Afterwards an audit guesses from what an observer saw which of them were in. A client's coins come from a
secret that is fresh from the operating system and stays in its folder. A commitment to it, and to all of its
canaries, lies in the manifest before anyone trains, so that neither can be chosen after the fact.

For a client a canary is a record like any other, and a promise about records covers it. What is planned from
the number of its records, such as a sampling rate, is planned without canaries, so that it doesn't depend on
how the coins fell; a delta must be small enough for all of them. None is in a public or test set.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefd.config import CanariesConfig, Config
from securefd.data.arrays import read_npz
from securefd.data.dataset import Dataset
from securefd.data.encoding import TableEncoder
from securefd.data.records import Table, Tensor
from securefd.data.splits import Split, commit, load_split
from securefd.defenses.accounting import check_delta
from securefd.errors import DataError, RunError, RunMismatch
from securefd.folder import make, read_bytes, write_bytes
from securefd.rng import generator
from securefd.rules import n_clients

SECRET_BYTES = 32
"""Of the seed, and as many of its salt."""

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Canaries:
    """One client's canaries: ``records`` are all m of them, ``included`` ``(m,)`` says which it trains on.

    Both are private; ``commitment`` may be published.
    """

    records: Dataset = field(repr=False)
    included: Bools = field(repr=False)
    commitment: str

    def among(self, own: Dataset) -> Dataset:
        """A client's own records and, after them, the canaries that are in."""
        chosen = self.records.take(np.flatnonzero(self.included))
        return replace(
            own,
            x=np.concatenate([own.x, chosen.x]),
            y=np.concatenate([own.y, chosen.y]),
            # A canary is nobody's.
            owner=None,
            owner_names=(),
        )


def split_of(config: Config) -> Split:
    """Share out a federation's records, and set aside what canaries are to be made of.

    Raises DataError as `load_split` does, for too few records to set aside and for canaries in a file that
    aren't records of this federation; PrivacyError for a delta of at least 1 / (records and canaries).
    """
    split = load_split(config.data, n_clients(config), config.seed)
    wanted = config.audit.canaries
    if wanted is None:
        return split
    shares = shares_of(wanted, len(split.clients))
    privacy = config.privacy
    if privacy is not None and privacy.unit == "record" and privacy.delta is not None:
        for own, share in zip(split.clients, shares, strict=True):
            check_delta(privacy.delta, len(own) + (share if wanted.kind != "mislabelled" else 0))
    if wanted.kind == "mislabelled":
        return _reserved(split, shares, config.seed)
    if wanted.kind == "user":
        given = _given(wanted, split)
        places = [np.arange(k, wanted.count, len(shares)) for k in range(len(shares))]
        return replace(split, spare=tuple(given.take(place) for place in places))
    return split


def shares_of(wanted: CanariesConfig, clients: int) -> list[int]:
    """How many canaries each client gets: they are dealt out one by one."""
    return [len(range(client, wanted.count, clients)) for client in range(clients)]


def draw_secrets(folder: Path, clients: int) -> None:
    """Draw each client's seed and salt for the run in ``folder``, unless they are there."""
    for client in range(clients):
        path = _place(folder, client)
        if not path.exists():
            make(path.parent)
            write_bytes(path, os.urandom(2 * SECRET_BYTES))


def canaries_of(folder: Path, config: Config, split: Split, client: int) -> Canaries:
    """Run by one client: its own canaries and coins, the same whenever it is asked. ``split``: of `split_of`.

    Raises RunError where its secret is gone or damaged: another would be other coins.
    """
    assert config.audit.canaries is not None
    path = _place(folder, client)
    secret = read_bytes(path)
    if len(secret) != 2 * SECRET_BYTES:
        raise RunError(f"{path} isn't a secret that a run draws; restore it, or choose another folder")
    seed = secret[:SECRET_BYTES]
    share = shares_of(config.audit.canaries, len(split.clients))[client]
    records = _made(config.audit.canaries, split, client, share, _stream(seed, "records", SECRET_BYTES))
    coins = np.frombuffer(_stream(seed, "coins", -(-share // 8)), dtype=np.uint8)
    return Canaries(
        records=records,
        included=np.unpackbits(coins, count=share).astype(np.bool_),
        commitment=commit(records, secret),
    )


def commitments(folder: Path, config: Config, split: Split) -> list[dict[str, Any]]:
    """What a manifest says of each client's canaries: how many were made, not how many are in."""
    made = [canaries_of(folder, config, split, client) for client in range(len(split.clients))]
    return [{"commitment": each.commitment, "made": len(each.records)} for each in made]


def check_commitment(folder: Path, manifest: Mapping[str, Any], made: Canaries, client: int) -> None:
    """Raise RunMismatch unless these are what the manifest committed to before the run began."""
    written = manifest.get("canaries", ())
    if not client < len(written) or written[client] != {
        "commitment": made.commitment,
        "made": len(made.records),
    }:
        raise RunMismatch(
            f"canaries of client {client}, or their coins, aren't those that {folder / 'manifest.json'} "
            f"committed to before the run: restore {_place(folder, client)} and the data, or run again"
        )


def with_canaries(folder: Path, config: Config, split: Split) -> Split:
    """What each client trains on: its own records and those of its canaries that coins put among them."""
    clients = [canaries_of(folder, config, split, k).among(own) for k, own in enumerate(split.clients)]
    return replace(split, clients=tuple(clients))


def note_on(wanted: CanariesConfig) -> str:
    """What must be said of a run that has canaries."""
    return (
        f"{wanted.count} canaries were made to test this run ({_WHAT[wanted.kind]}), and a coin put each "
        "into its client's training data or left it out: models, student and figures are those of training "
        "data in which about half of them are"
    )


_WHAT = {
    "mislabelled": "records of the clients under a wrong label, otherwise left out",
    "noise": "noise under random labels",
    "user": "records given for this purpose",
}


def _place(folder: Path, client: int) -> Path:
    return folder / "clients" / str(client) / "canaries"


def _stream(seed: bytes, label: str, size: int) -> bytes:
    return hashlib.shake_256(b"securefd canaries\0" + seed + label.encode()).digest(size)


def _made(wanted: CanariesConfig, split: Split, client: int, share: int, seed: bytes) -> Dataset:
    rng = np.random.default_rng(int.from_bytes(seed, "big"))
    names, n_classes = split.test.class_names, split.n_classes
    if wanted.kind == "user":
        return split.spare[client]
    if wanted.kind == "mislabelled":
        spare = split.spare[client]
        wrong = (spare.y + rng.integers(1, n_classes, size=share)) % n_classes
        return Dataset(x=spare.x, y=wrong.astype(np.int64), class_names=names)
    low, high = _range(split)
    x = low + (high - low) * rng.random((share, *split.input_shape), dtype=np.float32)
    return Dataset(x=x.astype(np.float32), y=rng.integers(0, n_classes, size=share), class_names=names)


def _range(split: Split) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where noise lies: a column within its public values, a picture's pixels within those of all."""
    axes = 0 if len(split.input_shape) == 1 else None
    return np.asarray(split.public.min(axis=axes)), np.asarray(split.public.max(axis=axes))


def _reserved(split: Split, shares: Sequence[int], seed: int) -> Split:
    """Take records without a twin away from each client: they are trained on as canaries only."""
    keys = [Tensor(x=own.x).keys() for own in split.clients]
    times = Counter(key for own in keys for key in own)
    kept, spare = [], []
    for client, (own, share) in enumerate(zip(split.clients, shares, strict=True)):
        single = np.flatnonzero([times[key] == 1 for key in keys[client]])
        most = min(len(single), len(own) // 2)
        if not share <= most:
            raise DataError(
                f"audit.canaries.count = {sum(shares)} takes {share} records from client {client}, which may "
                f"give {most} at most, half of its {len(own)} records and none that has a twin: lower it, or "
                "choose audit.canaries.kind = 'noise'"
            )
        chosen = np.sort(generator(seed, "canaries", client).permutation(single)[:share])
        spare.append(own.take(chosen))
        kept.append(own.take(np.delete(np.arange(len(own)), chosen)))
    return replace(split, clients=tuple(kept), spare=tuple(spare))


def _given(wanted: CanariesConfig, split: Split) -> Dataset:
    """The first ``count`` records of the user's file, encoded as the federation's own."""
    encoder, path, where = split.encoder, wanted.path, f"audit.canaries.path = {wanted.path!r}"
    columns: tuple[str, ...] = ()
    if isinstance(encoder, TableEncoder):
        if encoder.text_names:
            raise DataError(
                f"{where} can't hold records with text columns, which this federation has: choose "
                "audit.canaries.kind = 'mislabelled'"
            )
        columns = encoder.numeric_names
    records = read_npz(path, "audit.canaries.path", columns)
    features = records.features
    if isinstance(features, Table) != isinstance(encoder, TableEncoder) or (
        isinstance(features, Tensor) and features.x.shape[1:] != split.input_shape
    ):
        form = features.x.shape[1:] if isinstance(features, Tensor) else (len(features.numeric_names),)
        raise DataError(
            f"{where} has records of shape {form}, the federation has {split.input_shape}: give both in the "
            "same form"
        )
    if not wanted.count <= len(features):
        raise DataError(
            f"{where} has {len(features)} records, fewer than audit.canaries.count = {wanted.count}: lower "
            "it, or add records"
        )
    places = {name: index for index, name in enumerate(split.test.class_names)}
    unknown = [label for label in records.labels if str(label) not in places]
    if unknown:
        raise DataError(
            f"{where} has a label {str(unknown[0])!r} that is no class of the federation: use one of "
            f"{', '.join(split.test.class_names[:12])}"
        )
    x = encoder(features)[: wanted.count]
    others = {*Tensor(x=split.test.x).keys(), *Tensor(x=split.public).keys()}
    own = Tensor(x=x).keys()
    twins = sum(key in others for key in own)
    if twins:
        raise DataError(
            f"{where} has exact copies of {twins} test records or public inputs: remove them, since canaries "
            "may be in no figure"
        )
    y = np.array([places[str(label)] for label in records.labels[: wanted.count]], dtype=np.int64)
    return Dataset(x=x, y=y, class_names=split.test.class_names)
