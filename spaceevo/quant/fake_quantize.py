"""Fake quantization with LSQ+ gradients, in a few passes over memory.

Same values as torch's `_fake_quantize_learnable_per_tensor_affine` and the same gradients, in less time on CPUs
(benchmarks/fake_quantize.py). There a tensor is worked on in pieces that stay in the cache, so that several simple
passes cost one trip to memory, and what is of a whole grid is a number, which costs no operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 17  # float32 values per thread: half a megabyte, of which three fit in the second-level cache


class _Grid(NamedTuple):
    """Scale, its reciprocal and the rounded zero point: float32 numbers for one grid on the CPU, else tensors."""

    scale: Any
    inverse: Any
    zero_point: Any

    @staticmethod
    def of(scale: Tensor, zero_point: Tensor) -> _Grid:
        grid = _Grid(scale, scale.reciprocal(), zero_point.round())
        return _Grid(*(value.item() for value in grid)) if _is_number(scale) else grid


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        low: int,
        high: int,
        gradient_scale: float,
        rectified: bool,
    ) -> Tensor:
        x = x if _is_dense(x) else x.contiguous()
        y = torch.empty_like(x)
        grid = _Grid.of(scale, zero_point)
        for part, out in _pieces(scale, x, y):
            torch.mul(part, grid.inverse, out=out)
            out.round_().clamp_(low - grid.zero_point, high - grid.zero_point).mul_(grid.scale)
        ctx.save_for_backward(x, y, scale, zero_point)
        ctx.bounds, ctx.gradient_scale, ctx.rectified = (low, high), gradient_scale, rectified
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, y, scale, zero_point = ctx.saved_tensors
        (grad,) = grads
        grad = _laid_out_as(grad, x)
        grad_x = torch.empty_like(x)
        # dy/dscale is (y − x) / scale inside the range and y / scale outside; dy/dz is 0 inside and −scale outside.
        _, of_scale, of_zero_point, *_ = ctx.needs_input_grad
        grid = _Grid.of(scale, zero_point)
        low, high = ctx.bounds
        inside = _inside_of(grid, low, high, ctx.rectified)
        grad_scale: Any = 0
        grad_zero_point: Any = 0
        for x_part, y_part, g_part, out in _pieces(scale, x, y, grad, grad_x):
            inside.gradient(g_part, x_part, out)
            if of_scale:
                grad_scale += _sum_product(g_part, y_part, scale) - _sum_product(out, x_part, scale)
            if of_zero_point:
                grad_zero_point += out.sum() - g_part.sum()
        return (
            grad_x,
            grad_scale * grid.inverse * ctx.gradient_scale if of_scale else None,
            grad_zero_point * grid.scale * ctx.gradient_scale if of_zero_point else None,
            *(None,) * 4,
        )


class _InsideNumbers:
    """The values from `lowest` (above it if rectified) to `highest`, where gradients pass; one grid on the CPU."""

    def __init__(self, lowest: float, highest: float, rectified: bool) -> None:
        # The open interval that holds just these float32 values.
        bottom, top = np.float32(lowest), np.nextafter(np.float32(highest), np.float32(np.inf))
        if not rectified:
            bottom = np.nextafter(bottom, np.float32(-np.inf))
        self.ends = float(bottom), float(top)

    def gradient(self, grad: Tensor, x: Tensor, out: Tensor) -> None:
        """Write `grad` where `x` is inside and zero elsewhere."""
        torch.ops.aten.hardtanh_backward.grad_input(grad, x, *self.ends, grad_input=out)


class _InsideTensors:
    """The same of grids in tensors."""

    def __init__(self, lowest: Tensor | float, highest: Tensor, rectified: bool) -> None:
        self.lowest, self.highest, self.rectified = lowest, highest, rectified

    def gradient(self, grad: Tensor, x: Tensor, out: Tensor) -> None:
        """Write `grad` where `x` is inside and zero elsewhere."""
        above = x > self.lowest if self.rectified else x >= self.lowest
        torch.where(above.logical_and_(x <= self.highest), grad, torch.zeros((), device=x.device), out=out)


def _inside_of(grid: _Grid, low: int, high: int, rectified: bool) -> _InsideNumbers | _InsideTensors:
    lowest = 0.0 if rectified else (low - grid.zero_point - 0.5) * grid.scale
    highest = (high - grid.zero_point + 0.5) * grid.scale
    return (_InsideTensors if isinstance(grid.scale, Tensor) else _InsideNumbers)(lowest, highest, rectified)


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    low: int,
    high: int,
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
    y: Tensor = _FakeQuantize.apply(  # type: ignore[no-untyped-call]
        x, scale, zero_point, low, high, gradient_scale, rectified
    )
    return y


def _is_number(scale: Tensor) -> bool:
    """Whether it is one grid on the CPU, where vectorised code takes numbers; on a GPU asking for them would wait."""
    return scale.dim() == 0 and scale.device.type == "cpu"


def _pieces(scale: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one layout as flat pieces that stay in the cache, where there is one grid on the CPU; else whole."""
    if not _is_number(scale):
        yield tensors
        return
    flat = [x.as_strided((x.numel(),), (1,)) if _is_dense(x) else x.view(-1) for x in tensors]
    size = PIECE * torch.get_num_threads()
    for start in range(0, max(flat[0].numel(), 1), size):
        yield tuple(x[start : start + size] for x in flat)


def _laid_out_as(grad: Tensor, x: Tensor) -> Tensor:
    """`grad` with the strides of `x`."""
    return grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)


def _sum_product(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """Sum of a · b over the dimensions along which `like` is broadcast."""
    return torch.dot(a, b) if a.dim() == 1 and like.dim() == 0 else (a * b).sum_to_size(like.shape)


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
