"""LSQ+ quantizers against a plain straight-through reference, and the promises of their grids."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceevo.quant.fake_quantize import _FakeQuantize, _FakeQuantizeRows, fake_quantize
from spaceevo.quant.grids import (
    HSIGMOID_GRID,
    LEVELS,
    RELU6_MAX_SCALE,
    SIGMOID_GRID,
    WEIGHT_LEVELS,
    Grid,
    Levels,
    image_grid,
)
from spaceevo.quant.quantizers import (
    HSIGMOID_QUANTIZER,
    MIN_ACTIVATION_SCALE,
    SIGMOID_QUANTIZER,
    ActivationQuantizer,
    FixedQuantizer,
    WeightQuantizer,
    activation_quantizer,
    fp32,
    int8,
)

KINDS = ("affine", "relu", "relu6")


def through(rounded: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`rounded` with the gradient of `x`."""
    return x + (rounded - x).detach()


def scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
    """`x` with its gradient multiplied by a factor."""
    return x * factor + (x - x * factor).detach()


def reference(x, scale, zero_point, low, high, factor):
    """LSQ+ in plain autograd: rounding passes gradients through, clipping stops them."""
    scale, zero_point = scaled(scale, factor), scaled(zero_point, factor)
    zero = through(zero_point.round(), zero_point)
    q = through((x / scale).round(), x / scale) + zero
    return (q.clamp(low, high) - zero) * scale


