"""What votes that agree cost less than any votes could: a figure about one run, fit to be printed.

`confident.Confident` is charged for the worst histograms there could be. Where clients agree, an answer tells
less about any of them. How much less depends on the votes, which are private, so that the figure is noised
before it is printed, and paid for in advance like everything else. It is no guarantee for other data: those
would have had another figure. What is promised stays what was charged.

**One query.** Fix a Renyi order a > 1 and a histogram with a largest count of ``top`` and a second largest of
``top - gap``. P is the distribution of the outcome (a class, or no answer), Q that after one client is
replaced, or added or removed. `Costs` bounds D_a(P || Q) whatever that client and its votes are:

- *Check.* Whether there is an answer is a coin with probability p(top); the neighbour's is p(top - 1), p(top)
  or p(top + 1). These are tails of a discrete Gaussian, and the divergence of the coins is computed as it is.
- *Answer.* Let q bound the probability that noise puts another class on top. A class with a count lower by at
  least ``gap`` gets there with a probability of at most P(X - Y >= gap), X and Y the noises of the two; X - Y
  is within a factor e^k of N_Z(0, 2 v), k from `rdp.spread`. There are C - 1 such classes. Then (Papernot et
  al. 2018, arXiv 1802.08908, Theorem 6; for any mechanism that has divergences of at most e1 and e2 at orders
  m1 >= a and m2 > 1, as the discrete Gaussian has, and for whichever class is on top, with probability 1 - r)

      e^((a - 1) D_a) <= (1 - r)^a (1 - x)^(1 - a) + r^(1 - (a - 1) / (m1 - 1)) e^((a - 1) e1),
      x = (r e^e2)^(1 - 1 / m2).

  The first term: the neighbour's outcome is another class with a probability of at most x (Mironov 2017,
  Proposition 10). The second: Hoelder's inequality on the other classes. The theorem's own condition under
  which this grows with r isn't used: [0, q] is cut into cells, and each factor taken at the end of the cell
  where it is largest. All orders are allowed; the two that the paper gives, and multiples, are tried.
- *Both.* The sum of P^a Q^(1 - a) over the outcomes is that of the coins, with the part of the answered ones
  times e^((a - 1) D_answer). As a logarithm that is D_check + ln(1 + w (e^((a - 1) D_answer) - 1)) / (a - 1),
  w the share of the answered part: a query that is hardly ever answered costs little for its answer.

**All queries.** Later votes may depend on what was released before (clients learn from it), so that the costs
are random. Still, given what was released before, each bound holds, and so E[exp((a - 1) (L - V))] <= 1 for
L = ln P / Q of everything that was released and V the sum of the bounds, one factor after the other; by
Markov's inequality P(L > V + ln(1 / d) / (a - 1)) <= d. This holds for every data set and each neighbour.

**Printing it.** A client that is replaced moves ``top`` by at most 1 and ``gap`` by at most 2 (added or
removed: 1 and 1). `Costs.smooth` raises the bounds to some that change by a factor of at most e^beta then:
the largest of e^(-beta d) times what they are d clients away, the beta-smooth bound of Nissim, Raskhodnikova
and Smith 2007, Definition 2.1. So their sum U >= V does, and ln U, counted in steps of beta and rounded up,
is an integer that moves by at most one. It gets discrete Gaussian noise, like any other release, and is
lifted by as much as the noise can have lowered it, but for a probability that is counted.

The paper's own way (Theorem 23, GNSS) adds noise to V in proportion to a smooth bound on how much V changes.
It needs real-valued noise, whose scale is private; here the scale is public, and the noise an integer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from securefd.defenses import rdp
from securefd.defenses.claims import Relation
from securefd.defenses.confident import Confident, Vector
from securefd.defenses.samplers import discrete_gaussian
from securefd.errors import PrivacyError

Floats = NDArray[np.float64]

MARGIN = 1e-9
"""Relative; far above the rounding of sums of floats, which it makes up for."""
WIDEST = 1e5
"""Deviation of noise beyond which votes save nothing that is worth computing: tables have an entry a vote."""
_CELLS = np.exp(-0.04 * (1.1 ** np.arange(50.0) - 1))
"""Ends of the cells of [0, q], as shares of q: fine near q, where the largest value is, and down to 1%."""
_MULTIPLES = (0.5, 1.0, 2.0)
"""Of the paper's orders."""
_MISSED = 0.25
"""Share of delta for noise that lowers the figure by more than it is lifted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Costs:
    """Bounds on the divergence of order ``order`` of one query, from its largest count and gap.

    ``most``: the largest count that there may be, which tables go to: one more than clients.
    """

    mechanism: Confident
    relation: Relation
    order: float
    most: int

    def __post_init__(self) -> None:
        if not 1 < self.order < math.inf:
            raise PrivacyError(f"order must be > 1 and finite, got {self.order}")
        if not self.most >= 1:
            raise PrivacyError(f"most must be at least 1 vote, got {self.most}")
        if not max(self.mechanism.deviations) <= WIDEST:
            raise PrivacyError(
                f"noise must have a deviation of at most {WIDEST:g} votes for a figure about the votes, got "
                f"{max(self.mechanism.deviations):g}; the guarantee needs none"
            )

    def of(self, counts: Vector) -> Floats:
        """``(m,)`` the bounds for histograms ``(m, classes)``. Private: they tell about the votes."""
        top, gap = leading(counts)
        return self.check[top] + self._answer(top, gap)

    def smooth(self, counts: Vector, beta: float) -> Floats:
        """``(m,)`` at least those of `of`, and times e^beta or less where one client is another. Private."""
        top, gap = leading(counts)
        places, back = np.unique(np.stack([top, gap]), axis=1, return_inverse=True)
        far = np.array([self._farthest(beta, int(t), int(g)) for t, g in places.T])
        return np.asarray(_smooth(self.check, beta)[top] + far[back.ravel()], dtype=np.float64)

    def largest(self, queries: int) -> float:
        """What no histograms exceed: the divergence that is charged."""
        return self.order * self.mechanism.charge(queries).squared(self.relation) / 2

    @property
    def step(self) -> int:
        """How far one client moves a gap."""
        return 2 if self.relation == "replace-one" else 1

    @cached_property
    def check(self) -> Floats:
        """``(most + 1,)`` by largest count: the divergence of being answered or not."""
        return self._coins[0]

    @cached_property
    def answer(self) -> Floats:
        """``(most + 1,)`` by gap: the divergence of the class, if there is one; it never grows."""
        mechanism, a = self.mechanism, self.order
        moved = 2 if self.relation == "replace-one" else 1
        rate = moved / (2 * mechanism.answer_variance)  # of the divergence, by its order
        gaps = np.arange(self.most + 1)
        log_q = (
            math.log(mechanism.classes - 1)
            + rdp.spread(mechanism.answer_variance, 2)
            + log_tail(2 * mechanism.answer_variance, gaps)
        )
        found = np.full(len(gaps), a * rate)
        known = log_q < 0
        for multiple in _MULTIPLES:
            for beside in _MULTIPLES:
                second = 1 + multiple * np.sqrt(-log_q[known] / rate)
                first = np.maximum(a, 1 + beside * np.sqrt(-log_q[known] / rate))
                found[known] = np.minimum(found[known], _likely(log_q[known], a, first, second, rate))
        return np.minimum.accumulate(found * (1 + MARGIN))

    @cached_property
    def answered(self) -> Floats:
        """``(most + 1,)`` by largest count: the share w of the answered part; it never falls."""
        return self._coins[1]

    @cached_property
    def _coins(self) -> tuple[Floats, Floats]:
        a, mechanism = self.order, self.mechanism
        tops = np.arange(-1, self.most + 2)  # and one beyond each end, for neighbours
        yes = log_tail(mechanism.check_variance, mechanism.threshold - tops)
        no = log_tail(mechanism.check_variance, tops - mechanism.threshold + 1)
        own = slice(1, -1)
        cost, share = np.zeros(self.most + 1), np.zeros(self.most + 1)
        for other in (slice(0, -2), own, slice(2, None)):
            passed = a * yes[own] + (1 - a) * yes[other]
            both = np.logaddexp(passed, a * no[own] + (1 - a) * no[other])
            cost = np.maximum(cost, both / (a - 1))
            share = np.maximum(share, np.exp(passed - both))
        worst = a / (2 * mechanism.check_variance)
        share = np.minimum(1.0, np.maximum.accumulate(share) * (1 + MARGIN))
        return np.minimum(worst, cost * (1 + MARGIN) + MARGIN * worst), share

    def _answer(self, top: Vector, gap: Vector) -> Floats:
        """What the class adds to the check: more with ``top``, less with ``gap``."""
        a, share = self.order, self.answered[top]
        with np.errstate(divide="ignore"):
            whole = np.logaddexp(np.log1p(-share), np.log(share) + (a - 1) * self.answer[gap])
        return np.asarray(np.maximum(whole, 0) / (a - 1) * (1 + MARGIN), dtype=np.float64)

    def _farthest(self, beta: float, top: int, gap: int) -> float:
        """The largest, d clients away, of e^(-beta d) times what the class adds; up, since it is monotone."""
        away = np.arange(max(self.most - top, -(-gap // self.step)) + 1)
        found = self._answer(np.minimum(top + away, self.most), np.maximum(gap - self.step * away, 0))
        return float(np.max(np.exp(-beta * away) * found))


@dataclass(frozen=True, kw_only=True, eq=False)
class Figure:
    """How the costs of a run become a figure that may be printed.

    ``beta``: by how much ln U may change with one client. ``variance``: of the noise on it, in steps of beta,
    squared; it is charged (`ConfidentVotes.figure_variance`). All of it is public and fixed in advance.
    """

    costs: Costs
    beta: float
    variance: float
    delta: float

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise PrivacyError(f"beta must be > 0 and finite, got {self.beta}")
        if not 0 < self.variance < math.inf:
            raise PrivacyError(f"variance must be > 0 and finite, got {self.variance}")
        if not 0 < self.delta < 1:
            raise PrivacyError(f"delta must be > 0 and < 1, got {self.delta}")

    def level(self, smooth: float) -> int:
        """Run by the aggregator, once: the noisy logarithm of a run's `Costs.smooth`, all added up."""
        return self._exact(smooth) + int(discrete_gaussian(self.variance, 1)[0])

    def epsilon(self, level: int, queries: int) -> float:
        """What the run comes to, from a released ``level``: an upper bound, but for ``delta``.

        With probability 1 - delta over all noise of the run, nothing that was released, this figure included,
        is more than e^epsilon times likelier than it would be were one client another.
        """
        lifted = self._step * (level + self._lift)
        most = self.costs.largest(queries)
        cost = most if lifted >= math.log(most) else math.exp(lifted)
        order = self.costs.order
        beside = order / (2 * self.variance) - math.log((1 - _MISSED) * self.delta) / (order - 1)
        return cost * (1 + MARGIN) + beside

    def expected(self, counts: Vector) -> float:
        """What is printed for ``counts``, were the noise zero."""
        return self.epsilon(self._exact(float(self.costs.smooth(counts, self.beta).sum())), len(counts))

    def _exact(self, smooth: float) -> int:
        return math.ceil(math.log(smooth) / self._step)

    @property
    def _step(self) -> float:
        return self.beta * (1 + MARGIN)

    @cached_property
    def _lift(self) -> int:
        """How many steps the noise lowers a level at most, but for a part of delta."""
        reach = np.arange(math.ceil(math.sqrt(-2 * self.variance * math.log(_MISSED * self.delta))) + 2)
        kept = log_tail(self.variance, reach + 1) <= math.log(_MISSED * self.delta)
        return int(np.argmax(kept))


