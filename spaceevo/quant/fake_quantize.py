"""Fake quantization with LSQ+ gradients.

Same values as torch's `_fake_quantize_learnable_per_tensor_affine` and the same gradients, in less time on CPUs
(benchmarks/fake_quantize.py): `loops` there, and `triton_loops` on GPUs, go through memory once. For grids of other
shapes, and on GPUs without Triton, it is made of torch's operations. None waits for the device.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spaceevo.gpu import has_triton
from spaceevo.quant.grids import Levels
from spaceevo.quant.loops import Floats, gradients_of_rows, round_rows


class ScaleAndLow(NamedTuple):
    """A grid scale · (low + i), i from 0 to at most 255."""

    scale: float
    low: float


class _FakeQuantize(torch.autograd.Function):
    """By operations of torch: any device, any shape of the grids."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, levels: Levels) -> Tensor:
        zero = zero_point.round()
        y = (x * scale.reciprocal()).round_().clamp_(levels.low - zero, levels.high - zero).mul_(scale)
        ctx.save_for_backward(x, y, scale, zero_point)
        ctx.levels = levels
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, y, scale, zero_point = ctx.saved_tensors
        (grad,) = grads
        # dy/dscale is (y − x) / scale inside the range and y / scale outside; dy/dz is 0 inside and −scale outside.
        _, of_scale, of_zero_point, *_ = ctx.needs_input_grad
        zero, (low, high, gradient_scale, rectified) = zero_point.round(), ctx.levels
        above = x > 0 if rectified else x >= (low - zero - 0.5) * scale
        inside = above.logical_and_(x <= (high - zero + 0.5) * scale)
        grad_x = torch.where(inside, grad, torch.zeros((), device=x.device, dtype=x.dtype))
        grad_scale = grad_zero_point = None
        if of_scale:
            grad_scale = (grad * y - grad_x * x).sum_to_size(scale.shape) / scale * gradient_scale
        if of_zero_point:
            grad_zero_point = ((grad_x - grad).sum_to_size(scale.shape) * scale).sum() * gradient_scale
        return grad_x, grad_scale, grad_zero_point, None


class _FakeQuantizeRows(torch.autograd.Function):
    """By compiled loops: float32 on CPUs, with one grid, or one for each index of the first dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, levels: Levels) -> Tensor:
        x = x if _is_dense(x) else x.contiguous()
        y = torch.empty_like(x)
        scales, zero = scale.detach().reshape(-1).contiguous().numpy(), float(zero_point.round())
        if math.isnan(zero):  # which no comparison in a loop would find
            scales = np.full_like(scales, zero)
        low, high = levels.low - zero, levels.high - zero
        round_rows(flat(x), scales, np.reciprocal(scales), low, high, flat(y))
        ctx.save_for_backward(x)
        ctx.scales, ctx.shape, ctx.levels = scales, scale.shape, levels._replace(low=low, high=high)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        grad = laid_out_as(grads[0], x)
        grad_x = torch.empty_like(x)
        scales, (low, high, gradient_scale, rectified) = ctx.scales, ctx.levels
        wide = scales.astype(np.float64)
        # The largest float32 value below the range; a rectifier's gradient is zero from zero down.
        below = np.zeros_like(scales) if rectified else _before(((low - 0.5) * wide).astype(np.float32))
        highest = ((high + 0.5) * wide).astype(np.float32)
        of_scale, of_zero = gradients_of_rows(
            flat(x), flat(grad), scales, np.reciprocal(scales), low, high, below, highest, flat(grad_x)
        )
        _, scale_is_learned, zero_is_learned, *_ = ctx.needs_input_grad
        grad_scale = grad_zero_point = None
        if scale_is_learned:
            grad_scale = torch.from_numpy((of_scale / wide * gradient_scale).astype(np.float32)).view(ctx.shape)
        if zero_is_learned:
            grad_zero_point = torch.tensor(of_zero * wide[0] * gradient_scale, dtype=torch.float32)
        return grad_x, grad_scale, grad_zero_point, None


class _FakeQuantizeOnGpu(torch.autograd.Function):
    """By kernels in Triton: float32 on GPUs, with one grid, or one for each index of the first dimension.

    `scale` and `zero_point` are these, or, with a `max_scale`, what they are learned as: `fake_quantize_learned`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor | None, levels: Levels, max_scale: float | None
    ) -> Tensor:
        from spaceevo.quant.triton_loops import round_values

        x, scale = x if _is_dense(x) else x.contiguous(), scale.contiguous()
        ctx.save_for_backward(x, scale, zero_point)
        ctx.rule = levels, max_scale
        return round_values(x, scale, zero_point, *ctx.rule)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        from spaceevo.quant.triton_loops import gradients

        x, scale, zero_point = ctx.saved_tensors
        of_x, of_scale, of_zero_point = gradients(x, laid_out_as(grads[0], x), scale, zero_point, *ctx.rule)
        _, scale_is_learned, zero_is_learned, *_ = ctx.needs_input_grad
        of_grid = of_scale if scale_is_learned else None, of_zero_point if zero_is_learned else None
        return of_x, *of_grid, None, None


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    low: float,
    high: float,
    gradient_scale: float = 1.0,
    rectified: bool = False,
) -> Tensor:
    """Round `x` to the grid scale · (q − round(zero_point)), q in low … high; shaped as `x`.

    The gradient passes straight through rounding, and is zero outside the grid's range.

    Args:
        x: float32, any shape.
        scale: positive; a scalar, or of a shape with as many dimensions as `x` that broadcasts to it.
        zero_point: a scalar; real-valued, rounded here, so that what is before rounding can be learned.
        gradient_scale: factor of the gradients of `scale` and `zero_point` (LSQ: 1 / √(N · Q)).
        rectified: the grid's lower end is at zero and stands for a rectifier, whose gradient is zero from zero down.
    """
    levels = Levels(low, high, gradient_scale, rectified)
    function: Any = _FakeQuantize
    if _is_rows(x, scale, zero_point):
        if x.device.type == "cpu":
            function = _FakeQuantizeRows
        elif has_gpu_kernels(x):
            return _on_gpu(x, scale, zero_point, levels, None)
    y: Tensor = function.apply(x, scale, zero_point, levels)
    return y


