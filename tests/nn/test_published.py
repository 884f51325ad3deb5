"""The published format: its parameters are those of the reference, and what does not fit a space is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made import GRID, REFERENCE, covering_spaces, random_subnets, randomise, reference
from published import published_state

from spaceevo.errors import CheckpointError
from spaceevo.nn.published import check_fit, count_classes, find_space, load_published, published_shapes
from spaceevo.nn.supernet import Supernet
from spaceevo.space import Space, load_hyperspace, parse_space, sample_space

QUANTIZER = (".sw", ".sa", ".beta")
TINY = [space.code for space in covering_spaces(load_hyperspace("tiny"), 3)]


def published_codes():
    path = REFERENCE / "parameter_names.json"
    return sorted(json.loads(path.read_text())) if path.is_file() else ["none"]


def reference_state(code, quantized=True):
    """Zeros under the names and in the shapes of the reference."""
    shapes = json.loads(reference("parameter_names.json").read_text())[code]
    return {
        name: torch.zeros(()).expand(shape)
        for name, shape in shapes.items()
        if quantized or not name.endswith(QUANTIZER)
    }


@pytest.mark.parametrize("code", published_codes())
def test_the_parameters_of_a_space_are_those_of_the_reference(code):
    state = reference_state(code)
    shapes = published_shapes(parse_space(code), 1000)
    extra = state.keys() - shapes.keys()
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    kept = {name for name in extra if not name.endswith((*QUANTIZER, ".num_batches_tracked"))}
    # An expanding convolution that an expand ratio of 1 never uses.
    assert all(name.startswith("stages.stage0.") and ".point_conv1." in name for name in kept)
    assert bool(kept) == code.startswith("mobilew")


@pytest.mark.parametrize("code", published_codes())
def test_a_checkpoint_of_the_reference_fits_its_space_alone(code):
    state = reference_state(code)
    assert count_classes(state, "file.pth") == 1000
    check_fit(state, parse_space(code), "file.pth")
    assert find_space(state).code == code
    for other in {"mobilew-122222-155400"} - {code}:
        with pytest.raises(CheckpointError, match=f"file.pth is a checkpoint of {code}, not of {other}"):
            check_fit(state, parse_space(other), "file.pth")


@pytest.mark.parametrize("name", ["mobilew", "onnxw", "tiny"])
def test_the_space_of_a_checkpoint_is_found(name):
    rng = np.random.default_rng(1)
    for _ in range(2):
        space = sample_space(load_hyperspace(name), rng)
        state = {key: torch.zeros(()).expand(shape) for key, shape in published_shapes(space, 7).items()}
        found = find_space(state)
        assert found is not None and found.hyperspace == space.hyperspace
        assert found.windows == space.windows
        assert published_shapes(found, 7) == published_shapes(space, 7)


@pytest.mark.parametrize("code", TINY)
@torch.no_grad()
def test_weights_and_statistics_arrive(code):
    space = parse_space(code)
    made, loaded = Supernet(space, 4, GRID).eval(), Supernet(space, 4, GRID).eval()
    randomise(made, 0)
    state = published_state(made)
    check_fit(state, space, "file.pth")
    load_published(loaded, state)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for subnet in random_subnets(space, 3, 0):
        assert torch.equal(loaded(x, subnet), made(x, subnet))


def without(state, *endings):
    return {name: value for name, value in state.items() if not name.endswith(endings)}


CHANGES = {
    "1 missing (stages.stage2.blocks.0": lambda s: s.pop(
        next(name for name in s if name.startswith("stages.stage2.blocks.0") and name.endswith("norm.bias"))
    ),
    "2 unexpected (extra.weight, stages.logits.blocks.0.linear.zero_point)": lambda s: s.update(
        {"extra.weight": torch.ones(3), "stages.logits.blocks.0.linear.zero_point": torch.ones(1)}
    ),
    "1 of another shape (stages.logits.blocks.0.linear.bias [5] in the place of [4])": lambda s: s.update(
        {"stages.logits.blocks.0.linear.bias": torch.ones(5)}
    ),
    "1 of another shape (stages.logits.blocks.0.linear.sa [2] in the place of [1])": lambda s: s.update(
        {"stages.logits.blocks.0.linear.sa": torch.ones(2)}
    ),
    "1 not finite (stages.logits.blocks.0.linear.weight)": lambda s: (
        s["stages.logits.blocks.0.linear.weight"].view(-1)[3].fill_(float("nan"))
    ),
    "1 missing (stages.logits.blocks.0.linear.beta)": lambda s: s.pop("stages.logits.blocks.0.linear.beta"),
    "and ": lambda s: [s.pop(name) for name in list(s) if name.endswith("running_mean")],
}


@pytest.mark.parametrize("sentence", CHANGES)
def test_parameters_that_do_not_fit_are_listed(sentence):
    space = parse_space(TINY[0])
    supernet = Supernet(space, 4, GRID)
    state = published_state(supernet, torch.zeros(2, 3, 32, 32))
    check_fit(state, space, "file.pth")
    CHANGES[sentence](state)
    with pytest.raises(CheckpointError) as caught:
        check_fit(state, space, "file.pth")
    said = str(caught.value)
    assert "file.pth does not fit" in said and space.code in said and sentence in said
    assert "\n" not in said and said.endswith(".") and len(said) < 800


def test_spaces_of_the_same_shapes_are_not_told_apart():
    """Two block types that differ in their activation alone: what is missing is named, not another space."""
    hyperspace = load_hyperspace("tiny")
    twin = replace(hyperspace, block_types=(*hyperspace.block_types[1:2], *hyperspace.block_types))
    space = Space(hyperspace, (1,) * 4, (0,) * 4)
    state = published_state(Supernet(space, 4, GRID))
    del state["stages.logits.blocks.0.linear.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing \(stages\.logits\.blocks\.0\.linear\.bias\)"):
        check_fit(state, Space(twin, (2,) * 4, (0,) * 4), "file.pth")


def test_grids_and_counters_may_be_absent_as_a_whole():
    space = parse_space(TINY[0])
    state = published_state(Supernet(space, 4, GRID), torch.zeros(2, 3, 32, 32))
    check_fit(without(state, ".num_batches_tracked", *QUANTIZER), space, "file.pth")


@pytest.mark.parametrize("state", [{}, {"stages.logits.blocks.0.linear.bias": torch.ones(3)}])
def test_a_checkpoint_without_logits_is_no_published_supernet(state):
    with pytest.raises(CheckpointError, match=r"file\.pth is no published supernet"):
        check_fit(state, parse_space(TINY[0]), "file.pth")
