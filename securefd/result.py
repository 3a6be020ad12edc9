"""A finished run, opened from its folder: figures, claims, student, and what each observer saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from securefd import sight
from securefd.canaries import Canaries, canaries_of, check_commitment, split_of
from securefd.checkpoint import unpack_state
from securefd.config import Config, load_config
from securefd.data.splits import Split
from securefd.defenses.claims import Claim, Guarantee
from securefd.errors import ModelError, RunError
from securefd.fleet import State, predict
from securefd.folder import read_arrays, read_json, read_lines
from securefd.manifest import check_data
from securefd.methods import method_named
from securefd.models import ModelSpec
from securefd.nfdp import trained_on
from securefd.sight import Grouped, Travelled
from securefd.transcript import Received, read_transcript, transcript_path
from securefd.views import Observer, View


@dataclass(frozen=True, kw_only=True)
class Student:
    """The released model."""

    spec: ModelSpec
    state: State = field(repr=False)

    def predict_proba(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities ``(n, n_classes)`` of inputs ``(n, ...)``."""
        if x.shape[1:] != self.spec.shape:
            raise ModelError(f"the student takes inputs of shape (n, {self.spec.shape}), got {x.shape}")
        # Arrays that several processes share are read-only, which torch warns of.
        tensor = torch.from_numpy(np.require(x, np.float32, ["C", "W"]))
        logits = predict(self.spec, [self.state], tensor)[0].astype(np.float64)
        return np.asarray(softmax(logits, axis=-1), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run. ``metrics``: what ``securefd run --json`` prints. ``rounds``: figures by round."""

    path: Path
    config: Config
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]
    rounds: tuple[Mapping[str, Any], ...]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]

    @cached_property
    def split(self) -> Split:
        """The data again, as configured. Raises RunMismatch where they have changed since the run."""
        split = split_of(self.config)
        check_data(self.path, self.manifest, split)
        return split

    def canaries(self, client: int) -> Canaries:
        """One client's canaries and coins, as they were committed to. Raises RunMismatch if they aren't."""
        made = canaries_of(self.path, self.config, self.split, client)
        check_commitment(self.path, self.manifest, made, client)
        return made

    def trained_on(self, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Those of each client's ``rows``, one a record of its own, that it learnt from; no canary is one."""
        if self.config.audit.canaries is None:
            return trained_on(self.path, self.config, rows)
        # Canaries come after a client's own records, and a sample may have drawn some.
        included = [int(self.canaries(client).included.sum()) for client in range(len(rows))]
        whole = [np.append(own, np.full(n, -1)) for own, n in zip(rows, included, strict=True)]
        return [used[used >= 0] for used in trained_on(self.path, self.config, whole)]

    @cached_property
    def student(self) -> Student:
        """The distilled model. Raises RunError where the method has none."""
        path = self.path / "models" / "student.safetensors"
        if not path.exists():
            raise RunError(
                f"run {self.path} has no student: method {self.config.method.name!r} has no public set to "
                "distil on; choose a method that has"
            )
        spec = ModelSpec(
            name=self.config.student.model,
            shape=tuple(self.manifest["input shape"]),
            n_classes=len(self.manifest["classes"]),
        )
        return Student(spec=spec, state=unpack_state("student", read_arrays(path)))

    def view(self, observer: Observer) -> View:
        """What this observer saw, and nothing else; see `sight.view`."""
        method = method_named(self.config.method.name)
        return sight.view(
            observer,
            [self._travelled(number) for number in range(self.config.method.rounds)],
            method=method,
            public=self.split.public,
            student=self.student.predict_proba if method.public else None,
        )

    def messages(self, number: int) -> tuple[Received, ...]:
        """What server, key holder and the curious peer received in round ``number`` (from 0), as it came."""
        return tuple(read_transcript(transcript_path(self.path, number)))

    def _travelled(self, number: int) -> Travelled:
        arrays = read_arrays(view_path(self.path, number))
        return Travelled(
            queries=arrays["queries"],
            consensus=arrays["consensus"],
            mean=arrays["total"],
            answers=arrays.get("answers"),
            grouped=Grouped(sums=arrays["sums"], groups=arrays["groups"]) if "sums" in arrays else None,
        )


def view_path(folder: Path, number: int) -> Path:
    """Where what travelled in round ``number`` (from 0) is kept."""
    return folder / "views" / f"round-{number + 1:03d}.safetensors"


def load_run(path: str | Path) -> Run:
    """Open a finished run. Raises RunError for anything that isn't one."""
    folder = Path(path)
    if not (folder / "config.toml").is_file():
        raise RunError(
            f"{folder} is not a run folder (it has no config.toml); name one that `securefd run` made"
        )
    if not (folder / "result.json").is_file():
        raise RunError(
            f"run {folder} isn't finished; resume it with `securefd run` and the same configuration"
        )
    result = read_json(folder / "result.json")
    return Run(
        path=folder,
        config=load_config(folder / "config.toml"),
        manifest=read_json(folder / "manifest.json"),
        metrics=result["metrics"],
        rounds=tuple(read_lines(folder / "metrics.jsonl")),
        claims=tuple(_claim(claim) for claim in result["claims"]),
        notes=tuple(result["notes"]),
    )


def _claim(written: Mapping[str, Any]) -> Claim:
    guarantee = written["guarantee"]
    return Claim(**{**written, "guarantee": None if guarantee is None else Guarantee(**guarantee)})
