"""Who holds whose shares: the parameters of a masked sum's communication graph, and how likely it fails.

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
probability <= SECRECY. The server sees the graph before it names survivors. It can break the promise only if

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
from bisect import bisect_left, bisect_right
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from securefd.errors import SealingError

SECRECY = 2.0**-40
"""Largest probability of a secrecy failure."""
ABORT = 2.0**-20
"""Largest probability of an unneeded abort."""

_GRAPH = 0.75 * SECRECY
"""The part of SECRECY for the graph, (a) and (b); what it leaves is for the signatures, (c)."""
_SMALL = 40
"""Up to this many clients the graph is complete unless a degree is asked for: little is saved otherwise."""
Floats = NDArray[np.float64]


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
            _check_whole(field.name, getattr(self, field.name))
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


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """What every client of a round must use, made by ``choose``; all of it is public.

    ``degree``: holders of each client; ``share_threshold``: how many of them recover a secret; ``checked``:
    how many of ``threshold`` signatures each client verifies.
    """

    n_clients: int
    threshold: int
    colluders: int
    honest_minimum: int
    degree: int
    share_threshold: int
    checked: int
    secrecy_failure: float
    unneeded_abort: float

    @property
    def is_complete(self) -> bool:
        """Whether everyone is everyone's holder."""
        return self.degree == self.n_clients - 1

    @property
    def partners(self) -> float:
        """Expected number of clients that one client shares a mask with."""
        return self.degree * (2 - self.degree / (self.n_clients - 1))

    def describe(self) -> str:
        """Return two sentences for a plan."""
        return (
            f"Each of {self.n_clients} clients shares its secrets among {self.degree} "
            f"{'others, all there are' if self.is_complete else 'random others'}, any {self.share_threshold} "
            f"of which recover them, has {self.partners:.0f} mask partners, and verifies {self.checked} of "
            f"{self.threshold} signatures. With up to {self.colluders} colluders, and as long as the "
            f"cryptography holds, probability of a secrecy failure: {say(self.secrecy_failure)}; of an "
            f"unneeded abort when {self.n_clients - self.threshold} random clients drop: "
            f"{say(self.unneeded_abort)}."
        )


def say(probability: float) -> str:
    """Return a probability as a power of two, rounded up: ``2^-43.1``; 0 is ``impossible``."""
    if probability == 0:
        return "impossible"
    return f"2^{math.ceil(10 * math.log2(probability)) / 10:.1f}"


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
    _check_range("degree", degree, 1, n_clients - 1)
    _check_range("share_threshold", share_threshold, 1, degree)
    _check_range("checked", checked, 0, threshold)
    return Failure(
        colluding_holders=_colluding_holders(cohort, degree, share_threshold),
        opened_part=_opened_part(cohort, degree, share_threshold),
        forged_list=_forged_list(cohort, checked),
        unneeded_abort=_unneeded_abort(cohort, degree, share_threshold),
    )


def choose(
    *, n_clients: int, threshold: int, colluders: int, honest_minimum: int, degree: int | None = None
) -> Neighbourhood:
    """Return parameters with a secrecy failure <= SECRECY and an unneeded abort <= ABORT.

    ``degree`` None: the smallest that meets both, or the complete graph for up to 40 clients and where less
    than a quarter of the masks would be saved (degree > (n - 1) / 2). ``share_threshold`` is the largest that
    meets ABORT, ``checked`` the smallest that meets SECRECY. ``SealingError`` for numbers that ``Cohort``
    refuses, and for a degree with which no share_threshold meets both.
    """
    cohort = Cohort(
        n_clients=n_clients, threshold=threshold, colluders=colluders, honest_minimum=honest_minimum
    )
    if degree is None:
        return _choose_smallest(cohort)
    _check_range("degree", degree, 1, n_clients - 1)
    found = _choose_at(cohort, degree)
    if found is None:
        raise SealingError(_refusal(cohort, degree))
    return found


