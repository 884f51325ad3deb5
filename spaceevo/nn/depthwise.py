"""Depthwise convolution whose weight gradient is quicker on CPUs.

oneDNN has a fast kernel for the gradient of a 3×3 depthwise weight, and takes some ten times as long for larger ones.
The gradient of a larger weight is put together from 3×3 windows here, picture by picture, which stay in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 3


def convolve_depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """`F.conv2d` of x [N, C, H, W] with an odd weight [C, 1, k, k], k // 2 of padding and C groups."""
    quick = x.device.type == "cpu" and weight.shape[-1] > WINDOW and torch.is_grad_enabled()
    if quick and weight.requires_grad and x.is_contiguous(memory_format=torch.channels_last):
        y: Tensor = _Depthwise.apply(x, weight, stride)  # type: ignore[no-untyped-call]
        return y
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x, _ = _gradients(grad, x, weight, ctx.stride, weight.shape[-1] // 2, of_x=True)
        return grad_x, _weight_gradient(grad, x, weight, ctx.stride), None


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    kernel_size = weight.shape[-1]
    height, width = ((side - 1) * stride + WINDOW for side in grad.shape[2:])
    window = weight.new_empty(len(weight), 1, WINDOW, WINDOW)
    result = torch.zeros_like(weight)
    starts = range(0, kernel_size - 1, WINDOW - 1)  # windows share a row and a column, which the earlier one fills
    for one_x, one_grad in zip(torch.split(x, 1), torch.split(grad, 1), strict=True):
        padded = F.pad(one_x, (kernel_size // 2,) * 4)
        for left in starts:
            columns = padded[..., left : left + width].contiguous(memory_format=torch.channels_last)
            for top in starts:
                _, part = _gradients(one_grad, columns[:, :, top : top + height], window, stride, 0, of_x=False)
                row, column = int(top > 0), int(left > 0)
                result[:, :, top + row : top + WINDOW, left + column : left + WINDOW] += part[:, :, row:, column:]
    return result


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, of_x: bool) -> tuple[Tensor, Tensor]:
    strides, paddings, mask = [stride] * 2, [padding] * 2, [of_x, not of_x, False]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, strides, paddings, [1, 1], False, [0, 0], len(weight), mask
    )
    return grad_x, grad_weight
