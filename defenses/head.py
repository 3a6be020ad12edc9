"""A linear model on public features from one private release: the sum of a client's features by class.

Features are learnt from public inputs alone (``securefd.features``) and whitened by them here, so that the
records enter one sum only. It is added up in integers, noised once and exactly, and everything that is made
of it afterwards is free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.charges import DiscreteGaussian
from securefd.defenses.samplers import LARGEST_DEVIATION, discrete_gaussian
from securefd.defenses.sensitivity import Sensitivity
from securefd.errors import DataError, PrivacyError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DIMENSIONS = 80
"""Of whitened features: more of them say more about classes, and each brings its own noise."""
SHRINKAGE = 0.01
"""Of the largest variance, added to each one before features are divided by its root."""
RECORDS_A_DIMENSION = 8
"""Times the noise multiplier, so many records for each dimension: with fewer, fewer dimensions did better."""
RIDGE = 1.0
"""Of the regression, in units of what the average direction has."""
RESOLUTION = 10**5
"""Steps of the integer grid in a length of 1: so many that rounding is no matter beside the noise."""
SMALLEST_PROBABILITY = 1e-3
"""What a probability of 0 counts as where logarithms are needed."""
_UNIT = 1e-12
"""A shorter vector has no direction, and is left as it is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitening:
    """Principal directions of public features, evened out, and vectors of length 1.

    ``mean`` (p,), ``transform`` (p, d), ``second_moment`` (d, d): of public vectors after all that.
    """

    mean: Floats
    transform: Floats
    second_moment: Floats

    @classmethod
    def of(
        cls, public: NDArray[np.floating], *, dimensions: int = DIMENSIONS, shrinkage: float = SHRINKAGE
    ) -> Whitening:
        """Learn from public features ``(n, p)``; d is ``dimensions``, or as many as there are.

        Raises DataError for fewer than 2 rows, values that aren't finite, and features that don't vary.
        """
        features = np.asarray(public, dtype=np.float64)
        if features.ndim != 2 or len(features) < 2:
            raise DataError(
                f"public features must be (n, p) with n at least 2, got {features.shape}; add public inputs"
            )
        if not np.isfinite(features).all():
            raise DataError("public features must be finite, got nan or inf; correct the public inputs")
        if not dimensions >= 1 or not shrinkage > 0:
            raise DataError(
                f"dimensions must be at least 1 and shrinkage > 0, got {dimensions} and {shrinkage}"
            )
        mean = features.mean(axis=0)
        variances, directions = np.linalg.eigh(np.cov((features - mean).T).reshape(features.shape[1], -1))
        variances, directions = variances[::-1][:dimensions], directions[:, ::-1][:, :dimensions]
        if not variances[0] > 0:
            raise DataError("public features must vary, but are all the same; give other public inputs")
        scale = np.sqrt(np.maximum(variances, 0) + shrinkage * variances[0])
        plain = cls(mean=mean, transform=directions / scale, second_moment=np.eye(len(variances)))
        whitened = plain(features)
        return cls(mean=mean, transform=plain.transform, second_moment=whitened.T @ whitened / len(whitened))

    @property
    def dimensions(self) -> int:
        """How many there are, d."""
        return int(self.transform.shape[1])

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        """``(n, p)`` to ``(n, d)`` of length 1, or 0 for what has no direction."""
        with np.errstate(over="ignore", invalid="ignore"):  # a record that isn't finite counts nothing
            centred = (np.asarray(features, dtype=np.float64) - self.mean) @ self.transform
            lengths = np.linalg.norm(centred, axis=1, keepdims=True)
            whitened: Floats = np.where(lengths > _UNIT, centred / np.maximum(lengths, _UNIT), 0.0)
        return whitened

    def each(self, features: NDArray[np.floating]) -> Floats:
        """The same row by row, so that no other row has a part in the last bits of one."""
        rows = [self(row[None]) for row in np.array(features, dtype=np.float64)]
        return np.concatenate(rows) if rows else np.empty((0, self.dimensions))


