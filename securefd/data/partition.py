"""How private records are shared out among clients: every record to exactly one, and none left empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from securefd.config import DirichletPartition, OwnerPartition, Partition, QuantityPartition, ShardsPartition
from securefd.errors import DataError

Indices = NDArray[np.int64]
_DRAWS = 1000


def partition(
    kind: Partition,
    labels: NDArray[np.int64],
    owner: NDArray[np.int64] | None,
    owner_names: Sequence[str],
    n_clients: int,
    rng: np.random.Generator,
) -> tuple[Indices, ...]:
    """Sorted record indices of each client.

    ``labels``: ``(n,)`` class indices. ``owner``: ``(n,)`` indices into ``owner_names``, or None. A
    client may lack classes. Raises DataError where no client can be kept from being empty.
    """
    if not 1 <= n_clients <= len(labels):
        raise DataError(
            f"{len(labels)} private records can't go to {n_clients} clients, each needs at least one: "
            "ask for fewer clients, or lower data.public or data.test"
        )
    match kind:
        case DirichletPartition():
            parts = _dirichlet(kind.alpha, labels, n_clients, rng)
        case ShardsPartition():
            parts = _shards(kind.classes, labels, n_clients, rng)
        case QuantityPartition():
            parts = _quantity(kind.alpha, len(labels), n_clients, rng)
        case OwnerPartition():
            parts = _by_owner(owner, owner_names, n_clients)
        case _:
            parts = np.array_split(rng.permutation(len(labels)), n_clients)
    return tuple(np.sort(part).astype(np.int64) for part in parts)


def _dirichlet(alpha: float, labels: Indices, n_clients: int, rng: np.random.Generator) -> list[Indices]:
    """Each class is cut by its own Dirichlet(alpha) shares (Hsu et al. 2019, as cut by Yurochkin et al.)."""
    totals = np.bincount(labels)
    totals = totals[totals > 0]
    counts = _redraw(
        lambda: np.array([_cut(rng.dirichlet([alpha] * n_clients), total) for total in totals]),
        f"dirichlet(alpha = {alpha})",
        len(labels),
        n_clients,
    )
    parts: list[list[Indices]] = [[] for _ in range(n_clients)]
    for members, row in zip(_by_class(labels), counts, strict=True):
        pieces = np.split(rng.permutation(members), np.cumsum(row)[:-1])
        for part, piece in zip(parts, pieces, strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def _quantity(alpha: float, n: int, n_clients: int, rng: np.random.Generator) -> list[Indices]:
    """Sizes are Dirichlet(alpha) shares; who gets which record is chance."""
    counts = _redraw(
        lambda: _cut(rng.dirichlet([alpha] * n_clients), n)[None], f"quantity(alpha = {alpha})", n, n_clients
    )
    return np.split(rng.permutation(n), np.cumsum(counts[0])[:-1])


def _shards(classes: int, labels: Indices, n_clients: int, rng: np.random.Generator) -> list[Indices]:
    """Each client holds exactly ``classes`` classes, each class is shared equally by those who hold it."""
    members = _by_class(labels)
    if not classes <= len(members) <= n_clients * classes:
        raise DataError(
            f"shards(classes = {classes}) can't share {len(members)} classes among {n_clients} clients: "
            f"choose classes between {-(-len(members) // n_clients)} and {len(members)}"
        )
    holders: list[list[int]] = [[] for _ in members]
    for client in range(n_clients):
        # The least held classes first, ties at random: everyone gets different ones, and none is forgotten.
        held = np.array([len(clients) for clients in holders])
        for chosen in np.lexsort((rng.random(len(members)), held))[:classes]:
            holders[chosen].append(client)
    parts: list[list[Indices]] = [[] for _ in range(n_clients)]
    for own, clients in zip(members, holders, strict=True):
        if len(own) < len(clients):
            raise DataError(
                f"shards(classes = {classes}) gives {len(clients)} clients a class of {len(own)} records: "
                "ask for fewer clients or classes"
            )
        for client, piece in zip(clients, np.array_split(rng.permutation(own), len(clients)), strict=True):
            parts[client].append(piece)
    return [np.concatenate(part) for part in parts]


def _by_owner(owner: Indices | None, owner_names: Sequence[str], n_clients: int) -> list[Indices]:
    if owner is None:
        raise DataError(
            "data.partition = owner needs each record's owner: set data.owner to a column of a csv or "
            "parquet file, or return a Dataset with owners"
        )
    if len(owner_names) != n_clients:
        raise DataError(
            f"data.owner has {len(owner_names)} values, [[clients]] asks for {n_clients} clients: "
            f"ask for {len(owner_names)}"
        )
    parts = [np.flatnonzero(owner == i) for i in range(n_clients)]
    for name, part in zip(owner_names, parts, strict=True):
        if not len(part):
            raise DataError(
                f"owner {name!r} has no record left beside public and test set: lower data.public or "
                "data.test, or leave this owner out"
            )
    return parts


def _by_class(labels: Indices) -> list[Indices]:
    """The record indices of each class that occurs."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _cut(shares: NDArray[np.float64], total: int) -> Indices:
    """Shares to whole numbers that add up to ``total``."""
    ends = np.minimum(np.rint(np.cumsum(shares) * total), total)
    ends[-1] = total
    return np.diff(ends, prepend=0).astype(np.int64)


def _redraw(draw: Callable[[], Indices], name: str, n: int, n_clients: int) -> Indices:
    """Draw counts ``(rows, n_clients)`` until no client is empty."""
    for _ in range(_DRAWS):
        counts = draw()
        if counts.sum(axis=0).all():
            return counts
    raise DataError(
        f"{name} left a client empty in each of {_DRAWS} draws of {n} records for {n_clients} clients: "
        "raise alpha or ask for fewer clients"
    )
