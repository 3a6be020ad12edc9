"""What one private access costs, as it is written to a ledger: small, exact, closed.

A charge holds the mechanism's public parameters, and no relation: the accounting applies that. Where a sum
moves under ``replace-one`` twice as far as under ``add-or-remove``, what one unit contributes says it all;
where it doesn't, a `Sensitivity` holds both.

``event`` is what ``dp-accounting`` composes by privacy loss distributions (PLD), or None for a mechanism of
which only a Renyi curve is proven (`securefd.defenses.rdp`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import dp_accounting as dp
import msgspec
from dp_accounting.dp_event import DiscreteLaplaceDpEvent

from securefd.defenses.sensitivity import Sensitivity
from securefd.errors import PrivacyError


class PoissonGaussian(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="poisson_gaussian"
):
    """``steps`` sums over Poisson samples of records, each with Gaussian noise.

    One record's contribution has norm at most C; the noise has standard deviation noise_multiplier * C.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise PrivacyError(f"sampling_rate must be > 0 and <= 1, got {self.sampling_rate}")
        if not 0 < self.noise_multiplier < math.inf:
            raise PrivacyError(f"noise_multiplier must be > 0 and finite, got {self.noise_multiplier}")
        if not self.steps >= 1:
            raise PrivacyError(f"steps must be at least 1, got {self.steps}")

    @property
    def event(self) -> dp.DpEvent:
        """The same for ``dp-accounting``."""
        step = dp.PoissonSampledDpEvent(self.sampling_rate, dp.GaussianDpEvent(self.noise_multiplier))
        return dp.SelfComposedDpEvent(step, self.steps)

    def __str__(self) -> str:
        rate, noise = f"{self.sampling_rate:.3g}", f"{self.noise_multiplier:.3g}"
        return f"DP-SGD in parts, at sampling rate {rate} and noise multiplier {noise}"


class DiscreteLaplace(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="discrete_laplace"
):
    """Integer noise with P(x) proportional to exp(-parameter |x|) on every entry of a vector of sums.

    One record's contribution has an L1 norm of at most ``sensitivity``.
    """

    parameter: float
    sensitivity: int

    def __post_init__(self) -> None:
        if not 0 < self.parameter < math.inf:
            raise PrivacyError(f"parameter must be > 0 and finite, got {self.parameter}")
        if not self.sensitivity >= 1:
            raise PrivacyError(f"sensitivity must be at least 1, got {self.sensitivity}")

    @property
    def event(self) -> dp.DpEvent:
        """The same for ``dp-accounting``."""
        return DiscreteLaplaceDpEvent(self.parameter, self.sensitivity)

    def __str__(self) -> str:
        return f"class counts with discrete Laplace noise, parameter {self.parameter:.3g}"


class DiscreteGaussian(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="discrete_gaussian"
):
    """One vector of integers, with N_Z(0, variance) on every entry, independent, from one party.

    Canonne, Kamath, Steinke 2020: P(x) proportional to exp(-x^2 / (2 variance)).
    """

    variance: float
    sensitivity: Sensitivity

    def __post_init__(self) -> None:
        _check_variance(self.variance)

    @property
    def event(self) -> None:
        """None: which shift of a vector is the worst isn't known; its Renyi curve is."""
        return

    def __str__(self) -> str:
        return f"discrete Gaussian noise, standard deviation {math.sqrt(self.variance):.3g} grid steps"


class GaussianShares(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="gaussian_shares"
):
    """One sum of ``entries`` integers, with ``shares`` independent N_Z(0, variance) on every entry.

    ``shares``: how many the observer doesn't know. Their sum isn't quite a discrete Gaussian, which is
    charged.
    """

    variance: float
    shares: int
    entries: int
    sensitivity: Sensitivity

    def __post_init__(self) -> None:
        _check_variance(self.variance)
        for name in ("shares", "entries"):
            if not getattr(self, name) >= 1:
                raise PrivacyError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def event(self) -> None:
        """None: only a Renyi curve is proven."""
        return

    def __str__(self) -> str:
        deviation = math.sqrt(self.variance * self.shares)
        return (
            f"{self.shares} shares of discrete Gaussian noise, standard deviation {deviation:.3g} grid steps "
            "together"
        )


@dataclass(frozen=True)
class VotesEvent(dp.DpEvent):  # type: ignore[misc]
    """A `Votes` charge, for the accounting by privacy loss distributions."""

    variance: float
    shares: int
    answers: int
    classes: int
    turned: bool
    single: bool = False
    """Whether at most one entry moves for each answer, under either relation."""


