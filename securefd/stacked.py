"""The zoo's networks over stacks of weights: ``k`` models in one forward pass, each on inputs of its own.

Weights have a leading dimension of models, and activations are ``(k, channels, height, width, b)`` or
``(k, features, b)``, examples last: a product with the weights then comes out in the layout of the next
layer, its gradient in the layout of the weights, and a convolution's patches are copied in runs of a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def stacked(network: nn.Module) -> nn.Module:
    """Exchange a zoo network's layers, in place, for those that work on stacks; weights keep their names.

    To be called by `torch.func.functional_call` with stacked weights. What the network does between its
    layers must mean the same with examples last.
    """
    for name, layer in list(network.named_children()):
        setattr(network, name, _over_stack(layer))
    return network


def _over_stack(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return _Linear(layer.in_features, layer.out_features, device="meta")
    if isinstance(layer, nn.Conv2d):
        return _Conv2d(layer)
    if isinstance(layer, nn.GroupNorm):
        return _GroupNorm(layer.num_groups, layer.num_channels, layer.eps, device="meta")
    return nn.Flatten(1, -2) if isinstance(layer, nn.Flatten) else stacked(layer)


class _Linear(nn.Linear):
    """Weights ``(k, out, in)``, biases ``(k, out)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(k, in, b)`` to ``(k, out, b)``."""
        return torch.baddbmm(self.bias[..., None], self.weight, x)


class _Conv2d(nn.Module):
    """Weights ``(k, out, in, kernel, kernel)``, biases ``(k, out)`` or none; square kernels only."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.kernel, self.stride, self.padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])

    def forward(self, x: Tensor) -> Tensor:
        """``(k, in, h, w, b)`` to ``(k, out, h', w', b)``."""
        patches, height, width = _Patches.apply(x, self.kernel, self.stride, self.padding)  # type: ignore[no-untyped-call]
        kernels = self.weight.flatten(2)
        y = (
            torch.bmm(kernels, patches)
            if self.bias is None
            else torch.baddbmm(self.bias[..., None], kernels, patches)
        )
        return y.view(*y.shape[:2], height, width, x.shape[-1])


class _GroupNorm(nn.GroupNorm):
    """Weights and biases ``(k, channels)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(k, channels, h, w, b)``, normalised over each group of channels and all positions."""
        groups = x.reshape(x.shape[0], self.num_groups, -1, x.shape[-1])
        centred = groups - groups.mean(2, keepdim=True)
        scale = (centred.square().mean(2, keepdim=True) + self.eps).rsqrt()
        place = (..., None, None, None)
        return torch.addcmul(self.bias[place], (centred * scale).view(x.shape), self.weight[place])


class _Patches(torch.autograd.Function):
    """``(k, c, h, w, b)`` to what output positions see, ``(k, c * kernel², h' * w' * b)``, and h', w'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int, stride: int, padding: int) -> tuple[Tensor, int, int]:
        k, channels, height, width, b = x.shape
        high, wide = height + 2 * padding, width + 2 * padding
        rows, columns = (high - kernel) // stride + 1, (wide - kernel) // stride + 1
        padded = x.new_zeros((k, channels, high, wide, b))
        padded[:, :, padding : padding + height, padding : padding + width] = x
        ctx.layout = (kernel, stride, padding, x.shape, rows, columns)
        view = padded.as_strided(
            (k, channels, kernel, kernel, rows, columns, b),
            (*padded.stride()[:4], stride * wide * b, stride * b, 1),
        )
        return view.reshape(k, channels * kernel**2, rows * columns * b), rows, columns

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        kernel, stride, padding, (k, channels, height, width, b), rows, columns = ctx.layout
        parts = gradients[0].view(k, channels, kernel, kernel, rows, columns, b)
        padded = parts.new_zeros((k, channels, height + 2 * padding, width + 2 * padding, b))
        for i in range(kernel):
            for j in range(kernel):
                target = padded[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
                target += parts[:, :, i, j]
        return padded[:, :, padding : padding + height, padding : padding + width], None, None, None
