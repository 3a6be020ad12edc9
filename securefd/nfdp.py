"""Training on a sample of each client's records, without noise: "noise-free differential privacy", as it is.

Sun and Lyu, Federated Model Distillation with Noise-Free Differential Privacy (IJCAI 2021, arXiv 2009.05537).
It is here to be compared and audited, and promises nothing: see `theorem`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import SystemRandom

import numpy as np
from numpy.typing import NDArray

from securefd.config import Config
from securefd.defenses.claims import Relation
from securefd.errors import PrivacyError, RunError
from securefd.folder import make, read_arrays, write_arrays
from securefd.refusals import refusal

NFDP = "nfdp"
Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """How many of its ``records`` one client trains on: ``sample`` of them, drawn without replacement."""

    client: int
    records: int
    sample: int

    def __str__(self) -> str:
        return f"client {self.client}: {self.sample:,} of {self.records:,} records, drawn once"

    def of(self, rows: Rows) -> Rows:
        """As large a share of other ``rows``, one at least, drawn anew by the operating system's generator.

        A shadow federation, of which each client has about half of the records, so trains on a record as
        often as the deployed one.
        """
        count = max(1, round(len(rows) * self.sample / self.records))
        return rows[draw(len(rows), count)]


def plan_samples(config: Config, sizes: Sequence[int]) -> tuple[Sampled, ...]:
    """What each client with ``sizes`` records is to train on; empty under any other route.

    Raises ConfigError for a sample that is larger than the smallest client.
    """
    privacy = config.privacy
    if privacy is None or privacy.route != NFDP:
        return ()
    assert privacy.sample is not None
    if privacy.sample > min(sizes):
        raise refusal(
            "privacy.sample",
            f"must be at most the records of the smallest client, which are {min(sizes)}",
            privacy.sample,
            f"give {min(sizes)} or less, or have fewer clients",
        )
    return tuple(Sampled(client=k, records=size, sample=privacy.sample) for k, size in enumerate(sizes))


def draw(records: int, sample: int) -> Rows:
    """Sorted positions of ``sample`` of ``records``, without replacement, by the operating system."""
    return np.sort(np.array(SystemRandom().sample(range(records), sample), dtype=np.int64))


def trained_on(folder: Path, config: Config, rows: Sequence[Rows], *, fresh: bool = False) -> list[Rows]:
    """Those of each client's ``rows`` that it learns from in the run in ``folder``: all, or its sample.

    ``fresh``: whether the run has yet to begin, so that samples may be drawn.
    """
    samples = plan_samples(config, [len(own) for own in rows])
    if not samples:
        return list(rows)
    places = [folder / "clients" / str(sampled.client) for sampled in samples]
    return [
        own[_stored(place, sampled, fresh)] for own, place, sampled in zip(rows, places, samples, strict=True)
    ]


def _stored(folder: Path, sampled: Sampled, fresh: bool) -> Rows:
    """Run by one client: the positions of the records that it trains on, the same whenever it is asked.

    They are stored in its ``folder`` before they are used. Raises RunError where they are gone from a run
    that has begun, or aren't what was stored: with others in their place, a model would learn from more
    records than were drawn.
    """
    path = folder / "sample.safetensors"
    if not path.exists():
        if not fresh:
            raise RunError(
                f"{path} is missing, so that nobody knows which records client {sampled.client} trains on; "
                "restore it, or choose another folder"
            )
        make(folder)
        write_arrays(path, {"rows": draw(sampled.records, sampled.sample)})
    rows = read_arrays(path).get("rows")
    if rows is None or not _fits(rows, sampled):
        raise RunError(
            f"{path} isn't a sample of {sampled.sample} of {sampled.records} records; restore it, or choose "
            "another folder"
        )
    return np.array(rows)


def _fits(rows: NDArray[np.generic], sampled: Sampled) -> bool:
    if rows.dtype != np.int64 or rows.shape != (sampled.sample,):
        return False
    return bool(np.all(np.diff(rows) > 0)) and rows[0] >= 0 and rows[-1] < sampled.records


def theorem(records: int, sample: int, relation: Relation) -> tuple[float, float]:
    """What is proven of ``sample`` of n = ``records``, drawn without replacement: epsilon and delta.

    Sun and Lyu's theorem, for a client that gets one more record: ln((n + 1) / (n + 1 - sample)) and
    sample / n. A set of records that lacks the new one is drawn (n + 1) / (n + 1 - sample) times as often
    without it as with it, and one that has it with a probability of sample / (n + 1), and never without it.
    The same argument for a record in another's place: sets that have neither are as likely either way,
    and all others have a probability of sample / n, so that epsilon is 0 and delta sample / n.

    It is no protection. Delta is at least 1 / n, and bounds the probability that nothing holds; all of it is
    used here: whoever publishes the drawn records, whole, has the same epsilon and delta.

    Raises PrivacyError for a sample that can't be drawn.
    """
    if not 1 <= sample <= records:
        raise PrivacyError(f"sample must be at least 1 and at most the {records} records, got {sample}")
    delta = sample / records
    return (math.log((records + 1) / (records + 1 - sample)) if relation == "add-or-remove" else 0.0), delta


def why_nothing(samples: Sequence[Sampled], relation: Relation) -> str:
    """Why nobody is promised anything about a record: sentences, with what is proven for the smallest client.

    Its figures are those of `theorem`, never without unit, relation, delta and observer.
    """
    least = min(samples, key=lambda each: each.records)
    epsilon, delta = theorem(least.records, least.sample, relation)
    up = math.ceil(epsilon * 1000) / 1000
    return (
        f"No noise was added: each client trains on {least.sample:,} of its records, drawn once, and nothing "
        "protects a record that was drawn, so that sums, consensus and student leak it. The argument of Sun "
        f"and Lyu 2021 comes, for {least.sample:,} of the smallest client's "
        f"{least.records:,} records, to epsilon = {up:g} at delta = {delta:.2g} for one record, {relation}, "
        "towards every observer, and that is no protection: delta is a record's chance that nothing holds, "
        f"here {least.sample:,}/{least.records:,}, and never below 1/{least.records:,}; whoever draws "
        f"{least.sample:,} records and publishes them whole has these same figures."
    )