def spread(shape: tuple[int, ...], scale: torch.Tensor, zero_point: torch.Tensor, seed: int) -> torch.Tensor:
    """Inputs around and beyond a grid, none near the middle between two of its points, where rounding is a toss-up."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(-100, 356, shape, generator=generator) - zero_point.round()
    steps = steps + 0.8 * torch.rand(shape, generator=generator) - 0.4
    return (steps * scale).detach()


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()) + 1e-9)


@pytest.mark.parametrize("low", [-3.7, -0.5, 0.0, -80.0])
@pytest.mark.parametrize("high", [0.4, 5.0, 90.0])
@pytest.mark.parametrize("kind", KINDS)
def test_activation_values_and_gradients(kind, low, high):
    quantizer = ActivationQuantizer(kind)
    quantizer.set_range(low, high)
    log_scale = quantizer.log_scale.detach().double().requires_grad_()
    scale = log_scale.exp()
    if kind == "relu6":
        scale = scale.clamp(max=RELU6_MAX_SCALE)
    zero_point = torch.zeros((), dtype=torch.float64)
    leaves = [log_scale]
    if kind == "affine":
        offset = quantizer.offset.detach().double().requires_grad_()
        zero_point = (-offset / scale).clamp(0, LEVELS)
        leaves.append(offset)
    x = spread((4, 3, 5, 5), scale, zero_point, 0).float().requires_grad_()
    wide = x.detach().double().requires_grad_()
    factor = 1 / math.sqrt(3 * 5 * 5 * LEVELS)  # N counts the features of one example
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    y = quantizer(x)
    (y * upstream).sum().backward()
    before = wide if kind == "affine" else wide.relu()  # the grid's lower end is the rectifier
    expected = reference(before, scale, zero_point, 0, LEVELS, factor)
    gradients = torch.autograd.grad((expected * upstream.double()).sum(), [wide, *leaves])

    assert close(y, expected)
    assert close(x.grad, gradients[0])
    assert close(quantizer.log_scale.grad, gradients[1])
    if kind == "affine":
        assert close(quantizer.offset.grad, gradients[2])
    with torch.no_grad():
        assert torch.equal(quantizer(x), y)  # as it is evaluated


@pytest.mark.parametrize("kind, activation", [("relu", torch.nn.functional.relu), ("relu6", torch.nn.functional.relu6)])
def test_a_grid_that_is_a_rectifier_takes_its_input_too(kind, activation):
    """With and without the activation before it, values and all gradients agree."""
    quantizer = ActivationQuantizer(kind)
    quantizer.set_range(0.0, 4.0)
    x = 3 * torch.randn(6, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    results = []
    for function in (activation, torch.clone):
        leaf = x.clone().requires_grad_()
        y = quantizer(function(leaf))
        gradients = torch.autograd.grad((y * x.cos()).sum(), [leaf, quantizer.log_scale])
        results.append((y, *gradients))
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(*results, strict=True))
    assert 0.3 < float((results[1][1] == 0).float().mean()) < 0.9


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("threads", [2, 7])
def test_threads_and_layouts_make_no_difference(monkeypatch, threads, memory_format):
    """The tensor is worked on in parts, whatever its layout and that of the gradient."""
    quantizer = ActivationQuantizer("affine")
    quantizer.set_range(-2.0, 2.5)
    x = 2 * torch.randn(3, 5, 6, 4, generator=torch.Generator().manual_seed(0))
    upstream = x.sin()
    whole = x.clone().requires_grad_()
    expected = [quantizer(whole), *torch.autograd.grad(quantizer(whole), [whole, *quantizer.parameters()], upstream)]
    monkeypatch.setattr("spaceevo.quant.loops.LEAST", 11)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    for layout in (x.contiguous(memory_format=memory_format), x.transpose(2, 3).contiguous().transpose(2, 3)):
        leaf = layout.clone().requires_grad_()
        y = quantizer(leaf)
        found = [y, *torch.autograd.grad(y, [leaf, *quantizer.parameters()], upstream)]
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(found[2:], expected[2:], strict=True))


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("shape, per_channel", [((4, 3, 5, 5), False), ((6, 4, 3, 3), True), ((6, 10), True)])
def test_loops_and_operations_agree(shape, per_channel, rectified):
    """On a CPU a quantizer is a compiled loop; grids of other shapes are made of torch's operations.

    The first inputs are eighths times powers of two: no sum is rounded, and all gradients are equal, to the last bit.
    Of others those of the grid are sums whose order matters.
    """
    generator = torch.Generator().manual_seed(0)
    powers = (-6.0 + torch.arange(shape[0]) % 3).view(-1, *(1,) * (len(shape) - 1)) if per_channel else torch.tensor(-6)
    scale = (2.0**powers).requires_grad_()
    steps = torch.randint(-160, 300, shape, generator=generator) + torch.randint(-3, 4, shape, generator=generator) / 8
    x = steps * scale.detach()
    zero_point = torch.tensor(0.0 if per_channel or rectified else 101.25, requires_grad=not per_channel)
    low, high = (-WEIGHT_LEVELS, WEIGHT_LEVELS) if per_channel and not rectified else (0, LEVELS)
    learned = [scale] if per_channel else [scale, zero_point]
    upstream = torch.randint(-16, 17, shape, generator=generator) / 8

    def both(x, upstream):
        for function in (_FakeQuantizeRows, _FakeQuantize):
            leaf = x.clone().requires_grad_()
            y = function.apply(leaf, scale, zero_point, Levels(low, high, 0.5, rectified))
            yield y, *torch.autograd.grad(y, [leaf, *learned], upstream)

    by_loop, by_operations = both(x, upstream)
    for of_loop, of_operations in zip(by_loop, by_operations, strict=True):
        assert of_loop.shape == of_operations.shape and of_loop.any() and torch.equal(of_loop, of_operations)
    assert 0.02 < float((by_loop[1] == 0).float().mean()) < 0.9
    (y, grad_x, *_), (y_operations, grad_x_operations, *_) = both(
        3 * torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    )
    assert torch.equal(y, y_operations) and torch.equal(grad_x, grad_x_operations)


def test_grids_that_are_no_rows():
    """One of each column, one strided in memory, and a zero point that is learned with several scales."""
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    scales = torch.tensor([0.01, 0.02, 0.03, 0.04])
    zero_point = torch.tensor(90.2, requires_grad=True)

    def rounded(scale):
        return (x / scale).round().clamp(-90, 165) * scale

    for scale in (scales, scales.repeat_interleave(2)[::2].view(4, 1)):
        assert torch.allclose(fake_quantize(x, scale, zero_point.detach(), 0, LEVELS), rounded(scale))
    y = fake_quantize(10 * x, scales.view(4, 1), zero_point, 0, LEVELS)
    (found,) = torch.autograd.grad(y.sum(), zero_point)
    outside = ((10 * x / scales.view(4, 1)).round() < -90) | ((10 * x / scales.view(4, 1)).round() > 165)
    assert float(found) == pytest.approx(-float((outside * scales.view(4, 1)).sum()), rel=1e-5)


def test_what_is_not_a_number_stays_so():
    """Training looks at its loss to see that it has failed."""
    nan = float("nan")
    x = torch.tensor([[1.0, nan, -3.0]])
    y = fake_quantize(x, torch.tensor(0.1), torch.tensor(10.0), 0, LEVELS)
    assert y.isnan().tolist() == [[False, True, False]]
    for scale, zero_point in ((nan, 10.0), (0.1, nan)):
        assert fake_quantize(x, torch.tensor(scale), torch.tensor(zero_point), 0, LEVELS).isnan().all()


def test_the_gradient_of_a_clamped_scale_of_relu6_is_none():
    quantizer = ActivationQuantizer("relu6")
    quantizer.set_range(0.0, 20.0)
    assert quantizer.grid().scale == pytest.approx(RELU6_MAX_SCALE)
    quantizer(torch.rand(2, 8) * 10).sum().backward()
    assert float(quantizer.log_scale.grad) == 0


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 1, 5, 5), (6, 10)])
def test_weight_values_and_gradients(shape):
    quantizer = WeightQuantizer(9)  # of a larger supernet; the weight takes the first scales
    with torch.no_grad():
        quantizer.log_scale.copy_(torch.linspace(-5, 0, 9))
    per_channel = (-1,) + (1,) * (len(shape) - 1)
    log_scale = quantizer.log_scale.detach().double()[:6].requires_grad_()
    scale = log_scale.exp().reshape(per_channel)
    zero = torch.zeros((), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(-200, 201, shape, generator=generator) + 0.8 * torch.rand(shape, generator=generator) - 0.4
    weight = (steps * scale.detach()).float().requires_grad_()
    wide = weight.detach().double().requires_grad_()
    factor = 1 / math.sqrt(weight[0].numel() * WEIGHT_LEVELS)
    upstream = torch.randn(shape, generator=generator)

    quantized = quantizer(weight)
    (quantized * upstream).sum().backward()
    expected = reference(wide, scale, zero, -WEIGHT_LEVELS, WEIGHT_LEVELS, factor)
    gradients = torch.autograd.grad((expected * upstream.double()).sum(), [wide, log_scale])

    assert close(quantized, expected)
    assert close(weight.grad, gradients[0])
    assert close(quantizer.log_scale.grad[:6], gradients[1])
    assert not quantizer.log_scale.grad[6:].any()
    integers, scales = quantizer.integers(weight)
    assert integers.dtype == torch.int8 and integers.min() == -WEIGHT_LEVELS and integers.max() == WEIGHT_LEVELS
    with torch.no_grad():
        assert torch.equal(quantizer(weight), quantized)
        assert torch.allclose(integers * scales.reshape(per_channel), quantized, rtol=1e-6)


ranges = st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)).map(sorted)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(bounds=ranges)
def test_grids_hold_their_promises(kind, bounds):
    """An integer zero point, zero exactly on the grid, a positive scale, and the range that was asked for."""
    low, high = bounds
    quantizer = ActivationQuantizer(kind)
    quantizer.set_range(low, high)
    grid = quantizer.grid()
    assert isinstance(grid.zero_point, int) and 0 <= grid.zero_point <= LEVELS and grid.scale > 0
    zeros = torch.zeros(1, 4)
    assert torch.equal(quantizer(zeros), zeros)
    values = grid.scale * (np.arange(LEVELS + 1) - grid.zero_point)
    ends = quantizer(torch.tensor([[-1e9, 1e9]])).detach().numpy().ravel()
    np.testing.assert_allclose(ends, values[[0, -1]], rtol=1e-5, atol=1e-12)
    if kind == "affine":
        step = grid.scale if grid.scale > MIN_ACTIVATION_SCALE * 1.001 else LEVELS * MIN_ACTIVATION_SCALE
        assert abs(values[0] - min(low, 0)) <= step and abs(values[-1] - max(high, 0)) <= step
    else:
        assert grid.zero_point == 0 and values[0] == 0
    if kind == "relu6":
        assert values[-1] <= 6 * (1 + 1e-6)


@settings(max_examples=50, deadline=None)
@given(log_scale=st.floats(-60, 20), offset=st.floats(-1e6, 1e6))
def test_whatever_training_learns_is_a_grid(log_scale, offset):
    """Scales are positive by construction, and zero points stay on the grid."""
    quantizer = ActivationQuantizer("affine")
    with torch.no_grad():
        quantizer.log_scale.fill_(log_scale)
        quantizer.offset.fill_(offset)
    grid = quantizer.grid()
    assert grid.scale > 0 and 0 <= grid.zero_point <= LEVELS
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    y = quantizer(x).detach()
    assert y.isfinite().all()
    steps = y.double() / grid.scale
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    with torch.no_grad():
        assert torch.equal(quantizer(x), y)
        weights = WeightQuantizer(2)
        weights.log_scale.fill_(log_scale)
        assert (weights.scale(2) > 0).all()


def test_training_and_evaluation_round_a_zero_point_alike():
    """Half way between two integers too."""
    for half in (0.5, 1.5, 2.5, 100.5):
        quantizer = ActivationQuantizer("affine")
        with torch.no_grad():
            quantizer.log_scale.fill_(0.0)
            quantizer.offset.fill_(-half)
        x = torch.tensor([[-1000.0, 1000.0]])
        trained = quantizer(x).detach()
        with torch.no_grad():
            assert torch.equal(quantizer(x), trained)
        assert quantizer.grid().zero_point == -trained[0, 0]


def test_negative_zero_points_cannot_be():
    """A range that does not hold zero is widened to it: padding would not be exact otherwise."""
    quantizer = ActivationQuantizer("affine")
    quantizer.set_range(2.0, 5.0)
    assert quantizer.grid().zero_point == 0
    quantizer.set_range(-5.0, -2.0)
    assert quantizer.grid().zero_point == LEVELS
    assert quantizer.grid().scale == pytest.approx(5 / LEVELS)
    quantizer.set_range(0.0, 0.0)  # a tensor that is always zero
    assert quantizer.grid().scale > 0


def test_fixed_grids():
    assert activation_quantizer("hsigmoid").grid() == HSIGMOID_GRID == HSIGMOID_QUANTIZER.grid()
    assert isinstance(activation_quantizer("affine"), ActivationQuantizer)
    assert SIGMOID_QUANTIZER.grid() == SIGMOID_GRID == Grid(1 / 256, 0)
    x = torch.tensor([[-0.5, 0.0, 0.4999, 1.0, 1.5]])
    expected = torch.tensor([[0.0, 0.0, 127 / LEVELS, 1.0, 1.0]])
    assert torch.allclose(HSIGMOID_QUANTIZER(x), expected)
    assert float(SIGMOID_QUANTIZER(torch.ones(1, 1))) == 255 / 256


def test_fixed_quantizers_pass_gradients_inside_their_range():
    x = torch.tensor([[-0.5, 0.3, 0.8, 1.5]], requires_grad=True)
    FixedQuantizer(HSIGMOID_GRID)(x).sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 0]]
    assert not list(FixedQuantizer(HSIGMOID_GRID).parameters())


def test_precisions():
    quantizer = ActivationQuantizer("relu")
    x = torch.randn(2, 3)
    assert fp32(quantizer, x) is x
    assert torch.equal(int8(quantizer, x), quantizer(x))


def test_image_grids():
    """Exact, one level per pixel value, where all channels are normalised alike; else wide enough for all."""
    grid = image_grid([0.0] * 3, [1.0] * 3)
    assert grid == Grid(1 / 255, 0)
    grid = image_grid([51 / 255] * 3, [0.5] * 3)
    pixels = np.arange(256)
    normalised = (pixels / 255 - 51 / 255) / 0.5
    np.testing.assert_allclose(grid.scale * (pixels - grid.zero_point), normalised, atol=1e-12)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    grid = image_grid(mean, std)
    ends = grid.scale * (np.array([0, LEVELS]) - grid.zero_point)
    assert ends[0] <= ((0 - mean) / std).min() + grid.scale and ends[1] >= ((1 - mean) / std).max() - grid.scale


@pytest.mark.parametrize("kind", ["affine", "relu", "relu6"])
def test_a_tensor_of_zeros_gets_a_scale_that_runtimes_take(kind):
    """XNNPACK refuses a layer of which input scale × weight scale is 256 output scales or more."""
    quantizer = ActivationQuantizer(kind)
    quantizer.set_range(0.0, 0.0)
    assert 0.1 * 0.2 / quantizer.grid().scale < 256
