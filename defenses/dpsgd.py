"""Training with DP-SGD by Opacus: Poisson samples, clipped gradients of single records, noise.

Abadi et al., Deep Learning with Differential Privacy (2016), Algorithm 1.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dp_accounting as dp
import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from securefd.defenses.charges import PoissonGaussian
from securefd.errors import ConfigError, DataError, ModelError, PrivacyError

PHYSICAL_BATCH = 512
"""Records whose gradients are in memory at once; a larger Poisson sample is summed in parts."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs ``(b, n_classes)`` and targets ``(b, ...)`` to the losses ``(b,)`` of single records."""
Entropy = Callable[[int], bytes]


@dataclass(frozen=True, kw_only=True)
class DpSgd:
    """``steps`` steps of DP-SGD.

    Each step takes every record with probability ``sampling_rate``, clips each one's gradient to L2
    norm ``clip``, and adds N(0, (noise_multiplier * clip)^2) to every entry of their sum.

    Unit of privacy: one record. Relation: either; the noise is stated against one record's norm, so
    ``add-or-remove`` moves the sum by ``clip`` and ``replace-one`` by twice that, which the accounting
    of ``event`` applies. The number of records is taken as public: it sets the divisor of the sum.
    """

    sampling_rate: float
    noise_multiplier: float
    clip: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.clip < math.inf:
            raise PrivacyError(f"clip must be > 0 and finite, got {self.clip}")
        _ = self.charge  # checks the rest

    @property
    def charge(self) -> PoissonGaussian:
        """What all ``steps`` cost, as a ledger writes it."""
        return PoissonGaussian(
            sampling_rate=self.sampling_rate, noise_multiplier=self.noise_multiplier, steps=self.steps
        )

    @property
    def event(self) -> dp.DpEvent:
        """What all ``steps`` cost, for ``dp-accounting``."""
        return self.charge.event

    def part(self, steps: int) -> DpSgd:
        """Return the same mechanism for ``steps`` steps: one round's share of a schedule."""
        return replace(self, steps=steps)


def check_module(module: nn.Module) -> None:
    """Refuse a module whose records can't be separated in the gradient, with the remedy."""
    name = type(module).__name__
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ModelError(f"model {name} has no trainable parameters, so DP-SGD can't train it; unfreeze some")
    for path, part in module.named_modules():
        # Opacus looks at parts with parameters only; batch statistics need none.
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise ModelError(
                f"model {name} has batch normalisation at {path!r}, which mixes records, "
                "so DP-SGD can't protect them; use group normalisation (torch.nn.GroupNorm)"
            )
    with _mode(module, training=True):
        errors = [str(error) for error in ModuleValidator.validate(module, strict=False)]
    errors += [
        f"buffer {buffer!r} would carry records past the noise" for buffer, _ in module.named_buffers()
    ]
    if errors:
        raise ModelError(
            f"model {name} can't be trained by DP-SGD: {errors[0]}; replace or remove that layer"
        )


def check_separate(module: nn.Module, shape: Sequence[int]) -> None:
    """Refuse a module whose answer to one input of ``shape`` depends on the others beside it.

    A probe with random inputs: it finds a mean over the batch in a module's own ``forward``.
    """
    device = next(module.parameters()).device
    probe = torch.rand((3, *shape), generator=torch.Generator().manual_seed(0)).to(device)
    with _mode(module, training=False), torch.no_grad():
        together = module(probe)
        alone = torch.cat([module(probe[i : i + 1]) for i in range(len(probe))])
    # By the size of the answers: those of a model that diverged are large, or NaN, and mix nothing by that.
    size = max(1.0, float(together.nan_to_num(0, 0, 0).abs().max()))
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-4 * size, equal_nan=True):
        raise ModelError(
            f"model {type(module).__name__} mixes records: its answer to one changes with the others "
            "in the batch; remove batch statistics (group normalisation works)"
        )


