"""What one private access costs, as it is written to a ledger: small, exact, closed.

A charge holds the mechanism's public parameters. Its noise is stated against what one record
contributes, so it is the same under every neighbouring relation; the accounting applies the relation.
"""

from __future__ import annotations

import math

import dp_accounting as dp
import msgspec
from dp_accounting.dp_event import DiscreteLaplaceDpEvent

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


Charge = PoissonGaussian | DiscreteLaplace
