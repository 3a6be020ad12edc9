"""Tails of hypergeometric and binomial distributions, as logarithms: far below what a float can hold."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

Floats = NDArray[np.float64]


def log_at_most(most: Any, trials: Any, log_missed: Any) -> Floats:
    """Return ln of Chernoff's bound on P(at most ``most`` of ``trials``), each missed with that logarithm."""
    share = most / trials
    linked = -np.expm1(log_missed)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = xlogy(share, share / linked) + (1 - share) * (np.log1p(-share) - log_missed)
    return np.where(share < linked, -trials * divergence, 0.0)


def log_at_least(k: int, population: int, marked: int, drawn: int) -> float:
    """Return ln P(at least k of ``drawn`` are marked), drawn without replacement; exact but for rounding."""
    if k <= max(0, drawn - (population - marked)):
        return 0.0
    x = np.arange(k, min(marked, drawn) + 1)
    ways = log_choose(marked, x) + log_choose(population - marked, drawn - x)
    return min(0.0, log_sum(ways - log_choose(population, drawn)))


def log_tail(k: Any, population: int, marked: Any, drawn: int) -> Floats:
    """Return ln of a bound on P(at least k of ``drawn`` are marked), elementwise.

    The terms of that sum are log-concave, so that they fall at least as fast as the first two.
    """
    first = log_choose(marked, k) + log_choose(population - marked, drawn - k)
    up, down = (marked - k) * (drawn - k), (k + 1) * (population - marked - drawn + k + 1)
    falling = (k > 0) & (up < down)
    ratio = np.divide(up, down, out=np.zeros(falling.shape), where=falling)
    tail = first - log_choose(population, drawn) - np.log1p(-ratio)
    return np.where(falling, np.minimum(0, tail), 0.0)


def log_choose(n: Any, k: Any) -> Floats:
    """Return ln C(n, k), elementwise; -inf where k is outside 0..n."""
    table = _log_factorials(1 << int(np.max(n)).bit_length())
    inside = np.clip(k, 0, n)
    return np.where(k == inside, table[n] - table[inside] - table[n - inside], -np.inf)


@lru_cache(maxsize=32)
def _log_factorials(size: int) -> Floats:
    table: Floats = gammaln(np.arange(size) + 1.0)
    table.flags.writeable = False
    return table


def log_sum(logs: Floats) -> float:
    """Return ln of the sum of exp(logs); -inf for none."""
    largest = float(logs.max(initial=-np.inf))
    return largest if math.isinf(largest) else largest + math.log(np.exp(logs - largest).sum())


def from_log(log: float) -> float:
    """Return the probability with this logarithm: at most 1, and never 0 for what is possible."""
    return 0.0 if log == -math.inf else max(math.exp(min(0.0, log)), math.ulp(0.0))
