"""Grids of published checkpoints: which tensors they carry over to, found by running subnets as much as by plans."""

import pytest
import torch
from made import GRID, covering_spaces, pictures, random_subnets, randomise
from published import published_state

from spaceevo.nn.elastic import ElasticConv
from spaceevo.nn.published import published_name
from spaceevo.nn.published_grids import learned_grids, tensor_readers
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.quantizers import ActivationQuantizer
from spaceevo.space import load_hyperspace, parse_space

SPACES = [space.code for space in covering_spaces(load_hyperspace("tiny"), 3)]
CLASSES = 4


def made(code):
    space = parse_space(code)
    supernet = Supernet(space, CLASSES, GRID).eval()
    randomise(supernet, 0)
    return space, supernet


def readers_by_running(supernet, subnets):
    """Which convolutions get each quantizer's output itself, in some subnet."""
    names = {module: name for name, module in supernet.named_modules()}
    made_by, found = {}, {}

    def precision(quantizer, x):
        if isinstance(quantizer, ActivationQuantizer):
            x = x.clone()  # an object of its own
            made_by[id(x)] = names[quantizer]
            alive.append(x)
        return x

    def hook(module, arguments):
        x = arguments[0]
        source = made_by.get(id(x if x._base is None else x._base))
        if source is not None:
            found.setdefault(source, set()).add(names[module])

    handles = [m.register_forward_pre_hook(hook) for m in supernet.modules() if isinstance(m, ElasticConv)]
    with torch.no_grad():
        for subnet in subnets:
            alive = []
            supernet(pictures(1, subnet.resolution), subnet, precision)
            made_by.clear()
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("code", SPACES)
def test_readers_are_those_of_running_subnets(code):
    space, supernet = made(code)
    found = readers_by_running(supernet, [space.largest, space.smallest, *random_subnets(space, 40, 0)])
    readers = tensor_readers(space, CLASSES)
    compared = [tensor for tensor in found if None not in readers[tensor]]
    assert len(compared) > 10
    for tensor in compared:
        assert found[tensor] == readers[tensor], tensor


@pytest.mark.parametrize("code", SPACES)
def test_tensors_that_convolutions_alone_read_take_over_their_range(code):
    space, supernet = made(code)
    x = pictures(4, 32)
    state = published_state(supernet, x, [space.largest, space.smallest, *random_subnets(space, 8, 0)])
    grids = learned_grids(state, space, CLASSES)
    quantizers = {name for name, module in supernet.named_modules() if isinstance(module, ActivationQuantizer)}
    layers = {name for name, module in supernet.named_modules() if isinstance(module, ElasticConv)}
    readers = tensor_readers(space, CLASSES)
    assert 10 < len(grids.activations.keys() & quantizers) < len(quantizers)
    assert grids.weights.keys() <= layers and len(grids.weights) > 0.8 * len(layers)
    for tensor, (low, high) in grids.activations.items():
        assert None not in readers[tensor]
        for layer in readers[tensor]:
            name = published_name(f"{layer}.weight").removesuffix("weight")
            beta, end = float(state[f"{name}beta"]), float(state[f"{name}beta"] + 255 * state[f"{name}sa"])
            assert abs(low - beta) <= 0.05 * (end - beta) and abs(high - end) <= 0.05 * (end - beta)


def consumers_of(state, space, count):
    """A tensor that `count` convolutions alone read, and their published names."""
    for tensor, layers in tensor_readers(space, CLASSES).items():
        if None not in layers and len(layers) == count:
            return tensor, [published_name(f"{layer}.weight").removesuffix("weight") for layer in sorted(layers)]
    raise AssertionError("there is no such tensor")


def test_consumers_must_agree():
    space, supernet = made(SPACES[0])
    state = published_state(supernet, pictures(4, 32), [space.largest, space.smallest, *random_subnets(space, 20, 0)])
    tensor, (first, second) = consumers_of(state, space, 2)
    for name, sa, beta in ((first, 0.1, -1.0), (second, 0.102, -1.2)):
        state |= {
            f"{name}sw": torch.tensor([0.1]),
            f"{name}sa": torch.tensor([sa]),
            f"{name}beta": torch.tensor([beta]),
        }
    low, high = learned_grids(state, space, CLASSES).activations[tensor]
    assert low == pytest.approx(-1.1) and high == pytest.approx(-1.1 + 255 * 0.101)
    state[f"{second}sa"] = torch.tensor([0.2])
    assert tensor not in learned_grids(state, space, CLASSES).activations


def test_the_sign_of_a_scale_does_not_matter_and_an_unused_one_is_none():
    space, supernet = made(SPACES[0])
    state = published_state(supernet, pictures(4, 32))
    tensor, (name,) = consumers_of(state, space, 1)
    grid = {f"{name}sw": torch.tensor([-0.5]), f"{name}sa": torch.tensor([-0.25]), f"{name}beta": torch.tensor([-3.0])}
    grids = learned_grids(state | grid, space, CLASSES)
    assert grids.activations[tensor] == (-3.0, -3.0 + 255 * 0.25)
    layer = next(layer for layer in tensor_readers(space, CLASSES)[tensor])
    assert grids.weights[layer] == 0.5
    for sw, sa in ((1.0, 1.0), (0.0, 0.0)):
        unused = {f"{name}sw": torch.tensor([sw]), f"{name}sa": torch.tensor([sa]), f"{name}beta": torch.zeros(1)}
        grids = learned_grids(state | unused, space, CLASSES)
        assert tensor not in grids.activations and layer not in grids.weights


def test_an_fp32_checkpoint_has_no_grids():
    space, supernet = made(SPACES[0])
    grids = learned_grids(published_state(supernet), space, CLASSES)
    assert not grids.weights and not grids.activations