def has_gpu_kernels(x: Tensor) -> bool:
    """Whether there is a `fake_quantize_learned` for `x`."""
    return x.device.type == "cuda" and x.dtype == torch.float32 and has_triton()


def fake_quantize_learned(
    x: Tensor, log_scale: Tensor, offset: Tensor | None, levels: Levels, max_scale: float = math.inf
) -> Tensor:
    """`fake_quantize` with the scale min(exp(log_scale), max_scale), zero point −offset / scale within 0 … 255.

    One kernel rounds, and one or two give all gradients; as operations of torch these took 24 kernels.

    Args:
        x: float32, on a GPU; see `has_gpu_kernels`.
        log_scale: float32, a scalar, or one for each index of the first dimension of `x`.
        offset: float32, a scalar; None is a zero point of zero, and the only one there is for several scales.
    """
    return _on_gpu(x, log_scale, offset, levels, max_scale)


def _on_gpu(x: Tensor, *grid: Any) -> Tensor:
    y: Tensor = _FakeQuantizeOnGpu.apply(x, *grid)  # type: ignore[no-untyped-call]
    return y


def grid_of(y: Tensor) -> ScaleAndLow | None:
    """That of a tensor which has one scale and is to be differentiated, if `fake_quantize` made it on the CPU."""
    node: Any = y.grad_fn
    by_rows = isinstance(node, _FakeQuantizeRows._backward_cls)
    return ScaleAndLow(float(node.scales[0]), node.levels.low) if by_rows and len(node.scales) == 1 else None


def _is_rows(x: Tensor, scale: Tensor, zero_point: Tensor) -> bool:
    if x.dtype != torch.float32:
        return False
    per_row = scale.dim() == x.dim() and scale.numel() == len(scale) == len(x) and not zero_point.requires_grad
    return scale.numel() == 1 or per_row


def flat(x: Tensor) -> Floats:
    """The memory of a dense tensor."""
    memory: Floats = x.detach().as_strided((x.numel(),), (1,)).numpy()
    return memory


def _before(values: Floats) -> Floats:
    return np.nextafter(values, np.float32(-np.inf))


def laid_out_as(grad: Tensor, x: Tensor) -> Tensor:
    """`grad` with the strides of `x`."""
    return grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
