"""Training on a GPU: the same numbers as on a CPU, and nothing in a step that waits for the GPU."""

import copy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from made import GRID, made_split, small_hyperspace
from torch.nn.functional import cross_entropy

from spaceevo.artifacts import Record
from spaceevo.config import Recipe, Sandwich
from spaceevo.data.loader import materialise
from spaceevo.nn.convolution import conv2d
from spaceevo.nn.initialise import initialise
from spaceevo.nn.layout import images_on
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.quantizers import ActivationQuantizer, fp32, int8
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.space import Space
from spaceevo.train.loop import Task, back_propagate, trained_parameters
from spaceevo.train.supernet import calibrate_supernet, sandwich_objective, train_fp32, train_int8

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.01, weight_decay=0.01)  # 8 steps
SANDWICH = Sandwich(random_subnets=2, largest_alone=0.25, label_smoothing=0.1)


@pytest.fixture
def task(tmp_path):
    return Task("supernet", made_split(), 12, 0, tmp_path / "checkpoint.safetensors", checkpoint_steps=3)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Convolutions in float32, not in TF32, which has ten bits of mantissa."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def made_supernet():
    supernet = Supernet(Space(small_hyperspace(), (0, 2), (1, 0)), 4, GRID)
    initialise(supernet, torch.Generator().manual_seed(0))
    return supernet


def difference(found, expected):
    """Norm of the difference relative to what is expected."""
    return float((found.cpu() - expected).norm() / expected.norm().clamp(min=1e-12))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["affine", "relu", "relu6"])
def test_quantizers(kind, memory_format):
    quantizer = ActivationQuantizer(kind)
    quantizer.set_range(-1.3, 4.1)
    x, upstream = torch.randn(2, 8, 6, 5, 7, generator=torch.Generator().manual_seed(0)).unbind()
    found = {}
    for device in ("cpu", "cuda"):
        there = copy.deepcopy(quantizer).to(device)
        leaf = (2 * x).to(device).contiguous(memory_format=memory_format).requires_grad_()
        y = there(leaf)
        y.backward(upstream.to(device))
        found[device] = [y.detach(), leaf.grad, *(parameter.grad for parameter in there.parameters())]
        assert y.stride() == leaf.stride()
    for there, here in zip(found["cuda"], found["cpu"], strict=True):
        assert difference(there, here) < 1e-5


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (5, 2), (7, 1)])
def test_depthwise_convolutions(kernel_size, stride, bf16):
    generator = torch.Generator().manual_seed(0)
    x = images_on(torch.randn(4, 24, 9, 8, generator=generator), torch.device("cuda")).requires_grad_()
    weight = torch.randn(24, 1, kernel_size, kernel_size, generator=generator).cuda().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
        y = conv2d(x, weight, None, stride, 24)
    assert y.dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert y.is_contiguous(memory_format=torch.channels_last)
    upstream = torch.randn(y.shape, generator=generator)
    here = x.detach().cpu().requires_grad_(), weight.detach().cpu().requires_grad_()
    y_here = conv2d(*here, None, stride, 24)
    found = y.detach(), *torch.autograd.grad(y, (x, weight), upstream.to(y))
    expected = y_here.detach(), *torch.autograd.grad(y_here, here, upstream)
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours, theirs) < (1e-2 if bf16 else 1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [(fp32, 1e-4), (int8, 3e-2)])  # int8: some roundings flip
def test_gradients_of_a_supernet(task, precision, tolerance):
    supernet = made_supernet()
    calibrate_supernet(supernet, task, 16, 2)
    x = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    y = torch.arange(16) % 4
    gradients = {}
    for device in ("cpu", "cuda"):
        there = copy.deepcopy(supernet).to(device).train()
        images = images_on(x, torch.device(device))
        cross_entropy(there(images, supernet.space.largest, precision), y.to(device)).backward()
        gradients[device] = torch.cat([p.grad.flatten().cpu() for p in there.parameters() if p.grad is not None])
    assert difference(gradients["cuda"], gradients["cpu"]) < tolerance


@pytest.mark.parametrize("precision", [fp32, int8])
def test_nothing_in_a_step_waits(precision):
    """No part of a step asks the GPU for a number; the loop alone does, once per step."""
    supernet = made_supernet().cuda().train()
    sandwich = SANDWICH.model_copy(update={"dropout": 0.2})
    objective = sandwich_objective(supernet, sandwich, precision, 0)
    x = torch.randn(16, 3, 12, 12, device="cuda")
    y = (torch.arange(16) % 4).cuda()
    back_propagate(objective(0, x, y), trained_parameters)  # fills caches
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        back_propagate(objective(0, x, y), trained_parameters)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("bf16", [False, True])
def test_both_phases_learn_and_subnets_are_evaluated(task, bf16):
    supernet = made_supernet()
    accelerator = Accelerator()
    fp32_recipe = RECIPE.model_copy(update={"epochs": 12, "bf16": bf16})
    train_fp32(supernet, SANDWICH, fp32_recipe, task.phase("fp32"), Record({}), accelerator)
    train_int8(supernet, SANDWICH, RECIPE, task.phase("int8"), 2, Record({}), accelerator)
    assert all(parameter.is_cuda and parameter.dtype == torch.float32 for parameter in supernet.parameters())
    x, y = materialise(task.split, 12)
    evaluator = SubnetEvaluator(supernet, x, x, y)
    assert evaluator.accuracy(supernet.space.largest, int8) > 0.5  # by chance 0.25


def test_a_killed_run_ends_with_the_same_weights(task, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    whole, resumed = made_supernet(), made_supernet()
    train_fp32(whole, SANDWICH, RECIPE, replace(task, checkpoint=tmp_path / "whole"), Record({}), Accelerator())

    class KilledError(Exception):
        """Stands for a kill."""

    seen = []

    def note(module, args):
        seen.append(args)
        if len(seen) == 14:  # in the fifth step: two of one subnet, then of four
            raise KilledError

    handle = resumed.register_forward_pre_hook(note)
    with pytest.raises(KilledError):
        train_fp32(resumed, SANDWICH, RECIPE, task, Record({}), Accelerator())
    handle.remove()
    assert task.checkpoint.is_file()
    again, before = made_supernet(), len(seen)
    again.register_forward_pre_hook(lambda module, args: seen.append(args))
    train_fp32(again, SANDWICH, RECIPE, task, Record({}), Accelerator())
    assert 0 < len(seen) - before < 2 + 6 * 4  # passes of a whole run
    state = whole.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.allclose(tensor, state[name], rtol=1e-3, atol=1e-5), name
