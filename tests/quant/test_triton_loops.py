"""Fake quantization on GPUs has the values and gradients that torch's operations give."""

import copy
import math

import pytest
import torch
from interpreted import DEVICE

from spaceevo.quant.fake_quantize import _FakeQuantize, _FakeQuantizeOnGpu
from spaceevo.quant.grids import Levels
from spaceevo.quant.quantizers import ActivationQuantizer, WeightQuantizer

GRIDS = {  # zero point, low, high, rectified, a scale per channel
    "affine": (101.25, 0, 255, False, False),
    "rectified": (0.0, 0, 255, True, False),
    "per channel": (0.0, -127, 127, False, True),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(6, 5, 7, 4), (6, 20, 31, 29)])  # of a part of a block, of some blocks
@pytest.mark.parametrize("grid", GRIDS)
def test_values_and_gradients(grid, shape, memory_format):
    """Inputs are eighths times powers of two: no sum is rounded, and all gradients are equal, to the last bit."""
    zero_point, low, high, rectified, per_channel = GRIDS[grid]
    generator = torch.Generator().manual_seed(0)
    powers = (-6.0 + torch.arange(6) % 3).view(6, 1, 1, 1) if per_channel else torch.tensor(-6.0)
    steps = torch.randint(-160, 300, shape, generator=generator) + torch.randint(-3, 4, shape, generator=generator) / 8
    x = (steps * 2.0**powers).contiguous(memory_format=memory_format)
    upstream = (torch.randint(-16, 17, shape, generator=generator) / 8).to(DEVICE)
    leaves = [tensor.to(DEVICE) for tensor in (x, 2.0**powers, torch.tensor(zero_point))]
    learned = leaves[:2] if per_channel else leaves
    for leaf in learned:
        leaf.requires_grad_()
    results = []
    for function, on_gpu in ((_FakeQuantize, ()), (_FakeQuantizeOnGpu, (None,))):
        y = function.apply(*leaves, Levels(low, high, 0.5, rectified), *on_gpu)
        results.append((y, *torch.autograd.grad(y, learned, upstream)))
    for theirs, ours in zip(*results, strict=True):
        assert ours.shape == theirs.shape and ours.any() and torch.equal(ours, theirs)
    assert results[1][0].stride() == x.stride()


def test_ties_go_to_the_even_one():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 254.5, 255.5, 1e30, -1e30], device=DEVICE)
    one, none = torch.ones((), device=DEVICE), torch.zeros((), device=DEVICE)
    y = _FakeQuantizeOnGpu.apply(x, one, none, Levels(-127, 255), None)
    assert y.tolist() == [0, 2, 2, 0, -2, 254, 255, 255, -127]


@pytest.mark.parametrize("zero_point", [3.0, float("nan")])
def test_what_is_not_a_number_stays_so(zero_point):
    x = torch.tensor([float("nan"), 1.0], device=DEVICE)
    scale, zero = torch.tensor(0.1, device=DEVICE), torch.tensor(zero_point, device=DEVICE)
    y = _FakeQuantizeOnGpu.apply(x, scale, zero, Levels(0, 255), None)
    assert y.isnan().tolist() == [True, zero_point != 3.0]


def test_nothing_to_round():
    x = torch.zeros(0, 3, 2, 2, device=DEVICE, requires_grad=True)
    scale = torch.ones((), device=DEVICE, requires_grad=True)
    y = _FakeQuantizeOnGpu.apply(x, scale, torch.zeros((), device=DEVICE), Levels(0, 255), None)
    of_x, of_scale = torch.autograd.grad(y.sum(), (x, scale))
    assert of_x.shape == x.shape
    assert of_scale == 0


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Quantizers whose tensors are anywhere take the kernels."""
    return lambda: monkeypatch.setattr("spaceevo.quant.quantizers.has_gpu_kernels", lambda x: True)


@pytest.mark.parametrize("shape", [(6, 5, 7, 4), (6, 20, 31, 29)])  # summed by one program, by several
@pytest.mark.parametrize(
    ("kind", "scale", "offset"),
    [("affine", 0.02, -1.3), ("affine", 0.02, 0.5), ("affine", 0.02, -6), ("relu", 0.01, 0), ("relu6", 0.01, 0),
     ("relu6", 0.03, 0)],
)  # fmt: skip
def test_learned_grids_of_activations(kind, scale, offset, shape, as_on_a_gpu):
    """Zero points inside 0 … 255 and on either side, scales below their highest and above it."""
    quantizer = ActivationQuantizer(kind)
    quantizer.log_scale.data.fill_(math.log(scale))
    if quantizer.offset is not None:
        quantizer.offset.data.fill_(offset)
    generator = torch.Generator().manual_seed(0)
    # far from halves, or the last bit of a scale would decide where some go
    steps = torch.randint(-400, 400, shape, generator=generator) + 0.8 * (torch.rand(shape, generator=generator) - 0.5)
    upstream = torch.randn(shape, generator=generator)
    compare(quantizer, steps * float(quantizer.scale().detach()), upstream, as_on_a_gpu)


@pytest.mark.parametrize("channels", [24, 31])  # all scales, the first ones
def test_learned_grids_of_weights(channels, as_on_a_gpu):
    quantizer = WeightQuantizer(channels)
    weight, upstream = torch.randn(2, 24, 8, 3, 3, generator=torch.Generator().manual_seed(0)).unbind()
    quantizer.log_scale.data[:24] = (weight.abs().amax((1, 2, 3)) / 140).log()  # some are out of range
    compare(quantizer, weight, upstream, as_on_a_gpu)


def compare(quantizer, x, upstream, as_on_a_gpu):
    results = []
    for _ in range(2):
        there = copy.deepcopy(quantizer).to(DEVICE)
        leaf = x.to(DEVICE).requires_grad_()
        y = there(leaf)
        results.append((y, *torch.autograd.grad(y, [leaf, *there.parameters()], upstream.to(DEVICE))))
        as_on_a_gpu()
    for theirs, ours in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_a_learned_grid_that_is_not_a_number_shows(as_on_a_gpu):
    as_on_a_gpu()
    quantizer = ActivationQuantizer("affine").to(DEVICE)
    quantizer.offset.data.fill_(math.nan)
    assert quantizer(torch.ones(1, 3, device=DEVICE)).isnan().all()
