from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefd.config import (
    DirichletPartition,
    IidPartition,
    OwnerPartition,
    Partition,
    QuantityPartition,
    ShardsPartition,
)
from securefd.data.partition import partition
from securefd.errors import DataError
from securefd.rng import generator

KINDS: list[Partition] = [
    IidPartition(),
    DirichletPartition(kind="dirichlet", alpha=0.5),
    ShardsPartition(kind="shards", classes=2),
    QuantityPartition(kind="quantity", alpha=0.5),
    OwnerPartition(kind="owner"),
]


def share(
    kind: Partition, labels: list[int], n_clients: int, seed: int = 7, owner: list[int] | None = None
) -> list[list[int]]:
    owners = None if owner is None else np.array(owner, dtype=np.int64)
    names = [] if owner is None else [f"o{i}" for i in range(max(owner) + 1)]
    parts = partition(
        kind, np.array(labels, dtype=np.int64), owners, names, n_clients, generator(seed, "partition")
    )
    return [part.tolist() for part in parts]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
@given(n=st.integers(60, 200), n_clients=st.integers(3, 6), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_every_record_goes_to_exactly_one_client(kind: Partition, n: int, n_clients: int, seed: int) -> None:
    labels = [(0, 2, 3, 7)[i % 4] for i in range(n)]  # classes 1, 4, 5 and 6 don't occur
    owner = [i % n_clients for i in range(n)]
    parts = share(kind, labels, n_clients, seed, owner)
    assert len(parts) == n_clients
    assert all(parts)
    assert all(part == sorted(part) for part in parts)
    assert sorted(i for part in parts for i in part) == list(range(n))
    assert share(kind, labels, n_clients, seed, owner) == parts


@pytest.mark.parametrize("kind", KINDS[:-1], ids=lambda kind: kind.kind)
def test_seed_matters(kind: Partition) -> None:
    labels = [i % 4 for i in range(200)]
    assert share(kind, labels, 4, seed=1) != share(kind, labels, 4, seed=2)


def test_iid_sizes_differ_by_one_at_most() -> None:
    assert sorted(map(len, share(IidPartition(), [0, 1] * 16, 5))) == [6, 6, 6, 7, 7]


@pytest.mark.parametrize("n_clients", [2, 5, 7])
def test_shards_give_each_client_exactly_so_many_classes(n_clients: int) -> None:
    labels = [i % 4 for i in range(400)]
    held = [{labels[i] for i in part} for part in share(KINDS[2], labels, n_clients)]
    assert all(len(classes) == 2 for classes in held)
    assert set().union(*held) == {0, 1, 2, 3}


def spread(parts: list[list[int]], labels: list[int]) -> float:
    """Mean total variation between a client's classes and all classes."""
    base = np.bincount(labels) / len(labels)
    own = [np.bincount([labels[i] for i in part], minlength=len(base)) / len(part) for part in parts]
    return float(np.mean([np.abs(shares - base).sum() / 2 for shares in own]))


def test_dirichlet_skews_labels_and_quantity_skews_sizes() -> None:
    labels = [i % 10 for i in range(5000)]
    strong = share(DirichletPartition(kind="dirichlet", alpha=0.1), labels, 10)
    weak = share(DirichletPartition(kind="dirichlet", alpha=100.0), labels, 10)
    assert spread(strong, labels) > 0.4 > 0.15 > spread(weak, labels)
    sizes = share(QuantityPartition(kind="quantity", alpha=0.5), labels, 5)
    assert max(map(len, sizes)) > 2 * min(map(len, sizes))
    assert spread([part for part in sizes if len(part) > 300], labels) < 0.15


def test_dirichlet_shares_have_the_right_mean_and_variance() -> None:
    # Of k clients, a share has mean 1/k and variance (k - 1) / (k^2 (k alpha + 1)).
    shares = np.array(
        [
            len(share(QuantityPartition(kind="quantity", alpha=2.0), [0] * 1000, 4, seed)[0])
            for seed in range(400)
        ]
    )
    assert abs(shares.mean() / 1000 - 0.25) < 0.03
    assert abs(shares.var() / 1e6 - 3 / (16 * 9)) < 0.006


@pytest.mark.parametrize("kind", KINDS[:-1], ids=lambda kind: kind.kind)
def test_fewer_records_than_clients_are_refused(kind: Partition) -> None:
    with pytest.raises(
        DataError, match=r"^3 private records can't go to 4 clients, .*: ask for fewer clients"
    ):
        share(kind, [0, 1, 0], 4)


@pytest.mark.parametrize(
    "kind",
    [DirichletPartition(kind="dirichlet", alpha=1e-8), QuantityPartition(kind="quantity", alpha=5e-324)],
)
def test_skew_that_leaves_clients_empty_is_refused(kind: Partition) -> None:
    with pytest.raises(DataError, match=r"left a client empty .* 20 records for 5 clients: raise alpha"):
        share(kind, [0, 1] * 10, 5)


def test_shards_that_cannot_be_are_refused() -> None:
    labels = [i % 10 for i in range(100)]
    for classes, n_clients in ((2, 4), (11, 4)):
        with pytest.raises(DataError, match="choose classes between 3 and 10"):
            share(ShardsPartition(kind="shards", classes=classes), labels, n_clients)
    with pytest.raises(DataError, match="gives 3 clients a class of 2 records: ask for fewer"):
        share(ShardsPartition(kind="shards", classes=2), [0] * 9 + [1] * 2, 3)


def test_owners_must_be_known_and_match_the_clients() -> None:
    kind = OwnerPartition(kind="owner")
    with pytest.raises(DataError, match=r"set data\.owner"):
        share(kind, [0, 1, 0], 2)
    with pytest.raises(DataError, match=r"has 3 values, .* 2 clients: ask for 3"):
        share(kind, [0, 1, 0], 2, owner=[0, 1, 2])
    with pytest.raises(DataError, match="owner 'o1' has no record left"):
        share(kind, [0, 1, 0], 3, owner=[0, 2, 2])
