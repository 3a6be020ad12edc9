"""How likely the communication graph of a masked sum fails, with given parameters.

The graph (after Bell et al. 2020, eprint 2020/704). Once all keys are fixed, each of n clients draws by
itself, uniformly, ``degree`` distinct others: its holders. They get shares of its two secrets, the key of
its pairwise masks and the seed of its own mask, and any ``share_threshold`` = k of them recover one. Two
clients exchange a pairwise mask if either chose the other. With degree n - 1 the graph is complete. A
client that refuses a roster keeps its draw, which nobody has seen yet: it can't be made to draw again.

What is assumed of the protocol, besides its cryptography:

1. Up to c clients collude with the server, chosen before the graph is drawn; h = n - c are honest.
2. All uploads that honest clients help to open were masked for one and the same set of sharers: a holder
   reveals the share of a seed only if its owner's tag says so. Which of the boxes made for it a client is
   given is up to the server, and a client masks with those who chose it only if it was given theirs.
3. A list of survivors names at least t of the sharers. An honest client signs one list at most. It reveals
   shares only if it is named, and only after it verified ``checked`` of t signatures by named clients, a
   sample drawn once it has the list; of each client either the share of the seed, if the client is named, or
   that of the key.

Promise: no two sums are opened, and the one covers at least ``honest_minimum`` honest clients, except with
the probability that is bounded here. The server sees the graph before it names survivors. It can break the
promise only if

(a) an honest client has k colluders among its holders. A client's number of them is hypergeometric: c marked
    of n - 1, ``degree`` drawn; union over h clients.

(b) a part K of the honest named clients, H, is opened without the rest of H. Each in K masked with all its
    holders in H, so these are in K, and as its seed is needed, it has k holders among K and the colluders.
    Those in the rest may have chosen holders in K: the server kept their boxes back. If two parts are opened,
    let S be the smaller; if one is, with fewer than honest_minimum in it, the smaller of K and the rest. Let
    e <= n - t honest clients not be named. Then S has s <= (h - e) / 2 clients, and

    - if S is opened, each in S has k holders among S and the colluders, and the honest clients outside S that
      it drew are among the e <= min(n - t, h - 2s) = g not named;
    - if S is the rest, s >= t - c - honest_minimum + 1, since H has at least t - c, and the honest clients
      outside S that drew one in S are among those g.

    Let r be the probability that a client outside S draws none of S, p = degree / (n - 1), and X(q) a bound
    on P(at most g of the h - s honest clients outside S are linked to it), each missed with probability q.
    A union over all S of size s is at most

    - opened: C(h, s) times the smaller of X((1 - p)^s) and
      P(k of a client's holders are among c colluders and s - 1 fellows)^s; s = 1 is in (a);
    - rest: C(h, s) X(r).

    Sum both over s. Clients draw independently, each without replacement, so that links are negatively
    associated (Joag-Dev and Proschan 1983) and Chernoff's bound holds: X(q) = exp(-M KL(g / M, 1 - q)) with
    M = h - s where g / M < 1 - q, else 1.

(c) an honest client accepts a list with f = ceil((2t - n - c) / 2) or more forged signatures:
    C(t - f, checked) / C(t, checked); union over h clients. Two accepted lists have 2t - n signers in common,
    of which at most c collude and no other signed both, so that one of the lists has f forged signatures.

An unneeded abort: n - t random clients drop, all others answer, and yet one of the n has fewer than k holders
left; a survivor's are hypergeometric with t - 1 marked, a dropped client's with t marked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.tails import Floats, from_log, log_at_least, log_at_most, log_choose, log_sum, log_tail
from securefd.errors import SealingError


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Who takes part, and what is promised: n clients, t survivors at least, c colluders at most.

    ``SealingError`` unless all are whole numbers, n >= 3, t <= n, 0 <= c < 2t - n (no two lists of survivors
    can both be confirmed) and 2 <= honest_minimum <= t - c.
    """

    n_clients: int
    threshold: int
    colluders: int
    honest_minimum: int

    def __post_init__(self) -> None:
        n, t, c = self.n_clients, self.threshold, self.colluders
        for field in fields(self):
            check_whole(field.name, getattr(self, field.name))
        if not n >= 3:
            raise SealingError(f"n_clients must be at least 3 to seal a sum, got {n}; add clients")
        if not t <= n:
            raise SealingError(f"threshold must be at most the {n} clients, got {t}; lower it")
        if not 0 <= c < 2 * t - n:
            raise SealingError(
                f"colluders must be at least 0 and below 2 * threshold - n_clients = {2 * t - n}, got {c}; "
                "raise the threshold or tolerate fewer"
            )
        if not 2 <= self.honest_minimum <= t - c:
            raise SealingError(
                f"honest_minimum must be in 2..threshold - colluders = {t - c}, got {self.honest_minimum}; "
                "raise the threshold, tolerate fewer colluders or promise less"
            )

    @property
    def honest(self) -> int:
        """Clients that follow the protocol."""
        return self.n_clients - self.colluders

    @property
    def dropped(self) -> int:
        """Clients that may drop, or be called dropped."""
        return self.n_clients - self.threshold

    @property
    def spare(self) -> int:
        """Honest clients that every list of survivors names beyond ``honest_minimum``."""
        return self.threshold - self.colluders - self.honest_minimum

    @property
    def forgeries(self) -> int:
        """Signatures that must be forged, in one of two lists, so that both are accepted."""
        return -((self.n_clients + self.colluders - 2 * self.threshold) // 2)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Upper bounds on probabilities; see (a), (b), (c) and the last paragraph above. 0 means impossible."""

    colluding_holders: float
    opened_part: float
    forged_list: float
    unneeded_abort: float

    @property
    def secrecy(self) -> float:
        """Probability that more than the one sum is opened, or a sum over too few honest clients."""
        return min(1.0, self.colluding_holders + self.opened_part + self.forged_list)


def failure(
    *,
    n_clients: int,
    threshold: int,
    colluders: int,
    honest_minimum: int,
    degree: int,
    share_threshold: int,
    checked: int,
) -> Failure:
    """Return how likely these parameters fail, term by term, whether or not they meet the targets.

    ``SealingError`` for numbers that ``Cohort`` refuses, degree outside 1..n - 1, share_threshold outside
    1..degree, or checked outside 0..threshold.
    """
    cohort = Cohort(
        n_clients=n_clients, threshold=threshold, colluders=colluders, honest_minimum=honest_minimum
    )
    check_graph(cohort, degree, share_threshold, checked)
    return Failure(
        colluding_holders=colluding_holders(cohort, degree, share_threshold),
        opened_part=opened_part(cohort, degree, share_threshold),
        forged_list=forged_list(cohort, checked),
        unneeded_abort=unneeded_abort(cohort, degree, share_threshold),
    )


def colluding_holders(cohort: Cohort, degree: int, k: int) -> float:
    """(a)."""
    one = log_at_least(k, cohort.n_clients - 1, cohort.colluders, degree)
    return from_log(math.log(cohort.honest) + one)


def opened_part(cohort: Cohort, degree: int, k: int) -> float:
    """(b)."""
    sizes = np.arange(1, cohort.honest // 2 + 1)
    return from_log(
        log_sum(np.concatenate([_log_opened(cohort, degree, k, sizes), _log_rest(cohort, degree, sizes)]))
    )


def _log_opened(cohort: Cohort, degree: int, k: int, sizes: NDArray[np.int64]) -> Floats:
    """Return the logarithm of ``opened`` for parts of these sizes."""
    held = log_tail(k, cohort.n_clients - 1, cohort.colluders + sizes - 1, degree)
    linked = _log_linked(cohort, sizes, sizes * _log_undrawn(cohort, degree))
    ways = log_choose(cohort.honest, sizes) + np.minimum(sizes * held, linked)
    return np.where(sizes > 1, ways, -np.inf)


def _log_rest(cohort: Cohort, degree: int, sizes: NDArray[np.int64]) -> Floats:
    """Return the logarithm of ``rest`` for parts of these sizes."""
    linked = _log_linked(cohort, sizes, _log_drawn_by_none(cohort, degree, sizes))
    return np.where(sizes > cohort.spare, log_choose(cohort.honest, sizes) + linked, -np.inf)


def _log_linked(cohort: Cohort, sizes: NDArray[np.int64], log_missed: Any) -> Floats:
    """Return ln X: that at most g honest clients outside a part are linked to it."""
    most = np.minimum(cohort.dropped, cohort.honest - 2 * sizes)
    return log_at_most(most, cohort.honest - sizes, log_missed)


def forged_list(cohort: Cohort, checked: int) -> float:
    """(c)."""
    t = cohort.threshold
    unnoticed = log_choose(t - cohort.forgeries, checked) - log_choose(t, checked)
    return from_log(math.log(cohort.honest) + float(unnoticed))


def unneeded_abort(cohort: Cohort, degree: int, k: int) -> float:
    """Return how likely a client has fewer than k holders left when ``dropped`` random ones drop."""
    others, t, dropped = cohort.n_clients - 1, cohort.threshold, cohort.dropped
    # fewer than k of degree are left if more than degree - k of them dropped
    survivor = math.log(t) + log_at_least(degree - k + 1, others, dropped, degree)
    if not dropped:
        return from_log(survivor)
    gone = math.log(dropped) + log_at_least(degree - k + 1, others, dropped - 1, degree)
    return from_log(log_sum(np.array([survivor, gone])))


def _log_drawn_by_none(cohort: Cohort, degree: int, sizes: Any) -> Floats:
    """Return ln P(a client draws none of ``sizes`` given others)."""
    others = cohort.n_clients - 1
    # C(others - sizes, degree) / C(others, degree), with degree and sizes exchanged
    return log_choose(others - degree, sizes) - log_choose(others, sizes)


def _log_undrawn(cohort: Cohort, degree: int) -> float:
    """Return ln P(a client doesn't draw a given other one)."""
    others = cohort.n_clients - 1
    return math.log1p(-degree / others) if degree < others else -math.inf


def check_graph(cohort: Cohort, degree: int, share_threshold: int, checked: int) -> None:
    """``SealingError`` unless a client can have so many holders, and verify so many signatures."""
    check_range("degree", degree, 1, cohort.n_clients - 1)
    check_range("share_threshold", share_threshold, 1, degree)
    check_range("checked", checked, 0, cohort.threshold)


def check_whole(name: str, value: object) -> None:
    """``SealingError`` unless ``value`` is an int."""
    # Of NumPy's integers MessagePack knows none, and True would be another agreement than 1.
    if not isinstance(value, int) or isinstance(value, bool):
        raise SealingError(f"{name} must be a whole number, got {value!r}; give an int")


def check_range(name: str, value: int, low: int, high: int) -> None:
    """``SealingError`` unless ``value`` is an int in low..high."""
    check_whole(name, value)
    if not low <= value <= high:
        raise SealingError(f"{name} must be in {low}..{high}, got {value}; give a number within")
