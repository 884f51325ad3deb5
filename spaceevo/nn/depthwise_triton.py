"""Depthwise convolution of channels-last pictures on GPUs, forward and back, in Triton.

PyTorch's kernels for contiguous pictures took half of a supernet's step, and with cuDNN's for this layout it took 37
times as long (benchmarks/results/gpu_step_pytorch_kernels.json). Here a thread has neighbouring channels in hand, so
that what it computes about places and borders serves them all. Sums are in float32 and in a fixed order.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_TILE = 1024  # values of a program's output
_CHANNELS = (64, 32, 16)  # of them side by side; for each a kernel is compiled
_SIDE = 4  # of the square of pixels that a program of the gradient of the weights sums over
_LEAST_IMAGES = 4  # that it goes through
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
    images, channels, out_height, out_width = y.shape
    pixels, wide, grain = images * out_height * out_width, _channels_of_a_program(channels), gcd(channels, _GRAIN)
    if y.numel():
        block = _TILE // wide
        with torch.cuda.device_of(y):
            _convolve[(triton.cdiv(pixels, block), triton.cdiv(channels, wide))](
                x, _by_tap(weight), y, pixels, channels // grain, *x.shape[2:], out_height, out_width,
                stride=stride, kernel_size=weight.shape[-1], back=back, block=block, wide=wide, grain=grain,
            )  # fmt: skip
    return y


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Gradient of the weights [C, 1, k, k], of their type; `x` and `grad` are channels last."""
    images, channels, height, width = grad.shape
    if grad.numel() == 0:
        return torch.zeros_like(weight)
    size, wide, grain = weight.shape[-1] ** 2, _CHANNELS[-1], gcd(channels, _GRAIN)
    tiles, across = triton.cdiv(height, _SIDE) * triton.cdiv(width, _SIDE), triton.cdiv(channels, wide)
    shares = min(triton.cdiv(_PROGRAMS, tiles * across), triton.cdiv(images, _LEAST_IMAGES))
    each = triton.cdiv(images, shares)
    shares = triton.cdiv(images, each)
    parts = torch.empty(shares, tiles, size, channels, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _add_weights[(tiles, shares, across)](
            x, grad, parts, images, channels // grain, *x.shape[2:], height, width, each,
            stride=stride, kernel_size=weight.shape[-1], taps=triton.next_power_of_2(size),
            side=_SIDE, wide=wide, grain=grain, num_warps=8,
        )  # fmt: skip
    return parts.sum((0, 1)).t().contiguous().view_as(weight).to(weight.dtype)


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


@triton.jit(do_not_specialize=["images", "grains", "each", *_SIZES])
def _add_weights(
    x, grad, parts, images, grains, height, width, out_height, out_width, each,
    stride: tl.constexpr, kernel_size: tl.constexpr, taps: tl.constexpr,
    side: tl.constexpr, wide: tl.constexpr, grain: tl.constexpr,
):  # fmt: skip
    """A program sums over one tile of `side` squared pixels of `each` images.

    `x` is [images, height, width, channels] in memory, `grad` [images, out_height, out_width, channels], and `parts`
    [programs of a channel, kernel_size², channels]. What a program has in hand is [taps, side², wide].
    """
    channels = grains * grain
    tile, share = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * wide + tl.arange(0, wide)
    there = (channel < channels)[None, None, :]
    tap, pixel, tiles_across = tl.arange(0, taps), tl.arange(0, side * side), tl.cdiv(out_width, side)
    row = (tile // tiles_across * side + pixel // side)[None, :, None]
    column = (tile % tiles_across * side + pixel % side)[None, :, None]
    r = row * stride + (tap // kernel_size - kernel_size // 2)[:, None, None]
    c = column * stride + (tap % kernel_size - kernel_size // 2)[:, None, None]
    written = (row < out_height) & (column < out_width) & there
    read = written & (r >= 0) & (r < height) & (c >= 0) & (c < width) & (tap < kernel_size * kernel_size)[:, None, None]
    source = x + (r * width + c) * channels + channel[None, None, :]
    target = grad + (row * out_width + column) * channels + channel[None, None, :]
    target += 0 * tap[:, None, None]  # as many as of `source`, or threads would have to exchange what they read
    total = tl.zeros((taps, side * side, wide), tl.float32)
    for image in range(share * each, min((share + 1) * each, images)):
        before = tl.cast(image, tl.int64) * channels
        value = tl.load(source + before * (height * width), mask=read, other=0.0)
        upstream = tl.load(target + before * (out_height * out_width), mask=written, other=0.0)
        total += value.to(tl.float32) * upstream.to(tl.float32)
    sums = tl.sum(total, 1)
    to = ((share * tl.num_programs(0) + tile) * (kernel_size * kernel_size) + tap)[:, None] * channels + channel[
        None, :
    ]
    tl.store(parts + to, sums, mask=(tap < kernel_size * kernel_size)[:, None] & (channel < channels)[None, :])
