"""Shadow federations: a run's recipe played again and again on records that coins chose.

Candidates are private records of all clients: all of them, or as many, drawn at random, as the configuration
says. The public set, queries, method, models, rounds and student are the run's own. Initial weights and order
are, too, since they follow from a seed that is no secret. Where clients train by DP-SGD, shadows are trained
by the deployed code, with the deployed plan: the same sampling rate, noise and steps, so that they are held
to the same epsilon, though where all records are candidates they have about half as many. Its noise, and that
of class counts, is drawn afresh for every shadow. Where they train on a sample of their records without
noise, shadows draw as large a share of theirs, afresh.

Sealing isn't part of it, but for its groups: all sealings add up the same integers, so one set of shadows
serves runs that differ in nothing else. This is a simulation: one process holds the records of all clients.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.special import softmax

from securefd import sight
from securefd.attacks.answers import Answers
from securefd.attacks.candidates import Candidates, Evidence, Part
from securefd.checkpoint import unpack_state
from securefd.config import Config, resolved
from securefd.data.splits import Split, commit, public_hash
from securefd.defenses.claims import Relation
from securefd.defenses.quantise import dequantise_sum
from securefd.errors import AuditError
from securefd.evaluation.coins import Coins, coins_of
from securefd.evaluation.game import Game
from securefd.evaluation.play import Arrays, Play, Rows, play
from securefd.evaluation.stored import Stored, store
from securefd.evaluation.tossing import toss
from securefd.folder import make
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

FORMAT = 2

MOST_RESERVED = 500
"""Test records, half of them at most, that attacks may compare candidates with."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shadows:
    """Federations of one recipe, and which candidate took part in which.

    ``about``: the candidates, and reserved records. ``rows``: ``(n,)`` where in its client's data each
    candidate is. ``game``, ``coins``: private, so neither is printed.
    """

    about: Candidates = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    game: Game = field(repr=False)
    coins: Coins = field(repr=False)
    played: Stored = field(repr=False)
    setup: Play = field(repr=False)
    key: str

    @property
    def commitment(self) -> str:
        """The coins' salted hash, which may be published."""
        return self.coins.commitment

    def views(self, observer: Observer, *, sealed: bool) -> Sequence[View]:
        """What ``observer`` would have seen of each federation, in the form of a run's view.

        Each is read from disk when it is asked for, so that all of them needn't fit in memory.
        """
        return _Views(self, observer, sealed)

    def view(self, observer: Observer, federation: int, *, sealed: bool) -> View:
        """What ``observer`` would have seen of one federation."""
        rounds = range(self.setup.recipe.settings.rounds) if observer in ("server", "peer") else ()
        return sight.view(
            observer,
            [self._travelled(federation, number, sealed) for number in rounds],
            method=self.setup.recipe.method,
            public=self.setup.public,
            student=None if observer == "peer" else self._student(federation).predict_proba,
        )

    def unprotected(self) -> Evidence:
        """What a client's models, trained on its records alone without protection, say of its candidates."""
        asked = self.setup.unprotected
        own = np.flatnonzero(self.about.client == asked.client)
        answered = [self.played.read("unprotected", f) for f in range(self.game.federations)]
        probabilities = softmax(np.stack(answered).astype(np.float64), axis=-1)
        some = len(self.about.population_labels) > 0
        answers = Answers(
            probabilities=probabilities[:, : len(own)],
            labels=self.about.labels[own],
            population=probabilities[:, len(own) :] if some else None,
            population_labels=self.about.population_labels if some else None,
        )
        part = Part(candidates=own, answers=answers, records=self.about.take(own).records)
        return Evidence(observer="nobody", signal="unprotected model", parts=(part,))

    def check(self, run: Run) -> None:
        """Raise AuditError unless ``run`` follows the recipe that was played, but for its sealing."""
        if key_of(run, self.coins) != self.key:
            raise AuditError(
                f"these shadow federations are of another recipe, data or version than run {run.path}; leave "
                "them out, and its own are played"
            )

    def _travelled(self, federation: int, number: int, sealed: bool) -> Travelled:
        recipe = self.setup.recipe
        levels = self.played.read(f"answers.{number}", federation).astype(np.int64)
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
            queries=self.played.read(f"queries.{number}", federation),
            consensus=self.played.read(f"consensus.{number}", federation),
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
            name: self.played.read(name, federation)
            for name in self.played.names()
            if name.startswith("student.")
        }
        return Student(spec=self.setup.recipe.student, state=unpack_state("student", weights))