def leading(counts: Vector) -> tuple[Vector, Vector]:
    """The largest count of each histogram ``(m, classes)``, and how far the next one is below it."""
    ordered = np.sort(counts, axis=1)
    return ordered[:, -1], ordered[:, -1] - ordered[:, -2]


def best(
    mechanism: Confident, relation: Relation, *, clients: int, queries: int, variance: float, delta: float
) -> Figure:
    """The order and beta with the least figure were nine tenths of the clients to agree on every query.

    No data are looked at: both have to be fixed beforehand.
    """
    agreeing = max(1, math.ceil(0.9 * clients))
    supposed = np.zeros((1, mechanism.classes), dtype=np.int64)
    supposed[0, :2] = agreeing, clients - agreeing
    histograms = np.repeat(supposed, queries, axis=0)
    found: list[Figure] = []
    for order in _ORDERS:
        costs = Costs(mechanism=mechanism, relation=relation, order=order, most=clients + 1)
        found += [Figure(costs=costs, beta=beta, variance=variance, delta=delta) for beta in _BETAS]
    return min(found, key=lambda figure: figure.expected(histograms))


_ORDERS: Sequence[float] = tuple(1 + 2.0 ** (k / 2) for k in range(0, 15))
_BETAS: Sequence[float] = tuple(2.0 ** (k / 2) for k in range(-16, 1))


