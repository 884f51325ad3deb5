"""BatchNorm by the batch's own statistics and what comes after it as one, for large pictures on CPUs.

Apart, BatchNorm and a rectifier or quantizer each keep their input for gradients. Here what comes out of BatchNorm is
never written: it is computed from what goes in, forward and back, in the same time (benchmarks/norm.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spaceevo.loops import spread
from spaceevo.nn.norm_loops import Doubles, add_gradients, add_moments, clip_rows, gradient_rows, round_rows
from spaceevo.quant.codes import Coded, new_codes
from spaceevo.quant.fake_quantize import flat, laid_out_as
from spaceevo.quant.grids import LEVELS, RECTIFIERS
from spaceevo.quant.loops import LEAST, Floats
from spaceevo.quant.quantizers import ActivationQuantizer

R = TypeVar("R")

LARGE = 1 << 20  # values of a tensor that is worth it, 4 MiB: caches hold smaller ones
_RANGES = {None: (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
_ROW = 1024  # values that a loop has in hand: a few pixels


@dataclass(frozen=True)
class _Map:
    """What the norm gives, gain · x + offset, and where gradients pass: where that is above `above`, at most `most`."""

    mean: Doubles  # of the batch, [C]
    inverse: Doubles  # of its standard deviation, [C]
    gain: Doubles  # [C]
    offset: Doubles  # [C]
    above: float
    most: float

    def rows(self, pixels: int) -> Floats:
        """Gain, offset and mean of each value of a row: float32 [3, pixels · C]."""
        return np.tile(np.stack([self.gain, self.offset, self.mean]).astype(np.float32), pixels)


def norm_and_rectify(x: Tensor, weight: Tensor, bias: Tensor, eps: float, rectifier: str | None) -> Tensor:
    """`x` normalised over all but its channels, times `weight`, plus `bias`, through relu, relu6, or nothing.

    Values and gradients are those of `torch.nn.functional.batch_norm` and the rectifier, up to rounding.

    Args:
        x: float32 [N, C, H, W] on a CPU, channels last.
        weight, bias: float32 [C].
    """
    y: Tensor = _NormAndRectify.apply(x, weight, bias, eps, rectifier)  # type: ignore[no-untyped-call]
    return y


def norm_and_quantize(x: Tensor, weight: Tensor, bias: Tensor, eps: float, quantizer: ActivationQuantizer) -> Tensor:
    """As `norm_and_rectify`, with the quantizer in the rectifier's place."""
    scale = quantizer.scale()
    of_grid = scale, quantizer.zero_point(scale), quantizer.gradient_scale(x), quantizer.kind in RECTIFIERS
    y: Tensor = _NormAndQuantize.apply(x, weight, bias, eps, *of_grid)  # type: ignore[no-untyped-call]
    return y


def is_worth_it(x: Tensor) -> bool:
    """Whether `x` is large, to be differentiated, and in float32 and channels last on a CPU."""
    if x.numel() < LARGE or not x.requires_grad or x.dtype != torch.float32 or x.device.type != "cpu":
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


def coded_by_norm(y: Tensor) -> Coded | None:
    """`y` as codes, if `norm_and_quantize` made it."""
    node: Any = y.grad_fn
    if not isinstance(node, _NormAndQuantize._backward_cls):
        return None
    coded: Coded = cast(Any, node).coded
    return coded


class _NormAndRectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, rectifier: str | None) -> Tensor:
        low, high = _RANGES[rectifier]
        ctx.map = _norm(x, weight, bias, eps, low, float(np.nextafter(np.float32(high), np.float32(0))))
        y = torch.empty_like(x)
        memory, written, rows = flat(x), flat(y), ctx.map.rows(_pixels(x))
        _over_rows(lambda *part: clip_rows(memory, rows, low, high, written, *part), x)
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (of_x, of_weight, of_bias), _ = _gradients(ctx, grads[0], 0.0, 0.0)
        return of_x, of_weight, of_bias, None, None


