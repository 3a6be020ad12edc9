"""Attacks on this run that aren't on membership: which classes a client holds, and what they look like.

Private records come in only to judge what an observer made of its view.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import t as student_t

from securefd.attacks.inversion import SMALLEST_PICTURE, class_means, invert, structural_similarity
from securefd.attacks.label_distribution import (
    answered_by,
    divergence,
    label_distributions,
    total_variation,
)
from securefd.data.splits import Split
from securefd.errors import AuditError
from securefd.evaluation.findings import OtherFinding, Skipped
from securefd.result import Run
from securefd.rules import EMBEDDED
from securefd.views import View

MIXES = "label distribution"
LOOKS = "reconstruction of a class"

FEWEST_OF_A_CLASS = 5
"""A mean over fewer private records of a class isn't what a class looks like."""

MOST_CLIENTS = 10
"""Whose classes are reconstructed; of more, so many spread evenly."""

_SCALE = 4

Floats = NDArray[np.float64]


def other_attacks(run: Run, device: str = "cpu") -> tuple[OtherFinding | Skipped, ...]:
    """What the server of ``run`` can do besides; empty unless it is one of the configured observers."""
    if "server" not in run.config.audit.observers:
        return ()
    view = run.view("server")
    try:
        answers = answered_by(view)
    except AuditError as error:
        return tuple(
            Skipped(subject="this run", observer="server", attack=attack, reason=str(error))
            for attack in (MIXES, LOOKS)
        )
    found: list[OtherFinding | Skipped] = [*_mixes(run.split, answers)]
    try:
        embedded = run.config.data.source in EMBEDDED
        found += _looks(run.split, view, answers, seed=run.config.seed, device=device, draw=embedded)
    except AuditError as error:
        found.append(Skipped(subject="this run", observer="server", attack=LOOKS, reason=str(error)))
    return tuple(found)


def _mixes(split: Split, answers: Floats) -> Iterator[OtherFinding]:
    """The classes that each client holds, beside knowing those of all clients together."""
    true = np.stack(
        [np.bincount(client.y, minlength=split.n_classes) / len(client) for client in split.clients]
    )
    everyone = np.repeat(true.mean(axis=0)[None], len(true), axis=0)
    estimated = label_distributions(answers)
    for measure, distance in (
        ("Kullback-Leibler divergence to the truth, nats", divergence),
        ("total variation from the truth", total_variation),
    ):
        distances = distance(true, estimated)
        yield OtherFinding(
            observer="server",
            attack=MIXES,
            measure=measure,
            value=float(distances.mean()),
            interval=_interval(distances, least=0.0),
            baseline=float(distance(true, everyone).mean()),
            cases=len(distances),
            what="mean over clients; the baseline knows the mean of all clients' mixes; 0 is the truth",
        )


def _looks(
    split: Split, view: View, answers: Floats, *, seed: int, device: str, draw: bool
) -> Iterator[OtherFinding]:
    """What each client's classes look like, by inversion, beside what the student says of them."""
    if view.student is None:
        raise AuditError("the server has no model of its own to pair answers with")
    (first, *_) = [part for part in view.rounds if part.answers is not None or part.sums is not None]
    x = view.public[first.queries]
    public_model = view.student(x)
    # Whoever has the student has these without any client's answers.
    known = (class_means(public_model, x), invert(public_model, None, x, seed=seed, device=device))
    similar, pictures = _likeness(x)
    gains, found, without = [], [], []
    chosen = np.linspace(0, len(answers) - 1, min(len(answers), MOST_CLIENTS)).astype(int)
    for k in chosen:
        attacks = (class_means(answers[k], x), invert(public_model, answers[k], x, seed=seed, device=device))
        client = split.clients[k]
        for label in range(split.n_classes):
            own = client.x[client.y == label]
            if len(own) < FEWEST_OF_A_CLASS:
                continue
            truth = own.mean(axis=0).astype(np.float64)
            # The better of two pictures on either side, so that neither is helped by the choice alone.
            mine, theirs = (
                max((each[label] for each in some), key=lambda picture: similar(picture, truth))
                for some in (attacks, known)
            )
            found.append(similar(mine, truth))
            without.append(similar(theirs, truth))
            gains.append((found[-1] - without[-1], (truth, mine, theirs)))
    if not gains:
        raise AuditError(
            f"no client holds {FEWEST_OF_A_CLASS} records of a class, so there is no class to see"
        )
    better = np.array([gain > 0 for gain, _ in gains], dtype=np.float64)
    values = np.array(found)
    best = sorted(gains, key=lambda each: -each[0])[:8]
    yield OtherFinding(
        observer="server",
        attack=LOOKS,
        measure="structural similarity to the private class mean" if pictures else "correlation with it",
        value=float(values.mean()),
        interval=_interval(values),
        baseline=float(np.mean(without)),
        cases=len(values),
        what=(
            f"mean over clients and classes; the better of inversion and weighted public inputs, beside the "
            f"same two by the student alone; the client's answers came nearer in {100 * better.mean():.0f}% "
            "of cases; 1 is the private mean itself"
        ),
        picture=_sheet([each for _, each in best]) if draw and pictures else "",
    )


def _likeness(x: NDArray[np.float32]) -> tuple[Callable[[Floats, Floats], float], bool]:
    """How alike two inputs are, and whether they are pictures."""
    reach = float(x.max() - x.min())
    if x.ndim >= 3 and min(x.shape[-2:]) >= SMALLEST_PICTURE:
        return (lambda a, b: structural_similarity(a, b, reach=reach)), True

    def correlation(a: Floats, b: Floats) -> float:
        centre = x.mean(axis=0)
        first, second = (a - centre).ravel(), (b - centre).ravel()
        scale = float(np.linalg.norm(first) * np.linalg.norm(second))
        return float(first @ second) / scale if scale else 0.0

    return correlation, False


def _interval(values: Floats, least: float = -math.inf) -> tuple[float, float] | None:
    """Of the mean, at 95%, by Student's t, of what is ``least`` or more; None for a single value."""
    if len(values) < 2:
        return None
    half = float(student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return max(mean - half, least), mean + half


def _sheet(columns: Sequence[tuple[Floats, ...]]) -> str:
    """Columns of pictures, each scaled to its own range, as a PNG in base64."""
    rows = []
    for place in range(3):
        tiles = []
        for column in columns:
            tile = column[place].reshape(-1, *column[place].shape[-2:]).mean(axis=0)
            low, high = float(tile.min()), float(tile.max())
            grey = 255 * (tile - low) / (high - low if high > low else 1.0)
            tiles.append(np.pad(grey, 1, constant_values=255))
        rows.append(np.concatenate(tiles, axis=1))
    picture = np.concatenate(rows, axis=0).round().astype(np.uint8)
    scaled = np.kron(picture, np.ones((_SCALE, _SCALE), dtype=np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(scaled).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
