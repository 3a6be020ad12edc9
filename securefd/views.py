"""What one observer saw in a run, exactly as it was seen: the only thing an attack is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Observer = Literal["server", "peer", "release", "label-only"]
Predict = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Inputs ``(n, ...)`` to class probabilities ``(n, n_classes)``: a black box."""
Decide = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""Inputs ``(n, ...)`` to the most probable class ``(n,)`` alone."""


@dataclass(frozen=True, kw_only=True)
class RoundView:
    """What travelled in one round, as far as this observer saw it.

    ``queries``: ``(m,)`` indices into the public set. ``answers``: ``(n_clients, m, n_classes)`` single
    clients' answers as class probabilities, or None where they were sealed. ``sums``:
    ``(n_groups, m, n_classes)`` mean answer of each group whose sum was opened, and ``groups``:
    ``(n_clients,)`` each client's group, or -1 for one that is in no sum; None where there are no groups, or
    they weren't seen. ``total``: ``(m, n_classes)`` mean answer that was opened, or None where it wasn't
    seen. ``consensus``: ``(m, n_classes)`` the target that was broadcast. All answers are class
    probabilities, whatever was exchanged (`sight`); only where nothing was asked (method ``fd``) the
    consensus is ``(n_classes, n_classes)`` mean logits of each class.
    """

    round: int
    queries: NDArray[np.int64]
    consensus: NDArray[np.float64]
    total: NDArray[np.float64] | None = None
    answers: NDArray[np.float64] | None = None
    sums: NDArray[np.float64] | None = None
    groups: NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """All that one observer saw in one run.

    ``public``: ``(n_public, ...)`` the public inputs. ``student``: black-box access to the released
    model, for whoever has it; ``decide``: to its decisions, for whoever sees these alone. ``observer`` names
    who saw it; a peer also knows which client it is.
    """

    observer: Observer
    public: NDArray[np.float32]
    rounds: tuple[RoundView, ...]
    student: Predict | None = None
    decide: Decide | None = None
    client: int | None = None
