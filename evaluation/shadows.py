"""Shadow federations: a run's recipe played again and again on records that coins chose.

All private records of all clients are candidates, and the public set, queries, method, models, rounds and
student are the run's own. Initial weights and order are, too, since they follow from a seed that is no
secret. Where clients train by DP-SGD, shadows are trained by the deployed code, with the deployed plan: the
same sampling rate, noise and steps, so that they are held to the same epsilon, though they have about half as
many records. Its noise, and that of class counts, is drawn afresh for every shadow. Where they train on a
sample of their records without noise, shadows draw as large a share of theirs, afresh.

Sealing isn't part of it, but for its groups: all sealings add up the same integers, so one set of shadows
serves runs that differ in nothing else. This is a simulation: one process holds the records of all clients.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from securefd import sight
from securefd.checkpoint import unpack_state
from securefd.config import resolved
from securefd.data.splits import commit, public_hash
from securefd.defenses.quantise import dequantise_sum
from securefd.errors import AuditError
from securefd.evaluation.coins import Bools, Coins, always_in, coins_of
from securefd.evaluation.play import Arrays, Play, Rows, play
from securefd.folder import make, read_arrays, write_arrays
from securefd.manifest import versions
from securefd.progress import Progress, Silent
from securefd.recipe import Recipe
from securefd.releases import plan_releases
from securefd.result import Run, Student
from securefd.runner import pool_of
from securefd.sight import Grouped, Travelled
from securefd.views import Observer, View

CHUNK = 8
"""Federations that are played side by side and stored together. A constant, because which models are stacked
shows in the last bits of their weights, and results must not depend on the machine."""

FORMAT = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Shadows:
    """Federations of one recipe, and which candidate took part in which.

    ``x``, ``labels``, ``client``: the candidates and whose they are. ``membership``: (F, n_candidates).
    ``commitment``: to the coins. ``coins`` and ``membership`` are private, so neither is printed.
    """

    x: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    client: NDArray[np.int64] = field(repr=False)
    membership: Bools = field(repr=False)
    coins: Coins = field(repr=False)
    played: Mapping[str, NDArray[Any]] = field(repr=False)
    setup: Play = field(repr=False)
    key: str

    @property
    def commitment(self) -> str:
        """The coins' salted hash, which may be published."""
        return self.coins.commitment

    def views(self, observer: Observer, *, sealed: bool) -> tuple[View, ...]:
        """What ``observer`` would have seen of each federation, in the form of a run's view."""
        return tuple(
            sight.view(
                observer,
                [self._travelled(f, number, sealed) for number in range(self.setup.recipe.settings.rounds)],
                method=self.setup.recipe.method,
                public=self.setup.public,
                student=self._student(f).predict_proba,
            )
            for f in range(len(self.membership))
        )

    def check(self, run: Run) -> None:
        """Raise AuditError unless ``run`` follows the recipe that was played, but for its sealing."""
        if key_of(run, self.coins) != self.key:
            raise AuditError(
                f"these shadow federations are of another recipe, data or version than run {run.path}; leave "
                "them out, and its own are played"
            )

    def _travelled(self, federation: int, number: int, sealed: bool) -> Travelled:
        recipe = self.setup.recipe
        levels = self.played[f"answers.{number}"][federation].astype(np.int64)
        block = recipe.blocks(levels.shape[1])[:1]
        n_clients = len(levels)
        releases = self.setup.releases
        reach = 0 if releases is None else releases.reach(levels[0].size)
        (total,) = dequantise_sum(levels.sum(axis=0).ravel(), block, recipe.bits, n_clients, reach)
        answers = None
        if not sealed:
            answers = np.stack(
                [dequantise_sum(own.ravel(), block, recipe.bits, 1, reach)[0] for own in levels]
            )
        return Travelled(
            queries=self.played[f"queries.{number}"],
            consensus=self.played[f"consensus.{number}"][federation],
            mean=total / n_clients,
            answers=answers,
            grouped=self._grouped(levels),
        )

    def _grouped(self, levels: NDArray[np.int64]) -> Grouped | None:
        """The sums that a server opens of answers ``(n_clients, a, C)`` on the grid."""
        recipe = self.setup.recipe
        if not recipe.groups:
            return None
        block = recipe.blocks(levels.shape[1])[:1]
        group = np.empty(len(levels), dtype=np.int64)
        for number, clients in enumerate(recipe.groups):
            group[list(clients)] = number
        sums = [
            dequantise_sum(levels[list(own)].sum(axis=0).ravel(), block, recipe.bits, len(own))[0]
            for own in recipe.groups
        ]
        return Grouped(sums=np.stack(sums), groups=group)

    def _student(self, federation: int) -> Student:
        assert self.setup.recipe.student is not None
        weights = {
            name: values[federation] for name, values in self.played.items() if name.startswith("student.")
        }
        return Student(spec=self.setup.recipe.student, state=unpack_state("student", weights))


