"""How often each bound on epsilon exceeds the truth, on mechanisms whose epsilon is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.store import RESULTS, keep
from benchmarks.tables import NOT_RUN, Row, at_most, table, where
from securefd.evaluation import thresholds
from securefd.evaluation.gaussian_bounds import gaussian_epsilon, gaussian_one_run_epsilon, mu_epsilon_bound
from securefd.evaluation.one_run import guessed, one_run, one_run_epsilon

PLACE = RESULTS / "calibration.json"
SEEDS, TRIALS, ALPHA = 400, 1_000, 0.05
GUESSES = 100
"""Of a one-run bound, either way."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Sample = Callable[[Bools, np.random.Generator], Floats]


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Answers a score for each of ``(t,)`` coins, independently; its epsilon at ``delta`` is exact.

    ``threshold``: where its error rates are as its epsilon allows, or would be. ``sorted``: the members come
    first, as in many a file; no bound may make use of that.
    """

    name: str
    epsilon: float
    delta: float
    threshold: float
    sample: Sample
    gaussian: bool = False
    sorted: bool = False


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A way to bound epsilon. ``refused``: why the library doesn't give it, or nothing."""

    name: str
    bound: Callable[[Floats, Bools, Mechanism, np.random.Generator], float]
    refused: str = ""
    gaussian: bool = False


def _randomised(epsilon: float) -> Sample:
    honest = 1 / (1 + math.exp(-epsilon))

    def sample(member: Bools, rng: np.random.Generator) -> Floats:
        return np.where(rng.random(len(member)) < honest, member, ~member).astype(np.float64)

    return sample


def _laplace(member: Bools, rng: np.random.Generator) -> Floats:
    return member + rng.laplace(0, 1, len(member))


def _gaussian(member: Bools, rng: np.random.Generator) -> Floats:
    return member + rng.standard_normal(len(member))


def _nothing(member: Bools, rng: np.random.Generator) -> Floats:
    return rng.standard_normal(len(member))


def _ties(member: Bools, rng: np.random.Generator) -> Floats:
    """As where an attack sees a rounded label only."""
    return rng.integers(0, 3, len(member)).astype(np.float64)


MECHANISMS = (
    Mechanism(name="nothing", epsilon=0.0, delta=1e-5, threshold=1.0, sample=_nothing, gaussian=True),
    Mechanism(name="nothing, tied", epsilon=0.0, delta=0.0, threshold=0.5, sample=_ties, sorted=True),
    Mechanism(name="randomised response", epsilon=1.0, delta=0.0, threshold=0.5, sample=_randomised(1.0)),
    Mechanism(
        name="the same at δ = 0.001",
        # The smallest epsilon with q <= e^epsilon (1 - q) + delta.
        epsilon=math.log(math.e - 0.001 * (1 + math.e)),
        delta=0.001,
        threshold=0.5,
        sample=_randomised(1.0),
    ),
    Mechanism(name="Laplace", epsilon=1.0, delta=0.0, threshold=1.0, sample=_laplace),
    Mechanism(
        name="Gaussian at δ = 0.0001",
        epsilon=gaussian_epsilon(1.0, delta=0.0001),
        delta=0.0001,
        threshold=1.5,
        sample=_gaussian,
        gaussian=True,
    ),
)


def _fixed(scores: Floats, member: Bools, of: Mechanism, _: np.random.Generator) -> float:
    return thresholds.fixed(scores, member, threshold=of.threshold, delta=of.delta, alpha=ALPHA).epsilon


def _split(scores: Floats, member: Bools, of: Mechanism, rng: np.random.Generator) -> float:
    return thresholds.split(scores, member, delta=of.delta, alpha=ALPHA, rng=rng).epsilon


def _bonferroni(scores: Floats, member: Bools, of: Mechanism, _: np.random.Generator) -> float:
    return thresholds.bonferroni(scores, member, delta=of.delta, alpha=ALPHA).epsilon


def _one_run(scores: Floats, member: Bools, of: Mechanism, rng: np.random.Generator) -> float:
    sides = {"positives": GUESSES, "negatives": GUESSES}
    return one_run(scores, member, delta=of.delta, alpha=ALPHA, rng=rng, **sides)


def _mu(scores: Floats, member: Bools, of: Mechanism, _: np.random.Generator) -> float:
    delta = of.delta or 1e-5
    at = thresholds.fixed(scores, member, threshold=of.threshold, delta=delta, alpha=ALPHA)
    counts = (at.true_positives, at.n_in, at.false_positives, at.n_out)
    return mu_epsilon_bound(*counts, delta=delta, alpha=ALPHA, mechanism="gaussian")


def _gaussian_one_run(scores: Floats, member: Bools, of: Mechanism, rng: np.random.Generator) -> float:
    high, low = guessed(scores, GUESSES, GUESSES, rng)
    right = int(member[high].sum() + (~member[low]).sum())
    return gaussian_one_run_epsilon(
        right, 2 * GUESSES, len(scores), delta=of.delta or 1e-5, alpha=ALPHA, mechanism="gaussian"
    )


def _every_threshold(scores: Floats, member: Bools, of: Mechanism, rng: np.random.Generator) -> float:
    at = thresholds.best_threshold(scores, member, delta=of.delta, alpha=ALPHA)
    return thresholds.fixed(scores, member, threshold=at, delta=of.delta, alpha=ALPHA).epsilon


