"""Kernels of plans, and features that only grow."""

import numpy as np
import pytest

from spaceevo.latency.features import SIZES, Terms, family_features, fitted_features, kernel_sizes, parse_feature
from spaceevo.latency.kernels import Kernel, kernels
from spaceevo.nn.blocks import block_plan
from spaceevo.space import BlockChoice, load_hyperspace

FAMILIES = ("conv", "stem", "depthwise", "dense", "se", "pool", "add", "gate", "swish", "hswish", "input", "output")


def test_kernels_of_a_block_with_squeeze_and_excitation():
    plan = block_plan("mobilenetv3_res", "swish", 16, BlockChoice(5, 24, 3.0), 2)
    assert kernels(plan, 32) == (
        Kernel("conv", 16, 24, 32, 1, 2),
        Kernel("conv", 16, 48, 32, 1, 1),
        Kernel("swish", 48, 48, 32),
        Kernel("depthwise", 48, 48, 32, 5, 2),
        Kernel("swish", 48, 48, 16),
        Kernel("pool", 48, 48, 16),
        Kernel("se", 48, 16, 1),
        Kernel("se", 16, 48, 1),
        Kernel("gate", 48, 48, 16),
        Kernel("conv", 48, 24, 16, 1, 1),
        Kernel("add", 24, 24, 16),
    )


def test_kinds_tell_kernel_sizes_and_strides_apart():
    kinds = {Kernel("depthwise", 8, 8, 8, k, s).kind for k in (3, 5, 7) for s in (1, 2)}
    assert len(kinds) == 6 and Kernel("depthwise", 8, 8, 8, 5, 2).kind == "depthwise5_s2"


@pytest.mark.parametrize("block_type", load_hyperspace("tiny").block_types, ids=lambda block_type: block_type.block)
def test_every_operation_of_a_plan_is_a_kernel(block_type):
    choice = BlockChoice(block_type.kernels[-1], 24, block_type.expands[-1])
    plan = block_plan(block_type.block, block_type.activation, 16, choice, 2)
    smooth = sum(getattr(op, "activation", None) in ("swish", "hswish") for op in plan.ops)
    assert len(kernels(plan, 16)) == len(plan.ops) + smooth


@pytest.mark.parametrize("family", FAMILIES)
def test_every_feature_grows_with_channels_and_map_size(family):
    terms = Terms(family_features(family).values())
    rng = np.random.default_rng(0)
    for _ in range(200):
        channels, out_channels, height, more_in, more_out, higher = (int(n) for n in rng.integers(1, 300, 6))
        if family not in ("conv", "stem", "dense", "se"):
            out_channels, more_out = channels, more_in
        smaller = Kernel(family, channels, out_channels, height, 3)
        bigger = Kernel(family, channels + more_in, out_channels + more_out, height + higher, 3)
        small, big = terms([smaller, bigger])
        assert (big >= small).all() and (small >= 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_feature_names_are_unique(family):
    features = family_features(family)
    assert len(features) == len({feature.name for feature in features.values()}) and len(features) > 10


def test_ramps_between_knots_add_up_to_the_size():
    features = family_features("conv")
    ramps = [feature for name, feature in features.items() if name.startswith("macs[")]
    kernel = Kernel("conv", 48, 96, 14, 3)
    assert Terms(ramps)([kernel]).sum() == pytest.approx(48 * 96 * 9 * 14 * 14)


def test_steps_jump_at_their_knot():
    step = family_features("se")["weights[1048575,1048576]"]
    below, at = Terms([step])([Kernel("se", 1 << 10, (1 << 10) - 1, 1), Kernel("se", 1 << 10, 1 << 10, 1)])
    assert (below, at) == (0, 1)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_says_all_that_a_feature_is(family, fine):
    for name, feature in family_features(family, fine).items():
        assert parse_feature(name) == feature


@pytest.mark.parametrize("name", ["moon_phase", "macs[1,two]", "moon_phase*macs", "macs*", "[1,2]", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="no feature"):
        parse_feature(name)


def test_fitted_features_do_not_end_where_the_kernels_do():
    many = [Kernel("conv", c, c, height, 3) for c in (16, 64) for height in (7, 14)]
    features = fitted_features(many, fine=True)
    ramps = [feature for feature in features.values() if feature.high - feature.low > 1]
    sizes = dict(zip(SIZES, kernel_sizes(many).max(axis=0), strict=True))
    assert all(feature.low <= sizes[feature.size] / 2 for feature in ramps)
    last = max((f for f in ramps if (f.size, f.times) == ("out_pixels", "weights")), key=lambda f: f.low)
    assert last == ("out_pixels", 64.0, float("inf"), "weights")  # of maps up to 196 pixels


def test_work_in_tiles_is_that_of_the_next_whole_tile():
    sizes = dict(zip(SIZES, kernel_sizes([Kernel("conv", 80, 72, 7, 3)])[0], strict=True))
    assert sizes["macs"] == 49 * 9 * 80 * 72
    assert sizes["macs_4x8"] == 52 * 9 * 80 * 72 and sizes["macs_16x16"] == 64 * 9 * 80 * 80
    assert sizes["macs_16x64"] == 64 * 9 * 80 * 128 and sizes["macs_16x64_64"] == 64 * 9 * 128 * 128
