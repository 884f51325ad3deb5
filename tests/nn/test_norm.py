"""BatchNorm with what comes after it in one is BatchNorm, and then the rest, of torch."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef

from spaceevo.nn import norm
from spaceevo.nn.elastic import ElasticNorm
from spaceevo.nn.execute import Then
from spaceevo.nn.norm import LARGE, coded_by_norm, is_worth_it, norm_and_quantize, norm_and_rectify
from spaceevo.nn.processes import batch_norm_over_processes
from spaceevo.quant.quantizers import ActivationQuantizer, fp32, int8

RECTIFIERS = {None: lambda x: x, "relu": F.relu, "relu6": F.relu6}
SHAPES = {"few channels": (3, 7, 9, 5), "many pixels": (4, 48, 40, 40), "more channels than a row": (2, 1300, 5, 5)}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(shape):
    """x far from zero against its deviation, and weights of both signs, of which one is zero."""
    x = (20 + 2 * normal(*shape)).contiguous(memory_format=torch.channels_last)
    weight = normal(shape[1], seed=1)
    weight[0] = 0.0
    return x.requires_grad_(), weight.requires_grad_(), (1 + normal(shape[1], seed=2)).requires_grad_()


def grid(kind):
    quantizer = ActivationQuantizer(kind)
    quantizer.set_range(-1.3, 2.1)
    return quantizer


def apart(x, weight, bias):
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5)


def assert_gradients(y, expected, leaves, unsure):
    """Equal for an upstream gradient that leaves out values which rounding puts on either side of something."""
    upstream = normal(*y.shape, seed=3).masked_fill(unsure, 0.0)
    found, wanted = (torch.autograd.grad(out, leaves, upstream) for out in (y, expected))
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape and one.stride() == other.stride()
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()) + 1e-6)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rectifier", RECTIFIERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_rectifier(monkeypatch, shape, rectifier, threads):
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr(norm, "LEAST", 100)
    leaves = inputs(SHAPES[shape])
    between = apart(*leaves)
    y, expected = norm_and_rectify(*leaves, 1e-5, rectifier), RECTIFIERS[rectifier](between)
    assert torch.allclose(y, expected, atol=1e-4)
    assert_gradients(y, expected, leaves, unsure=(between.abs() < 1e-3) | ((between - 6).abs() < 1e-3))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["affine", "relu", "relu6"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_quantizer(monkeypatch, shape, kind, threads):
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr(norm, "LEAST", 100)
    quantizer, leaves = grid(kind), inputs(SHAPES[shape])
    between = apart(*leaves)
    y, expected = norm_and_quantize(*leaves, 1e-5, quantizer), quantizer(between)
    levels = (between / quantizer.scale()).detach()
    half_way = (levels - levels.floor() - 0.5).abs() < 0.01
    assert torch.allclose(y[~half_way], expected[~half_way], atol=1e-6) and half_way.double().mean() < 0.03
    assert torch.equal(coded_by_norm(y).tensor(y.shape, y.stride()), y)
    assert_gradients(y, expected, [*leaves, *quantizer.parameters()], half_way | (levels.abs() < 0.01))


def test_what_is_not_a_number_stays_so():
    x, weight, bias = inputs(SHAPES["few channels"])
    with torch.no_grad():
        x[0, 1, 0, 0] = float("nan")
    for y in (norm_and_rectify(x, weight, bias, 1e-5, "relu6"), norm_and_quantize(x, weight, bias, 1e-5, grid("relu"))):
        assert y.isnan().any((0, 2, 3)).tolist() == [c == 1 for c in range(7)] and y[:, 1].isnan().all()
    x, weight, bias = inputs(SHAPES["few channels"])
    for parameter in ("log_scale", "offset"):
        quantizer = grid("affine")
        with torch.no_grad():
            getattr(quantizer, parameter).fill_(float("nan"))
        assert norm_and_quantize(x, weight, bias, 1e-5, quantizer).isnan().all()


def test_what_comes_out_of_the_norm_is_not_kept():
    leaves = inputs(SHAPES["many pixels"])
    y = norm_and_quantize(*leaves, 1e-5, grid("relu"))
    total, memory = y.mean(), StorageWeakRef(y.untyped_storage())
    del y
    gc.collect()  # compiling the loops at their first call may have left frames in cycles
    assert memory.expired() and torch.isfinite(torch.autograd.grad(total, leaves)[0]).all()


def test_when_it_is_worth_it():
    x = normal(4, 64, 64, 64).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert x.numel() == LARGE and is_worth_it(x)
    assert not any(is_worth_it(other) for other in (x[1:], x.detach(), x.double(), x.contiguous()))
    elastic, then = ElasticNorm(64).train(), Then("relu6", grid("relu6"))
    node = {precision: elastic.and_then(x, precision, then).grad_fn.name() for precision in (fp32, int8)}
    assert node == {fp32: "_NormAndRectifyBackward", int8: "_NormAndQuantizeBackward"}
    assert "Norm" not in elastic.and_then(x, lambda _, y: y + 0, then).grad_fn.name()  # a precision that looks on
    assert "Norm" not in elastic.eval().and_then(x, int8, then).grad_fn.name()


@pytest.mark.parametrize("then", [Then("relu6", grid("relu6")), Then(None, grid("affine"))])
def test_an_elastic_norm_gives_the_same_in_one(monkeypatch, then):
    x, weight, bias = inputs((4, 48, 40, 40))
    elastic = ElasticNorm(64).train()
    with torch.no_grad():
        elastic.weight[:48], elastic.bias[:48] = weight, bias
    apart = {precision: elastic.and_then(x, precision, then) for precision in (fp32, int8)}
    monkeypatch.setattr(norm, "LARGE", 1)
    assert torch.allclose(elastic.and_then(x, fp32, then), apart[fp32], atol=1e-4)
    steps = ((elastic.and_then(x, int8, then) - apart[int8]).abs() / then.quantizer.scale()).detach()
    assert float(steps.max()) < 1.01 and float((steps > 0.01).double().mean()) < 1e-3  # half-way between two levels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_that_processes_share_is_torchs_where_one_has_all(dtype):
    """Statistics are in float32 whatever the type, which bfloat16 would round to three digits."""
    x, weight, bias = inputs((16, 12, 6, 6))
    x = x.detach().to(dtype)
    found = batch_norm_over_processes(x, weight, bias, 1e-5)
    expected = F.batch_norm(x.float(), None, None, weight, bias, training=True, eps=1e-5)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype), rtol=1e-5 if dtype == torch.float32 else 2**-7, atol=1e-5)
