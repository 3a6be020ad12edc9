"""Who holds whose shares: the parameters of a masked sum's communication graph, and the choice of sound ones.

How the graph is drawn, what it promises and how likely it fails is in ``securefd.defenses.graph_failure``.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import asdict, dataclass

from securefd.defenses.graph_failure import (
    Cohort,
    check_graph,
    check_range,
    check_whole,
    colluding_holders,
    forged_list,
    opened_part,
    unneeded_abort,
)
from securefd.errors import SealingError

SECRECY = 2.0**-40
"""Largest probability of a secrecy failure."""
ABORT = 2.0**-20
"""Largest probability of an unneeded abort."""

_GRAPH = 0.75 * SECRECY
"""The part of SECRECY for the graph, (a) and (b); what it leaves is for the signatures, (c)."""
_SMALL = 40
"""Up to this many clients the graph is complete unless a degree is asked for: little is saved otherwise."""


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

    def __post_init__(self) -> None:
        """``SealingError`` as in `failure`, and for what can't be a probability."""
        cohort = Cohort(
            n_clients=self.n_clients,
            threshold=self.threshold,
            colluders=self.colluders,
            honest_minimum=self.honest_minimum,
        )
        check_graph(cohort, self.degree, self.share_threshold, self.checked)
        for name in ("secrecy_failure", "unneeded_abort"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise SealingError(
                    f"{name} must be a probability in [0, 1], got {value!r}; let choose compute it"
                )

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


def usual_minimum(threshold: int, colluders: int) -> int:
    """Return the ``honest_minimum`` that is promised unless another is asked for: nine tenths of t - c.

    t - c itself takes the complete graph, or two to six times the holders. Nine tenths take no more than 2
    does where clients may collude or drop (of 50 clients up to three holders more), for it is colluding and
    dropped holders that ask for a degree; where none may, three holders more among 100.
    """
    return max(2, 9 * (threshold - colluders) // 10)


def choose(
    *,
    n_clients: int,
    threshold: int,
    colluders: int,
    honest_minimum: int | None = None,
    degree: int | None = None,
) -> Neighbourhood:
    """Return parameters with a secrecy failure <= SECRECY and an unneeded abort <= ABORT.

    ``honest_minimum`` None: the `usual_minimum`. ``degree`` None: the smallest that meets both, or the
    complete graph for up to 40 clients and where less than a quarter of the masks would be saved (degree >
    (n - 1) / 2). ``share_threshold`` is the largest that meets ABORT, ``checked`` the smallest that meets
    SECRECY. ``SealingError`` for numbers that ``Cohort`` refuses, and for a degree with which no
    share_threshold meets both.
    """
    if honest_minimum is None:
        check_whole("threshold", threshold)
        check_whole("colluders", colluders)
        honest_minimum = usual_minimum(threshold, colluders)
    cohort = Cohort(
        n_clients=n_clients, threshold=threshold, colluders=colluders, honest_minimum=honest_minimum
    )
    if degree is None:
        return _choose_smallest(cohort)
    check_range("degree", degree, 1, n_clients - 1)
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
    if k < 1 or not colluding_holders(cohort, degree, k) <= _GRAPH:
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
        secrecy_failure=graph + forged_list(cohort, checked),
        unneeded_abort=unneeded_abort(cohort, degree, k),
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
        abort = unneeded_abort(cohort, degree, high)
        secrets = f"share_threshold {high} keeps secrecy, but an unneeded abort has {say(abort)}"
    return (
        f"degree must allow a secrecy failure <= {say(SECRECY)} and an unneeded abort <= {say(ABORT)}, got "
        f"{degree} for {cohort.n_clients} clients with {cohort.colluders} colluding and {cohort.dropped} "
        f"dropping: {aborts}, {secrets}; set degree to {_choose_smallest(cohort).degree}, or leave it out"
    )


def _largest_threshold(cohort: Cohort, degree: int) -> int:
    """Return the largest share_threshold that meets ABORT, or 0."""
    return bisect_right(range(1, degree + 1), ABORT, key=lambda k: unneeded_abort(cohort, degree, k))


def _fewest_checked(cohort: Cohort, budget: float) -> int:
    """Return the smallest number of signatures to verify that keeps (c) within ``budget``."""
    numbers = range(cohort.threshold + 1)
    return bisect_left(numbers, -budget, key=lambda checked: -forged_list(cohort, checked))


def _graph_failure(cohort: Cohort, degree: int, k: int) -> float:
    """(a) and (b)."""
    return colluding_holders(cohort, degree, k) + opened_part(cohort, degree, k)
