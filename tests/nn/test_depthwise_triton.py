"""Depthwise convolutions on GPUs are torch's, forward and back."""

import pytest
import torch
import torch.nn.functional as F
from interpreted import DEVICE

from spaceevo.nn.depthwise_triton import depthwise


def made(shape, kernel_size, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(shape[1], 1, kernel_size, kernel_size, generator=generator).to(DEVICE)


def values_and_gradients(convolution, x, weight, upstream):
    leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
    y = convolution(*leaves)
    return y, *torch.autograd.grad(y, leaves, upstream)


@pytest.mark.parametrize(
    ("kernel_size", "stride"),
    [
        *[(3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2)],
        *[(9, 1), (9, 2)],  # not all taps fit into registers
        *[(1, 1), (1, 2), (3, 3), (3, 4)],  # no column of `x` is read twice, and some not once
    ],
)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 24, 1, 1),
        (3, 16, 2, 3),
        (9, 7, 9, 8),  # channels of which nothing is known at compile time, more than one share of the pictures
        (1, 72, 7, 4),  # more channels than one program has
        (1, 4, 13, 9),  # more pixels than one program has
    ],
)
def test_values_and_gradients(shape, kernel_size, stride):
    x, weight = made(shape, kernel_size)
    sides = [(side - 1) // stride + 1 for side in shape[2:]]
    upstream = torch.randn(*shape[:2], *sides, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    found = values_and_gradients(lambda x, weight: depthwise(x, weight, stride), x, weight, upstream)
    expected = values_and_gradients(
        lambda x, weight: F.conv2d(x, weight, None, stride, kernel_size // 2, groups=shape[1]),
        x.double(), weight.double(), upstream.double(),
    )  # fmt: skip
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5


def test_sums_of_bfloat16_are_in_float32():
    x, weight = made((2, 32, 6, 6), 5, torch.bfloat16)
    upstream = torch.randn(2, 32, 6, 6, generator=torch.Generator().manual_seed(1)).to(DEVICE, torch.bfloat16)
    found = values_and_gradients(lambda x, weight: depthwise(x, weight, 1), x, weight, upstream)
    expected = values_and_gradients(
        lambda x, weight: F.conv2d(x, weight, None, 1, 2, groups=32), x.double(), weight.double(), upstream.double()
    )
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for ours, theirs, tolerance in zip(found, expected, (5e-3, 5e-3, 1e-5), strict=True):  # the last is not rounded
        assert ((ours - theirs).norm() / theirs.norm()).item() < tolerance


def test_the_layout_is_kept():
    x, weight = made((2, 16, 6, 5), 3)
    upstream = torch.ones(2, 16, 3, 3, device=DEVICE)  # contiguous
    y, grad_x, grad_weight = values_and_gradients(lambda x, weight: depthwise(x, weight, 2), x, weight, upstream)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert grad_x.is_contiguous(memory_format=torch.channels_last)
    assert grad_weight.is_contiguous()


def test_only_what_is_asked_for_is_computed(monkeypatch):
    x, weight = made((2, 16, 6, 5), 3)
    y = depthwise(x, weight.requires_grad_(), 1)
    monkeypatch.setattr("spaceevo.nn.depthwise_triton._convolved", None)  # would raise
    (grad,) = torch.autograd.grad(y.sum(), weight)
    assert grad.shape == weight.shape


def test_no_images():
    x, weight = made((0, 16, 6, 6), 3)
    y = depthwise(x, weight.requires_grad_(), 2)
    assert y.shape == (0, 16, 3, 3)
    (grad,) = torch.autograd.grad(y.sum(), weight)
    assert not grad.any()