def train(
    module: nn.Module,
    x: Tensor | NDArray[np.float32],
    y: Tensor | NDArray[np.int64] | NDArray[np.float32],
    *,
    mechanism: DpSgd,
    learning_rate: float = 1.0,
    expected_batch: float | None = None,
    loss: Loss | None = None,
    device: str | torch.device = "cpu",
    _entropy: Entropy = os.urandom,
) -> int:
    """Train ``module`` in place by ``mechanism.steps`` steps of plain SGD; return their number.

    ``expected_batch``: the divisor of each step's noisy sum, public; sampling_rate times the records if None,
    which then are public. ``x``: ``(n, ...)`` records. ``y``: ``(n,)`` labels or ``(n, n_classes)`` soft
    targets. ``loss``: of
    single records, cross-entropy if None. Samples and noise come fresh from the operating system; a seed
    is neither taken nor kept. Pay ``mechanism.charge`` into the ledger first.

    SGD keeps no state, so a schedule may be cut into rounds anywhere. An empty sample still takes its noisy
    step. A gradient entry that isn't finite counts as 0, so that no record can destroy the sum. Raises
    ModelError for a module that mixes records, DataError for no records.
    """
    if len(x) == 0 or len(x) != len(y):
        raise DataError(
            f"x and y must have the same number of records, at least 1, got {len(x)} and {len(y)}"
        )
    if not 0 < learning_rate < math.inf:
        raise ConfigError(f"learning_rate must be > 0 and finite, got {learning_rate}")
    check_module(module)
    module.to(device)
    inputs, targets = _tensor(x).to(device), _tensor(y).to(device)
    check_separate(module, inputs.shape[1:])
    with _mode(module, training=True), _grad_samples(module) as wrapped:
        optimizer = _Optimizer(
            torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=learning_rate),
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.clip,
            expected_batch_size=mechanism.sampling_rate * len(x)
            if expected_batch is None
            else expected_batch,
            noise=np.random.Generator(np.random.Philox(key=int.from_bytes(_entropy(16), "big"))),
        )
        for _ in range(mechanism.steps):
            chosen = poisson_sample(len(x), mechanism.sampling_rate, _entropy)
            _step(wrapped, optimizer, inputs, targets, chosen, loss or _cross_entropy)
    return mechanism.steps


def poisson_sample(n: int, rate: float, entropy: Entropy = os.urandom) -> NDArray[np.int64]:
    """Return the sorted indices below ``n`` of a sample that takes each one with probability ``rate``.

    Bernoulli draws compare 64 bits of ``entropy`` with floor(rate * 2^64), so no index is likelier than
    ``rate``.
    """
    if rate >= 1:
        return np.arange(n, dtype=np.int64)
    draws = np.frombuffer(entropy(8 * n), dtype="<u8")
    return np.flatnonzero(draws < np.uint64(int(rate * 2**64))).astype(np.int64)


class _Optimizer(DPOptimizer):  # type: ignore[misc]  # opacus has no types
    """Opacus's optimiser with a noise generator that is keyed with 128 bits.

    ``torch.Generator`` on a CPU uses 32 bits of its seed, few enough to try them all.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, noise: np.random.Generator, **settings: Any
    ) -> None:
        super().__init__(optimizer, **settings)
        self._noise = noise

    def add_noise(self) -> None:
        deviation = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            drawn = self._noise.standard_normal(tuple(parameter.shape), dtype=np.float32)
            noise = torch.from_numpy(drawn).to(parameter.device, parameter.dtype)
            parameter.grad = (parameter.summed_grad + deviation * noise).view_as(parameter)


def _step(
    wrapped: nn.Module, optimizer: DPOptimizer, x: Tensor, y: Tensor, chosen: NDArray[np.int64], loss: Loss
) -> None:
    """Take one step on the records ``chosen``, in parts that fit in memory."""
    starts = range(0, max(len(chosen), 1), PHYSICAL_BATCH)
    for start in starts:
        part = torch.from_numpy(chosen[start : start + PHYSICAL_BATCH]).to(x.device)
        optimizer.zero_grad()
        if len(part):
            losses = loss(wrapped(x[part]), y[part])
            if losses.shape != (len(part),):
                raise ModelError(
                    f"loss must return one value a record, ({len(part)},), got {tuple(losses.shape)}"
                )
            torch.autograd.backward(losses.sum())
        _finite(wrapped, len(part))
        optimizer.signal_skip_step(do_skip=start != starts[-1])
        optimizer.step()


def _finite(wrapped: nn.Module, n: int) -> None:
    """Make every parameter's gradients of single records present and finite."""
    parameters: Iterator[tuple[str, Any]] = wrapped.named_parameters()
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        if n == 0:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        elif parameter.grad_sample is None:
            name = name.removeprefix("_module.")
            raise ModelError(f"parameter {name!r} has no part in the answer; freeze it (requires_grad=False)")
        else:
            parameter.grad_sample.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


def _tensor(values: Tensor | NDArray[Any]) -> Tensor:
    # A copy, since torch warns of arrays that may not be written to.
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


@contextmanager
def _mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Set the mode for a while (Opacus works in training mode only), and give every part its own back."""
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _grad_samples(module: nn.Module) -> Iterator[nn.Module]:
    """Attach Opacus's hooks, and leave a plain module behind whatever happens."""
    wrapped = GradSampleModule(module, loss_reduction="sum")
    try:
        with warnings.catch_warnings():
            # Records need no gradient of their own; torch warns that its backward hooks see none.
            warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
            yield wrapped
    finally:
        wrapped.to_standard_module()
        for part in module.modules():
            for left in ("activations", "max_batch_len"):
                part.__dict__.pop(left, None)
        for parameter in module.parameters():
            parameter.grad = None
            parameter.__dict__.pop("summed_grad", None)
