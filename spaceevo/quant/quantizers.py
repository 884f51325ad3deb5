"""LSQ+ fake quantizers (Bhalgat et al. 2020), with integer zero points and positive scales by construction.

A quantizer is applied through a `Precision`: a function of (quantizer, tensor) that every network takes as an
argument, so that one network runs in FP32, in simulated INT8, or under observation without any state on its modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from spaceevo.quant.fake_quantize import fake_quantize, fake_quantize_learned, has_gpu_kernels
from spaceevo.quant.grids import (
    HSIGMOID_GRID,
    LEVELS,
    RECTIFIERS,
    RELU6_MAX_SCALE,
    SIGMOID_GRID,
    WEIGHT_LEVELS,
    Grid,
    GridKind,
    Levels,
)
from spaceevo.slices import sliced

Precision = Callable[[nn.Module, Tensor], Tensor]

MIN_SCALE = 1e-8  # of weights
# Of activations, at first: a tensor may be all zeros, where a rectifier is dead. Its scale is divided by, and integer
# runtimes take a layer's scales for its input and weights at most 256 times that of its output.
MIN_ACTIVATION_SCALE = 1e-4


def fp32(quantizer: nn.Module, x: Tensor) -> Tensor:
    """Precision that leaves every tensor as it is."""
    return x


def int8(quantizer: nn.Module, x: Tensor) -> Tensor:
    """Precision that quantizes every tensor on its grid."""
    return cast(Tensor, quantizer(x))


class FixedQuantizer(nn.Module):
    """Quantizer on a grid that is not learned; straight-through gradient inside its range, none outside."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid_ = grid

    def grid(self) -> Grid:
        return self.grid_

    def forward(self, x: Tensor) -> Tensor:
        scale, zero_point = (
            torch.full((), float(v), device=x.device) for v in (self.grid_.scale, self.grid_.zero_point)
        )
        return fake_quantize(x, scale, zero_point, 0, LEVELS)


SIGMOID_QUANTIZER = FixedQuantizer(SIGMOID_GRID)
HSIGMOID_QUANTIZER = FixedQuantizer(HSIGMOID_GRID)


class ActivationQuantizer(nn.Module):
    """Per-tensor quantizer with a learned scale, and a learned offset where the grid's kind leaves one.

    Learned are log(scale) and, for affine grids, β; the zero point is z = round(−β / scale), clipped to 0 … 255, with
    a straight-through gradient. The ends of a relu or relu6 grid are the activation itself: what is before it and what
    is after it are quantized to the same values, with the same gradients. Gradients are scaled by 1 / √(N · 255), N the
    number of features of one example (LSQ, Esser et al. 2020).
    """

    def __init__(self, kind: GridKind) -> None:
        super().__init__()
        self.kind = kind
        self.log_scale = nn.Parameter(torch.tensor(math.log(RELU6_MAX_SCALE)))
        self.offset = nn.Parameter(torch.tensor(0.0)) if kind == "affine" else None

    def scale(self) -> Tensor:
        """The scale, positive; at most 6 / 255 for relu6, so that the grid's end is the clip."""
        scale = self.log_scale.exp()
        return scale.clamp(max=RELU6_MAX_SCALE) if self.kind == "relu6" else scale

    def zero_point(self, scale: Tensor) -> Tensor:
        """The zero point before rounding, in 0 … 255."""
        if self.offset is None:
            return torch.zeros_like(scale)
        return (-self.offset / scale).clamp(0, LEVELS)

    @torch.no_grad()
    def set_range(self, low: float, high: float) -> None:
        """Put the grid on [low, high], which is widened to contain zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        if self.offset is None:
            low = 0.0
        scale = max((high - low) / LEVELS, MIN_ACTIVATION_SCALE)
        self.log_scale.fill_(math.log(scale))
        if self.offset is not None:
            self.offset.fill_(low)

    @torch.no_grad()
    def grid(self) -> Grid:
        scale = self.scale()
        return Grid(float(scale), round(float(self.zero_point(scale))))

    def gradient_scale(self, x: Tensor) -> float:
        """The factor of the grid's gradients where it rounds `x` [N, …]."""
        return 1.0 / math.sqrt(x[0].numel() * LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        levels = Levels(0, LEVELS, self.gradient_scale(x), self.kind in RECTIFIERS)
        if has_gpu_kernels(x):
            max_scale = RELU6_MAX_SCALE if self.kind == "relu6" else math.inf
            return fake_quantize_learned(x, self.log_scale, self.offset, levels, max_scale)
        scale = self.scale()
        return fake_quantize(x, scale, self.zero_point(scale), *levels)


class WeightQuantizer(nn.Module):
    """Per-output-channel symmetric quantizer on −127 … 127 with learned scales.

    Args:
        channels: output channels; a weight with fewer uses the first scales.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def scale(self, channels: int) -> Tensor:
        """float32 [channels], positive."""
        return self._log_scale(channels).exp()

    def _log_scale(self, channels: int) -> Tensor:
        return sliced(self.log_scale, (slice(channels),))

    @torch.no_grad()
    def set_from(self, weight: Tensor) -> None:
        """Initial scales from each channel's mean and deviation: max(|μ − 3σ|, |μ + 3σ|) / 127 (LSQ+)."""
        flat = weight.flatten(1)
        mean, deviation = flat.mean(1), flat.std(1, unbiased=False)
        largest = torch.maximum((mean - 3 * deviation).abs(), (mean + 3 * deviation).abs())
        self.log_scale.copy_((largest / WEIGHT_LEVELS).clamp(min=MIN_SCALE).log())

    def forward(self, weight: Tensor) -> Tensor:
        gradient_scale = 1.0 / math.sqrt(weight[0].numel() * WEIGHT_LEVELS)
        levels = Levels(-WEIGHT_LEVELS, WEIGHT_LEVELS, gradient_scale)
        if has_gpu_kernels(weight):
            return fake_quantize_learned(weight, self._log_scale(len(weight)), None, levels)
        scale = self.scale(weight.shape[0]).reshape(-1, *(1,) * (weight.dim() - 1))
        return fake_quantize(weight, scale, weight.new_zeros(()), *levels)

    @torch.no_grad()
    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """int8 weights and float32 scales [channels] that `forward` simulates."""
        scale = self.scale(weight.shape[0])
        shape = (-1,) + (1,) * (weight.dim() - 1)
        quantized = (weight * scale.reciprocal().reshape(shape)).round().clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS)
        return quantized.to(torch.int8), scale


def activation_quantizer(kind: GridKind) -> FixedQuantizer | ActivationQuantizer:
    """The quantizer of a tensor whose grid is of this kind."""
    fixed = {"hsigmoid": HSIGMOID_GRID, "sigmoid": SIGMOID_GRID}
    return FixedQuantizer(fixed[kind]) if kind in fixed else ActivationQuantizer(kind)