@dataclass(frozen=True, eq=False)
class _Views(Sequence[View]):
    """Views that are made when they are asked for."""

    shadows: Shadows
    observer: Observer
    sealed: bool

    def __len__(self) -> int:
        return self.shadows.game.federations

    @overload
    def __getitem__(self, index: int) -> View: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[View]: ...
    def __getitem__(self, index: int | slice) -> View | Sequence[View]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # raises IndexError, by which iteration ends
        return self.shadows.view(self.observer, place, sealed=self.sealed)


def shadows_of(run: Run, progress: Progress | None = None) -> Shadows:
    """Play ``config.audit.shadows`` federations, or take those that are stored in the run's folder.

    A chunk is stored as soon as it is played, so an interrupted audit goes on where it was.

    Raises:
        AuditError: a method without public set, no candidates, or stored shadows that aren't what was stored.
    """
    recipe = Recipe.of(run.config, run.split.input_shape, run.split.n_classes)
    if recipe.student is None:
        raise AuditError(
            f"method {recipe.method.name!r} asks about no public input and has no student, so its "
            "shadows would show an attacker nothing"
        )
    coins = coins_of(run.path / "audit")
    pool, rows = pool_of(run.split.clients)
    tossed = toss(
        coins,
        pool.y,
        rows,
        federations=run.config.audit.shadows,
        most=run.config.audit.candidates,
        relation=_relation(run.config),
    )
    clients = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    starts = np.array([own[0] for own in rows])
    reserved = reserved_of(run.split)
    about = Candidates(
        x=pool.x[tossed.candidates],
        labels=pool.y[tossed.candidates],
        client=clients[tossed.candidates],
        population_x=run.split.test.x[reserved],
        population_labels=run.split.test.y[reserved],
        n_classes=pool.n_classes,
    )
    setup = Play.of(run, about)
    key = key_of(run, coins)
    return Shadows(
        about=about,
        rows=tossed.candidates - starts[about.client],
        game=tossed.game,
        coins=coins,
        played=_chunks(run, setup, tossed.drawn, key, progress or Silent()),
        setup=setup,
        key=key,
    )


def reserved_of(split: Split) -> NDArray[np.int64]:
    """Which test records attacks compare candidates with: spread evenly over the half with even numbers."""
    even = np.arange(0, len(split.test), 2)
    return even[np.linspace(0, len(even) - 1, min(len(even), MOST_RESERVED)).astype(np.int64)]


def _relation(config: Config) -> Relation:
    """The game matches the relation of a claim about records; one about clients covers either."""
    privacy = config.privacy
    return "add-or-remove" if privacy is None or privacy.unit == "client" else privacy.relation


def key_of(run: Run, coins: Coins) -> str:
    """SHA-256, in hex, of all that decides what shadows show. Of sealing its grid, groups and noise count.

    The private records count by a hash under the seed: without it nobody can test a guess of them.
    """
    recipe = Recipe.of(run.config, run.split.input_shape, run.split.n_classes)
    releases = plan_releases(run.config, recipe, len(run.split.public))
    tables = resolved(run.config)
    for name in ("name", "sealing", "performance"):
        del tables[name]
    tables["audit"] = [run.config.audit.shadows, run.config.audit.candidates]
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


def _chunks(run: Run, setup: Play, drawn: Sequence[Rows], key: str, progress: Progress) -> Stored:
    """All chunks in order: those that are there, and the others played now."""
    folder = run.path / "audit" / "shadows"
    make(folder)
    parts = [drawn[start : start + CHUNK] for start in range(0, len(drawn), CHUNK)]
    paths = [folder / f"{key[:16]}-{number:03d}.safetensors" for number in range(len(parts))]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    with progress.stage("shadow federations", len(drawn)) as advance:
        advance(sum(len(part) for number, part in enumerate(parts) if number not in missing))
        for number, arrays in _played(setup, parts, missing, run.config.performance.workers):
            store(paths[number], arrays, key, number)
            advance(len(parts[number]))
    stored = Stored(paths=tuple(paths), size=CHUNK, shared=("queries.",))
    stored.check(key)
    return stored


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
