"""Fake quantization on GPUs, in Triton: what `loops` does on CPUs, one trip through memory forward and one back."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024  # values that a program has in hand
_BLOCKS = 16  # that a program sums, one after another

# Added to a float32 value of at most 2²², as levels and zero points are, and taken away again, it leaves the nearest
# integer, or of two the even one.
_INTEGERS = tl.constexpr(1.5 * 2**23)


def round_values(x: Tensor, scale: Tensor, zero_point: Tensor, low: float, high: float) -> Tensor:
    """The values of `fake_quantize`.

    Args:
        x: float32, dense, in as many rows of its memory as there are scales.
        scale: float32 [rows], contiguous, in any shape.
        zero_point: float32, one value; rounded here.
    """
    y = torch.empty_like(x)
    rows = scale.numel()
    if x.numel():
        length = x.numel() // rows
        with torch.cuda.device_of(x):
            _round[(triton.cdiv(length, _BLOCK), rows)](x, y, scale, zero_point, low, high, length, block=_BLOCK)
    return y


def gradients(
    x: Tensor, grad: Tensor, scale: Tensor, zero_point: Tensor, low: float, high: float, rectified: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `x`, and per row what those of the scale and the zero point are made of.

    Args:
        x, grad: input of rounding and gradient of its output, float32, of the same dense layout.

    Returns:
        `grad` inside the range and zero outside, and [rows] each: the sum of grad · y − grad_x · x, that of
        grad_x − grad.
    """
    grad_x = torch.empty_like(x)
    rows = scale.numel()
    length = x.numel() // max(rows, 1)
    blocks = triton.cdiv(length, _BLOCK * _BLOCKS)
    sums = torch.zeros(2, rows, max(blocks, 1), dtype=torch.float32, device=x.device)
    if x.numel():
        with torch.cuda.device_of(x):
            _back[(blocks, rows)](
                x, grad, grad_x, sums[0], sums[1], scale, zero_point, low, high, length,
                rectified=rectified, block=_BLOCK, blocks=_BLOCKS,
            )  # fmt: skip
    of_scale, of_zero_point = sums.sum(2)
    return grad_x, of_scale, of_zero_point


@triton.jit
def _nearest(x):
    return (x + _INTEGERS) - _INTEGERS


@triton.jit
def _rounded(x, inverse, lowest, highest, step):
    """`x` on the grid; what is not a number stays so."""
    kept = tl.maximum(x * inverse, lowest, propagate_nan=tl.PropagateNan.ALL)
    return _nearest(tl.minimum(kept, highest, propagate_nan=tl.PropagateNan.ALL)) * step


@triton.jit
def _round(x, y, scale, zero_point, low, high, length, block: tl.constexpr):
    row = tl.program_id(1)
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    place = row.to(tl.int64) * length + index
    step, zero = tl.load(scale + row), _nearest(tl.load(zero_point))
    value = tl.load(x + place, mask=index < length)
    tl.store(y + place, _rounded(value, tl.div_rn(1.0, step), low - zero, high - zero, step), mask=index < length)


@triton.jit
def _back(
    x, grad, grad_x, of_scale, of_zero_point, scale, zero_point,
    low, high, length, rectified: tl.constexpr, block: tl.constexpr, blocks: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    step, zero = tl.load(scale + row), _nearest(tl.load(zero_point))
    inverse = tl.div_rn(1.0, step)
    bottom, top = (low - zero - 0.5) * step, (high - zero + 0.5) * step
    products, missed = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    start = tl.program_id(0).to(tl.int64) * (block * blocks)
    for number in range(blocks):
        index = start + number * block + tl.arange(0, block)
        here = index < length
        place = row.to(tl.int64) * length + index
        value = tl.load(x + place, mask=here, other=0.0)
        upstream = tl.load(grad + place, mask=here, other=0.0)
        above = value > 0 if rectified else value >= bottom
        passed = tl.where(above & (value <= top), upstream, 0.0)
        tl.store(grad_x + place, passed, mask=here)
        products += upstream * _rounded(value, inverse, low - zero, high - zero, step) - passed * value
        missed += passed - upstream
    to = row * tl.num_programs(0) + tl.program_id(0)
    tl.store(of_scale + to, tl.sum(products, 0))
    tl.store(of_zero_point + to, tl.sum(missed, 0))
