"""Fake quantization with LSQ+ gradients, in a few passes over memory.

Same values as torch's `_fake_quantize_learnable_per_tensor_affine` and the same gradients, in less time on CPUs
(benchmarks/fake_quantize.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, gradient_scale: float
    ) -> Tensor:
        z = zero_point.round()
        y = torch.mul(x, scale.reciprocal()).round_()
        y.clamp_(_bound(low - z), _bound(high - z)).mul_(scale)
        ctx.save_for_backward(x, y, scale, z)
        ctx.bounds, ctx.gradient_scale = (low, high), gradient_scale
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, y, scale, z = ctx.saved_tensors
        low, high = ctx.bounds
        inside = (x >= _bound((low - z - 0.5) * scale)).logical_and_(x <= _bound((high - z + 0.5) * scale))
        grad_x = grad * inside
        # dy/dscale is (y − x) / scale inside the range and y / scale outside; dy/dz is 0 inside and −scale outside.
        grad_scale = (_sum_product(grad, y, scale) - _sum_product(grad_x, x, scale)) / scale
        grad_zero_point = None
        if ctx.needs_input_grad[2]:
            grad_zero_point = (grad_x.sum() - grad.sum()) * scale * ctx.gradient_scale
        return grad_x, grad_scale * ctx.gradient_scale, grad_zero_point, None, None, None


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, gradient_scale: float = 1.0
) -> Tensor:
    """Round `x` to the grid scale · (q − round(zero_point)), q in low … high; shaped as `x`.

    The gradient passes straight through rounding, and is zero outside the grid's range.

    Args:
        x: float32, any shape.
        scale: positive; a scalar, or of a shape with as many dimensions as `x` that broadcasts to it.
        zero_point: a scalar; real-valued, rounded here, so that what is before rounding can be learned.
        gradient_scale: factor of the gradients of `scale` and `zero_point` (LSQ: 1 / √(N · Q)).
    """
    y: Tensor = _FakeQuantize.apply(x, scale, zero_point, low, high, gradient_scale)  # type: ignore[no-untyped-call]
    return y


def _bound(value: Tensor) -> Any:
    """A scalar as a number on the CPU, where comparing with a number is vectorised; on a GPU that would synchronise."""
    return value.item() if value.dim() == 0 and value.device.type == "cpu" else value


def _sum_product(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """Sum of a · b over the dimensions along which `like` is broadcast."""
    if like.dim() == 0 and a.stride() == b.stride() and _is_dense(a):
        size = (a.numel(),)
        return torch.dot(a.as_strided(size, (1,)), b.as_strided(size, (1,)))
    return (a * b).sum_to_size(like.shape)


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
