"""Convolutions are torch's, whichever way they are computed."""

import pytest
import torch
import torch.nn.functional as F

from spaceevo.nn.convolution import conv2d

CASES = {  # channels in and out, kernel, stride, groups, bias
    "pointwise": (12, 20, 1, 1, 1, False),
    "pointwise with a bias": (12, 20, 1, 1, 1, True),
    "pointwise, stride 2": (12, 20, 1, 2, 1, False),
    "dense": (6, 10, 3, 2, 1, False),
    "depthwise 3": (10, 10, 3, 1, 10, False),
    "depthwise 5": (10, 10, 5, 1, 10, False),
    "depthwise 5, stride 2": (10, 10, 5, 2, 10, False),
    "depthwise 5 with a bias": (10, 10, 5, 2, 10, True),
    "depthwise 7, stride 2": (10, 10, 7, 2, 10, False),
    "depthwise 7 of one channel": (1, 1, 7, 1, 1, False),
    "grouped 5": (12, 8, 5, 1, 4, False),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 8)])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, size, memory_format):
    channels, out_channels, kernel_size, stride, groups, has_bias = CASES[case]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, channels, *size, generator=generator).contiguous(memory_format=memory_format)
    weight = torch.randn(out_channels, channels // groups, kernel_size, kernel_size, generator=generator)
    leaves = [x, weight, *([torch.randn(out_channels, generator=generator)] if has_bias else [])]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    x, weight, *rest = leaves
    bias = rest[0] if rest else None
    y = conv2d(x, weight, bias, stride, groups)
    expected = F.conv2d(x, weight, bias, stride, kernel_size // 2, groups=groups)
    upstream = torch.randn(y.shape, generator=generator)
    gradients = torch.autograd.grad(y, leaves, upstream), torch.autograd.grad(expected, leaves, upstream)
    assert torch.allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*gradients, strict=True))
    with torch.no_grad():
        assert torch.allclose(conv2d(x, weight, bias, stride, groups), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["pointwise", "depthwise 5"])
def test_layouts_are_kept(case):
    """Another one would make every layer that follows slow, and every one before it on the way back."""
    channels, out_channels, kernel_size, stride, groups, _ = CASES[case]
    x = torch.randn(2, channels, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(out_channels, channels // groups, kernel_size, kernel_size, requires_grad=True)
    y = conv2d(x, weight, None, stride, groups)
    y.square().sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    assert weight.grad.is_contiguous()


@pytest.mark.parametrize(
    "case, own", [("pointwise", "PermuteBackward0"), ("depthwise 5", "_DepthwiseBackward"), ("dense", None)]
)
def test_the_fast_ways_are_taken(case, own):
    channels, out_channels, kernel_size, stride, groups, _ = CASES[case]
    x = torch.randn(2, channels, 6, 6).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(out_channels, channels // groups, kernel_size, kernel_size, requires_grad=True)
    assert type(conv2d(x, weight, None, stride, groups).grad_fn).__name__ == (own or "ConvolutionBackward0")
    if own == "_DepthwiseBackward":
        y = conv2d(x.requires_grad_(), weight.detach(), None, stride, groups)
        assert type(y.grad_fn).__name__ == "ConvolutionBackward0"  # frozen weights need no gradient


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("size", [1, 6])
def test_what_is_traced_for_a_file_is_a_convolution(size):
    x, weight = torch.randn(2, 12, size, size).contiguous(memory_format=torch.channels_last), torch.randn(20, 12, 1, 1)
    traced = torch.jit.trace(lambda x: conv2d(x, weight, None, 1, 1), x)
    kinds = [node.kind() for node in traced.graph.nodes()]
    assert "aten::_convolution" in kinds and "aten::linear" not in kinds


def test_no_images():
    x = torch.zeros(0, 12, 6, 6).contiguous(memory_format=torch.channels_last)
    assert conv2d(x, torch.randn(20, 12, 1, 1), None, 1, 1).shape == (0, 20, 6, 6)


def test_threads_share_the_images(monkeypatch):
    weight = torch.randn(8, 1, 5, 5, requires_grad=True)
    x = torch.randn(7, 8, 6, 5)
    (one,) = torch.autograd.grad(conv2d(x, weight, None, 1, 8).cos().sum(), weight)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    (three,) = torch.autograd.grad(conv2d(x, weight, None, 1, 8).cos().sum(), weight)
    assert torch.allclose(one, three, rtol=1e-4, atol=1e-5)
