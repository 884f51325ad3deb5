"""Gradients are the same where inputs are kept as codes, and the inputs' memory is free meanwhile."""

import gc
from contextlib import nullcontext

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from spaceevo.nn import kept, norm
from spaceevo.nn.convolution import conv2d
from spaceevo.nn.initialise import initialise
from spaceevo.nn.kept import kept_as_codes
from spaceevo.nn.norm import norm_and_quantize
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.codes import encode, new_codes
from spaceevo.quant.fake_quantize import grid_of
from spaceevo.quant.grids import image_grid
from spaceevo.quant.quantizers import ActivationQuantizer, WeightQuantizer, fp32, int8
from spaceevo.space import parse_space


@pytest.fixture
def any_size(monkeypatch):
    """Every tensor is worth it, however small."""
    for module in (kept, norm):
        monkeypatch.setattr(module, "LARGE", 1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures():
    return normal(4, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()


def affine():
    quantizer = ActivationQuantizer("affine")
    quantizer.set_range(-1.7, 2.3)
    return quantizer


CONVOLUTIONS = {"product": ((12, 8, 1, 1), 1), "depthwise": ((8, 1, 5, 5), 8), "dense": ((6, 8, 3, 3), 1)}
SOURCES = {
    "quantizer": lambda x, quantizer: quantizer(x),
    "norm and quantizer": lambda x, quantizer: norm_and_quantize(x, torch.ones(8), torch.zeros(8), 1e-5, quantizer),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(any_size, case, source):
    shape, groups = CONVOLUTIONS[case]
    x, quantizer, weight = pictures(), affine(), normal(*shape, seed=1).requires_grad_()
    memory_is_free, gradients = [], []
    for keeping in (kept_as_codes, lambda _: nullcontext()):
        y = SOURCES[source](x, quantizer)
        with keeping(y):
            out = conv2d(y, weight, None, 1, groups)
        memory = StorageWeakRef(y.untyped_storage())
        del y
        gc.collect()  # compiling the loops at their first call may have left frames in cycles
        memory_is_free.append(memory.expired())
        gradients.append(torch.autograd.grad(out.square().sum(), [x, weight, *quantizer.parameters()]))
    assert memory_is_free == [True, False]
    assert all(a.stride() == b.stride() and torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_both_sides_of_a_product(any_size):
    x, (one, other), gradients = pictures(), (affine(), affine()), []
    for keeping in (kept_as_codes, lambda *_: nullcontext()):
        left, right = one(x), other(x.sigmoid())
        with keeping(left, right):
            y = left * right
        gradients.append(torch.autograd.grad(y.square().sum(), [x, *one.parameters(), *other.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_rest_is_kept_as_it_is(any_size):
    x = pictures()
    weight = WeightQuantizer(8)(normal(8, 8, 1, 1))  # a grid per channel
    for other in (x, x.relu(), affine()(x).relu(), weight):
        assert isinstance(kept_as_codes(other), nullcontext)
    with torch.no_grad():
        assert grid_of(affine()(x)) is None
    assert grid_of(affine()(x.detach())) is not None  # for its scale is learned


def test_small_tensors_are_kept_as_they_are():
    assert isinstance(kept_as_codes(affine()(pictures())), nullcontext)


@pytest.mark.parametrize("zero_point", [0, 37, 255])
def test_codes_come_back_to_the_last_bit(zero_point):
    scale = 0.0123456789
    y = (torch.arange(256) - zero_point).float() * torch.tensor(scale)
    coded = encode(y, float(torch.tensor(scale)), -zero_point)
    assert coded.codes.tolist() == list(range(256))
    assert torch.equal(coded.tensor(y.shape, y.stride()), y)


def test_memory_of_codes_is_used_again():
    first, second = new_codes(5_000_000), new_codes(5_000_000)
    addresses = {codes.__array_interface__["data"][0] for codes in (first, second)}
    assert len(addresses) == 2
    del first, second
    again = [new_codes(4_000_000), new_codes(4_500_000)]
    assert {codes.__array_interface__["data"][0] for codes in again} == addresses
    again[0][:] = 1
    again[1][:] = 2
    assert again[0].min() == again[0].max() == 1


CODES = ["tiny-0123-0000", "tiny-4567-0000", "tiny-8998-0000"]  # all block types


def loss_and_gradients(code, precision):
    space = parse_space(code)
    supernet = Supernet(space, 10, image_grid([0.5] * 3, [0.25] * 3)).train()
    initialise(supernet, torch.Generator().manual_seed(0))
    x = normal(4, 3, 24, 24).contiguous(memory_format=torch.channels_last)
    calibrate(supernet, [lambda p: supernet(x, space.largest, p)], torch.Generator().manual_seed(0))
    loss = supernet(x, space.largest, precision).square().mean()
    found = torch.autograd.grad(loss, list(supernet.parameters()), allow_unused=True)
    return loss.detach(), torch.cat([g.flatten() for g in found if g is not None])


@pytest.mark.parametrize("code", CODES)
def test_supernets_learn_the_same_from_codes(monkeypatch, code):
    expected = loss_and_gradients(code, int8)
    kept_now = []
    monkeypatch.setattr(kept, "LARGE", 1)
    monkeypatch.setattr(kept, "encode", lambda *args: kept_now.append(encode(*args)) or kept_now[-1])
    found = loss_and_gradients(code, int8)
    assert len(kept_now) > 10 and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("code", CODES)
def test_supernets_learn_the_same_with_norms_in_one(monkeypatch, code):
    """In FP32: with quantizers, a value half-way between levels that falls to another side changes all that follow."""
    loss, gradients = loss_and_gradients(code, fp32)
    monkeypatch.setattr(norm, "LARGE", 1)
    own_loss, found = loss_and_gradients(code, fp32)
    assert float((own_loss - loss).abs() / loss) < 1e-5
    assert 0 < float((found - gradients).norm() / gradients.norm()) < 1e-4
