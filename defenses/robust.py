"""Robust combination: what several answers agree on, although some of them lie.

Pure functions from ``(k, m, C)`` float64, the class probabilities of k clients (or the means of k groups of
clients) on m public inputs, to ``(m, C)`` rows that are >= 0 and sum to 1. Each input is combined on its own;
only `expguard` looks at all inputs of a round, and at earlier rounds.

The methods were read in the public code of Roux et al. 2024, "On the Byzantine-Resilience of
Distillation-Based Federated Learning" (arXiv 2402.12265). How many liars each one stands, and in which sense,
is said by `liars_tolerated`. What none of them promises:

- Anything about liars who stay within the spread of the honest answers: those can't be told from honest ones.
- That rare knowledge survives: where only a minority of clients knows a class, as under strong label skew,
  its answers look like lies and are left out.
- Privacy, or secrecy: all of them need the answers one by one.

Answers with anything that isn't finite, and arrays of another shape, are refused with a ``ProtocolError``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from securefd.errors import ProtocolError

Floats = NDArray[np.float64]
RULES = ("median", "trimmed", "geometric", "cronus", "expguard")

COINCIDENT = 1e-12
"""Two probability vectors closer than this are one point: the inverse of their distance says nothing."""
DECIMALS = 12
"""Of a spectral score; rounding makes equal what is equal: two answers are equally far from their mean."""
MATRICES = 1 << 22
"""Entries of matrices, one for each input, that are held at a time (32 MiB)."""


def liars_tolerated(rule: str, n_answers: int, *, trim: float | None = None) -> int:
    """Return how many of ``n_answers`` may be anything at all.

    With so many liars and no more, if the others agree, then what they agree on comes out; and if they don't,
    the result is no farther from them than a multiple, fixed by ``n_answers``, of their own spread. Over
    group means, a liar spoils the one group it is in, so as many liars as groups are tolerated, even
    where each is in another group.

    - ``median``, ``geometric``: (k - 1) // 2, fewer than half. No rule can do better.
    - ``trimmed``: as many as are dropped at each end, floor(trim * k).
    - ``cronus``: 1 of 3 or 4, 2 of 5 or more. Each of its two passes surely drops a liar, and not
      more: liars who point in three directions hide from both. Liars who all say the same are dropped
      a quarter of the answers at a time.
    - ``expguard``: (k - 1) // 2, in a weaker sense. Weights never become zero, so b liars move the result,
      on average over a round's inputs, by up to b / ((k - b) * e * eta) where the others agree, and by less
      in every later round; a lie about a few inputs only passes as it would in a mean.
    """
    if rule not in RULES:
        raise ProtocolError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if not n_answers >= 1:
        raise ProtocolError(f"n_answers must be at least 1, got {n_answers}")
    half = (n_answers - 1) // 2
    if rule == "trimmed":
        if trim is None:
            raise ProtocolError("trim must be given for rule trimmed, got None")
        return n_dropped(n_answers, trim)
    return min(half, 2) if rule == "cronus" else half


def coordinate_median(answers: Floats) -> Floats:
    """Return the median of each coordinate, renormalised.

    Before that, each coordinate lies within the honest answers' range while fewer than half of all lie. Where
    no class has support from half of the answers every median can be 0: the result is then uniform.
    """
    return _on_simplex(np.median(_checked(answers), axis=0))


def n_dropped(n_answers: int, trim: float) -> int:
    """Return how many answers `trimmed_mean` drops at each end: floor(trim * n_answers)."""
    if not 0 <= trim < 0.5:
        raise ProtocolError(f"trim must be at least 0 and below 0.5, so that something is left, got {trim}")
    # 0.29 * 100 is 28.999999999999996 in floating point, and must drop 29.
    return math.floor(trim * n_answers + 1e-9)


def trimmed_mean(answers: Floats, trim: float) -> Floats:
    """Return the mean of each coordinate without its floor(trim * k) smallest and largest, renormalised.

    (Yin et al. 2018, arXiv 1803.01498, Definition 2.) Before renormalising, each coordinate lies within the
    honest answers' range while no more lie than are dropped at one end.
    """
    values = np.sort(_checked(answers), axis=0)
    dropped = n_dropped(len(values), trim)
    return _on_simplex(values[dropped : len(values) - dropped].mean(axis=0))


def geometric_median(answers: Floats, *, tolerance: float = 1e-10, most_steps: int = 1000) -> Floats:
    """Return the point with the least sum of Euclidean distances to the answers.

    Weiszfeld's steps with the correction of Vardi and Zhang 2000 (PNAS 97(4), 1423-1426): at a point y that
    is itself an answer, ``here`` times over, write R for the sum of unit vectors to the others and T for
    Weiszfeld's step; then the next point is y + max(0, 1 - here / |R|) (T - y), so that y is left
    unless it is the median. All inputs step side by side, each until it moves less than ``tolerance``, or
    for ``most_steps``. They start at the coordinate medians, or at an answer with a smaller sum of distances:
    an answer that is the median is found at once, while steps towards it would get ever shorter. The sum
    never rises on the way.

    With b liars among k and the honest answers within r of any point x, the median is within
    2 r (k - b) / (k - 2 b) of x: its sum of distances is at most that of x, each honest answer prefers x by
    at least |y - x| - 2 r, and each liar the median y by at most |y - x|. Steps converge slowly where the sum
    hardly changes; where they end with a sum that is e too large, the bound grows by e / (k - 2 b).
    """
    if not (0 < tolerance < math.inf and most_steps >= 1):
        raise ProtocolError(
            f"tolerance must be positive and most_steps at least 1, got {tolerance}, {most_steps}"
        )
    points = np.ascontiguousarray(np.moveaxis(_checked(answers), 0, 1))
    centres = _start(points)
    moving = np.arange(len(points))
    for _ in range(most_steps):
        steps = _weiszfeld(points[moving], centres[moving])
        centres[moving] += steps
        moving = moving[np.linalg.norm(steps, axis=-1) > tolerance]
        if not moving.size:
            break
    return _on_simplex(centres)


def cronus(answers: Floats) -> Floats:
    """Return the mean of what two passes of a spectral filter leave, by input (Chang et al. 2019, "Cronus").

    A pass scores each answer by |<answer - mean, v>|, v the eigenvector of the answers' covariance with the
    largest eigenvalue. With f = ceil(k / 2) - 1 and q = 1 - f / (2 k), the first pass keeps the floor(q k)
    lowest scores (among equal ones, those of earlier answers), the second, with mean and v of what is left,
    those up to the q-quantile of the scores (between two scores by linear interpolation). Robust means by
    filtering: Diakonikolas et al. 2017 (arXiv 1703.00893); theirs goes on until the variance is small,
    so its guarantee for a constant share of liars isn't carried over to two passes.

    Eigenvectors come from a full decomposition: power iteration started at (1, ..., 1) starts in the null
    space of every covariance of vectors that sum to 1.
    """
    points = _checked(answers)
    k = len(points)
    suspected = (k - 1) // 2
    kept = (2 * k - suspected) // 2
    order = np.argsort(_spectral_scores(points), axis=0, kind="stable")[:kept]
    points = np.take_along_axis(points, order[..., None], axis=0)
    scores = _spectral_scores(points)
    inside = scores <= np.quantile(scores, 1 - suspected / (2 * k), axis=0)
    total = np.where(inside[..., None], points, 0.0).sum(axis=0)
    return _on_simplex(total / inside.sum(axis=0)[:, None])


def expguard(answers: Floats, weights: Floats, eta: float) -> tuple[Floats, Floats]:
    """Weigh down the clients that stray, round after round; return the new weights and the weighted mean.

    ``weights``: ``(k,)`` from the last round, equal ones in the first; >= 0, not all 0. A client's
    outlier score is its mean L2 distance, over the round's inputs, to their `geometric_median`; its
    weight is multiplied by exp(-eta * score), then all are divided by their sum (Roux et al. 2024,
    "ExpGuard"). The weights are the whole state.

    Not promised: that an honest client with unusual data keeps its weight, which falls in every round by its
    distance and never rises again relative to the others'. Where honest answers are far apart, many colluders
    who agree can be nearer to the median than they are, and gain weight.
    """
    points = _checked(answers)
    if weights.shape != points.shape[:1]:
        raise ProtocolError(f"weights must be one for each of {len(points)} answers, got {weights.shape}")
    if not ((weights >= 0) & (weights < math.inf)).all() or not weights.sum() > 0:
        raise ProtocolError(f"weights must be finite, at least 0 and not all 0, got {weights.tolist()}")
    if not 0 < eta < math.inf:
        raise ProtocolError(f"eta must be positive and finite, got {eta}")
    scores = np.linalg.norm(points - geometric_median(points), axis=-1).mean(axis=1)
    with np.errstate(divide="ignore"):
        logarithms = np.log(weights) - eta * scores
    # Relative to the largest, which can't vanish however many rounds there were.
    relative = np.exp(logarithms - logarithms.max())
    updated: Floats = relative / relative.sum()
    return updated, _on_simplex(np.tensordot(updated, points, axes=1))


def _checked(answers: Floats) -> Floats:
    if answers.ndim != 3 or not answers.size:
        raise ProtocolError(f"answers must be (k, m, C), with at least one of each, got {answers.shape}")
    if not np.isfinite(answers).all():
        client = int(np.flatnonzero(~np.isfinite(answers).all(axis=(1, 2)))[0])
        bad = answers[client][~np.isfinite(answers[client])][0]
        raise ProtocolError(f"answers must be finite, got {bad} in answer {client}; leave that client out")
    return np.asarray(answers, dtype=np.float64)


def _on_simplex(rows: Floats) -> Floats:
    """Clamp at 0 and divide rows by their sum; a row without any weight is uniform."""
    clamped = np.maximum(rows, 0.0)
    total = clamped.sum(axis=-1, keepdims=True)
    found = np.full_like(clamped, 1 / clamped.shape[-1])
    np.divide(clamped, total, out=found, where=total > 0)
    return found


def _start(points: Floats) -> Floats:
    """``(m, C)``: for each input the coordinate median, or an answer if its sum of distances is smaller."""
    m, k, _ = points.shape
    squares = np.einsum("mkc,mkc->mk", points, points)
    best = np.empty(m, dtype=np.int64)
    step = max(1, MATRICES // k**2)
    for start in range(0, m, step):
        part, square = points[start : start + step], squares[start : start + step]
        squared = square[:, :, None] + square[:, None] - 2 * part @ np.swapaxes(part, 1, 2)
        best[start : start + step] = np.sqrt(np.maximum(squared, 0.0)).sum(axis=-1).argmin(axis=-1)
    chosen, middle = points[np.arange(m), best], np.asarray(np.median(points, axis=1))
    smaller = _distance_sums(points, chosen) < _distance_sums(points, middle)
    return np.where(smaller[:, None], chosen, middle)


def _distance_sums(points: Floats, centres: Floats) -> Floats:
    """``(m,)``: the sum of distances of ``(m, k, C)`` answers to one point for each input."""
    sums: Floats = np.linalg.norm(points - centres[:, None], axis=-1).sum(axis=-1)
    return sums


def _weiszfeld(points: Floats, centres: Floats) -> Floats:
    """One step for each input: ``(m, k, C)`` answers and ``(m, C)`` points to what moves the points."""
    away = points - centres[:, None]
    distances = np.linalg.norm(away, axis=-1)
    apart = distances > COINCIDENT
    inverse = np.zeros_like(distances)
    np.divide(1.0, distances, out=inverse, where=apart)
    pull = np.einsum("mk,mkc->mc", inverse, away)
    here = (~apart).sum(axis=1)
    strength = np.maximum(np.linalg.norm(pull, axis=-1), COINCIDENT)
    # Where nothing is apart there is nowhere to go, and pull is 0.
    total = np.where(apart.any(axis=1), inverse.sum(axis=1), 1.0)
    steps: Floats = (np.maximum(0.0, 1 - here / strength) / total)[:, None] * pull
    return steps


def _spectral_scores(points: Floats) -> Floats:
    """``(k, m)``: how far each answer is from the mean along the direction in which answers vary most."""
    centred = np.moveaxis(points - points.mean(axis=0), 0, 1)
    m, _, n_classes = centred.shape
    scores = np.empty(centred.shape[:2])
    step = max(1, MATRICES // n_classes**2)
    for start in range(0, m, step):
        part = centred[start : start + step]
        # The number of answers divides all of a covariance alike and turns no eigenvector.
        _, vectors = np.linalg.eigh(np.swapaxes(part, 1, 2) @ part)
        scores[start : start + step] = np.abs(part @ vectors[:, :, -1:])[..., 0]
    return scores.T.round(DECIMALS)
