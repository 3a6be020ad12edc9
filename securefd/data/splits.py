"""A source shared out: a public set without labels, a test set, and what each client holds.

No record that is split off as public or test has an identical twin elsewhere: twins move together.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefd.config import DataConfig
from securefd.data.dataset import Dataset
from securefd.data.encoding import Encoder, fit_encoder
from securefd.data.labels import encode_labels
from securefd.data.partition import partition
from securefd.data.records import Features, Reader, Records
from securefd.data.sources import open_source
from securefd.errors import DataError
from securefd.rng import generator

DEFAULT_TEST = 300
"""Size of the test set where ``data.test`` is empty and the source has none of its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Who holds what. ``public``: float32 ``(m, ...)``, what everyone may see.

    ``encoder`` turns the source's raw columns into inputs; it knows public data and bounds only. ``spare``:
    by client, records that were set aside to make canaries of; none unless there are canaries.
    """

    clients: tuple[Dataset, ...] = field(repr=False)
    public: NDArray[np.float32] = field(repr=False)
    test: Dataset = field(repr=False)
    encoder: Encoder
    spare: tuple[Dataset, ...] = field(default=(), repr=False)

    @property
    def n_classes(self) -> int:
        """Number of classes of the source."""
        return self.test.n_classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.public.shape[1:]


def load_split(config: DataConfig, n_clients: int, seed: int) -> Split:
    """Read a source and share it out; the same arguments and files give the same split.

    Raises DataError for records that can't be read, can't be split so, or overlap with a public or
    test set that is given as a file.
    """
    reader = open_source(config)
    records = reader.records()
    if len(np.unique(records.labels)) < 2:
        raise DataError(
            f"{config.source} has a single class, a classifier needs two: give records of another"
        )
    test = _given_test(reader, config, records, seed)
    public = reader.public(config.public) if isinstance(config.public, str) else None
    if public is not None:
        public = public.like(records.features, f"data.public = {config.public!r}")
    public_rows, test_rows, rows = _share_out(config, records, public, test, seed)

    labels, class_names = _classes(records, test)
    owner, owner_names = _owners(records)
    groups, group_names = _groups(records, test)
    parts = partition(
        config.partition,
        labels[0][rows],
        None if owner is None else owner[rows],
        owner_names,
        n_clients,
        generator(seed, "partition"),
    )
    if public is None:
        public = records.features.take(public_rows)
    encoder = fit_encoder(public, config.bounds)

    def dataset(indices: NDArray[np.int64]) -> Dataset:
        return Dataset(
            x=encoder(records.features.take(indices)),
            y=labels[0][indices],
            class_names=class_names,
            owner=None if owner is None else owner[indices],
            owner_names=owner_names,
            group=None if groups is None else groups[0][indices],
            group_names=group_names,
        )

    return Split(
        clients=tuple(dataset(rows[part]) for part in parts),
        public=encoder(public),
        test=dataset(test_rows)
        if test is None
        else Dataset(
            x=encoder(test.features),
            y=labels[1],
            class_names=class_names,
            group=None if groups is None or test.group is None else groups[1],
            group_names=() if test.group is None else group_names,
        ),
        encoder=encoder,
    )


def public_hash(public: NDArray[Any]) -> str:
    """SHA-256 over type, shape and values of the public set, in hex: pinned in the manifest."""
    digest = hashlib.sha256(b"securefd public set\0")
    _feed(digest.update, public)
    return digest.hexdigest()


def commit(dataset: Dataset, salt: bytes) -> str:
    """HMAC-SHA256 under a private ``salt`` over all records and labels, in hex.

    Binding for whoever is later shown data and salt, and telling nothing to whoever isn't: a plain
    hash would let anyone test a guess of the data. Raises DataError for a salt below 16 bytes.
    """
    if not len(salt) >= 16:
        raise DataError(f"salt must have at least 16 bytes, got {len(salt)}: use os.urandom(32)")
    mac = hmac.new(salt, b"securefd private records\0", hashlib.sha256)
    _feed(mac.update, dataset.x)
    _feed(mac.update, dataset.y)
    return mac.hexdigest()


def _feed(update: Callable[[bytes | memoryview], None], array: NDArray[Any]) -> None:
    """Type, shape and values, in the same bytes on every machine."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    update(f"{little.dtype.str} {little.shape}\0".encode())
    update(little.reshape(-1).view(np.uint8).data)


def _has_test_file(config: DataConfig) -> bool:
    """Whether ``data.test`` is a path to something else than the source itself."""
    return isinstance(config.test, str) and config.test not in ("", config.path)


