"""Convolution as fast as it can be learned.

On CPUs, where pictures are channels last, a convolution of 1x1 is a matrix product, without oneDNN's preparation of
each call. The gradient of depthwise weights above 3x3 is a plain loop over channels: oneDNN treats every channel as a
group of sixteen there, which makes the whole convolution, forward and back, up to ten times as slow
(benchmarks/convolution.py). On GPUs, depthwise convolutions are those of `depthwise_triton`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from spaceevo.gpu import has_triton
from spaceevo.loops import compiled, spread

Floats = NDArray[np.float32]

_GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, groups: int) -> Tensor:
    """Convolution with zeros around `x`, half a kernel wide: torch's values and gradients up to rounding.

    Args:
        x: [N, C, H, W].
        weight: [D, C / groups, k, k], k odd.
        bias: [D].

    Returns:
        [N, D, H', W'], H' = ⌈H / stride⌉.
    """
    if x.device.type == "cpu" and not _is_traced():
        if _is_product(x, weight, stride, groups):
            count, channels, height, width = x.shape
            pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)  # flat, or torch may take it for a batch of products
            return F.linear(pixels, weight.flatten(1), bias).view(count, height, width, len(weight)).permute(0, 3, 1, 2)
        if bias is None and _learns_slowly(x, weight, groups):
            y: Tensor = _Depthwise.apply(x, weight, stride)  # type: ignore[no-untyped-call]
            return y
    if bias is None and _has_gpu_kernels(x, weight, groups):
        from spaceevo.nn.depthwise_triton import depthwise

        return depthwise(x.to(_computed_dtype(x)), weight, stride)
    return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=groups)


def depthwise_weight_gradient(x: Tensor, grad: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Gradient [C, 1, k, k] of the weights of a depthwise convolution of `x` [N, C, H, W], float32 on the CPU.

    Args:
        grad: gradient of its output, [N, C, H', W'].
        kernel_size: k, odd.
    """
    images, grads = _channels_last(x), _channels_last(grad)

    def of_images(first: int, last: int) -> Floats:
        out = np.zeros((kernel_size, kernel_size, images.shape[-1]), np.float32)
        _add_weight_gradient(images[first:last], grads[first:last], stride, out)
        return out

    total = torch.from_numpy(sum(spread(of_images, len(images), 1)))
    return total.permute(2, 0, 1).unsqueeze(1).contiguous()


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        kernel_size, stride = weight.shape[-1], ctx.stride
        grad_x = None
        if ctx.needs_input_grad[0]:
            sides = [stride] * 2, [kernel_size // 2] * 2, [1, 1]
            grad_x, _, _ = torch.ops.aten.convolution_backward(
                grad, x, weight, None, *sides, False, [0, 0], len(weight), [True, False, False]
            )
        return grad_x, depthwise_weight_gradient(x, grad, kernel_size, stride), None


@compiled("void(f4[:,:,:,::1], f4[:,:,:,::1], i8, f4[:,:,::1])", reorder=True)
def _add_weight_gradient(x: Floats, grad: Floats, stride: int, out: Floats) -> None:
    """Add the gradient to `out` [k, k, C]; `x` and `grad` are [N, H, W, C]."""
    kernel_size = out.shape[0]
    count, height, width, channels = x.shape
    _, out_height, out_width, _ = grad.shape
    for n in range(count):
        for out_row in range(out_height):
            for i in range(kernel_size):
                row = out_row * stride + i - kernel_size // 2
                if row < 0 or row >= height:
                    continue
                for out_column in range(out_width):
                    upstream = grad[n, out_row, out_column]
                    for j in range(kernel_size):
                        column = out_column * stride + j - kernel_size // 2
                        if column < 0 or column >= width:
                            continue
                        value, total = x[n, row, column], out[i, j]
                        for c in range(channels):
                            total[c] += upstream[c] * value[c]


def _is_traced() -> bool:
    """Whether the operations are recorded, for a file or a compiler: then a convolution is to be one."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined,no-untyped-call]


def _is_product(x: Tensor, weight: Tensor, stride: int, groups: int) -> bool:
    pointwise = weight.shape[-1] == 1 and stride == groups == 1
    return pointwise and x.is_contiguous(memory_format=torch.channels_last)


def _learns_slowly(x: Tensor, weight: Tensor, groups: int) -> bool:
    if not (weight.requires_grad and torch.is_grad_enabled() and x.dtype == weight.dtype == torch.float32):
        return False
    return weight.shape[-1] > 3 and _is_depthwise(x, weight, groups)


def _has_gpu_kernels(x: Tensor, weight: Tensor, groups: int) -> bool:
    if not (x.device.type == "cuda" and _is_depthwise(x, weight, groups) and _computed_dtype(x) in _GPU_DTYPES):
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and has_triton() and not _is_traced()


def _computed_dtype(x: Tensor) -> torch.dtype:
    """What a convolution of `x` is computed in."""
    autocast = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return torch.get_autocast_dtype(x.device.type) if autocast else x.dtype


def _is_depthwise(x: Tensor, weight: Tensor, groups: int) -> bool:
    return weight.shape[1] == 1 and len(weight) == groups == x.shape[1] > 1


def _channels_last(x: Tensor) -> Floats:
    array: Floats = x.detach().permute(0, 2, 3, 1).contiguous().numpy()
    return array
