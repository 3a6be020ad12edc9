"""A run: one federation with real sealing, a ledger, and a folder from which it resumes.

Every round ends with a checkpoint. A run that is killed starts again after its last one and, where no
released noise is drawn, ends with the same bytes; where noise is drawn, what was stored is sent again and
never redrawn, and what was paid for but not stored is paid again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from securefd import checkpoint, exchange
from securefd.baselines import alone
from securefd.canaries import note_on, split_of, with_canaries
from securefd.cohort import Pool
from securefd.config import Config
from securefd.data.dataset import Dataset
from securefd.data.splits import Split
from securefd.defenses.claims import Claim
from securefd.defenses.grouped import GroupedSealing
from securefd.defenses.sealed import make_sealing
from securefd.defenses.sealing import Opened, PlainSealing, Receiver, Sealing
from securefd.errors import ConfigError, RunError
from securefd.features import Features
from securefd.federation import Asked, Consensus, Federations, Vector
from securefd.folder import (
    LOCK,
    locked,
    make,
    read_arrays,
    read_lines,
    write_arrays,
    write_bytes,
    write_json,
)
from securefd.given import Given
from securefd.heads import Basis
from securefd.manifest import establish
from securefd.nfdp import plan_samples, trained_on
from securefd.planning import promise, promises
from securefd.private import PrivatePlan, plan_private
from securefd.private_client import PrivateClient
from securefd.progress import Progress, Silent
from securefd.recipe import Recipe
from securefd.releases import plan_releases
from securefd.releasing_client import ReleasingClient
from securefd.result import Run, load_run, view_path
from securefd.rules import n_clients, one_group
from securefd.transcript import PEER, Transcript, transcript_path
from securefd.utility import utility_of
from securefd.voting import VoteServer, release_path


def run(config: Config, out: str | Path, progress: Progress | None = None, *, with_local: bool = True) -> Run:
    """Run a federation into the folder ``out``, or resume the run that is there; a finished one is opened.

    ``with_local``: also train each client alone, to compare with; a private client's figure is there anyway.

    Raises RunError for a folder that is something else, RunLocked for one in use, RunMismatch for one of
    another configuration, and the errors of data, models and privacy before there is a folder.
    """
    folder = Path(out)
    _check_place(folder)
    _check_device(config.performance.device)
    split = split_of(config)
    result = folder / "result.json"
    with one_thread():
        runner = None if result.exists() else _Runner(config, split, folder, progress or Silent())
        make(folder)
        with locked(folder):
            establish(folder, config, split)
            if runner is not None and not result.exists():
                runner.play(with_local)
    return load_run(folder)


def pool_of(clients: Sequence[Dataset]) -> tuple[Pool, list[NDArray[np.int64]]]:
    """Put the clients' records into one array, and say which rows are whose."""
    ends = np.cumsum([len(client) for client in clients])
    rows = [np.arange(end - len(client), end) for client, end in zip(clients, ends, strict=True)]
    pool = Pool(
        x=np.concatenate([client.x for client in clients]),
        y=np.concatenate([client.y for client in clients]),
        n_classes=clients[0].n_classes,
    )
    return pool, rows