class _NormAndQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        scale: Tensor,
        zero_point: Tensor,
        gradient_scale: float,
        rectified: bool,
    ) -> Tensor:
        step, zero = float(scale), float(zero_point.round())
        low, high = -zero, LEVELS - zero
        above = 0.0 if rectified else float(np.nextafter(np.float32(low - 0.5), np.float32(-np.inf)))
        # A zero point that is not a number has to show in the values: no comparison with the range's ends finds it.
        ctx.map = _norm(x, weight, bias, eps, above, high + 0.5, unit=zero if math.isnan(zero) else step)
        y, codes = torch.empty_like(x), new_codes(x.numel())
        memory, written, rows = flat(x), flat(y), ctx.map.rows(_pixels(x))
        _over_rows(lambda *part: round_rows(memory, rows, step, low, high, written, codes, *part), x)
        ctx.save_for_backward(x, weight)
        ctx.coded, ctx.gradient_scale = Coded(codes, step, low), gradient_scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        low, step = ctx.coded.low, ctx.coded.scale
        of_norm, of_grid = _gradients(ctx, grads[0], low, low + LEVELS)
        of_scale, of_zero_point = _floats(of_grid * [1, step] * ctx.gradient_scale)
        return *of_norm, None, of_scale, of_zero_point, None, None


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, above: float, most: float, unit: float = 1.0) -> _Map:
    mean, variance = _moments(x)
    inverse = 1 / np.sqrt(variance + eps)
    gain = weight.detach().numpy() * inverse / unit
    return _Map(mean, inverse, gain, bias.detach().numpy() / np.float64(unit) - mean * gain, above, most)


def _gradients(ctx: Any, grad: Tensor, low: float, high: float) -> tuple[tuple[Tensor, Tensor, Tensor], Doubles]:
    """Gradients of x, weight and bias; and of a grid with ends `low` and `high` those of scale and zero point, apart
    from their factors.
    """
    x, weight = ctx.saved_tensors
    norm: _Map = ctx.map
    memory, upstream, rows = flat(x), flat(laid_out_as(grad, x)), norm.rows(_pixels(x))

    def sums(*part: int) -> tuple[Doubles, Doubles]:
        of_channels, of_grid = np.zeros((2, rows.shape[1])), np.zeros(2)
        add_gradients(memory, upstream, rows, low, high, norm.above, norm.most, of_channels, of_grid, *part)
        return of_channels, of_grid

    parts = _over_rows(sums, x)
    passed, centred = _per_channel(sum(of_channels for of_channels, _ in parts), x)
    of_weight, count = centred * norm.inverse, x.numel() // x.shape[1]
    factor = weight.detach().numpy() * norm.inverse
    factors = np.stack([factor, -factor * norm.inverse * of_weight / count, -factor * passed / count])
    by = np.tile(factors.astype(np.float32), _pixels(x))
    of_x = torch.empty_like(x)
    written = flat(of_x)
    _over_rows(lambda *part: gradient_rows(memory, upstream, rows, norm.above, norm.most, by, written, *part), x)
    return (of_x, *_floats(np.stack([of_weight, passed]))), np.sum([of_grid for _, of_grid in parts], 0)


def _floats(values: Doubles) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _moments(x: Tensor) -> tuple[Doubles, Doubles]:
    """Mean and variance (over N · H · W) of each channel."""
    shift = x.detach()[0, :, 0, 0].numpy()
    memory, row = flat(x), np.tile(shift, _pixels(x))

    def sums(*part: int) -> Doubles:
        found = np.zeros((2, len(row)))
        add_moments(memory, row, found, *part)
        return found

    first, second = _per_channel(sum(_over_rows(sums, x)), x) / (x.numel() // x.shape[1])
    return shift + first, second - first**2


def _pixels(x: Tensor) -> int:
    """Of a row."""
    return max(_ROW // x.shape[1], 1)


def _over_rows(loop: Callable[[int, int], R], x: Tensor) -> list[R]:
    length = _pixels(x) * x.shape[1]
    return spread(loop, -(-x.numel() // length), -(-LEAST // length))


def _per_channel(sums: Any, x: Tensor) -> Doubles:
    """Sums of each value of a row [2, pixels · C] as those of each channel [2, C]."""
    total: Doubles = sums.reshape(2, -1, x.shape[1]).sum(1)
    return total
