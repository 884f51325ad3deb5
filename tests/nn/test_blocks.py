"""Block types as their plans say: widths, shortcuts, squeeze-and-excitation, chains, and errors."""

import pytest

from spaceevo.errors import ParamsError
from spaceevo.nn.blocks import BLOCKS, block_plan, divisible_by_8
from spaceevo.nn.plan import Add, Conv, Gate, Linear, Pool, plan_cost
from spaceevo.space import BlockChoice, load_hyperspace
from spaceevo.space.hyperspace import SHIPPED

HEAD = ("pool_conv_bn_act", "linear")
WITHOUT_PROJECTION = ("mobilenetv2", "mobilenetv3")


def plan_of(block, in_channels=16, width=24, kernel_size=3, expand=2.0, stride=1, activation="relu"):
    return block_plan(block, activation, in_channels, BlockChoice(kernel_size, width, expand), stride)


def of_kind(plan, kind):
    return [op for op in plan.ops if isinstance(op, kind)]


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 8), (8, 8), (11, 16), (12, 16), (19.9, 24), (20, 24), (100, 104), (1000, 1000)]
)
def test_rounding_to_eight(value, expected):
    """Half up; 11 would become 8, which loses over 10 %, and so goes one step up."""
    assert divisible_by_8(value) == expected


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("block", BLOCKS)
def test_output_width_and_map_size(block, stride):
    for height in (9, 10):
        plan = plan_of(block, stride=stride, kernel_size=5)
        shape = plan.shapes(1 if block == "linear" else height)[plan.output]
        side = 1 if block in HEAD else (height - 1) // stride + 1
        assert shape == (24, side, side)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block not in (*HEAD, "conv_bn_act")])
def test_shortcuts(block):
    """The input itself where shapes agree, else a 1×1 convolution with the stride, else nothing."""
    (identity,) = of_kind(plan_of(block, width=16), Add)
    assert "input" in (identity.input, identity.other)
    for changed in ({"width": 24}, {"width": 16, "stride": 2}):
        plan = plan_of(block, **changed)
        projections = [op for op in of_kind(plan, Conv) if op.output == "shortcut"]
        if block in WITHOUT_PROJECTION:
            assert not projections and not of_kind(plan, Add)
        else:
            (projection,) = projections
            assert (projection.input, projection.kernel_size, projection.activation) == ("input", 1, None)
            assert projection.stride == changed.get("stride", 1)
            assert of_kind(plan, Add)


@pytest.mark.parametrize("block", ["resnet", "resnet_se"])
def test_residual_networks_activate_after_the_sum(block):
    assert of_kind(plan_of(block), Add)[0].activation == "relu"
    assert of_kind(plan_of("mobilenetv2_res"), Add)[0].activation is None


@pytest.mark.parametrize(
    ("block", "width", "reduced"),
    [
        ("mobilenetv3_res", 48, 16),
        ("mobilenetv3", 48, 16),
        ("mobilenetv3_k3_res", 48, 16),
        ("resnet_se", 16, 8),
        ("fused_mbconv_se_res", 48, 8),
    ],
)
def test_squeeze_and_excitation(block, width, reduced):
    """On the expanded channels; reduced to a quarter of them, or of the arriving ones."""
    plan = plan_of(block, in_channels=24, expand=0.5 if block == "resnet_se" else 2.0)
    (gate,), (pool,) = of_kind(plan, Gate), of_kind(plan, Pool)
    reduce, expand = (op for op in of_kind(plan, Conv) if op.bias)
    assert gate.input == pool.input and (reduce.in_channels, expand.out_channels) == (width, width)
    assert (reduce.out_channels, reduce.activation, expand.activation) == (reduced, "relu", "hsigmoid")
    assert reduce.norm is None and expand.norm is None


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("block", ["mobilenetv2_k3_res", "mobilenetv3_k3_res"])
def test_chains(block, kernel_size):
    depthwise = [op for op in of_kind(plan_of(block, kernel_size=kernel_size, stride=2), Conv) if op.groups > 1]
    assert len(depthwise) == (kernel_size - 1) // 2
    assert [op.stride for op in depthwise] == [2] + [1] * (len(depthwise) - 1)
    assert all(op.kernel_size == 3 for op in depthwise)
    assert [op.norm is not None for op in depthwise] == [False] * (len(depthwise) - 1) + [True]
    assert [op.activation for op in depthwise] == [None] * (len(depthwise) - 1) + ["relu"]


def test_an_expand_ratio_of_one_needs_no_expansion():
    assert len(of_kind(plan_of("mobilenetv2", expand=1.0), Conv)) == 2


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_every_block_of_a_hyperspace_is_registered(name):
    hyperspace = load_hyperspace(name)
    types = [*hyperspace.block_types, *(stage.block_type for stage in hyperspace.stages if stage.block_type)]
    assert {block_type.block for block_type in types} <= set(BLOCKS)


def test_the_embedded_hyperspace_has_every_searchable_block():
    searched = {block_type.block for block_type in load_hyperspace("tiny").block_types}
    fixed = {"conv_bn_act", "mobilenetv2", *HEAD}
    assert searched == set(BLOCKS) - fixed


def test_an_unknown_block_lists_those_there_are():
    with pytest.raises(ParamsError, match="no block 'mobilenetv4': use one of conv_bn_act"):
        plan_of("mobilenetv4")


def test_costs_by_hand():
    plan = plan_of("mobilenetv2_res", in_channels=8, width=16, kernel_size=3, expand=2.0, stride=2)
    macs = 8 * 16 * 16 + 8 * 16 * 64 + 9 * 16 * 16 + 16 * 16 * 16  # shortcut, expansion, depthwise, projection
    params = (8 * 16 + 32) + (8 * 16 + 32) + (9 * 16 + 32) + (16 * 16 + 32)
    cost = plan_cost(plan, 8)
    assert (cost.macs, cost.params) == (macs, params)
    linear = plan_cost(plan_of("linear"), 1)
    assert (linear.macs, linear.params) == (16 * 24, 16 * 24 + 24)
    assert len(of_kind(plan_of("linear"), Linear)) == 1


def test_a_plan_that_does_not_fit_its_input_is_refused():
    plan = plan_of("conv_bn_act")
    wrong = type(plan)(8, plan.ops)
    with pytest.raises(ValueError, match="conv expects 16 channels, gets 8"):
        wrong.shapes(8)
