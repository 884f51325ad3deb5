"""Fake quantization on GPUs, in Triton: what `loops` does on CPUs, one trip through memory forward and one back.

The kernels also work out the grid from what is learned and the gradients of that: a training step has thousands of
grids, and as operations of their own, of a few values each, these took half of its time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from spaceevo.quant.grids import Levels

_BLOCK = 1024  # values that a program has in hand
_BLOCKS = 16  # that a program sums, one after another

# Added to a float32 value of at most 2²², as levels and zero points are, and taken away again, it leaves the nearest
# integer, or of two the even one.
_INTEGERS = tl.constexpr(1.5 * 2**23)


def round_values(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, levels: Levels, max_scale: float | None
) -> Tensor:
    """`x` on the grid scale · (q − round(zero point)) of each of its rows.

    Args:
        x: float32, dense, whose memory is as many equal parts, its rows, as there are scales.
        scale: float32, contiguous, in any shape: the scale of each row, or with `max_scale` its logarithm.
        zero_point: float32, one value: the zero point, or with `max_scale` minus that times the scale; None is zero.
        max_scale: scales above it are it. None: `scale` and `zero_point` are given as they are, else as learned.
    """
    y = torch.empty_like(x)
    if x.numel():
        rows = scale.numel()
        length = x.numel() // rows
        with torch.cuda.device_of(x):
            _round[(triton.cdiv(length, _BLOCK), rows)](
                x, y, scale, zero_point, levels.low, levels.high, max_scale, length, block=_BLOCK
            )
    return y


def gradients(
    x: Tensor, grad: Tensor, scale: Tensor, zero_point: Tensor | None, levels: Levels, max_scale: float | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of `x`, `scale` and `zero_point`, from that of the values; the arguments are those of `round_values`.

    Args:
        grad: float32, laid out as `x`.

    Returns:
        The last is None where there is no zero point, or more than one row.
    """
    grad_x, rows = torch.empty_like(x), scale.numel()
    make = torch.empty_like if x.numel() else torch.zeros_like
    of_scale, of_zero_point = make(scale), None if zero_point is None or rows > 1 else make(zero_point)
    if x.numel():
        length = x.numel() // rows
        blocks = triton.cdiv(length, _BLOCK * _BLOCKS)
        sums = x.new_empty(2, rows, blocks) if blocks > 1 else None
        of_grid = scale, zero_point, max_scale, levels.gradient_scale, of_scale, of_zero_point
        with torch.cuda.device_of(x):
            _back[(blocks, rows)](
                x, grad, grad_x, levels.low, levels.high, sums, *of_grid, length,
                rectified=levels.rectified, block=_BLOCK, blocks=_BLOCKS,
            )  # fmt: skip
            if sums is not None:
                _add_up[(rows,)](sums, *of_grid, blocks, block=_BLOCK)
    return grad_x, of_scale, of_zero_point


@triton.jit
def _nearest(x):
    return (x + _INTEGERS) - _INTEGERS


@triton.jit
def _clipped(x, lowest, highest):
    """`x` from `lowest` to `highest`; what is not a number stays so."""
    kept = tl.maximum(x, lowest, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(kept, highest, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _grid(scale, zero_point, max_scale, row):
    """Step and zero point of a row."""
    step = tl.load(scale + row)
    if max_scale is not None:
        step = tl.minimum(tl.exp(step), max_scale, propagate_nan=tl.PropagateNan.ALL)
    zero = 0.0
    if zero_point is not None:
        zero = tl.load(zero_point)
        if max_scale is not None:
            zero = _clipped(tl.div_rn(-zero, step), 0.0, 255.0)
        zero = _nearest(zero)
    return step, zero


@triton.jit
def _round(x, y, scale, zero_point, low, high, max_scale, length, block: tl.constexpr):
    row = tl.program_id(1)
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    place = row.to(tl.int64) * length + index
    step, zero = _grid(scale, zero_point, max_scale, row)
    value = tl.load(x + place, mask=index < length)
    rounded = _nearest(_clipped(value * tl.div_rn(1.0, step), low - zero, high - zero)) * step
    tl.store(y + place, rounded, mask=index < length)


@triton.jit
def _back(
    x, grad, grad_x, low, high, sums, scale, zero_point, max_scale, gradient_scale, of_scale, of_zero_point, length,
    rectified: tl.constexpr, block: tl.constexpr, blocks: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    step, zero = _grid(scale, zero_point, max_scale, row)
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
        rounded = _nearest(_clipped(value * inverse, low - zero, high - zero)) * step
        products += upstream * rounded - passed * value
        missed += passed - upstream
    if sums is None:
        _store_gradients(
            tl.sum(products, 0), tl.sum(missed, 0), scale, zero_point, max_scale, gradient_scale,
            of_scale, of_zero_point, row,
        )  # fmt: skip
    else:
        to = row * tl.num_programs(0) + tl.program_id(0)
        tl.store(sums + to, tl.sum(products, 0))
        tl.store(sums + tl.num_programs(1) * tl.num_programs(0) + to, tl.sum(missed, 0))


@triton.jit
def _add_up(
    sums, scale, zero_point, max_scale, gradient_scale, of_scale, of_zero_point, count, block: tl.constexpr
):  # fmt: skip
    """The gradients of a row from the sums of the programs of `_back`, `count` of each kind."""
    row = tl.program_id(0)
    products, missed = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    for start in range(0, count, block):
        index = start + tl.arange(0, block)
        place = row * count + index
        products += tl.load(sums + place, mask=index < count, other=0.0)
        missed += tl.load(sums + tl.num_programs(0) * count + place, mask=index < count, other=0.0)
    _store_gradients(
        tl.sum(products, 0), tl.sum(missed, 0), scale, zero_point, max_scale, gradient_scale,
        of_scale, of_zero_point, row,
    )  # fmt: skip


@triton.jit
def _store_gradients(
    products, missed, scale, zero_point, max_scale, gradient_scale, of_scale, of_zero_point, row
):  # fmt: skip
    """Gradients from the sums of grad · y − grad_x · x and of grad_x − grad."""
    step, _ = _grid(scale, zero_point, max_scale, row)
    of_step = tl.div_rn(products, step) * gradient_scale
    if of_zero_point is not None:
        of_zero = missed * step * gradient_scale
        if max_scale is not None:
            exact = tl.div_rn(-tl.load(zero_point), step)
            of_zero = tl.where((exact >= 0) & (exact <= 255), of_zero, 0.0)
            of_step -= of_zero * tl.div_rn(exact, step)
            of_zero = tl.div_rn(-of_zero, step)
        tl.store(of_zero_point, of_zero)
    if max_scale is not None:
        of_step = tl.where(tl.exp(tl.load(scale + row)) <= max_scale, of_step * step, 0.0)
    tl.store(of_scale + row, of_step)
