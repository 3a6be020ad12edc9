"""A finished run, opened from its folder: figures, claims, student, and what each observer saw.

Figures and claims are in small files. Models and data load large libraries, so they wait to be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from securefd.config import Config, load_config
from securefd.defenses.claims import Claim
from securefd.errors import ModelError, PrivacyError, RunError
from securefd.folder import read_arrays, read_json, read_lines
from securefd.views import Observer, View

if TYPE_CHECKING:
    from securefd.canaries import Canaries
    from securefd.data.splits import Split
    from securefd.fleet import State
    from securefd.models import ModelSpec
    from securefd.sight import Travelled
    from securefd.transcript import Received


SHARES = ("student.accuracy", "clients.accuracy", "local.accuracy")
"""Metrics that every run has, in [0, 1], or null where there is nothing to measure."""
_CLAIMS = TypeAdapter(tuple[Claim, ...])


@dataclass(frozen=True, kw_only=True)
class Student:
    """The released model."""

    spec: ModelSpec
    state: State = field(repr=False)

    def predict_proba(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities ``(n, n_classes)`` of inputs ``(n, ...)``."""
        import torch
        from scipy.special import softmax

        from securefd.fleet import predict

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
        from securefd.canaries import split_of
        from securefd.manifest import check_data

        split = split_of(self.config)
        check_data(self.path, self.manifest, split)
        return split

    def canaries(self, client: int) -> Canaries:
        """One client's canaries and coins, as they were committed to. Raises RunMismatch if they aren't."""
        from securefd.canaries import canaries_of, check_commitment

        made = canaries_of(self.path, self.config, self.split, client)
        check_commitment(self.path, self.manifest, made, client)
        return made

    def trained_on(self, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Those of each client's ``rows``, one a record of its own, that it learnt from; no canary is one."""
        from securefd.nfdp import trained_on

        if self.config.audit.canaries is None:
            return trained_on(self.path, self.config, rows)
        # Canaries come after a client's own records, and a sample may have drawn some.
        included = [int(self.canaries(client).included.sum()) for client in range(len(rows))]
        whole = [np.append(own, np.full(n, -1)) for own, n in zip(rows, included, strict=True)]
        return [used[used >= 0] for used in trained_on(self.path, self.config, whole)]

    @cached_property
    def student(self) -> Student:
        """The distilled model. Raises RunError where the method has none."""
        from securefd.checkpoint import unpack_state
        from securefd.models import ModelSpec

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
        from securefd import sight
        from securefd.methods import method_named

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
        from securefd.transcript import read_transcript, transcript_path

        return tuple(read_transcript(transcript_path(self.path, number)))

    def _travelled(self, number: int) -> Travelled:
        from securefd.sight import Grouped, Travelled

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
    """Open a finished run. Raises RunError for anything that isn't one, or isn't as a run writes it."""
    folder = Path(path)
    if not (folder / "config.toml").is_file():
        raise RunError(
            f"{folder} is not a run folder (it has no config.toml); name one that `securefd run` made"
        )
    if not (folder / "result.json").is_file():
        raise RunError(
            f"run {folder} isn't finished; resume it with `securefd run` and the same configuration"
        )
    path = folder / "result.json"
    result = _table(path, ("metrics", "claims", "notes"))
    return Run(
        path=folder,
        config=load_config(folder / "config.toml"),
        manifest=_table(
            folder / "manifest.json", ("configuration", "versions", "public set", "classes", "input shape")
        ),
        metrics=_metrics(path, result["metrics"]),
        rounds=tuple(read_lines(folder / "metrics.jsonl")),
        claims=_claims(path, result["claims"]),
        notes=tuple(result["notes"]),
    )


def _table(path: Path, names: Sequence[str]) -> Mapping[str, Any]:
    table = read_json(path)
    for name in names:
        if not isinstance(table, dict) or name not in table:
            raise _edited(path, name, "is missing")
    return dict(table)


def _metrics(path: Path, written: Any) -> Mapping[str, Any]:
    for name in ("test.records", *SHARES):
        if not isinstance(written, dict) or name not in written:
            raise _edited(path, f"metrics.{name}", "is missing")
        value = written[name]
        if name in SHARES and not (value is None or (isinstance(value, int | float) and 0 <= value <= 1)):
            raise _edited(path, f"metrics.{name}", f"must be a share from 0 to 1, got {value!r}")
    records = written["test.records"]
    if not (isinstance(records, int) and records > 0):
        raise _edited(path, "metrics.test.records", f"must be a count, got {records!r}")
    return dict(written)


def _claims(path: Path, written: Any) -> tuple[Claim, ...]:
    try:
        return _CLAIMS.validate_python(written)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, ("claims", *first["loc"])))
        raise _edited(path, field, f"isn't what a run writes ({first['msg']})") from None
    except PrivacyError as error:  # of a guarantee, whose own rules pydantic passes on
        raise _edited(path, "claims", f"hold a guarantee that can't be: {error}") from None


def _edited(path: Path, field: str, why: str) -> RunError:
    return RunError(f"{path}: {field} {why}; the file was edited or damaged: restore it, or run again")
