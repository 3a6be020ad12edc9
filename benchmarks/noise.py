"""Integer noise beside OpenDP's, and what it takes to account for many rounds of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.store import RESULTS, keep
from benchmarks.tables import NOT_RUN, Row, at_least, at_most, table
from benchmarks.timing import in_turn, scaled, spread

PLACE = RESULTS / "noise.json"
DEVIATIONS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
VALUES, FEWER = 100_000, 10_000
"""How many values are drawn at once, by us and by OpenDP: a value costs either the same among more."""
REPEATS = 7
ROUNDS = 1_000
TARGETS = {"us": 1.0, "times faster": 8.0, "accounting s": 1.0}


def measure(
    *,
    deviations: tuple[float, ...] = DEVIATIONS,
    values: int = VALUES,
    fewer: int = FEWER,
    repeats: int = REPEATS,
    place: Path = PLACE,
) -> None:
    """Time everything in one thread, and keep medians with the lowest and highest times."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        draws = [_draws(deviation, values, fewer, repeats) for deviation in deviations]
        accounting = _accounting(repeats)
    found: dict[str, Any] = {"draws": draws, "accounting": accounting, "targets": TARGETS}
    found |= {"values": values, "fewer": fewer, "repeats": repeats, "rounds": ROUNDS}
    keep(place, found | {"packages": {name: version(name) for name in ("opendp", "cryptography", "numpy")}})
    print(f"noise: {draws[0]['gaussian us']['median']:.3f} us a value", flush=True)


def _draws(deviation: float, values: int, fewer: int, repeats: int) -> dict[str, Any]:
    """Microseconds a value."""
    from securefd.defenses.samplers import discrete_gaussian, discrete_laplace, skellam

    variance = deviation**2
    works: dict[str, tuple[Callable[[], object], int]] = {
        "gaussian us": (lambda: discrete_gaussian(variance, values), values),
        "laplace us": (lambda: discrete_laplace(deviation, values), values),
        "skellam us": (lambda: skellam(variance, values), values),
        "opendp us": (_opendp(deviation, fewer), fewer),
    }
    timed = in_turn({name: work for name, (work, _) in works.items()}, repeats)
    found: dict[str, Any] = {name: scaled(timed[name], 1e6 / size) for name, (_, size) in works.items()}
    found["times faster"] = found["opendp us"]["median"] / found["gaussian us"]["median"]
    return {"deviation": deviation, **found}


def _opendp(deviation: float, values: int) -> Callable[[], object]:
    """OpenDP's discrete Gaussian on a list of integers."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T="i32"))
    mechanism = dp.m.make_gaussian(domain, dp.l2_distance(T="f64"), scale=deviation)
    zeros = [0] * values
    return lambda: mechanism(zeros)


def _accounting(repeats: int) -> dict[str, dict[str, float]]:
    """Seconds to compose many rounds that are all different."""
    from securefd.defenses import accounting, rdp
    from securefd.defenses.charges import Charge, GaussianShares, PoissonGaussian, Skellam
    from securefd.defenses.sensitivity import Sensitivity

    moved = Sensitivity(added=1_000, replaced=2_000, added_l1=1_000, replaced_l1=2_000)
    rounds: dict[str, list[Charge]] = {
        "shares of discrete Gaussians": [
            GaussianShares(variance=1e4 + k, shares=200, entries=10_000, sensitivity=moved)
            for k in range(ROUNDS)
        ],
        "Skellam": [Skellam(variance=2e6 + k, sensitivity=moved) for k in range(ROUNDS)],
        "DP-SGD": [PoissonGaussian(sampling_rate=0.01, noise_multiplier=1.0, steps=10)] * ROUNDS,
    }
    found = {}
    for name, charges in rounds.items():
        times = []
        for _ in range(repeats):
            rdp._computed.cache_clear()
            rdp._subsampled.cache_clear()
            rdp.spread.cache_clear()
            began = time.process_time()
            accounting.spent(charges, 1e-5, "replace-one")
            times.append(time.process_time() - began)
        found[name] = spread(times)
    return found


def targets(found: Mapping[str, Any] | None) -> list[Row]:
    """Rows of the table of targets."""
    slowest = fewest = longest = None
    if found is not None:
        slowest = max(row["gaussian us"]["median"] for row in found["draws"])
        fewest = min(row["times faster"] for row in found["draws"])
        longest = max(each["median"] for each in found["accounting"].values())
    wanted = TARGETS
    return [
        _row("discrete Gaussian, µs a value, any σ from 1 to 10⁴", at_most, wanted["us"], slowest, ".3f"),
        _row(
            "discrete Gaussian, times faster than OpenDP's", at_least, wanted["times faster"], fewest, ".0f"
        ),
        _row(f"accounting for {ROUNDS:,} rounds, s", at_most, wanted["accounting s"], longest, ".2f"),
    ]


def _row(name: str, judge: Callable[..., Row], target: float, found: float | None, shown: str) -> Row:
    name, asked, _, _, met = judge(name, target, math.nan if found is None else found, shown)
    return name, asked, found, shown, None if found is None else met


def section(found: Mapping[str, Any] | None) -> str:
    """The part of RESULTS.md on noise."""
    head = "## Integer noise\n\n`make bench ONLY=noise`\n\n"
    if found is None:
        return head + f"{NOT_RUN}\n"
    names = ("gaussian us", "laplace us", "skellam us", "opendp us")
    rows = [
        [
            f"{row['deviation']:g}",
            *(f"{row[name]['median']:.3f}" for name in names),
            f"{row['times faster']:.0f}",
        ]
        for row in found["draws"]
    ]
    composed = [[name, f"{each['median']:.2f}"] for name, each in found["accounting"].items()]
    packages = ", ".join(f"{name} {number}" for name, number in found["packages"].items())
    return (
        head + f"Microseconds of one thread's processor time a value, medians of {found['repeats']}, "
        f"{found['values']:,} values at once (OpenDP: {found['fewer']:,}); {packages}. Laplace: scale σ.\n\n"
        + table(["σ", "discrete Gaussian", "discrete Laplace", "Skellam", "OpenDP's Gaussian", "ratio"], rows)
        + f"\nSeconds to compose {found['rounds']:,} rounds:\n\n"
        + table(["mechanism", "s"], composed)
    )
