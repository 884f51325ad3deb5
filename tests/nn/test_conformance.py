"""The published networks: their MACs, parameters and convolutions exactly, and their logits in FP32.

Every parameter of a published checkpoint is given the deterministic value with which the published logits were
computed, and the checkpoint is imported as any other.
"""

import importlib.util
import json
from functools import cache

import numpy as np
import pytest
import torch
from made import REFERENCE, reference

from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import Conv, plan_cost
from spaceevo.quant.quantizers import fp32
from spaceevo.space import parse_network, parse_space
from spaceevo.train.published import image_spec, import_fp32, open_checkpoint

CLASSES = 1000


@cache
def cases():
    """The published networks by name: of the file's parts `subnets` and `every_block`."""
    path = REFERENCE / "conformance.json"
    parts = json.loads(path.read_text()).values() if path.is_file() else [{"none": {}}]
    return {name: case for part in parts for name, case in part.items()}


def fill(name, shape):
    """The deterministic value of a published parameter."""
    spec = importlib.util.spec_from_file_location("fill", reference("fill.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return torch.from_numpy(np.asarray(module.fill(name, tuple(shape))))


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Supernets made by the importer of checkpoints of deterministic values, one at a time: they are large."""
    folder = tmp_path_factory.mktemp("checkpoints")
    kept = {}

    def supernet(code):
        if code not in kept:
            kept.clear()
            shapes = json.loads(reference("parameter_names.json").read_text())[code]
            path = folder / "checkpoint.pth"
            torch.save({"state_dict": {f"module.{name}": fill(name, shape) for name, shape in shapes.items()}}, path)
            checkpoint = open_checkpoint(path, parse_space(code))
            assert checkpoint.num_classes == CLASSES
            kept[code] = import_fp32(checkpoint, image_spec(checkpoint, None))
        return kept[code]

    return supernet


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
        shapes = plan.shapes(subnet.resolution)
        convs = [
            [op.in_channels, op.out_channels, op.kernel_size, op.stride, op.groups, shapes[op.output].height]
            for op in plan.ops
            if isinstance(op, Conv)
        ]
        assert convs == case["convs"]


def test_every_network_comes_with_its_costs():
    reference("conformance.json")
    assert len(cases()) == 14
    assert all({"macs", "params", "logits16", "argmax", "norm"} <= case.keys() for case in cases().values())
    assert {name for name, case in cases().items() if "convs" in case} == {n for n in cases() if "@" in n}


@pytest.mark.parametrize("name", [name for name in cases() if "@" in name])
def test_a_name_stands_for_its_codes(name):
    space, subnet = parse_network(name)
    assert (space.code, subnet.code) == (cases()[name]["space"], cases()[name]["subnet"])


@pytest.mark.parametrize("name", sorted(cases(), key=lambda name: cases()[name].get("space", "")))
def test_logits(name, imported):
    reference("conformance.json")
    case = cases()[name]
    space = parse_space(case["space"])
    subnet = space.subnet(case["subnet"])
    supernet = imported(case["space"])
    assert subnet.code == case["subnet"] and supernet.space == space
    x = fill("input", (2, 3, subnet.resolution, subnet.resolution))
    with torch.no_grad():
        logits = supernet(x, subnet)
        assert torch.equal(logits, supernet.extract(subnet)(x, fp32))
    expected = np.array(case["logits16"])
    found = logits.flatten()[: len(expected)].numpy()
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-4
    assert logits.argmax(1).tolist() == case["argmax"]
    assert float(logits[0].norm()) == pytest.approx(case["norm"], rel=1e-4)