@dataclass(frozen=True, kw_only=True)
class ClassSums:
    """Sum whitened features by class in integers, and add N_Z(0, variance) to each of the entries, once.

    With C classes and Q = ``resolution``, a record with features x and label y counts as the matrix q c_y^T,
    where q = x Q cut off to integers, |q| <= Q, and c_y is C at y less 1 everywhere.

    Unit of privacy: one record. Relation: either. Sensitivity, for every C >= 2, of the sum:

    - |c_y|^2 = (C - 1)^2 + (C - 1) = C (C - 1), thus |q c_y^T|^2 = C (C - 1) |q|^2: ``added`` is C (C - 1)
      Q^2.
    - A record replaced by another of the same label: C (C - 1) |q - q'|^2 <= 4 C (C - 1) Q^2, which q' = -q
      attains.
    - By one of another label: <c_y, c_y'> = -C - C + C = -C, so that the squared distance is C (C - 1)
      (|q|^2 + |q'|^2) + 2 C <q, q'> <= (2 C (C - 1) + 2 C) Q^2 = 2 C^2 Q^2, no more than the 4 C (C - 1) Q^2
      of the same label, since C <= 2 (C - 1). ``replaced`` is 4 C (C - 1) Q^2.
    - In L1 a record has |q|_1 |c_y|_1 <= sqrt(d) Q 2 (C - 1), and two of them differ by twice that at most.

    Each x must be a function of one record and public data: what it is scaled by, too.
    """

    n_classes: int
    dimensions: int
    variance: float
    resolution: int = RESOLUTION

    def __post_init__(self) -> None:
        for name, least in (("n_classes", 2), ("dimensions", 1), ("resolution", 1)):
            if not getattr(self, name) >= least:
                raise PrivacyError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.resolution <= 2**20:
            raise PrivacyError(f"resolution must be at most 2^20, got {self.resolution}; lower it")
        if not 0 < self.variance <= LARGEST_DEVIATION**2:
            raise PrivacyError(
                f"variance must be > 0 and at most 2^62, got {self.variance}; ask for a larger epsilon"
            )

    @classmethod
    def of(cls, noise_multiplier: float, *, n_classes: int, dimensions: int) -> ClassSums:
        """With noise of ``noise_multiplier`` times what one record contributes, rounded up."""
        if not 0 < noise_multiplier < math.inf:
            raise PrivacyError(f"noise_multiplier must be > 0 and finite, got {noise_multiplier}")
        one = n_classes * (n_classes - 1) * RESOLUTION**2
        variance = float(math.ceil(one * noise_multiplier**2))
        return cls(n_classes=n_classes, dimensions=dimensions, variance=variance)

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over the length of what one record contributes."""
        return math.sqrt(self.variance / self.sensitivity.added)

    @property
    def sensitivity(self) -> Sensitivity:
        """How far one record moves the sum; proven above."""
        added = self.n_classes * (self.n_classes - 1) * self.resolution**2
        absolute = 2 * (self.n_classes - 1) * math.isqrt(self.dimensions * self.resolution**2)
        return Sensitivity(added=added, replaced=4 * added, added_l1=absolute, replaced_l1=2 * absolute)

    @property
    def charge(self) -> DiscreteGaussian:
        """What one release costs."""
        return DiscreteGaussian(variance=self.variance, sensitivity=self.sensitivity)

    def __call__(self, x: Floats, y: Integers, *, _key: bytes | None = None) -> Integers:
        """Return the noised sum ``(d, C)``. Drawn anew, and charged, at each call."""
        exact = self.exactly(x, y)
        noise = discrete_gaussian(self.variance, exact.size, _key=_key).reshape(exact.shape)
        noised: Integers = exact + noise
        return noised

    def exactly(self, x: Floats, y: Integers) -> Integers:
        """Return the sum ``(d, C)`` of ``x`` ``(n, d)`` with labels ``y`` ``(n,)``, without any noise."""
        if x.ndim != 2 or x.shape[1] != self.dimensions or y.shape != (len(x),):
            raise DataError(f"x and y must be (n, {self.dimensions}) and (n,), got {x.shape} and {y.shape}")
        if y.dtype.kind not in "iu" or not ((y >= 0) & (y < self.n_classes)).all():
            raise DataError(f"labels must be whole numbers from 0 to {self.n_classes - 1}; correct them")
        return class_sums(x, y, self.n_classes, self.resolution)


def class_sums(x: Floats, y: Integers, n_classes: int, resolution: int = RESOLUTION) -> Integers:
    """The sum ``(d, C)`` of `ClassSums`, without noise and without a look at shapes and labels."""
    q = on_grid(x, resolution)
    by_class = np.zeros((n_classes, x.shape[1]), dtype=np.int64)
    np.add.at(by_class, y, q)
    coded: Integers = (n_classes * by_class - by_class.sum(axis=0)).T
    return coded


def on_grid(x: Floats, resolution: int = RESOLUTION) -> Integers:
    """Return ``x`` in steps of 1 / resolution, cut off towards 0, each row of length resolution at most.

    A row that is longer is shortened, and one that isn't finite is 0: whatever a record holds, it counts
    for no more than any other, and it stops nothing.
    """
    finite = np.where(np.isfinite(x).all(axis=1, keepdims=True), x, 0.0)
    largest = np.maximum(np.abs(finite).max(axis=1, keepdims=True), 1.0)  # squares can't overflow then
    finite = finite / largest
    finite = finite / np.maximum(np.linalg.norm(finite, axis=1, keepdims=True), 1.0 / largest)
    q: Integers = np.trunc(finite * resolution).astype(np.int64)
    while (long := (q * q).sum(axis=1) > resolution**2).any():  # floats were rounded up
        q[long] -= np.sign(q[long])
    return q


def worthwhile(records: int, noise_multiplier: float, *, n_classes: int, at_most: int) -> int:
    """How many dimensions are worth their noise: one for `RECORDS_A_DIMENSION` records, as a rule of thumb.

    A function of public figures. No fewer than classes, which that many directions can tell apart.
    """
    enough = int(records / (RECORDS_A_DIMENSION * noise_multiplier))
    return min(DIMENSIONS, at_most, max(n_classes, enough))


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """What is made of one release: ``weights`` ``(d, C)`` that turn whitened features into probabilities."""

    weights: Floats

    @classmethod
    def of(
        cls,
        released: Integers,
        records: int,
        second_moment: Floats,
        *,
        resolution: int = RESOLUTION,
        ridge: float = RIDGE,
    ) -> Head:
        """Least squares with a ridge, and the public second moment G in place of the records' own.

        ``released``: ``(d, C)``, of so many ``records``, a number that is taken as public. The weights are (G
        + ridge / d I)^-1 S / (records C resolution). Post-processing.
        """
        dimensions, n_classes = released.shape
        if not records >= 1:
            raise DataError(f"records must be at least 1, got {records}")
        if not ridge > 0:
            raise DataError(f"ridge must be > 0, got {ridge}")
        means = released / (records * n_classes * resolution)
        return cls(weights=np.linalg.solve(second_moment + ridge / dimensions * np.eye(dimensions), means))

    def probabilities(self, x: Floats) -> Floats:
        """``(n, d)`` whitened features to ``(n, C)``: the nearest points of the simplex."""
        return nearest_probabilities(x @ self.weights + 1 / self.weights.shape[1])

    def logits(self, x: Floats) -> Floats:
        """Logarithms of the same, none below that of `SMALLEST_PROBABILITY`."""
        return np.asarray(np.log(np.maximum(self.probabilities(x), SMALLEST_PROBABILITY)), dtype=np.float64)


def nearest_probabilities(scores: Floats) -> Floats:
    """The point of the simplex that is nearest to each row ``(n, C)``, in Euclidean distance.

    Each row less one number, cut off at 0, such that it adds up to 1 (Held, Wolfe, Crowder 1974; Duchi et al.
    2008, Figure 1).
    """
    descending = -np.sort(-scores, axis=1)
    excess = np.cumsum(descending, axis=1) - 1
    ranks = np.arange(1, scores.shape[1] + 1)
    kept = (descending * ranks > excess).sum(axis=1)
    threshold = np.take_along_axis(excess, kept[:, None] - 1, axis=1) / kept[:, None]
    return np.asarray(np.maximum(scores - threshold, 0.0), dtype=np.float64)
