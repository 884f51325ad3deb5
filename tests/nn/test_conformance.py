"""The published networks: their MACs, parameters and convolutions exactly, and their logits in FP32.

Every parameter of a published checkpoint is given the deterministic value with which the published logits were
computed, and loaded here under its published name.
"""

import importlib.util
import json
from functools import cache

import numpy as np
import pytest
import torch
from made import GRID, REFERENCE, reference

from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import layers, plan_cost
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.quantizers import fp32
from spaceevo.space import parse_space

CLASSES = 1000
SE_LAYERS = {"se_reduce": "se.fc.reduce", "se_expand": "se.fc.expand"}
QUANTIZER_LEAVES = ("sw", "sa", "beta", "num_batches_tracked")
SLOW = ("SEQnet@pixel4-A1", "SEQnet@pixel4-A2", "SEQnet@vnni-A1", "SEQnet@vnni-A2")  # they add no block type


@cache
def cases():
    """The published networks by name: of the file's parts `subnets` and `every_block`."""
    path = REFERENCE / "conformance.json"
    parts = json.loads(path.read_text()).values() if path.is_file() else [{"none": None}]
    return {name: case for part in parts for name, case in part.items()}


def fill(name, shape):
    """The deterministic value of a published parameter."""
    spec = importlib.util.spec_from_file_location("fill", reference("fill.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return torch.from_numpy(np.asarray(module.fill(name, tuple(shape))))


def published_name(ours: str) -> str:
    """The name of a supernet's parameter in published checkpoints."""
    _, stage, _, block, kind, layer, leaf = ours.split(".")
    published = {"shortcut": "downsample", **SE_LAYERS}.get(layer, layer)
    if kind == "norms":
        published += ".norm"
    elif layer[:-1] == "depth_conv_":  # a chain
        published = f"depth_conv.dwconv.dwconv{layer[-1]}"
    elif layer.startswith("depth_conv"):
        published += ".dwconv"
    elif layer not in (*SE_LAYERS, "linear"):
        published += ".conv"
    return f"stages.{stage}.blocks.{block}.{published}.{leaf}"


@torch.no_grad()
def load_published(supernet: Supernet, shapes: dict[str, list[int]]) -> set[str]:
    """Fill a supernet; returns the published names that were used.

    Published supernets keep more arriving channels than a space's windows can send: the first ones are taken.
    """
    used = set()
    state = supernet.state_dict()
    for ours, tensor in state.items():
        if "quantizer" in ours:
            continue
        name = published_name(ours)
        assert all(mine <= theirs for mine, theirs in zip(tensor.shape, shapes[name], strict=True)), ours
        tensor.copy_(fill(name, shapes[name])[tuple(slice(0, size) for size in tensor.shape)])
        used.add(name)
    supernet.load_state_dict(state)
    return used


@pytest.mark.parametrize("name", cases())
def test_costs_and_convolutions(name):
    reference("conformance.json")
    case = cases()[name]
    space = parse_space(case["space"])
    subnet = space.subnet(case["subnet"])
    plan = subnet_plan(space, subnet, CLASSES)
    assert case.get("resolution", subnet.resolution) == subnet.resolution
    cost = plan_cost(plan, subnet.resolution)
    for key, value in (("macs", cost.macs), ("params", cost.params)):
        if key in case:
            assert value == case[key]
    if "convs" in case:
        assert [list(layer) for layer in layers(plan, subnet.resolution)] == case["convs"]


def test_most_networks_come_with_their_costs():
    reference("conformance.json")
    assert sum({"macs", "params", "convs"} <= case.keys() for case in cases().values()) >= 6


@pytest.mark.parametrize("name", [name for name in cases() if name not in SLOW])
def test_logits(name):
    case = cases()[name]
    shapes = json.loads(reference("parameter_names.json").read_text())[case["space"]]
    space = parse_space(case["space"])
    subnet = space.subnet(case["subnet"])
    supernet = Supernet(space, CLASSES, GRID).eval()
    used = load_published(supernet, shapes)
    needed = {parameter for parameter in shapes if parameter.rsplit(".", 1)[1] not in QUANTIZER_LEAVES}
    # The published supernets hold an expanding convolution in stage0, which an expand ratio of 1 never uses.
    assert all(parameter.startswith("stages.stage0.") and "point_conv1" in parameter for parameter in needed - used)
    x = fill("input", (2, 3, subnet.resolution, subnet.resolution))
    with torch.no_grad():
        logits = supernet(x, subnet)
        assert torch.equal(logits, supernet.extract(subnet)(x, fp32))
    expected = np.array(case["logits16"])
    found = logits.flatten()[: len(expected)].numpy()
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-4
    assert logits.argmax(1).tolist() == case["argmax"]
    assert float(logits[0].norm()) == pytest.approx(case["norm"], rel=1e-4)