def shadows_of(run: Run, progress: Progress | None = None) -> Shadows:
    """Play ``config.audit.shadows`` federations, or take those that are stored in the run's folder.

    A chunk is stored as soon as it is played, so an interrupted audit goes on where it was.

    Raises:
        AuditError: a method without public set, no candidates, or stored shadows that aren't what was stored.
    """
    setup = Play.of(run)
    if setup.recipe.student is None:
        raise AuditError(
            f"method {setup.recipe.method.name!r} asks about no public input and has no student, so its "
            "shadows would show an attacker nothing"
        )
    coins = coins_of(run.path / "audit")
    _, rows = pool_of(run.split.clients)
    labels = setup.pool.y
    fixed = np.zeros(len(labels), dtype=np.bool_)
    fixed[np.concatenate([always_in(labels, own) for own in rows])] = True
    candidates = np.flatnonzero(~fixed)
    if not len(candidates):
        raise AuditError("no client has more than 2 records, so there are no candidates to toss coins for")
    membership = coins.flips(run.config.audit.shadows, len(candidates))
    present = np.ones((len(membership), len(labels)), dtype=np.bool_)
    present[:, candidates] = membership
    drawn: list[Rows] = [[own[takes[own]] for own in rows] for takes in present]
    key = key_of(run, coins)
    chunks = _chunks(run, setup, drawn, key, progress or Silent())
    # Queries are everyone's; all else is stacked federation by federation.
    played = {
        name: chunks[0][name]
        if name.startswith("queries.")
        else np.concatenate([chunk[name] for chunk in chunks])
        for name in chunks[0]
    }
    return Shadows(
        x=setup.pool.x[candidates],
        labels=labels[candidates],
        client=np.repeat(np.arange(len(rows)), [len(own) for own in rows])[candidates],
        membership=membership,
        coins=coins,
        played=played,
        setup=setup,
        key=key,
    )


def key_of(run: Run, coins: Coins) -> str:
    """SHA-256, in hex, of all that decides what shadows show. Of sealing its grid, groups and noise count.

    The private records count by a hash under the seed: without it nobody can test a guess of them.
    """
    recipe = Recipe.of(run.config, run.split.input_shape, run.split.n_classes)
    releases = plan_releases(run.config, recipe, len(run.split.public))
    tables = resolved(run.config)
    for name in ("name", "sealing", "performance"):
        del tables[name]
    tables["audit"] = run.config.audit.shadows
    if "privacy" in tables:
        for name in ("ledger", "budget", "witness"):
            tables["privacy"].pop(name, None)
    content = {
        "format": FORMAT,
        "chunk": CHUNK,
        "recipe": tables,
        "bits": recipe.bits,
        "groups": recipe.groups,
        "noise": None if releases is None else [str(releases.share), releases.noise],
        "device": run.config.performance.device,
        "versions": versions(),
        "public": public_hash(run.split.public),
        "private": [commit(client, coins.seed) for client in run.split.clients],
        "coins": coins.commitment,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _chunks(run: Run, setup: Play, drawn: Sequence[Rows], key: str, progress: Progress) -> list[Arrays]:
    """All chunks in order: those that are stored, and the others played now."""
    folder = run.path / "audit" / "shadows"
    make(folder)
    parts = [drawn[start : start + CHUNK] for start in range(0, len(drawn), CHUNK)]
    paths = [folder / f"{key[:16]}-{number:03d}.safetensors" for number in range(len(parts))]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    with progress.stage("shadow federations", len(drawn)) as advance:
        advance(sum(len(part) for number, part in enumerate(parts) if number not in missing))
        for number, arrays in _played(setup, parts, missing, run.config.performance.workers):
            write_arrays(paths[number], arrays | {"proof": _proof(arrays, key, number)})
            advance(len(parts[number]))
    return [_read(path, key, number) for number, path in enumerate(paths)]


def _played(
    setup: Play, parts: Sequence[Sequence[Rows]], wanted: Sequence[int], workers: int
) -> Iterator[tuple[int, Arrays]]:
    """The wanted parts as they get done, in processes of their own where there is more than one to do."""
    if min(workers, len(wanted)) <= 1 or setup.device != "cpu":
        yield from (_numbered(setup, parts[number], number) for number in wanted)
        return
    pool = Parallel(n_jobs=min(workers, len(wanted)), return_as="generator_unordered", max_nbytes=None)
    yield from pool(delayed(_numbered)(setup, parts[number], number) for number in wanted)


def _numbered(setup: Play, rows: Sequence[Rows], number: int) -> tuple[int, Arrays]:
    return number, play(setup, rows)


def _proof(arrays: Mapping[str, NDArray[Any]], key: str, number: int) -> NDArray[np.uint8]:
    """A hash of a chunk's content, the place it belongs to, and what it was made of."""
    digest = hashlib.sha256(f"{key} {number}\0".encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(array.tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def _read(path: Path, key: str, number: int) -> Arrays:
    arrays = read_arrays(path)
    proof = arrays.pop("proof", None)
    if proof is None or not np.array_equal(proof, _proof(arrays, key, number)):
        raise AuditError(
            f"{path} isn't what an audit of this run stored there; remove it, and it is played again"
        )
    return arrays
