"""Codes of spaces and subnets: they round-trip, and a wrong one is an error that names what is wrong."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import REFERENCE, declared, reference, small_hyperspace

from spaceevo.errors import CodeError, ParamsError
from spaceevo.space import (
    BlockChoice,
    Space,
    count_spaces,
    enumerate_spaces,
    format_stage,
    load_hyperspace,
    parse_hyperspace,
    parse_space,
    parse_stage,
    parse_subnet,
    sample_space,
    sample_stage,
    sample_subnet,
)
from spaceevo.space.hyperspace import SHIPPED

HYPERSPACES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
SPACE = Space(small_hyperspace(), (0, 1), (0, 0))
SUBNET = "d1#1#1_k3#5#3_w8#16#24_e0#0#2.0_r8"
NAMED_SPACES = (
    "mobilew-122222-155400",
    "mobilew-332160-134200",
    "mobilew-112220-154410",
    "onnxw-151122-023231",
    "onnxw-121122-133333",
)
seeds = st.integers(0, 2**32 - 1)


def test_the_hyperspaces_that_are_shipped():
    assert {"mobilew", "onnxw", "small", "tiny"} <= set(HYPERSPACES)


@pytest.mark.parametrize("code", NAMED_SPACES)
def test_named_spaces_are_read(code):
    assert parse_space(code).code == code


def published():
    """Names of the published codes, or one that skips."""
    path = REFERENCE / "published_codes.json"
    return sorted(json.loads(path.read_text())) if path.is_file() else ["none"]


@pytest.mark.parametrize("name", published())
def test_published_codes_round_trip(name):
    codes = json.loads(reference("published_codes.json").read_text())[name]
    space = parse_space(codes["space"])
    assert space.code == codes["space"]
    assert space.subnet(codes["subnet"]).code == codes["subnet"]


@pytest.mark.parametrize("name", HYPERSPACES)
@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_random_codes_round_trip(name, seed):
    rng = np.random.default_rng(seed)
    space = sample_space(load_hyperspace(name), rng)
    assert parse_space(space.code) == space
    subnet = sample_subnet(space, rng)
    assert space.subnet(subnet.code) == subnet == parse_subnet(space.hyperspace, f" {subnet.code}\n")
    for options, choice in zip(space.options, subnet.stages, strict=True):
        assert parse_stage(format_stage(choice)) == choice
        assert len(format_stage(sample_stage(options, rng, depth=2)).split("_")) == 2


@pytest.mark.parametrize("name", HYPERSPACES)
def test_the_extremes_of_a_space_bound_its_subnets(name):
    rng = np.random.default_rng(0)
    for _ in range(20):
        space = sample_space(load_hyperspace(name), rng)
        subnet = sample_subnet(space, rng)
        assert space.contains(space.smallest) and space.contains(space.largest)
        assert space.smallest.resolution <= subnet.resolution <= space.largest.resolution
        for small, choice, large in zip(space.smallest.stages, subnet.stages, space.largest.stages, strict=True):
            assert len(small) <= len(choice) <= len(large)
            for block in choice:
                assert all(a <= b <= c for a, b, c in zip(small[0], block, large[0], strict=True))


def test_counts_are_those_of_enumeration():
    hyperspace = small_hyperspace()
    spaces = list(enumerate_spaces(hyperspace))
    assert len(spaces) == count_spaces(hyperspace) == len({space.code for space in spaces}) == 18
    for space in spaces:
        subnets = list(space.enumerate())
        assert len(subnets) == space.count() == len({subnet.code for subnet in subnets})
        assert all(space.contains(subnet) for subnet in subnets)
        for options in space.options:
            choices = list(options.enumerate())
            assert len(choices) == options.count() == len({format_stage(choice) for choice in choices})


def test_counts_of_the_published_hyperspaces():
    """By hand: block types to the power of the stages, times the windows of each stage."""
    assert count_spaces(load_hyperspace("mobilew")) == 7**6 * 2 * 6 * 6 * 7 * 5 * 4
    assert count_spaces(load_hyperspace("onnxw")) == 6**6 * 2 * 4 * 4 * 4 * 4 * 4


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("onnxw-01234-000000", "5 block type digits, onnxw has 6"),
        ("onnxw-0123450-000000", "7 block type digits, onnxw has 6"),
        ("onnxw-012345-00000", "5 window digits, onnxw has 6"),
        ("onnxw-012346-000000", "Block type 6 of stage6 in 'onnxw-012346-000000' does not exist: onnxw has 0 to 5"),
        ("onnxw-012345-200000", "Window 2 of stage1 in 'onnxw-012345-200000' does not exist: it has 0 to 1"),
        ("onnxw-012345-000004", "Window 4 of stage6"),
        ("huge-0123-0000", "'huge-0123-0000' cannot be read: There is no hyperspace 'huge': use one of"),
        ("onnxw-012345", "'onnxw-012345' is not of the form"),
        ("onnxw-01a345-000000", "'onnxw-01a345-000000' is not of the form"),
        ("onnxw", "'onnxw' is not of the form"),
        ("", "'' is not of the form"),
        ("onnxw-012345-000000-1", "is not of the form"),
    ],
)
def test_a_wrong_space_code_is_named_with_what_is_wrong(code, sentence):
    with pytest.raises(CodeError) as caught:
        parse_space(code)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("_r8", "_r9", "Resolution 9 is not one of small: use one of 8, 12"),
        ("_r8", "", "is not of the form d…_k…_w…_e…_r…"),
        ("_r8", "_r", "is not of the form"),
        ("_r8", "_r8_r8", "is not of the form"),
        ("_k3#5#3", "", "is not of the form"),
        ("_k3#5#3", "_3#5#3", "is not of the form"),
        ("d1#1#1", "1#1#1", "is not of the form"),
        ("d1#1#1", "d1#1", "has 2 depths, small has 3 stages with a depth: stem, stage1, stage2"),
        ("d1#1#1", "d1#1#2", "has 3 kernels for 4 blocks"),
        ("d1#1#1", "d1#1#0", "has d1#1#0, which is not a list of positive whole numbers"),
        ("_w8#16#24", "_w8#16", "has 2 widths for 3 blocks"),
        ("_e0#0#2.0", "_e0#0", "has 2 expand ratios for 3 blocks"),
        ("_k3#5#3", "_k3#5#x", "has k3#5#x, which is not a list of numbers"),
        ("_k3#5#3", "_k3#5#", "has k3#5#, which is not a list of numbers"),
        ("_k3#5#3", "_k3#5#3.5", "has k3#5#3.5, which is not a list of positive whole numbers"),
        ("_k3#5#3", "_k3#5#inf", "has k3#5#inf, which is not a list of positive whole numbers"),
        ("_w8#16#24", "_w8#16#nan", "has w8#16#nan, which is not a list of positive whole numbers"),
        ("_k3#5#3", "_k3#9#3", "Kernel size 9 of stage1 is not one of 3, 5, those of mobilenetv1_dual"),
        ("_k3#5#3", "_k3#4#3", "Kernel size 4 of stage1"),
        ("_w8#16#24", "_w8#24#24", "Width 24 of stage1 lies outside its window in small-01-00: use one of 8, 16"),
        ("_w8#16#24", "_w8#12#24", "Width 12 of stage1"),
        ("_e0#0#2.0", "_e0#1.0#2.0", "Expand ratio 1.0 of stage1 is not one of 0"),
        ("_e0#0#2.0", "_e0#0#6.0", "Expand ratio 6.0 of stage2 is not one of 2.0, 3.0, those of mobilenetv2_res"),
        ("_e0#0#2.0", "_e0#0#nan", "nan"),
    ],
)
def test_a_wrong_subnet_code_is_named_with_what_is_wrong(old, new, sentence):
    assert SPACE.subnet(SUBNET).code == SUBNET
    assert old in SUBNET
    with pytest.raises(CodeError) as caught:
        SPACE.subnet(SUBNET.replace(old, new))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert not SPACE.contains(replace(SPACE.smallest, resolution=9))


def test_a_depth_outside_its_stage_is_named():
    with pytest.raises(CodeError, match="Depth 3 of stage1 is not one of 1, 2"):
        SPACE.subnet("d1#3#1_k3#3#3#3#3_w8#8#8#8#16_e0#0#0#0#2.0_r8")


@pytest.mark.parametrize("text", ["", "3", "3#8", "3#8#0#1", "3#8#x", "3#8#0__3#8#0"])
def test_a_wrong_stage_choice_is_named(text):
    with pytest.raises(CodeError, match=r"is not of the form kernel#width#expand"):
        parse_stage(text)
    assert parse_stage("3#8#0_5#16#1.5") == (BlockChoice(3, 8, 0.0), BlockChoice(5, 16, 1.5))


def test_a_hyperspace_of_ones_own(tmp_path):
    """A file is a hyperspace by its path; its codes carry its name alone."""
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(declared()))  # JSON is YAML
    hyperspace = load_hyperspace(str(path))
    assert hyperspace.stages == small_hyperspace().stages
    assert Space(hyperspace, (0, 1), (1, 0)).code == "mine-01-10"


def test_a_projects_own_hyperspaces_are_found_by_name(tmp_path, monkeypatch):
    """And read again when their file changes."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hyperspaces" / "mine.yaml"
    path.parent.mkdir()
    document = declared()
    path.write_text(json.dumps(document))
    assert parse_space("mine-01-10").code == "mine-01-10"
    document["resolutions"] = [20]
    path.write_text(json.dumps(document))
    os.utime(path, ns=(1, 1))
    assert load_hyperspace("mine").resolutions == (20,)
    with pytest.raises(ParamsError, match="no hyperspace 'yours': use one of mine, mobilew, onnxw, small, tiny"):
        load_hyperspace("yours")


