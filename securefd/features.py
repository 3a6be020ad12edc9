"""Features that are learnt from public inputs alone, so that whatever private records do with them is theirs.

Images: an encoder that learns to tell one public image from all others, however it is bent (NT-Xent, Chen et
al. 2020, A Simple Framework for Contrastive Learning of Visual Representations, eq. 1). Its batch statistics
are of public inputs, and fixed afterwards. Tables: columns by their public means and deviations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as PyTorch's own documentation calls it

from securefd.encoders import WIDTH, InRange, Standardised, encoder
from securefd.errors import DataError, ModelError
from securefd.fleet import State
from securefd.models import Shape

Floats = NDArray[np.float32]

STEPS = 200
"""Of contrastive learning. More of them made features no better on pictures of digits."""
BATCH = 500
"""Images of a step: each is told apart from all others in its batch. Of few, a third does as well as all."""
SMALL_BATCH = 64
TEMPERATURE = 0.2
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-3
PREDICT_ROWS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """A function of one input, made from public inputs. ``state``: all that was learnt, as arrays."""

    shape: Shape
    state: State

    def __call__(self, x: Floats, *, device: str = "cpu") -> Floats:
        """``(n, *shape)`` to ``(n, p)``, for inputs that everyone may see."""
        return self._of(x, PREDICT_ROWS, device)

    def each(self, x: Floats, *, device: str = "cpu") -> Floats:
        """The same one by one: in a batch, the last bits of one may depend on how many are beside it."""
        return self._of(x, 1, device)

    def _of(self, x: Floats, rows: int, device: str) -> Floats:
        if x.shape[1:] != self.shape:
            raise DataError(f"inputs must have shape {self.shape}, got {x.shape[1:]}; learn features of them")
        module = self._module.to(device)
        inputs = torch.from_numpy(np.array(x, dtype=np.float32))
        with torch.inference_mode():
            # One row of zeros besides says how many features there are where there are no inputs.
            parts = [module(inputs.new_zeros((1, *self.shape)).to(device))[:0]]
            parts += [module(inputs[at : at + rows].to(device)) for at in range(0, len(inputs), rows)]
        return np.asarray(torch.cat(parts).cpu().numpy())

    @cached_property
    def _module(self) -> nn.Module:
        module = _body(self.shape)
        module.load_state_dict(self.state)
        return module.eval()


def learn(public: Floats, *, seed: int, device: str = "cpu", steps: int = STEPS) -> Features:
    """Learn features from public inputs ``(n, *shape)``: ``(c, h, w)`` images or ``(p,)`` rows of a table.

    The same for the same inputs, seed, device and number of threads. Raises DataError for fewer than 2 inputs
    or values that aren't finite, and ModelError for inputs of another kind.
    """
    if len(public) < 2:
        raise DataError(
            f"public inputs must be 2 or more to learn features from, got {len(public)}; add some"
        )
    if not np.isfinite(public).all():
        raise DataError("public inputs must be finite to learn features from, got nan or inf; correct them")
    shape = tuple(public.shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, inputs = _body(shape), torch.from_numpy(np.array(public, dtype=np.float32))
        if isinstance(body, nn.Sequential):
            _contrast(body, inputs, device, steps)
        else:
            body.fit(inputs)
    state = {name: value.detach().cpu().clone() for name, value in body.state_dict().items()}
    return Features(shape=shape, state=state)


def bent(images: Tensor, draw: torch.Generator, strength: float = 1.0) -> Tensor:
    """Each of ``(n, c, h, w)`` turned, stretched, moved and bent by chance; grey ones with other strokes.

    ``images`` are in [0, 1], and so is what is returned. Nothing lies beyond their edges. ``strength``: 0
    leaves them as they are.
    """
    n, channels, height, width = images.shape

    def chance(*size: int) -> Tensor:
        return strength * (torch.rand(*size, generator=draw).to(images.device) * 2 - 1)

    angle, slant = 0.35 * chance(n), 0.3 * chance(n)
    wide, high = 1 + 0.25 * chance(n), 1 + 0.25 * chance(n)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    across = torch.stack([cosine * wide, slant - sine * high, 0.2 * chance(n)], dim=1)
    down = torch.stack([sine * wide, cosine * high, 0.2 * chance(n)], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    waves = F.interpolate(
        0.12 * chance(n, 2, 5, 5), size=(height, width), mode="bilinear", align_corners=True
    )
    moved = F.grid_sample(images, grid + waves.permute(0, 2, 3, 1), align_corners=False)
    each = chance(n)[:, None, None, None]
    if channels > 1:
        return (moved * (1 + 0.4 * each) + 0.2 * chance(n, channels, 1, 1)).clamp(0, 1)
    thick = F.max_pool2d(moved, 3, 1, 1)
    blurred = F.avg_pool2d(moved, 3, 1, 1)
    thin = 0.5 * (2 * moved - thick).clamp_min(0) + 0.5 * (2 * moved - blurred).clamp(0, 1)
    share = 0.8 * each.abs()
    return ((1 - share) * moved + share * torch.where(each > 0, thick, thin)).clamp(0, 1)


def contrast(one: Tensor, other: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """NT-Xent of two views ``(n, p)`` of the same n images, each of length 1: the mean loss over all 2 n."""
    views = torch.cat([one, other])
    likeness = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    n = len(one)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)]).to(views.device)
    return F.cross_entropy(likeness, partners)


def _contrast(body: nn.Sequential, public: Tensor, device: str, steps: int) -> None:
    """Train an `encoder` in place, below a projection that is thrown away."""
    scale = body[0]
    assert isinstance(scale, InRange)
    scale.fit(public)
    images: Tensor = scale(public)
    projection = nn.Sequential(nn.Linear(WIDTH, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64))
    whole = nn.Sequential(body[1:], projection).to(device).train()
    draw = torch.Generator().manual_seed(torch.initial_seed())
    optimiser = torch.optim.AdamW(whole.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.15)
    batch = min(BATCH, len(images), max(SMALL_BATCH, len(images) // 3))
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(images), generator=draw)
        taken, order = order[:batch], order[batch:]
        chosen = images[taken].to(device)
        views = F.normalize(whole(torch.cat([bent(chosen, draw), bent(chosen, draw)])), dim=1)
        optimiser.zero_grad()
        torch.autograd.backward(contrast(views[:batch], views[batch:]))
        optimiser.step()
        rates.step()
    body.to("cpu")


def _body(shape: Shape) -> nn.Sequential | Standardised:
    if len(shape) == 3:
        return encoder(shape)
    if len(shape) == 1:
        return Standardised(shape[0])
    raise ModelError(
        f"features are learnt of images (channels, height, width) or of rows (columns,), got {shape}; give "
        "such inputs, or choose another model"
    )


def width(shape: Shape) -> int:
    """How many features there are of inputs of this shape."""
    return WIDTH if len(shape) == 3 else math.prod(shape)
