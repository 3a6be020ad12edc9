"""Cohorts, and the graphs that their clients draw."""

import dataclasses
import random
from collections.abc import Iterable

from securefd.defenses.graph_failure import Cohort, Failure, failure


def make_cohort(n: int, t: int, c: int, honest_minimum: int = 2) -> Cohort:
    return Cohort(n_clients=n, threshold=t, colluders=c, honest_minimum=honest_minimum)


def terms(n: int, t: int, c: int, degree: int, k: int, checked: int = 0, honest_minimum: int = 2) -> Failure:
    return failure(
        **dataclasses.asdict(make_cohort(n, t, c, honest_minimum)),
        degree=degree,
        share_threshold=k,
        checked=checked,
    )


def draw_graphs(n: int, degree: int, count: int, rng: random.Random) -> Iterable[list[set[int]]]:
    """Each client's holders; every client draws among the others."""
    others = [[v for v in range(n) if v != u] for u in range(n)]
    for _ in range(count):
        yield [set(rng.sample(others[u], degree)) for u in range(n)]