CHANGES = {
    "has an even kernel size: (4,)": lambda d: d["block_types"][0].update(kernels=[4]),
    "block mobilenetv1_dual has unknown keys ['kernel']": lambda d: d["block_types"][0].update(kernel=[3]),
    "stage stage1 has unknown keys ['width']": lambda d: d["stages"][1].update(width=[8]),
    "no stage has search: true": lambda d: (
        [stage.pop("search", None) for stage in d["stages"]]
        and [stage.update(block="resnet") for stage in d["stages"][1:3]]
    ),
    "at most 10 block types": lambda d: d.update(block_types=d["block_types"] * 4),
    "stage stage1 has -1 width windows": lambda d: d["stages"][1].update(window=5),
    "stage stage1 has 11 width windows": lambda d: d["stages"][1].update(window=1, widths=list(range(8, 96, 8))),
    "two stages have the same name": lambda d: d["stages"][2].update(name="stage1"),
    "stage mix follows the last searched stage": lambda d: d["stages"][3].update(widths=[16, 24]),
    "the last stage must be block: linear": lambda d: d["stages"].pop(),
    "widths must be ascending positive integers": lambda d: d["stages"][1].update(widths=[16, 8, 24]),
    "depths must be ascending positive integers": lambda d: d["stages"][1].update(depths=[0, 1]),
    "resolutions must be ascending positive integers": lambda d: d.update(resolutions=[8, 8]),
    "block_kd_resolutions": lambda d: d.pop("block_kd_resolutions"),
    "'stride'": lambda d: d["stages"][1].pop("stride"),
    "'window'": lambda d: d["stages"][1].pop("window"),
    "resolution": lambda d: d.update(resolution=[8]),  # a key that does not exist
    "gelu": lambda d: d["block_types"][1].update(activation="gelu"),
    "stride": lambda d: d["stages"][1].update(stride=0),
    "depths": lambda d: d["stages"][1].update(depths=[]),
    "kernels": lambda d: d["block_types"][0].update(kernels=[]),
    "expands": lambda d: d["block_types"][1].update(expands=[3, 2]),
    "expand": lambda d: d["block_types"][1].update(expands=[-1, 2]),
}