def _given_test(reader: Reader, config: DataConfig, records: Records, seed: int) -> Records | None:
    """The test set that isn't split off: of another file, or published with the source."""
    if _has_test_file(config):
        test = reader.test(str(config.test))
    else:
        own = reader.own_test()
        if own is None and isinstance(config.test, str) and config.test:
            raise DataError(f"data.test = {config.test!r} is the source itself: give a count or another path")
        if own is None:
            return None
        test = own
        if isinstance(config.test, int):
            if not 1 <= config.test <= len(own.labels):
                raise DataError(
                    f"data.test must be 1 to {len(own.labels)}, as many as the source's test files hold, "
                    f"got {config.test}: choose a count in between, or leave it empty for all"
                )
            # Drawn, not the first ones: MNIST's first 5,000 are the easier half.
            chosen = np.sort(generator(seed, "test").permutation(len(own.labels))[: config.test])
            test = Records(features=own.features.take(chosen), labels=own.labels[chosen])
    features = test.features.like(records.features, f"data.test = {config.test!r}")
    return Records(features=features, labels=test.labels, group=test.group)


def _share_out(
    config: DataConfig, records: Records, public: Features | None, test: Records | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row indices of the source that become public, test and private."""
    keys = records.features.keys()
    test_keys = set() if test is None else set(test.features.keys())
    if _has_test_file(config):  # but a source's own test files are taken as they were published
        _refuse_overlap("data.test", str(config.test), "records of the source", test_keys, keys)
    if public is not None:
        public_keys = set(public.keys())
        _refuse_overlap("data.public", str(config.public), "private or test records", public_keys, keys)
        _refuse_overlap("data.public", str(config.public), "test records", public_keys, test_keys)
    numbers: dict[bytes, int] = {}
    twins = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    rows = np.arange(len(keys))
    taken = np.zeros(len(keys), dtype=bool)
    public_rows = test_rows = np.zeros(0, dtype=np.int64)
    if isinstance(config.public, int):
        # A training record that is also published as a test record must not be trained on as public.
        allowed = np.array([key not in test_keys for key in keys])
        public_rows = _split_off(
            "data.public", config.public, 0, rows[allowed], twins, generator(seed, "public")
        )
        taken[public_rows] = True
    if test is None:
        count = config.test if isinstance(config.test, int) else DEFAULT_TEST
        test_rows = _split_off("data.test", count, 1, rows[~taken], twins, generator(seed, "test"))
        taken[test_rows] = True
    return public_rows, test_rows, rows[~taken]


def _refuse_overlap(
    name: str, path: str, what: str, given: Collection[bytes], keys: Collection[bytes]
) -> None:
    count = sum(key in given for key in keys)
    if count:
        raise DataError(
            f"{name} = {path!r} contains exact copies of {count} {what}: remove them from that file, "
            "or give a count"
        )


def _split_off(
    name: str,
    count: int,
    least: int,
    rows: NDArray[np.int64],
    twins: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """``count`` of ``rows`` in random order, identical records (same number in ``twins``) together."""
    if not least <= count < len(rows):
        raise DataError(
            f"{name} must be a count from {least} to {len(rows) - 1}, so that clients get records too, "
            f"got {count}: choose one in between, or give a path"
        )
    sizes = np.bincount(twins[rows], minlength=int(twins.max()) + 1)
    chosen = np.zeros(len(sizes), dtype=bool)
    missing = count
    for group in rng.permutation(np.flatnonzero(sizes)):
        if sizes[group] <= missing:
            chosen[group] = True
            missing -= int(sizes[group])
        if not missing:
            return rng.permutation(rows[chosen[twins[rows]]])
    raise DataError(
        f"{name} = {count} can't be split off exactly, since identical records must stay together: "
        f"use {count - missing}, or remove duplicates from the source"
    )


def _owners(records: Records) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    if records.owner is None:
        return None, ()
    (owner,), names = encode_labels([records.owner])
    return owner, names


def _groups(records: Records, test: Records | None) -> tuple[list[NDArray[np.int64]] | None, tuple[str, ...]]:
    """Group indices of the source (and of a given test set that has them), and the names of all groups."""
    if records.group is None:
        return None, ()
    given = [records.group, *([] if test is None or test.group is None else [test.group])]
    return encode_labels(given)


def _classes(records: Records, test: Records | None) -> tuple[list[NDArray[np.int64]], tuple[str, ...]]:
    """Class indices of the source (and of a given test set), and the names of all classes."""
    if records.class_names is None:
        return encode_labels([records.labels] if test is None else [records.labels, test.labels])
    labels = [records.labels]
    if test is not None:
        known = {name: i for i, name in enumerate(records.class_names)} | {
            i: i for i in range(len(records.class_names))
        }
        unknown = [label for label in test.labels if label not in known]
        if unknown:
            raise DataError(
                f"data.test has a label {unknown[0]!r}, neither a class name nor an index of the source: "
                f"use one of {', '.join(records.class_names[:12])}"
            )
        labels.append(np.array([known[label] for label in test.labels], dtype=np.int64))
    return labels, records.class_names
