"""What noisy answers on public inputs say together: inputs that look alike mostly belong to one class.

Answers are averaged over the graph of nearest neighbours (Zhou et al. 2003, Learning with Local and Global
Consistency, eq. 4). How widely is decided by the answers themselves: under much noise they are averaged over
many inputs, without noise over few. All of it is of what was released, and costs no privacy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import LinearOperator, cg
from sklearn.neighbors import NearestNeighbors

from securefd.errors import DataError

Floats = NDArray[np.float64]

NEIGHBOURS = 5
"""Of each input, by the angle between features. Ten were as good."""
REACHES = (0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
"""Candidates for alpha: a random walk from an input takes alpha / (1 - alpha) steps on average."""
PROBES = 20
"""Random vectors for a trace, which is then known to about a hundredth of its value."""
TOLERANCE = 1e-4
"""Of the solution of a linear system, relative to its right-hand side: far below any noise."""
LEAST_WEIGHT = 1e-9
"""Of the known inputs that a walk meets: with less, an input counts as being without any neighbour."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """Who looks like whom. ``weights``: ``(n, n)``, symmetric, 1 between neighbours, else 0."""

    weights: csr_array

    @classmethod
    def of(cls, features: NDArray[np.floating], neighbours: int = NEIGHBOURS) -> Neighbours:
        """Each of ``(n, p)`` rows with its nearest ones, and with those whose nearest it is.

        Raises DataError for fewer than 2 rows, or values that aren't finite.
        """
        rows = np.asarray(features, dtype=np.float64)
        if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all():
            raise DataError(
                "features must be (n, p), finite, with n at least 2 to be compared, got shape "
                f"{rows.shape}; add public inputs, or correct them"
            )
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        directions = (rows / np.where(length > 0, length, 1.0)).astype(np.float32)
        search = NearestNeighbors(n_neighbors=min(neighbours, len(rows) - 1), algorithm="brute")
        nearest = csr_array(search.fit(directions).kneighbors_graph())
        return cls(weights=csr_array(nearest.maximum(nearest.T)))

    def settled(self, answers: Floats, known: NDArray[np.int64], rng: np.random.Generator) -> Floats:
        """What all ``n`` inputs' answers are, ``(n, C)``, from noisy ones ``(m, C)`` on the ``known`` rows.

        Of `REACHES` the one with the least generalised cross-validation score (Golub, Heath, Wahba 1979, eq.
        1.4): the mean squared residual by (1 - trace(H) / m)^2, where H takes answers to what is made of
        them. The trace is estimated with random signs from ``rng`` (Hutchinson 1990).
        """
        signs = rng.choice([-1.0, 1.0], size=(len(known), PROBES))
        least, best = np.inf, answers
        for reach in REACHES:
            averaged = self.averaged(np.hstack([answers, signs]), known, reach)
            found, probes = averaged[:, : answers.shape[1]], averaged[known, answers.shape[1] :]
            trace = (probes * signs).mean()
            residual = np.square(answers - found[known]).sum(axis=1).mean()
            score = residual / (1 - trace) ** 2
            if score < least:
                least, best = score, found
        return best

    def averaged(self, values: Floats, known: NDArray[np.int64], reach: float) -> Floats:
        """``(n, v)``: for each input the mean of ``values`` ``(m, v)`` of the ``known`` rows that walks meet.

        Walks go to a neighbour with probability ``reach``, and else stop: with W the weights and D their
        sums, (D - reach W) Y = (1 - reach) D A, A being 0 on rows that aren't known, and the same for the
        weight of the known rows, by which Y is divided. A row that meets none gets the mean of all.
        """
        degrees = self.weights.sum(axis=1)
        system = csr_array(diags_array(degrees) - reach * self.weights)
        right = np.zeros((len(degrees), values.shape[1] + 1))
        right[known, :-1], right[known, -1] = values, 1.0
        right *= (1 - reach) * degrees[:, None]
        # The diagonal makes the system nearly that of a random walk, whose condition is (1 + reach) / (1 -
        # reach): some dozens of steps.
        preconditioner = LinearOperator(system.shape, matvec=lambda vector: vector.ravel() / degrees)
        solved = [cg(system, column, rtol=TOLERANCE, M=preconditioner)[0] for column in right.T]
        found, weight = np.stack(solved[:-1], axis=1), solved[-1][:, None]
        met = weight > LEAST_WEIGHT
        averaged: Floats = np.where(met, found / np.where(met, weight, 1.0), values.mean(axis=0))
        return averaged
