"""What each observer sees of a federation, in the one form that attacks take.

A run and its shadows go through the same function, so that an attack can't tell them apart by form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from securefd.methods import Method
from securefd.simplex import normalised
from securefd.transcript import PEER
from securefd.views import Decide, Observer, Predict, RoundView, View

Floats = NDArray[np.float64]
ROUNDING = 0.05
"""How far a row may be from adding up to 1 by having been on a grid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouped:
    """``sums``: ``(n_groups, a, C)`` the sum of the first part of each group's answers. ``groups``:
    ``(n_clients,)`` each client's group, or -1 for one that is in no sum.
    """

    sums: Floats
    groups: NDArray[np.int64]

    @property
    def means(self) -> Floats:
        """``(n_groups, a, C)`` each group's sum by the number of clients in it."""
        sizes = np.bincount(self.groups[self.groups >= 0], minlength=len(self.sums))
        return np.asarray(self.sums / sizes[:, None, None], dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Travelled:
    """What one round put on the wire, decoded from the grid, as the method exchanges it.

    ``queries``: ``(a,)`` those that were asked. ``consensus``: ``(a, C)`` what was broadcast. ``mean``:
    ``(a, C)`` the mean of the first part of the answers. ``answers``: ``(n_clients, a, C)`` that part of each
    client's answer, or None where it was sealed. ``grouped``: None where all were summed together. For
    ``fd``, which asks nothing, ``(C, C)`` class means.
    """

    queries: NDArray[np.int64]
    consensus: Floats
    mean: Floats
    answers: Floats | None
    grouped: Grouped | None = None


def view(
    observer: Observer,
    rounds: Sequence[Travelled],
    *,
    method: Method,
    public: NDArray[np.float32],
    student: Predict | None,
) -> View:
    """What ``observer`` saw, answers turned into class probabilities.

    The server has what it opened and, since it distils it, the student. A peer (client 0) has the consensus
    of each round. Whoever is given the release has the student only, and whoever is ``label-only`` sees what
    it decides. ``student``: None where there is none.
    """
    seen = rounds if observer in ("server", "peer") else ()
    return View(
        observer=observer,
        public=public,
        rounds=tuple(_round(number, each, observer, method) for number, each in enumerate(seen)),
        student=student if observer in ("server", "release") else None,
        decide=_decisions(student) if observer == "label-only" and student is not None else None,
        client=PEER if observer == "peer" else None,
    )


def _round(number: int, seen: Travelled, observer: Observer, method: Method) -> RoundView:
    if not method.public:
        # Nothing was asked about an input: what travelled speaks of classes, and is left as it is.
        return RoundView(round=number, queries=seen.queries, consensus=seen.consensus)
    server = observer == "server"
    grouped = seen.grouped if server else None
    answered = _AS_PROBABILITIES[method.blocks(0, 2, method.options)[0].name]
    # The target of the L1 loss is logits, that of squared error probabilities with noise, perhaps.
    broadcast = {"l1": _softmax, "squared": _clamped}.get(method.loss, _unchanged)
    return RoundView(
        round=number,
        queries=seen.queries,
        consensus=broadcast(seen.consensus),
        total=answered(seen.mean) if server else None,
        answers=answered(seen.answers) if server and seen.answers is not None else None,
        sums=None if grouped is None else answered(grouped.means),
        groups=None if grouped is None else grouped.groups,
    )


def _decisions(student: Predict) -> Decide:
    def decide(x: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.asarray(student(x).argmax(axis=-1), dtype=np.int64)

    return decide


def _softmax(logits: Floats) -> Floats:
    return np.asarray(softmax(logits, axis=-1), dtype=np.float64)


def _unchanged(values: Floats) -> Floats:
    return values


def _clamped(values: Floats) -> Floats:
    """Noise may have carried rows out of the simplex; where it hasn't, they are left as they are."""
    inside = (values >= 0).all() and (np.abs(values.sum(axis=-1) - 1) < ROUNDING).all()
    return values if inside else normalised(np.maximum(values, 0))


def _weighted(values: Floats) -> Floats:
    return normalised(np.maximum(values, 0))


_AS_PROBABILITIES: Mapping[str, Callable[[Floats], Floats]] = {
    "probabilities": _clamped,
    "votes": _clamped,
    "logits": _softmax,
    # n_kc p_k(c | x), divided by its sum over classes: what the client would say of x given its own mix of
    # classes. The class counts that travel beside it aren't used.
    "weighted probabilities": _weighted,
}
"""By the name of the first part of an answer (`Method.blocks`)."""
