"""A supernet equals every subnet that is extracted from it, bit for bit, in FP32 and in INT8."""

from dataclasses import replace

import pytest
import torch
from made import GRID, covering_spaces, is_quantized, pictures, random_subnets, random_supernet, small_hyperspace

from spaceevo.data.transforms import resize
from spaceevo.nn.initialise import initialise
from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plain import Network
from spaceevo.nn.plan import plan_cost
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.quantizers import fp32, int8
from spaceevo.space import Space, enumerate_spaces, load_hyperspace, parse_space

TINY_SPACES = covering_spaces(load_hyperspace("tiny"), 5)
LARGE_SPACES = ("mobilew-012345-010302", "mobilew-654321-151210", "onnxw-012345-010203", "onnxw-543210-102030")
PIXELS = 32  # of the pictures that the large supernets are run on, in the place of 160 to 224


def assert_equal_to_extracted(supernet, subnets, x):
    for subnet in subnets:
        network = supernet.extract(subnet)
        with torch.no_grad():
            outputs = {}
            for precision in (fp32, int8):
                outputs[precision] = supernet(x, subnet, precision)
                assert torch.equal(outputs[precision], network(x, precision)), subnet.code
        assert outputs[int8].shape == (len(x), supernet.num_classes) and outputs[int8].isfinite().all()
        assert not torch.equal(outputs[fp32], outputs[int8])


@pytest.mark.parametrize("space", TINY_SPACES, ids=lambda space: space.code)
def test_twenty_subnets_of_the_embedded_hyperspace(space):
    x = pictures(2, PIXELS)
    subnets = random_subnets(space, 20, 0)
    supernet = random_supernet(space, 0, x, [space.largest, space.smallest, *subnets[:4]])
    assert_equal_to_extracted(supernet, subnets[:10], x)
    assert_equal_to_extracted(supernet, subnets[10:], x.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("code", LARGE_SPACES)
def test_six_subnets_of_the_published_hyperspaces(code, monkeypatch):
    # Extraction copies every weight, so that what torch draws first only takes time.
    monkeypatch.setattr(torch.nn.Conv2d, "reset_parameters", lambda layer: None)
    space = parse_space(code)
    subnets = [replace(subnet, resolution=PIXELS) for subnet in random_subnets(space, 6, 0)]
    x = pictures(2, PIXELS)
    supernet = random_supernet(space, 0, x, subnets[:2])
    assert_equal_to_extracted(supernet, subnets, x)


@pytest.fixture(scope="module")
def supernet():
    space = TINY_SPACES[1]
    return random_supernet(space, 0, pictures(4, PIXELS), [space.largest, space.smallest, *random_subnets(space, 2, 1)])


def test_pictures_are_resized_to_the_subnets_resolution(supernet):
    x = pictures(2, 40)
    for resolution in supernet.space.hyperspace.resolutions:
        subnet = replace(supernet.space.smallest, resolution=resolution)
        network = supernet.extract(subnet)
        with torch.no_grad():
            assert torch.equal(supernet(x, subnet, int8), supernet(resize(x, resolution), subnet, int8))
            assert torch.equal(supernet(x, subnet, int8), network(x))


def test_a_network_simulates_int8_unless_it_is_told_not_to(supernet):
    network = supernet.extract(supernet.space.largest)
    x = pictures(2, PIXELS)
    with torch.no_grad():
        assert torch.equal(network(x), network(x, int8)) and is_quantized(network, x)
        names = [name for name, _ in network.features(x)]
    stages = [stage.name for stage in supernet.space.hyperspace.stages]
    assert names == stages == list(network.stages) == list(supernet.stages)


def test_an_extracted_network_counts_the_parameters_of_its_plan(supernet):
    for subnet in random_subnets(supernet.space, 5, 2):
        network = supernet.extract(subnet)
        plan = subnet_plan(supernet.space, subnet, supernet.num_classes)
        trained = sum(p.numel() for name, p in network.named_parameters() if "quantizer" not in name)
        assert trained == plan_cost(plan, subnet.resolution).params


def test_dropout_reaches_what_the_last_stage_reads(supernet):
    seen = []

    def dropout(x):
        seen.append(x.shape)
        return torch.zeros_like(x)

    with torch.no_grad():
        logits = supernet(pictures(2, PIXELS), supernet.space.largest, dropout=dropout)
    assert seen == [(2, supernet.space.hyperspace.stages[-2].widths[0], 1, 1)]
    assert torch.equal(logits, supernet.stages["logits"].blocks[0].convs["linear"].bias.expand(2, -1))


def test_gradients_reach_the_parameters_of_a_subnet_alone(supernet):
    """Those of blocks beyond its depth and of shortcuts it has not stay without a gradient."""
    supernet.train()
    subnet = supernet.space.smallest
    supernet(pictures(4, PIXELS), subnet, int8).square().sum().backward()
    used = {
        f"stages.{stage}.blocks.{rest}".replace(".weight_quantizers.", ".convs.")
        for stage, blocks in supernet.extract(subnet).stages.items()
        for rest, _ in blocks.named_parameters()
    }
    reached = {
        name.replace(".quantizer.log_scale", ".log_scale")
        for name, parameter in supernet.named_parameters()
        if parameter.grad is not None
    }
    supernet.zero_grad(set_to_none=True)
    supernet.eval()
    plan = subnet_plan(supernet.space, subnet, supernet.num_classes)
    idle = {op.output for op in plan.ops} - {op.output for op in plan.without_unit_pools(subnet.resolution).ops}
    unread = {
        f"stages.{stage}.blocks.{block}.quantizers.{tensor}.{leaf}"
        for stage, block, tensor in (name.split(".") for name in idle)
        for leaf in ("log_scale", "offset")
    }
    assert reached == used - unread
    assert len(reached) < len(list(supernet.parameters()))


def test_every_space_of_a_small_hyperspace_runs():
    x = pictures(2, 12)
    for space in enumerate_spaces(small_hyperspace()):
        supernet = random_supernet(space, 0, x, [space.largest, space.smallest], num_classes=4)
        assert_equal_to_extracted(supernet, random_subnets(space, 3, 0), x)


def test_initial_weights_depend_on_the_generator_alone():
    space = Space(small_hyperspace(), (0, 2), (1, 0))

    def state(seed):
        supernet = Supernet(space, 4, GRID)
        initialise(supernet, torch.Generator().manual_seed(seed))
        return supernet.state_dict()

    first, again, other = state(0), state(0), state(1)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())
    weight = first["stages.stem.blocks.0.convs.conv.weight"]
    assert float(weight.std()) == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.2)  # He, fan out


def test_a_plain_network_takes_the_weights_of_an_extracted_one(supernet):
    subnet = supernet.space.smallest
    extracted = supernet.extract(subnet)
    network = Network(supernet.space, subnet, supernet.num_classes, GRID).eval()
    network.load_state_dict(extracted.state_dict())
    with torch.no_grad():
        assert torch.equal(network(pictures(2, PIXELS)), extracted(pictures(2, PIXELS)))
