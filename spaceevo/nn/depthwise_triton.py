"""Depthwise convolution of channels-last pictures on GPUs, forward and back, in Triton.

PyTorch's kernels for contiguous pictures took half of a supernet's step, and with cuDNN's for this layout it took 37
times as long (benchmarks/results/gpu_step_pytorch_kernels.json). Here a thread has neighbouring channels in hand, so
that what it computes about places and borders serves them all. Most kernels go along rows, so that what is read for a
column serves the next ones too. Sums are in float32 and in a fixed order.
"""

# Tuples grow while a kernel is compiled:
# mypy: disable-error-code="assignment"

from __future__ import annotations

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHANNELS = (64, 32, 16)  # of a program; for each a kernel is compiled
_TILE = 1024  # pixels times channels of the output that a program computes at once
_LANES = 512  # rows times channels that a program goes along
_LANES_OF_TAPS = {3: 512, 5: 256, 7: 128}  # by kernel size, where it keeps all taps: as many as registers hold
_PROGRAMS = 4096  # that fill a GPU
_GRAIN = 16  # channels: how many of them divide all is known to the compiler, which reads as many at once
_SIZES = ["height", "width", "out_height", "out_width"]  # too various to compile kernels for


def depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Depthwise convolution with zeros around `x`, half a kernel wide.

    Args:
        x: [N, C, H, W], channels last, float32, bfloat16 or float16.
        weight: [C, 1, k, k], k odd.

    Returns:
        [N, C, ⌈H / stride⌉, ⌈W / stride⌉], channels last, of the type of `x`.
    """
    y: Tensor = _Depthwise.apply(x, weight, stride)
    return y


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        height, width = ((side - 1) // stride + 1 for side in x.shape[2:])
        shape = *x.shape[:2], height, width
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        return _convolved(x, weight, stride, y, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        of_x, of_weight, _ = ctx.needs_input_grad
        grad_x = _convolved(grad, weight, ctx.stride, torch.empty_like(x), back=True) if of_x else None
        return grad_x, _weight_gradient(x, grad, weight, ctx.stride) if of_weight else None, None


def _convolved(x: Tensor, weight: Tensor, stride: int, y: Tensor, back: bool) -> Tensor:
    """Fill `y` with the convolution of `x`, or, `back`, with the gradient of an input whose output has gradient `x`."""
    images, channels, height, width = y.shape
    if y.numel() == 0:
        return y
    kernel_size, wide, grain = weight.shape[-1], _channels_of_a_program(channels), gcd(channels, _GRAIN)
    across, taps = triton.cdiv(channels, wide), _by_tap(weight)
    with torch.cuda.device_of(y):
        if stride == 1 and kernel_size in _LANES_OF_TAPS:
            rows, block = images * height, _LANES_OF_TAPS[kernel_size] // wide
            _slide[(triton.cdiv(rows, block), across)](
                x, taps, y, rows, channels // grain, height, width,
                kernel_size=kernel_size, back=back, block=block, wide=wide, grain=grain,
            )  # fmt: skip
        else:
            pixels, block = images * height * width, _TILE // wide
            _convolve[(triton.cdiv(pixels, block), across)](
                x, taps, y, pixels, channels // grain, *x.shape[2:], height, width,
                stride=stride, kernel_size=kernel_size, back=back, block=block, wide=wide, grain=grain,
            )  # fmt: skip
    return y


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Gradient of the weights [C, 1, k, k], of their type; `x` and `grad` are channels last."""
    images, channels, height, width = grad.shape
    if grad.numel() == 0:
        return torch.zeros_like(weight)
    kernel_size, wide, grain = weight.shape[-1], _channels_of_a_program(channels), gcd(channels, _GRAIN)
    tap_rows = 3 if kernel_size == 3 else 1  # more do not fit into the registers
    block, across = _LANES // wide, triton.cdiv(channels, wide)
    strips = kernel_size // tap_rows
    shares = min(triton.cdiv(_PROGRAMS, strips * across), triton.cdiv(images * height, block))
    parts = torch.empty(shares, kernel_size**2, channels, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _add_weights[(strips, shares, across)](
            x, grad, parts, images * height, channels // grain, *x.shape[2:], height, width,
            stride=stride, kernel_size=kernel_size, tap_rows=tap_rows, block=block, wide=wide, grain=grain,
        )  # fmt: skip
    return parts.sum(0).t().contiguous().view(weight.shape).to(weight.dtype)


def _channels_of_a_program(channels: int) -> int:
    """The number of `_CHANNELS` that leaves the fewest idle; of these the largest."""
    return min(_CHANNELS, key=lambda wide: triton.cdiv(channels, wide) * wide)


def _by_tap(weight: Tensor) -> Tensor:
    """[k · k, C]."""
    return weight.detach().flatten(1).t().contiguous()


@triton.jit(do_not_specialize=["pixels", "grains", *_SIZES])
def _convolve(
    x, weight, y, pixels, grains, height, width, out_height, out_width,
    stride: tl.constexpr, kernel_size: tl.constexpr, back: tl.constexpr,
    block: tl.constexpr, wide: tl.constexpr, grain: tl.constexpr,
):  # fmt: skip
    """A program computes the outputs of `block` pixels and `wide` channels.

    `x` is [N, height, width, channels] in memory, `weight` [kernel_size², channels], `y` [pixels, channels].
    """
    channels = grains * grain
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    alive, there = pixel < pixels, channel < channels
    column, row = pixel % out_width, pixel // out_width % out_height
    first = pixel // out_width // out_height * height  # row of the picture in `x`
    total = tl.zeros((block, wide), tl.float32)
    for i in range(kernel_size):
        if back:
            up, left = row + (kernel_size // 2 - i), column + kernel_size // 2
            r = up // stride
            in_row = alive & (up >= 0) & (r < height) & (up % stride == 0)
            start = (first + r) * width
        else:
            r, left = row * stride + (i - kernel_size // 2), column * stride - kernel_size // 2
            in_row = alive & (r >= 0) & (r < height)
            start = (first + r) * width + left
        here = x + (start.to(tl.int64) * channels)[:, None] + channel[None, :]
        for j in tl.static_range(kernel_size):
            if back:
                c = (left - j) // stride
                read = in_row & (left >= j) & (c < width) & ((left - j) % stride == 0)
                at = here + (c * channels)[:, None]
            else:
                c = left + j
                read = in_row & (c >= 0) & (c < width)
                at = here + j * channels
            value = tl.load(at, mask=read[:, None] & there[None, :], other=0.0)
            tap = tl.load(weight + (i * kernel_size + j) * channels + channel, mask=there, other=0.0)
            total += value.to(tl.float32) * tap.to(tl.float32)[None, :]
    to = y + (pixel.to(tl.int64) * channels)[:, None] + channel[None, :]
    tl.store(to, total.to(y.dtype.element_ty), mask=alive[:, None] & there[None, :])


@triton.jit(do_not_specialize=["rows", "grains", "height", "width"])
def _slide(
    x, weight, y, rows, grains, height, width,
    kernel_size: tl.constexpr, back: tl.constexpr, block: tl.constexpr, wide: tl.constexpr, grain: tl.constexpr,
):  # fmt: skip
    """A program computes `block` rows of the output for `wide` channels, stride 1, column by column.

    `x` and `y` are [rows, width, channels] in memory, `weight` [kernel_size², channels]. All taps and the columns under
    them stay in hand: every value is read once for each row of the kernel.
    """
    channels = grains * grain
    row = tl.program_id(0) * block + tl.arange(0, block)
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    there = (channel < channels)[None, :]
    alive = (row < rows)[:, None] & there
    taps, kept = (), ()
    for tap in tl.static_range(kernel_size * kernel_size):
        place = weight + (kernel_size * kernel_size - 1 - tap if back else tap) * channels + channel
        taps += (tl.load(place, mask=channel < channels, other=0.0).to(tl.float32)[None, :],)
    r = row % height - kernel_size // 2
    source = x + (row - kernel_size // 2).to(tl.int64)[:, None] * (width * channels) + channel[None, :]
    target = y + row.to(tl.int64)[:, None] * (width * channels) + channel[None, :]
    for i in tl.static_range(kernel_size):
        inside = alive & ((r + i >= 0) & (r + i < height))[:, None]
        for j in tl.static_range(kernel_size - 1):
            kept += (_column(source + i * width * channels, j - kernel_size // 2, width, channels, inside),)
    for column in range(width):
        total = tl.zeros((block, wide), tl.float32)
        left = ()
        for i in tl.static_range(kernel_size):
            inside = alive & ((r + i >= 0) & (r + i < height))[:, None]
            values = kept[i * (kernel_size - 1) : (i + 1) * (kernel_size - 1)]
            values += (_column(source + i * width * channels, column + kernel_size // 2, width, channels, inside),)
            for j in tl.static_range(kernel_size):
                total += values[j] * taps[i * kernel_size + j]
            left += values[1:]
        kept = left
        tl.store(target + column * channels, total.to(y.dtype.element_ty), mask=alive)


@triton.jit(do_not_specialize=["rows", "grains", *_SIZES])
def _add_weights(
    x, grad, parts, rows, grains, height, width, out_height, out_width,
    stride: tl.constexpr, kernel_size: tl.constexpr, tap_rows: tl.constexpr,
    block: tl.constexpr, wide: tl.constexpr, grain: tl.constexpr,
):  # fmt: skip
    """A program sums `tap_rows` rows of the kernel over its share of the rows of `grad`, `block` of them at a time.

    `x` is [N, height, width, channels] in memory, `grad` [rows, out_width, channels], and `parts`
    [shares, kernel_size², channels]. It goes along the rows column by column, and keeps those of `x` that the next one
    needs too: every value is read once for each row of the kernel.
    """
    channels = grains * grain
    first, share, shares = tl.program_id(0) * tap_rows, tl.program_id(1), tl.num_programs(1)
    channel = tl.program_id(2) * wide + tl.arange(0, wide)
    there = (channel < channels)[None, :]
    none = tl.zeros((block, wide), tl.float32)
    totals = (none,) * (tap_rows * kernel_size)
    overlap: tl.constexpr = max(kernel_size - stride, 0)  # columns that the next value of a row needs too
    for number in range(share, tl.cdiv(rows, block), shares):
        row = number * block + tl.arange(0, block)
        alive = (row < rows)[:, None] & there
        r = row % out_height * stride + first - kernel_size // 2
        start = (row // out_height * height + r).to(tl.int64) * width
        source = x + start[:, None] * channels + channel[None, :]
        target = grad + (row.to(tl.int64) * (out_width * channels))[:, None] + channel[None, :]
        kept = ()
        for i in tl.static_range(tap_rows):
            inside = alive & ((r + i >= 0) & (r + i < height))[:, None]
            for j in tl.static_range(overlap):
                kept += (_column(source + i * width * channels, j - kernel_size // 2, width, channels, inside),)
        for column in range(out_width):
            upstream = tl.load(target + column * channels, mask=alive, other=0.0).to(tl.float32)
            added, left = (), ()
            for i in tl.static_range(tap_rows):
                inside = alive & ((r + i >= 0) & (r + i < height))[:, None]
                values = kept[i * overlap : (i + 1) * overlap]
                for j in tl.static_range(overlap, kernel_size):
                    c = column * stride + j - kernel_size // 2
                    values += (_column(source + i * width * channels, c, width, channels, inside),)
                for j in tl.static_range(kernel_size):
                    added += (totals[i * kernel_size + j] + values[j] * upstream,)
                left += values[kernel_size - overlap :]
            totals, kept = added, left
    for tap in tl.static_range(tap_rows * kernel_size):
        to = parts + (share * kernel_size * kernel_size + first * kernel_size + tap) * channels + channel
        tl.store(to, tl.sum(totals[tap], 0), mask=channel < channels)


@triton.jit
def _column(rows, column, width, channels, inside):
    """Values of one column of `rows`; zeros beside the picture."""
    there = inside & (column >= 0) & (column < width)
    return tl.load(rows + column * channels, mask=there, other=0.0).to(tl.float32)
