"""Fake quantization with LSQ+ gradients, in a few passes over memory.

Same values as torch's `_fake_quantize_learnable_per_tensor_affine` and the same gradients, in less time on CPUs
(benchmarks/fake_quantize.py). There a tensor is worked on in pieces that stay in the cache, so that several simple
passes cost one trip to memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 17  # float32 values per thread: half a megabyte, of which three fit in the second-level cache


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
        z = zero_point.round()
        lowest, highest = _bound(low - z), _bound(high - z)
        y = torch.empty_like(x)
        inverse = scale.reciprocal()
        for part, out in _pieces(scale, x, y):
            torch.mul(part, inverse, out=out)
            out.round_().clamp_(lowest, highest).mul_(scale)
        ctx.save_for_backward(x, y, scale, z)
        ctx.bounds, ctx.gradient_scale, ctx.rectified = (low, high), gradient_scale, rectified
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, y, scale, z = ctx.saved_tensors
        (grad,) = grads
        grad = _laid_out_as(grad, x)
        low, high = ctx.bounds
        lowest = torch.zeros_like(scale) if ctx.rectified else (low - z - 0.5) * scale
        highest = (high - z + 0.5) * scale
        grad_x = torch.empty_like(x)
        # dy/dscale is (y − x) / scale inside the range and y / scale outside; dy/dz is 0 inside and −scale outside.
        _, of_scale, of_zero_point, *_ = ctx.needs_input_grad
        scale_parts, zero_parts = [], []
        inside = _Inside(lowest, highest, ctx.rectified)
        for x_part, y_part, g_part, out in _pieces(scale, x, y, grad, grad_x):
            inside.gradient(g_part, x_part, out)
            if of_scale:
                scale_parts.append(_sum_product(g_part, y_part, scale) - _sum_product(out, x_part, scale))
            if of_zero_point:
                zero_parts.append(out.sum() - g_part.sum())
        grad_scale = torch.stack(scale_parts).sum(0) / scale * ctx.gradient_scale if of_scale else None
        grad_zero_point = torch.stack(zero_parts).sum(0) * scale * ctx.gradient_scale if of_zero_point else None
        return grad_x, grad_scale, grad_zero_point, None, None, None, None


class _Inside:
    """The values from `lowest` (above it if rectified) to `highest`, where gradients pass."""

    def __init__(self, lowest: Tensor, highest: Tensor, rectified: bool) -> None:
        self.lowest, self.highest, self.rectified = lowest, highest, rectified
        self.ends: tuple[float, float] | None = None
        if _on_cpu(lowest):  # the open interval that holds just these float32 values
            bottom, top = np.float32(lowest.item()), np.float32(highest.item())
            if not rectified:
                bottom = np.nextafter(bottom, np.float32(-np.inf))
            self.ends = float(bottom), float(np.nextafter(top, np.float32(np.inf)))

    def gradient(self, grad: Tensor, x: Tensor, out: Tensor) -> None:
        """Write `grad` where `x` is inside and zero elsewhere."""
        if self.ends is not None:
            torch.ops.aten.hardtanh_backward.grad_input(grad, x, *self.ends, grad_input=out)
            return
        above = x > self.lowest if self.rectified else x >= self.lowest
        torch.where(above.logical_and_(x <= self.highest), grad, torch.zeros((), device=x.device), out=out)


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


def _on_cpu(scale: Tensor) -> bool:
    """Whether one grid on the CPU: bounds are numbers there, as vectorised code takes; on a GPU that would wait."""
    return scale.dim() == 0 and scale.device.type == "cpu"


def _bound(value: Tensor) -> Any:
    return value.item() if _on_cpu(value) else value


def _pieces(scale: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one layout as flat pieces that stay in the cache, where there is one grid on the CPU; else whole."""
    if not _on_cpu(scale):
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