def _every_number(scores: Floats, member: Bools, of: Mechanism, rng: np.random.Generator) -> float:
    # Ties fall in an order of their own, so that nothing but the choice of the best is at fault.
    order = np.lexsort((rng.random(len(scores)), scores))[::-1]
    right = np.cumsum(member[order])
    return max(
        one_run_epsilon(int(right[made - 1]), made, len(scores), delta=of.delta, alpha=ALPHA)
        for made in range(10, len(scores), 10)
    )


CHOSEN = "chosen on the same scores"
ELSEWHERE = "refused for any mechanism but a Gaussian"
OFFERS = (
    Offer(name="Clopper-Pearson, threshold given", bound=_fixed),
    Offer(name="Clopper-Pearson, split", bound=_split),
    Offer(name="Clopper-Pearson, Bonferroni", bound=_bonferroni),
    Offer(name="one run", bound=_one_run),
    Offer(name="μ of a Gaussian", bound=_mu, gaussian=True),
    Offer(name="one run of a Gaussian", bound=_gaussian_one_run, gaussian=True),
    Offer(name="μ of a Gaussian", bound=_mu, refused=ELSEWHERE),
    Offer(name="one run of a Gaussian", bound=_gaussian_one_run, refused=ELSEWHERE),
    Offer(name="Clopper-Pearson, best of all thresholds", bound=_every_threshold, refused=CHOSEN),
    Offer(name="one run, best number of guesses", bound=_every_number, refused=CHOSEN),
)


def measure(*, seeds: int = SEEDS, trials: int = TRIALS, place: Path = PLACE) -> None:
    """Bound everything by everything, and keep how often each bound was above the truth."""
    rows = [
        {
            "bound": offer.name,
            "refused": offer.refused,
            "mechanism": mechanism.name,
            "above": share_above(offer, mechanism, seeds=seeds, trials=trials),
        }
        for offer in OFFERS
        for mechanism in MECHANISMS
        if applies(offer, mechanism)
    ]
    keep(place, {"rows": rows, "seeds": seeds, "trials": trials, "alpha": ALPHA, "guesses": GUESSES})
    print(f"calibration: at most {_worst(rows):.1%} of bounds are above the truth", flush=True)


def applies(offer: Offer, mechanism: Mechanism) -> bool:
    """Whether the pair is in the table: Gaussian bounds twice, where they hold and where they are refused."""
    return offer.gaussian <= mechanism.gaussian and (offer.refused != ELSEWHERE or not mechanism.gaussian)


def share_above(offer: Offer, mechanism: Mechanism, *, seeds: int, trials: int) -> float:
    """Share of ``seeds`` experiments of ``trials`` coins each whose bound exceeds the mechanism's epsilon."""
    above = 0
    for seed in range(seeds):
        coins, noise, ours = (np.random.default_rng([seed, stream]) for stream in range(3))
        member = coins.random(trials) < 0.5
        if mechanism.sorted:
            member = np.sort(member)[::-1]
        scores = mechanism.sample(member, noise)
        above += offer.bound(scores, member, mechanism, ours) > mechanism.epsilon
    return above / seeds


def allowed(alpha: float, seeds: int) -> float:
    """What a calibrated bound's share stays below: its level and three standard errors."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / seeds)


def _worst(rows: Sequence[Mapping[str, Any]]) -> float:
    return max(row["above"] for row in rows if not row["refused"])


def targets(found: Mapping[str, Any] | None) -> list[Row]:
    """Rows of the table of targets."""
    name = "bounds on ε that are above the truth, worst of all pairs, in %"
    if found is None:
        return []
    most = round(100 * allowed(found["alpha"], found["seeds"]), 1)
    return [at_most(name, most, 100 * _worst(found["rows"]), ".1f")]


def section(found: Mapping[str, Any] | None) -> str:
    """The part of RESULTS.md on bounds."""
    head = "## Bounds on ε against the truth\n\n`make bench ONLY=calibration`\n\n"
    if found is None:
        return head + f"{NOT_RUN}\n"
    names = [mechanism.name for mechanism in MECHANISMS]
    headings = [f"{mechanism.name} (ε = {mechanism.epsilon:.4g})" for mechanism in MECHANISMS]
    shares: dict[tuple[str, str], dict[str, float]] = {}
    for row in found["rows"]:
        shares.setdefault((row["bound"], row["refused"]), {})[row["mechanism"]] = row["above"]
    lines = [
        [
            bound,
            *(f"{100 * each[name]:.1f}" if name in each else "–" for name in names),
            f"not offered: {refused}" if refused else "",
        ]
        for (bound, refused), each in shares.items()
    ]
    alpha, seeds = found["alpha"], found["seeds"]
    return (
        head + f"Percent of {seeds} experiments, of {found['trials']:,} independent coins each, in which a "
        f"bound of level {100 * alpha:g}% exceeds the mechanism's ε, known exactly; where that is 0, any "
        f"positive bound does. Up to "
        f"{100 * allowed(alpha, seeds):.1f} is chance: the level and three standard errors. One-run bounds "
        f"guess the {found['guesses']} highest and lowest scores. The last rows show what goes wrong.\n\n"
        + table(["bound", *headings, ""], lines)
        + "\n"
        + where([found])
        + "\n"
    )
