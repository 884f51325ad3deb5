"""Depthwise convolutions against torch's own: the same values, and the same gradients but for rounding."""

import pytest
import torch
import torch.nn.functional as F

from spaceevo.nn.depthwise import convolve_depthwise


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(9, 12), (4, 5), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_values_and_gradients(kernel_size, stride, size, memory_format):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 16, *size, generator=generator).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(16, 1, kernel_size, kernel_size, generator=generator).requires_grad_()
    y = convolve_depthwise(x, weight, stride)
    expected = F.conv2d(x, weight, None, stride, kernel_size // 2, groups=16)
    upstream = torch.randn(y.shape, generator=generator)
    assert torch.equal(y, expected)
    for found, other in zip(
        torch.autograd.grad(y, (x, weight), upstream), torch.autograd.grad(expected, (x, weight), upstream), strict=True
    ):
        assert torch.allclose(found, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(convolve_depthwise(x, weight, stride), expected)
