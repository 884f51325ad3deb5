"""Fake quantization on GPUs has the values and gradients that torch's operations give."""

import pytest
import torch
from interpreted import DEVICE

from spaceevo.quant.fake_quantize import Levels, _FakeQuantize, _FakeQuantizeOnGpu

GRIDS = {  # scales, zero point, low, high, rectified
    "affine": (None, 117.4, 0, 255, False),
    "rectified": (None, 0.0, 0, 255, True),
    "per channel": (6, 0.0, -127, 127, False),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(6, 5, 7, 4), (6, 40, 31, 29)])  # of a part of a block, of some blocks
@pytest.mark.parametrize("grid", GRIDS)
def test_values_and_gradients(grid, shape, memory_format):
    rows, zero_point, low, high, rectified = GRIDS[grid]
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(shape, generator=generator)).contiguous(memory_format=memory_format).to(DEVICE)
    if rows is None:
        leaves = x, torch.tensor(0.021, device=DEVICE), torch.tensor(zero_point, device=DEVICE)
    else:
        scales = 0.01 + 0.02 * torch.rand(rows, 1, 1, 1, generator=generator)
        leaves = x, scales.to(DEVICE), torch.tensor(zero_point, device=DEVICE)
    learned = leaves if rows is None else leaves[:2]
    upstream = torch.randn(shape, generator=generator).to(DEVICE)
    results = []
    for function in (_FakeQuantize, _FakeQuantizeOnGpu):
        for leaf in learned:
            leaf.requires_grad_()
        y = function.apply(*leaves, Levels(low, high, 0.1, rectified))
        results.append((y, *torch.autograd.grad(y, learned, upstream)))
    (expected, expected_x, *expected_grid), (found, found_x, *found_grid) = results
    assert torch.equal(found, expected)
    assert found.stride() == x.stride()
    assert torch.equal(found_x, expected_x)
    for ours, theirs in zip(found_grid, expected_grid, strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_ties_go_to_the_even_one():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 254.5, 255.5, 1e30, -1e30], device=DEVICE)
    one, none = torch.ones((), device=DEVICE), torch.zeros((), device=DEVICE)
    y = _FakeQuantizeOnGpu.apply(x, one, none, Levels(-127, 255, 1.0, False))
    assert y.tolist() == [0, 2, 2, 0, -2, 254, 255, 255, -127]


@pytest.mark.parametrize("zero_point", [3.0, float("nan")])
def test_what_is_not_a_number_stays_so(zero_point):
    x = torch.tensor([float("nan"), 1.0], device=DEVICE)
    scale, zero = torch.tensor(0.1, device=DEVICE), torch.tensor(zero_point, device=DEVICE)
    y = _FakeQuantizeOnGpu.apply(x, scale, zero, Levels(0, 255, 1.0, False))
    assert y.isnan().tolist() == [True, zero_point != 3.0]


def test_nothing_to_round():
    x = torch.zeros(0, 3, 2, 2, device=DEVICE, requires_grad=True)
    scale = torch.ones((), device=DEVICE, requires_grad=True)
    y = _FakeQuantizeOnGpu.apply(x, scale, torch.zeros((), device=DEVICE), Levels(0, 255, 1.0, False))
    of_x, of_scale = torch.autograd.grad(y.sum(), (x, scale))
    assert of_x.shape == x.shape
    assert of_scale == 0
