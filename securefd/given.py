"""What one client's private training is given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from securefd.heads import Basis
from securefd.models import ModelSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """Its model, its records, and what it may know besides.

    ``x``: ``(n, ...)`` and ``y``: ``(n,)``, its own. ``public``: ``(m, ...)`` all public inputs. ``counts``:
    its class counts, noised and paid for, or None. ``basis``: what a head stands on, else None.
    """

    spec: ModelSpec
    x: NDArray[np.float32] = field(repr=False)
    y: NDArray[np.int64] = field(repr=False)
    public: NDArray[np.float32] = field(repr=False)
    counts: NDArray[np.float64] | None = None
    basis: Basis | None = None
    device: str = "cpu"
