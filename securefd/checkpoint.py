"""What a run must know to go on after a round, as arrays: weights, consensus, pseudo-labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from securefd.cache import Cache
from securefd.cohort import Cohort
from securefd.federation import Federations
from securefd.fleet import State

Arrays = dict[str, NDArray[Any]]


def pack_state(prefix: str, state: State) -> Arrays:
    """One model's weights, named ``prefix.weight``."""
    return {f"{prefix}.{name}": value.numpy() for name, value in state.items()}


def unpack_state(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> State:
    """Weights that `pack_state` named; copies, since arrays read from a file can't be written to."""
    head = f"{prefix}."
    return {
        name.removeprefix(head): torch.from_numpy(np.array(value))
        for name, value in arrays.items()
        if name.startswith(head)
    }


def pack(federation: Federations) -> Arrays:
    """The state of the one federation of a run after a round."""
    arrays: Arrays = {"digested": federation.digested}
    for index, state in federation.clients.states.items():
        arrays |= pack_state(f"client.{index}", state)
    for index in range(len(federation.clients.members)):
        labels = federation.clients.pseudo_labels(index)
        if labels is not None:
            arrays[f"labels.{index}"] = labels
    if federation.students is not None:
        arrays |= pack_state("student", federation.students.states[0])
        for name, cache in (("cache", federation.caches[0]), ("taught", federation.taught[0])):
            arrays |= {f"{name}.consensus": cache.consensus, f"{name}.made": cache.made}
    for index, anchor in enumerate(federation.anchors):
        if anchor is not None:
            arrays[f"anchor.{index}"] = anchor
    if federation.weights[0] is not None:
        arrays["weights"] = federation.weights[0]
    return arrays


def restore(federation: Federations, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Bring a fresh federation of the same recipe to the state that `pack` wrote."""
    _restore_networks(federation.clients, arrays)
    federation.digested = arrays["digested"]
    if federation.students is not None:
        federation.students.states[0] = unpack_state("student", arrays)
        duration = federation.caches[0].duration
        federation.caches, federation.taught = (
            [
                Cache(
                    duration=duration,
                    consensus=np.array(arrays[f"{name}.consensus"]),
                    made=np.array(arrays[f"{name}.made"]),
                )
            ]
            for name in ("cache", "taught")
        )
    federation.anchors = [arrays.get(f"anchor.{index}") for index in range(federation.n_clients)]
    federation.weights = [arrays.get("weights")]
    labels = {
        index: arrays[f"labels.{index}"]
        for index in range(federation.n_clients)
        if f"labels.{index}" in arrays
    }
    federation.clients.restore_estimators(federation.public[federation.digested], labels)


def _restore_networks(clients: Cohort, arrays: Mapping[str, NDArray[Any]]) -> None:
    for index in list(clients.states):
        clients.states[index] = unpack_state(f"client.{index}", arrays)