@pytest.mark.parametrize("sentence", CHANGES)
def test_a_wrong_hyperspace_file_is_named_with_what_is_wrong(tmp_path, sentence):
    document = declared()
    CHANGES[sentence](document)
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(document))
    with pytest.raises(ParamsError) as caught:
        load_hyperspace(str(path))
    assert str(path) in str(caught.value) and sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_name_that_would_break_codes_is_refused():
    for name in ("my-space", "my_space"):
        with pytest.raises(ValueError, match="must not contain"):
            parse_hyperspace(name, declared())


@pytest.mark.parametrize("text", ["- a list\n", "resolutions: [\n", "", "just text"])
def test_a_file_that_is_no_declaration_is_named(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=r"mine.yaml is not valid"):
        load_hyperspace(str(path))


def test_map_sizes_follow_the_strides():
    hyperspace = load_hyperspace("mobilew")
    sizes = [hyperspace.map_size(stage.name, 160) for stage in hyperspace.stages]
    assert sizes == [160, 80, 80, 40, 20, 10, 10, 5, 5, 5, 5]
    assert hyperspace.map_size("stage1", 23) == 12
    with pytest.raises(KeyError):
        hyperspace.map_size("stage9", 160)
    with pytest.raises(KeyError, match="no stage 'stage9', only"):
        hyperspace.stage("stage9")
    assert hyperspace.in_widths("first_conv") == (3,) and hyperspace.in_widths("stage0") == (16, 24, 32)