def log_tail(variance: float, k: Vector) -> Floats:
    """For each integer k, the logarithm of P(Z >= k), Z ~ N_Z(0, variance).

    What is left out of the sum is at most a geometric series, since exp(-x^2 / (2 v)) falls by more at each
    step; that is added instead, so that a tail is never understated.
    """
    reach = int(np.abs(k).max(initial=0)) + math.ceil(12 * math.sqrt(variance)) + 1
    weights = -np.square(np.arange(reach + 1, dtype=np.float64)) / (2 * variance)
    weights[-1] -= math.log(-math.expm1(-(2 * reach + 1) / (2 * variance)))
    above = np.logaddexp.accumulate(weights[::-1])[::-1]  # ln of the sum from x on
    above -= above[0] + math.log(2 - math.exp(-above[0]))  # 1 at zero, and twice what lies above it
    far = above[np.where(k > 0, k, 1 - k)]
    return np.where(k > 0, far, np.log1p(-np.exp(far)))


def _likely(log_q: Floats, a: float, first: Floats, second: Floats, rate: float) -> Floats:
    """The bound on the answer, at each q; infinite where these orders say nothing."""
    high = log_q[:, None] + np.log(_CELLS)
    low = np.exp(np.append(high[:, 1:], np.full((len(high), 1), -np.inf), axis=1))
    m1, m2 = first[:, None], second[:, None]
    x = np.exp((1 - 1 / m2) * (high + rate * m2))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        kept = a * np.log1p(-low) + (1 - a) * np.log1p(-x)
        # At m1 = a the second term doesn't depend on q.
        turned = (1 - (a - 1) / (m1 - 1)) * high + (a - 1) * rate * m1
        found = np.max(np.expm1(kept) + np.exp(turned), axis=1)
        bound = np.log1p(np.maximum(found, 0)) / (a - 1)
    return np.where((x < 1).all(axis=1) & np.isfinite(bound), bound, np.inf)


def _smooth(values: Floats, beta: float) -> Floats:
    """The largest of e^(-beta d) times what ``values`` are d places away, either way."""
    places = beta * np.arange(len(values))
    logs = np.log(values)
    left = np.maximum.accumulate(logs + places) - places
    right = (np.maximum.accumulate((logs - places)[::-1]))[::-1] + places
    return np.asarray(np.exp(np.maximum(left, right)) * (1 + MARGIN), dtype=np.float64)