class Votes(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="votes"
):
    """Histograms of votes, one for each of ``answers``, with ``shares`` independent N_Z(0, variance) on each
    entry.

    One unit gives one vote in each histogram: if it is replaced, at most two entries of each move, by one; if
    it is added or removed, one. Where a unit has no vote of its own, but may turn one of somebody else's in
    each histogram, as a record does with the teacher that it teaches, two entries move under either relation:
    ``turned``. Knowing the shape of what moves, a loss distribution can be had, which is tighter than a Renyi
    curve (`accounting`). ``shares``: how many the observer doesn't know.
    """

    variance: float
    shares: int
    answers: int
    classes: int
    turned: bool = False

    def __post_init__(self) -> None:
        _check_variance(self.variance)
        for name, least in (("shares", 1), ("answers", 1), ("classes", 2)):
            if not getattr(self, name) >= least:
                raise PrivacyError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def as_shares(self) -> GaussianShares:
        """The same without the shape of what moves."""
        replaced = 2 * self.answers
        added = replaced if self.turned else self.answers
        return GaussianShares(
            variance=self.variance,
            shares=self.shares,
            entries=self.answers * self.classes,
            sensitivity=Sensitivity(added=added, replaced=replaced, added_l1=added, replaced_l1=replaced),
        )

    @property
    def event(self) -> dp.DpEvent:
        """The same for the accounting by loss distributions."""
        return VotesEvent(self.variance, self.shares, self.answers, self.classes, self.turned)

    def __str__(self) -> str:
        return f"histograms of votes, {self.as_shares}"


class ConfidentVotes(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="confident_votes",
):
    """Votes on ``queries``: whether the largest count with N_Z(0, check_variance) reaches a threshold, and
    if so the largest of all counts, each with N_Z(0, answer_variance); see `confident`.

    Every query is charged as if it were answered. One unit moves the largest count by at most one, and of the
    counts two by one if it is replaced, or one if it is added or removed. ``figure_variance``: where one
    integer about all votes, which a unit moves by at most one, is released with N_Z(0, figure_variance).
    """

    check_variance: float
    answer_variance: float
    queries: int
    classes: int
    figure_variance: float | None = None

    def __post_init__(self) -> None:
        for variance in (self.check_variance, self.answer_variance, self.figure_variance):
            if variance is not None:
                _check_variance(variance)
        for name, least in (("queries", 1), ("classes", 2)):
            if not getattr(self, name) >= least:
                raise PrivacyError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def squared(self, relation: str) -> float:
        """The sum over all entries of their squared distance by the variance of their noise."""
        counts = 2 if relation == "replace-one" else 1
        found = self.queries * (1 / self.check_variance + counts / self.answer_variance)
        return found if self.figure_variance is None else found + 1 / self.figure_variance

    @property
    def event(self) -> dp.DpEvent:
        """The same for the accounting by loss distributions: everything that is computed from is released."""
        singles = [(self.check_variance, self.queries)]
        if self.figure_variance is not None:
            singles.append((self.figure_variance, 1))
        parts = [VotesEvent(variance, 1, times, 1, False, True) for variance, times in singles]
        return dp.ComposedDpEvent(
            [VotesEvent(self.answer_variance, 1, self.queries, self.classes, False), *parts]
        )

    def __str__(self) -> str:
        check, answer = math.sqrt(self.check_variance), math.sqrt(self.answer_variance)
        return (
            f"top classes of {self.queries} histograms of votes where enough agree, noise of standard "
            f"deviation {check:.3g} votes on the largest count and {answer:.3g} on each"
        )


class Skellam(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="skellam"):
    """One vector of integers, with Skellam noise on every entry, ``variance`` of all unknown shares together.

    The difference of two Poisson variables of mean variance / 2; sums of such noise are such noise.
    """

    variance: float
    sensitivity: Sensitivity

    def __post_init__(self) -> None:
        _check_variance(self.variance)

    @property
    def event(self) -> None:
        """None: only a Renyi curve is proven."""
        return

    def __str__(self) -> str:
        return f"Skellam noise, standard deviation {math.sqrt(self.variance):.3g} grid steps"


class RandomisedResponse(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="randomised_response"
):
    """``answers`` labels, each kept with probability 1 - ``noise``, else drawn anew among all ``classes``.

    Each answer may be anything else where the unit is another one: only ``replace-one`` is defined.
    """

    classes: int
    noise: float
    answers: int

    def __post_init__(self) -> None:
        if not self.classes >= 2:
            raise PrivacyError(f"classes must be at least 2, got {self.classes}")
        if not 0 < self.noise <= 1:
            raise PrivacyError(f"noise must be > 0 and <= 1, got {self.noise}")
        if not self.answers >= 1:
            raise PrivacyError(f"answers must be at least 1, got {self.answers}")

    @property
    def ratio(self) -> float:
        """Natural logarithm of the largest likelihood ratio of one answer."""
        return math.log1p(self.classes * (1 - self.noise) / self.noise)

    @property
    def event(self) -> dp.DpEvent:
        """The same for ``dp-accounting``."""
        return dp.SelfComposedDpEvent(dp.RandomizedResponseDpEvent(self.noise, self.classes), self.answers)

    def __str__(self) -> str:
        kept = f"{1 - self.noise:.3g}"
        return f"randomised response, each of {self.answers} labels kept with probability {kept}"


Charge = (
    PoissonGaussian
    | DiscreteLaplace
    | DiscreteGaussian
    | GaussianShares
    | Votes
    | ConfidentVotes
    | Skellam
    | RandomisedResponse
)


def _check_variance(variance: float) -> None:
    if not 0 < variance < math.inf:
        raise PrivacyError(f"variance must be > 0 and finite, got {variance}")