def _choose_smallest(cohort: Cohort) -> Neighbourhood:
    others = cohort.n_clients - 1
    # The complete graph meets every target: (a) and (b) are impossible, and (c) too once all are checked.
    sparse = range(1, others // 2 + 1) if cohort.n_clients > _SMALL else ()
    candidates = (_choose_at(cohort, degree) for degree in (*sparse, others))
    return next(found for found in candidates if found is not None)


def _choose_at(cohort: Cohort, degree: int) -> Neighbourhood | None:
    """Return the choice for this degree, if there is one."""
    k = _largest_threshold(cohort, degree)
    if k < 1 or not _colluding_holders(cohort, degree, k) <= _GRAPH:
        return None
    graph = _graph_failure(cohort, degree, k)
    if not graph <= _GRAPH:
        return None
    checked = _fewest_checked(cohort, SECRECY - graph)
    return Neighbourhood(
        **asdict(cohort),
        degree=degree,
        share_threshold=k,
        checked=checked,
        secrecy_failure=graph + _forged_list(cohort, checked),
        unneeded_abort=_unneeded_abort(cohort, degree, k),
    )


def _refusal(cohort: Cohort, degree: int) -> str:
    """Say how far this degree is from each target while the other is met, and which degree meets both."""

    def secrecy(k: int) -> float:
        return _graph_failure(cohort, degree, k)

    low = _largest_threshold(cohort, degree)
    high = 1 + bisect_left(range(1, degree + 1), -_GRAPH, key=lambda k: -secrecy(k))
    aborts = "no share_threshold keeps aborts rare"
    if low:
        aborts = f"share_threshold {low} keeps aborts rare, but a secrecy failure has {say(secrecy(low))}"
    secrets = "no share_threshold keeps secrecy"
    if high <= degree:
        abort = _unneeded_abort(cohort, degree, high)
        secrets = f"share_threshold {high} keeps secrecy, but an unneeded abort has {say(abort)}"
    return (
        f"degree must allow a secrecy failure <= {say(SECRECY)} and an unneeded abort <= {say(ABORT)}, got "
        f"{degree} for {cohort.n_clients} clients with {cohort.colluders} colluding and {cohort.dropped} "
        f"dropping: {aborts}, {secrets}; set degree to {_choose_smallest(cohort).degree}, or leave it out"
    )


def _largest_threshold(cohort: Cohort, degree: int) -> int:
    """Return the largest share_threshold that meets ABORT, or 0."""
    return bisect_right(range(1, degree + 1), ABORT, key=lambda k: _unneeded_abort(cohort, degree, k))


def _fewest_checked(cohort: Cohort, budget: float) -> int:
    """Return the smallest number of signatures to verify that keeps (c) within ``budget``."""
    numbers = range(cohort.threshold + 1)
    return bisect_left(numbers, -budget, key=lambda checked: -_forged_list(cohort, checked))


def _graph_failure(cohort: Cohort, degree: int, k: int) -> float:
    """(a) and (b)."""
    return _colluding_holders(cohort, degree, k) + _opened_part(cohort, degree, k)


def _colluding_holders(cohort: Cohort, degree: int, k: int) -> float:
    """(a)."""
    one = _log_at_least(k, cohort.n_clients - 1, cohort.colluders, degree)
    return _probability(math.log(cohort.honest) + one)


def _opened_part(cohort: Cohort, degree: int, k: int) -> float:
    """(b)."""
    sizes = np.arange(1, cohort.honest // 2 + 1)
    return _probability(
        _log_sum(np.concatenate([_log_opened(cohort, degree, k, sizes), _log_rest(cohort, degree, sizes)]))
    )


def _log_opened(cohort: Cohort, degree: int, k: int, sizes: NDArray[np.int64]) -> Floats:
    """Return the logarithm of ``opened`` for parts of these sizes."""
    held = _log_tail(k, cohort.n_clients - 1, cohort.colluders + sizes - 1, degree)
    linked = _log_linked(cohort, sizes, sizes * _log_undrawn(cohort, degree))
    ways = _log_choose(cohort.honest, sizes) + np.minimum(sizes * held, linked)
    return np.where(sizes > 1, ways, -np.inf)


def _log_rest(cohort: Cohort, degree: int, sizes: NDArray[np.int64]) -> Floats:
    """Return the logarithm of ``rest`` for parts of these sizes."""
    linked = _log_linked(cohort, sizes, _log_drawn_by_none(cohort, degree, sizes))
    return np.where(sizes > cohort.spare, _log_choose(cohort.honest, sizes) + linked, -np.inf)


def _log_linked(cohort: Cohort, sizes: NDArray[np.int64], log_missed: Any) -> Floats:
    """Return ln X: that at most g honest clients outside a part are linked to it."""
    most = np.minimum(cohort.dropped, cohort.honest - 2 * sizes)
    return _log_at_most(most, cohort.honest - sizes, log_missed)


def _forged_list(cohort: Cohort, checked: int) -> float:
    """(c)."""
    t = cohort.threshold
    unnoticed = _log_choose(t - cohort.forgeries, checked) - _log_choose(t, checked)
    return _probability(math.log(cohort.honest) + float(unnoticed))


def _unneeded_abort(cohort: Cohort, degree: int, k: int) -> float:
    """Return how likely a client has fewer than k holders left when ``dropped`` random ones drop."""
    others, t, dropped = cohort.n_clients - 1, cohort.threshold, cohort.dropped
    # fewer than k of degree are left if more than degree - k of them dropped
    survivor = math.log(t) + _log_at_least(degree - k + 1, others, dropped, degree)
    if not dropped:
        return _probability(survivor)
    gone = math.log(dropped) + _log_at_least(degree - k + 1, others, dropped - 1, degree)
    return _probability(_log_sum(np.array([survivor, gone])))


def _log_drawn_by_none(cohort: Cohort, degree: int, sizes: Any) -> Floats:
    """Return ln P(a client draws none of ``sizes`` given others)."""
    others = cohort.n_clients - 1
    # C(others - sizes, degree) / C(others, degree), with degree and sizes exchanged
    return _log_choose(others - degree, sizes) - _log_choose(others, sizes)


def _log_undrawn(cohort: Cohort, degree: int) -> float:
    """Return ln P(a client doesn't draw a given other one)."""
    others = cohort.n_clients - 1
    return math.log1p(-degree / others) if degree < others else -math.inf


def _log_at_most(most: Any, trials: Any, log_missed: Any) -> Floats:
    """Return ln of Chernoff's bound on P(at most ``most`` of ``trials``), each missed with that logarithm."""
    share = most / trials
    linked = -np.expm1(log_missed)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = xlogy(share, share / linked) + (1 - share) * (np.log1p(-share) - log_missed)
    return np.where(share < linked, -trials * divergence, 0.0)


def _log_at_least(k: int, population: int, marked: int, drawn: int) -> float:
    """Return ln P(at least k of ``drawn`` are marked), drawn without replacement; exact but for rounding."""
    if k <= max(0, drawn - (population - marked)):
        return 0.0
    x = np.arange(k, min(marked, drawn) + 1)
    ways = _log_choose(marked, x) + _log_choose(population - marked, drawn - x)
    return min(0.0, _log_sum(ways - _log_choose(population, drawn)))


def _log_tail(k: Any, population: int, marked: Any, drawn: int) -> Floats:
    """Return ln of a bound on P(at least k of ``drawn`` are marked), elementwise.

    The terms of that sum are log-concave, so that they fall at least as fast as the first two.
    """
    first = _log_choose(marked, k) + _log_choose(population - marked, drawn - k)
    up, down = (marked - k) * (drawn - k), (k + 1) * (population - marked - drawn + k + 1)
    falling = (k > 0) & (up < down)
    ratio = np.divide(up, down, out=np.zeros(falling.shape), where=falling)
    tail = first - _log_choose(population, drawn) - np.log1p(-ratio)
    return np.where(falling, np.minimum(0, tail), 0.0)


def _log_choose(n: Any, k: Any) -> Floats:
    """Return ln C(n, k), elementwise; -inf where k is outside 0..n."""
    table = _log_factorials(1 << int(np.max(n)).bit_length())
    inside = np.clip(k, 0, n)
    return np.where(k == inside, table[n] - table[inside] - table[n - inside], -np.inf)


@lru_cache(maxsize=32)
def _log_factorials(size: int) -> Floats:
    table: Floats = gammaln(np.arange(size) + 1.0)
    table.flags.writeable = False
    return table


def _log_sum(logs: Floats) -> float:
    """Return ln of the sum of exp(logs); -inf for none."""
    largest = float(logs.max(initial=-np.inf))
    return largest if math.isinf(largest) else largest + math.log(np.exp(logs - largest).sum())


def _probability(log: float) -> float:
    """exp(log), at most 1, and never 0 for what is possible."""
    return 0.0 if log == -math.inf else max(math.exp(min(0.0, log)), math.ulp(0.0))


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise SealingError(f"{name} must be a whole number, got {value!r}")


def _check_range(name: str, value: int, low: int, high: int) -> None:
    _check_whole(name, value)
    if not low <= value <= high:
        raise SealingError(f"{name} must be in {low}..{high}, got {value}")