def basis_of(config: Config, recipe: Recipe, split: Split, folder: Path) -> Basis | None:
    """What heads, and others, stand on: learnt from the public set, kept in the run's ``folder``; or None."""
    if not recipe.needs_features:
        return None
    path = folder / "models" / "features.safetensors"
    device = config.performance.device
    if path.exists():
        state = checkpoint.unpack_state("features", read_arrays(path))
        return Basis.of(Features(shape=split.input_shape, state=state), split.public, device)
    basis = Basis.learn(split.public, seed=config.seed, device=device)
    write_arrays(path, checkpoint.pack_state("features", basis.learnt.state))
    return basis


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread an operation: sums are added in one order whatever the machine, and models run abreast."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Runner:
    """Making one touches no folder, and refuses what can't be run."""

    def __init__(self, config: Config, split: Split, folder: Path, progress: Progress) -> None:
        self.config = config
        self.split = split
        self.folder = folder
        self.progress = progress
        self.recipe = Recipe.of(config, split.input_shape, split.n_classes)
        self.pool, self.rows = pool_of(split.clients)
        self.plans = self._plans()
        self.samples = plan_samples(config, [len(client) for client in split.clients])
        self.releases = plan_releases(config, self.recipe, len(split.public))
        self.votes = VoteServer.of(folder, self.releases)
        self.private: list[PrivateClient] = []
        self.releasing: list[ReleasingClient] = []
        self.lines: list[dict[str, Any]] = []
        # Never used before: a resumed run seals what it sends again under new masks.
        self.session = os.urandom(32)
        self.codec = exchange.codec_of(self.recipe, config.sealing)
        self.transcript: Transcript | None = None
        self.basis: Basis | None = None
        self.sealing = self._sealing()
        # Levels that each client last sent, and that all last heard: what the codec's deltas are from.
        coded = len(split.public) if self.codec is not None else 0
        self.sent = np.full((n_clients(config), coded, split.n_classes), -1, dtype=np.int16)
        self.heard = np.full((coded, split.n_classes), -1, dtype=np.int16)

    def play(self, with_local: bool) -> None:
        """From the last checkpoint to the end."""
        rounds = self.config.method.rounds
        for name in ("models", "views"):
            make(self.folder / name)
        if self.config.audit.canaries is not None:
            self.split = with_canaries(self.folder, self.config, self.split)
            self.pool, self.rows = pool_of(self.split.clients)
        self.rows = trained_on(self.folder, self.config, self.rows, fresh=not self._checkpoints())
        self.private = [
            PrivateClient(self.folder / "clients" / str(k), k, plan, self.config.privacy)
            for k, plan in enumerate(self.plans)
            if self.config.privacy is not None
        ]
        self.releasing = [
            ReleasingClient(self.folder / "clients" / str(k), k, self.releases, self.config.privacy)
            for k in range(n_clients(self.config))
            if self.releases is not None and self.config.privacy is not None
        ]
        for client in self.private:
            client.check_budget()
        for releasing in self.releasing:
            releasing.check_budget()
        self.basis = basis_of(self.config, self.recipe, self.split, self.folder)
        with self.progress.stage("federation", rounds + 2) as advance:
            counts = [
                client.counts(self.split.clients[k].y, self.split.n_classes)
                for k, client in enumerate(self.private)
            ]
            federation = self._federation(counts)
            done = self._resume(federation)
            advance(done)
            for number in range(done, rounds):
                self._round(federation, number, counts)
                advance(1)
            federation.finish()
            advance(1)
            self._result(federation, with_local)
            advance(1)

    def _sealing(self) -> Sealing:
        def among(members: Sequence[int]) -> Sealing:
            def record(receiver: Receiver, client: int, stage: str, message: bytes) -> None:
                self._record(receiver, members[client] if client >= 0 else client, stage, message)

            return make_sealing(
                self.config.sealing.kind,
                len(members),
                self.recipe.bits,
                neighbourhood=exchange.neighbourhood_of(one_group(self.config, len(members))),
                threshold=self.config.sealing.threshold,
                codec=self.codec,
                noise_deviation=self.releases.sealed_deviation(self.config.sealing.kind)
                if self.releases is not None
                else 0.0,
                record=record,
            )

        if self.recipe.groups:
            return GroupedSealing(self.recipe.groups, among)
        return among(range(n_clients(self.config)))

    def _record(self, receiver: Receiver, client: int, stage: str, message: bytes) -> None:
        if self.transcript is not None:
            self.transcript.keep(receiver, client, stage, message)

    def _plans(self) -> list[PrivatePlan]:
        if not self.recipe.private:
            return []
        assert self.config.privacy is not None
        sizes = [len(client) for client in self.split.clients]
        return plan_private(self.config.privacy, self.recipe, sizes, len(self.split.public))

    def _federation(self, counts: Sequence[NDArray[np.float64] | None]) -> Federations:
        noisy = [c for c in counts if c is not None]
        return Federations(
            self.recipe,
            self.pool,
            [self.rows],
            self.split.public,
            counts=[noisy] if noisy else None,
            releases=self.releases,
            basis=self.basis,
            device=self.config.performance.device,
            workers=self.config.performance.workers,
        )

    def _resume(self, federation: Federations) -> int:
        """Restore the last checkpoint; return how many rounds are done."""
        saved = self._checkpoints()
        if not saved:
            return 0
        done = max(saved)
        arrays = read_arrays(saved[done])
        self.sent, self.heard = np.array(arrays.pop("sent")), np.array(arrays.pop("heard"))
        checkpoint.restore(federation, arrays)
        # The line of a round is written before its checkpoint: there may be one too many.
        self.lines = read_lines(self.folder / "metrics.jsonl")[:done]
        self._forget_before(done)
        return done

    def _checkpoints(self) -> dict[int, Path]:
        found = self.folder.glob("models/round-*.safetensors")
        return {int(path.stem.removeprefix("round-")): path for path in found}

    def _forget_before(self, done: int) -> None:
        for number, old in self._checkpoints().items():
            if number < done:
                old.unlink()

    def _round(
        self,
        federation: Federations,
        number: int,
        counts: Sequence[NDArray[np.float64] | None],
    ) -> None:
        began = time.monotonic()
        line: dict[str, Any] = {"round": number + 1}
        if not self.recipe.private:
            federation.fit(number)
        elif number == 0:
            self._train_privately(federation, counts)
            line["alone.accuracy"] = self._accuracies(federation)
        asked = federation.ask(number)
        (vectors,) = federation.answer(asked)
        with Transcript(transcript_path(self.folder, number)) as self.transcript:
            query = exchange.query(self.recipe, self.session, number, asked.asked)
            if query:
                self._record("client", PEER, "query", query)
            opened = self._seal(asked, *self._noised(number, vectors))
            total = self._noised_sum(number, opened)
            (consensus,) = federation.combine(asked, [total], [opened.parts])
            broadcast = self._broadcast(asked, consensus, opened)
            self._record("client", PEER, "broadcast", broadcast)
        if self.recipe.method.public:
            federation.digest(asked, [consensus])
        else:
            federation.set_anchors([opened.total], [vectors])
        accuracies = self._accuracies(federation)
        line |= {
            "bytes.up": max(opened.up),
            "bytes.down": max(opened.down) + len(query) + len(broadcast),
            "clients.accuracy": float(np.mean(accuracies)),
            "seconds": round(time.monotonic() - began, 3),
        }
        if federation.students is not None and not self.recipe.self_training:
            line["student.accuracy"] = self._accuracy(federation.students.logits(self.split.test.x)[0])
        self._save_view(asked, opened, consensus)
        self._save_round(federation, number + 1, line)

    def _train_privately(self, federation: Federations, counts: Sequence[NDArray[np.float64] | None]) -> None:
        clients = federation.clients
        with self.progress.stage("private training", sum(len(plan.parts) for plan in self.plans)) as advance:
            for k, client in enumerate(self.private):
                own = self.split.clients[k]
                given = Given(
                    spec=clients.members[k].model,
                    x=own.x,
                    y=own.y,
                    public=self.split.public,
                    counts=counts[k],
                    basis=self.basis,
                    device=self.config.performance.device,
                )
                clients.states[k] = client.train(given, clients.states[k], advance=advance)

    def _noised(self, number: int, vectors: Sequence[Vector]) -> tuple[list[Vector], list[Vector] | None]:
        """What clients seal, and their noise, if their answers are noised: paid for, and stored."""
        if not self.releasing:
            return list(vectors), None
        released = [
            client.release(vector, number) for client, vector in zip(self.releasing, vectors, strict=True)
        ]
        shares = [noise for _, noise in released if noise is not None]
        return [vector for vector, _ in released], shares or None

    def _seal(self, asked: Asked, vectors: Sequence[Vector], noise: Sequence[Vector] | None) -> Opened:
        if self.codec is not None and isinstance(self.sealing, PlainSealing):
            self.sealing.previous = tuple(
                self.sent[k, asked.asked].reshape(-1).astype(np.int64) for k in range(len(vectors))
            )
        if not len(asked.asked) and self.recipe.method.public:
            nothing = (0,) * len(vectors)
            return Opened(
                total=np.empty(0, dtype=np.int64),
                clients=tuple(range(len(vectors))),
                individual=None,
                up=nothing,
                down=nothing,
            )
        question = exchange.question(self.recipe, self.session, asked.round, asked.asked, self.split.public)
        opened = self.sealing.run_round(self.session, asked.round, vectors, self.recipe.bits, question, noise)
        if self.codec is not None:
            for k, vector in enumerate(vectors):
                self.sent[k, asked.asked] = vector.reshape(len(asked.asked), -1)
        return opened

    def _noised_sum(self, number: int, opened: Opened) -> Vector:
        """Run by the server: where it is trusted, with its noise, drawn once, and stored before anyone hears
        of it. Raises RunError where it is gone, and others have heard of it: answers that are sent again
        cost nothing, so noise that is drawn again would be paid for by nobody.
        """
        if self.releases is None or not self.releases.route.trusted or not opened.total.size:
            return opened.total
        path = release_path(self.folder, number)
        if not path.exists():
            if any(client.has_heard(number) for client in self.releasing):
                raise RunError(
                    f"{path} must be there, since clients have heard what the server released in round "
                    f"{number + 1}, and other noise would tell more than was paid for; put it back from a "
                    "backup, or start another run, with a budget of its own"
                )
            make(path.parent)
            arrays = {"total": self.releases.noised_sum(opened.total, len(opened.clients))}
            if self.votes is not None:
                arrays |= self.votes.costs(number, opened.total)
            write_arrays(path, arrays)
        for client in self.releasing:
            client.hear(number)
        return np.array(read_arrays(path)["total"])

    def _broadcast(self, asked: Asked, consensus: Consensus, opened: Opened) -> bytes:
        """What the round came to, as every client gets it."""
        if not self.recipe.method.public:
            body = exchange.total_body(opened.total)
        elif self.codec is None or not exchange.answers_all(self.config):
            body = exchange.consensus_body(consensus.fresh)
        else:
            levels = np.rint(consensus.fresh * self.codec.steps).astype(np.int64)
            before = self.heard[asked.asked].reshape(-1).astype(np.int64)
            body = self.codec.encode(levels.reshape(-1), before)
            self.heard[asked.asked] = levels
        return exchange.broadcast(self.session, asked.round, body)

    def _save_view(self, asked: Asked, opened: Opened, consensus: Consensus) -> None:
        m, reach = len(asked.asked), 0 if self.releases is None else self.releases.reach(opened.total.size)
        arrays = {
            "queries": asked.asked,
            "consensus": consensus.fresh,
            "total": consensus.mean,
        }
        if self.releases is not None and self.releases.route.trusted and m:
            # What the server opened, not what it broadcast of it.
            of = len(opened.clients)
            arrays["total"] = self.recipe.decoded(opened.total, m, of) / of
        if opened.individual is not None and self.recipe.method.public:
            arrays["answers"] = np.stack(
                [self.recipe.decoded(vector, m, beyond=reach) for vector in opened.individual]
            )
        if opened.groups is not None:
            # In place of answers: the sums, and each client's group, or -1 for one that is in no sum.
            arrays["groups"] = np.full(n_clients(self.config), -1, dtype=np.int64)
            for number, part in enumerate(opened.groups):
                arrays["groups"][list(part.clients)] = number
            arrays["sums"] = np.stack(
                [self.recipe.decoded(p.total, len(asked.asked), len(p.clients)) for p in opened.groups]
            )
        write_arrays(view_path(self.folder, asked.round), arrays)

    def _save_round(self, federation: Federations, done: int, line: dict[str, Any]) -> None:
        self.lines.append(line)
        text = "".join(json.dumps(each, sort_keys=True) + "\n" for each in self.lines)
        write_bytes(self.folder / "metrics.jsonl", text.encode())
        arrays = checkpoint.pack(federation) | {"sent": self.sent, "heard": self.heard}
        write_arrays(self.folder / "models" / f"round-{done:04d}.safetensors", arrays)
        self._forget_before(done)

    def _result(self, federation: Federations, with_local: bool) -> None:
        if federation.students is not None:
            write_arrays(
                self.folder / "models" / "student.safetensors",
                checkpoint.pack_state("student", federation.students.states[0]),
            )
        decided = None if federation.students is None else federation.students.logits(self.split.test.x)[0]
        accuracies = self._accuracies(federation)
        # A private client is trained once, so alone it is what it was before its first answer.
        local: list[float] | None = self.lines[0].get("alone.accuracy")
        if local is None and with_local:
            local = self._alone()
        up, down = (max(line[key] for line in self.lines) for key in ("bytes.up", "bytes.down"))
        metrics = {
            "clients.accuracy": float(np.mean(accuracies)),
            "clients.accuracies": accuracies,
            "local.accuracy": None if local is None else float(np.mean(local)),
            "local.accuracies": local,
            "student.accuracy": None if decided is None else self._accuracy(decided),
            "student.utility": None if decided is None else self._utility(decided),
            "test.records": len(self.split.test),
            "bytes": {"up": up, "down": down},
            "rounds": self.config.method.rounds,
        }
        notes = [client.note for client in self.private if client.note is not None]
        if self.votes is not None:
            outcome = self.votes.outcome()
            metrics |= outcome.metrics()
            notes.append(outcome.note())
        if self.config.audit.canaries is not None:
            notes.append(note_on(self.config.audit.canaries))
        write_json(
            self.folder / "result.json",
            {
                "metrics": metrics,
                "claims": [asdict(claim) for claim in self._claims()],
                "notes": notes,
            },
        )

    def _claims(self) -> tuple[Claim, ...]:
        spent = [client.spent() for client in self.private]
        spent += [client.spent() for client in self.releasing]
        noised = promise(self.config, spent, self.releases)
        return promises(self.config, self.recipe, noised, self.samples)

    def _alone(self) -> list[float]:
        with self.progress.stage("each client alone", self.config.method.rounds) as advance:
            logits = alone(
                self.recipe,
                self.pool,
                self.rows,
                self.split.test.x,
                device=self.config.performance.device,
                workers=self.config.performance.workers,
                advance=advance,
                basis=self.basis,
            )
        return [self._accuracy(each) for each in logits]

    def _accuracies(self, federation: Federations) -> list[float]:
        return [self._accuracy(logits) for logits in federation.clients.logits(self.split.test.x)]

    def _utility(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        return utility_of(logits, self.split.test, self.config.data.group or "owner", self.config.seed)

    def _accuracy(self, logits: NDArray[np.float32]) -> float:
        return float((logits.argmax(-1) == self.split.test.y).mean())


def _check_place(folder: Path) -> None:
    """Refuse a place that holds something else than a run: nothing of it is touched then."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; name a folder for the run")
    try:
        names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise RunError(f"folder {folder} can't be read: {error.strerror}; choose another place") from error
    if names and LOCK not in names and not {"config.toml", "manifest.json"} <= names:
        raise RunError(
            f"folder {folder} isn't empty and holds no run (found {min(names)!r}); choose another folder"
        )


def _check_device(device: str) -> None:
    kind, _, number = device.partition(":")
    present = {
        "cpu": 1,
        "mps": int(torch.backends.mps.is_available()),
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
    }[kind]
    if not int(number or 0) < present:
        raise ConfigError(
            f"performance.device must be there, got {device!r}, and PyTorch finds {present} of its kind; "
            "write 'cpu', or install a PyTorch that supports the device"
        )
