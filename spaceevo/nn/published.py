"""The published checkpoint format: names and shapes of a space's parameters, and loading them into a supernet.

Facts of the SpaceEvo release (ICCV 2023): a stage's first block keeps as many arriving channels as any space of the
hyperspace can send, of which a space's own supernet has the first ones; inverted residual blocks keep an expanding
convolution that is never used where their hidden width is the arriving one; every convolution has the scale `sw` of its
weight, and the scale `sa` and offset `beta` of its input, one number each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spaceevo.errors import CheckpointError
from spaceevo.nn.elastic import ElasticBlock, ElasticStage
from spaceevo.nn.network import head_choices
from spaceevo.nn.supernet import Supernet
from spaceevo.space import BlockType, Hyperspace, Space, Stage, load_hyperspace
from spaceevo.space.hyperspace import PROJECT, SHIPPED

LISTED = 6  # names of each kind that an error lists
_QUANTIZER = (".sw", ".sa", ".beta")
_COUNTER = ".num_batches_tracked"

Shape = tuple[int, ...]

_SE_LAYERS = {"se_reduce": "se.fc.reduce", "se_expand": "se.fc.expand"}


def published_layer(layer: str, kind: str) -> str:
    """What published blocks call a layer of ours; `kind` is "convs" or "norms"."""
    name = {"shortcut": "downsample", **_SE_LAYERS}.get(layer, layer)
    if kind == "norms":
        return f"{name}.norm"
    if chained := re.fullmatch(r"depth_conv_(\d)", layer):
        return f"depth_conv.dwconv.dwconv{chained[1]}"
    if layer.startswith("depth_conv"):
        return f"{name}.dwconv"
    return name if layer in (*_SE_LAYERS, "linear") else f"{name}.conv"


def published_name(ours: str) -> str:
    """The published name of a supernet's parameter such as `stages.stage1.blocks.0.convs.shortcut.weight`."""
    _, stage, _, block, kind, layer, leaf = ours.split(".")
    return f"stages.{stage}.blocks.{block}.{published_layer(layer, kind)}.{leaf}"


@dataclass(frozen=True)
class StageShape:
    """One stage of a supernet as published and ours share it; `widths` are those that leave it."""

    name: str
    block_type: BlockType
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stride: int


def stage_shapes(space: Space, num_classes: int) -> Iterator[StageShape]:
    """Every stage of a space's supernet, the head included."""
    for options in space.options:
        stage = options.stage
        yield StageShape(stage.name, options.block_type, options.widths, stage.depths, stage.stride)
    for name, block_type, choice, stride in head_choices(space.hyperspace, num_classes):
        yield StageShape(name, block_type, (choice[-1].width,), (len(choice),), stride)


def published_shapes(space: Space, num_classes: int) -> dict[str, Shape]:
    """Name and shape of every weight, bias and BatchNorm parameter or statistic that a published supernet must have."""
    shapes: dict[str, Shape] = {}
    for stage in stage_shapes(space, num_classes):
        arriving = space.hyperspace.in_widths(stage.name)
        with torch.device("meta"):
            module = ElasticStage(stage.block_type, arriving, stage.widths, stage.depths[-1], stage.stride)
        for name, tensor in module.state_dict().items():
            if "quantizer" not in name:
                shapes[published_name(f"stages.{stage.name}.{name}")] = tuple(tensor.shape)
    return shapes


def count_classes(state: Mapping[str, Tensor], path: Path | str) -> int:
    """How many classes a checkpoint tells apart: the outputs of its last layer."""
    weights = [value for name, value in state.items() if name.endswith(".linear.weight") and value.dim() == 2]
    if len(weights) != 1 or not weights[0].shape[0]:
        raise CheckpointError(f"{path} is no published supernet: it has no layer stages.logits.blocks.0.linear.")
    return int(weights[0].shape[0])


def check_fit(state: Mapping[str, Tensor], space: Space, path: Path | str) -> None:
    """Check that a state dict is that of a published supernet of `space`, every parameter of it.

    Raises:
        CheckpointError: it is of another space, which is named where that can be told; or parameters are missing,
            unexpected, of another shape, or hold values that are not finite numbers.
    """
    expected = published_shapes(space, count_classes(state, path))
    if any(name.endswith(_QUANTIZER) for name in state):
        weights = [name for name, shape in expected.items() if name.endswith(".weight") and len(shape) > 1]
        expected |= {name.removesuffix(".weight") + leaf: (1,) for name in weights for leaf in _QUANTIZER}
    ignored = {name for name in state if name.endswith(_COUNTER) or name.startswith(_unused_layers(space, expected))}
    shapes = {name: tuple(value.shape) or (1,) for name, value in state.items()}
    odd = [name for name, value in state.items() if name in expected and not _is_plain(value)]
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys() - ignored),
        "of another shape": [
            f"{name} {list(shapes[name])} in the place of {list(shape)}"
            for name, shape in expected.items()
            if name in state and shapes[name] != shape
        ],
        "that are no dense floating-point tensors": odd,
        "not finite": [
            name for name in expected if name in state and name not in odd and not state[name].isfinite().all()
        ],
    }
    if not any(problems.values()):
        return
    actual = find_space(state)
    if actual is not None and published_shapes(actual, 1) != published_shapes(space, 1):
        raise CheckpointError(f"{path} is a checkpoint of {actual.code}, not of {space.code}: import it as that.")
    listed = "; ".join(f"{len(names):,} {kind} ({_some(names)})" for kind, names in problems.items() if names)
    raise CheckpointError(f"{path} does not fit {space.code}, the space it was said to be of: parameters {listed}.")


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor holds floating-point numbers one after the other in this machine's memory."""
    return value.layout == torch.strided and value.device.type == "cpu" and value.is_floating_point()


def _unused_layers(space: Space, expected: Mapping[str, Shape]) -> tuple[str, ...]:
    """What the names of expanding convolutions start with that no choice uses."""
    return tuple(
        layer
        for options in space.options
        if options.block_type.block.startswith(("mobilenetv2", "mobilenetv3"))
        for block in range(options.stage.depths[-1])
        if (layer := f"stages.{options.stage.name}.blocks.{block}.point_conv1.") + "conv.weight" not in expected
    )


@torch.no_grad()
def load_published(supernet: Supernet, state: Mapping[str, Tensor]) -> None:
    """Copy the weights and statistics of a checked state dict into a supernet: the first channels of each."""
    own = supernet.state_dict()
    for name, tensor in own.items():
        if "quantizer" not in name:
            tensor.copy_(state[published_name(name)][tuple(slice(0, size) for size in tensor.shape)])
    supernet.load_state_dict(own)


def find_space(state: Mapping[str, Tensor]) -> Space | None:
    """The space whose published supernet has these parameters, or None: told by the first block of each stage."""
    shapes = _telling({name: tuple(value.shape) for name, value in state.items()})
    names = {path.stem for folder in (SHIPPED, PROJECT) for path in folder.glob("*.yaml")}
    for hyperspace in (load_hyperspace(name) for name in sorted(names)):
        choices: list[tuple[int, int]] = []
        for stage in hyperspace.searched_stages:
            if (choice := _find_stage(hyperspace, stage, shapes)) is None:
                break
            choices.append(choice)
        else:
            return Space(hyperspace, tuple(kind for kind, _ in choices), tuple(window for _, window in choices))
    return None


def _find_stage(hyperspace: Hyperspace, stage: Stage, shapes: Mapping[str, Shape]) -> tuple[int, int] | None:
    """Block type and window with which a stage's first block has just these parameters."""
    prefix = f"stages.{stage.name}.blocks.0."
    actual = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
    arriving = hyperspace.in_widths(stage.name)
    for index, block_type in enumerate(hyperspace.block_types if actual else ()):
        for window in range(stage.windows):
            with torch.device("meta"):
                block = ElasticBlock(block_type, arriving, stage.window_widths(window), stage.stride)
            own = {prefix + name: tensor for name, tensor in block.state_dict().items() if "quantizer" not in name}
            own_shapes = _telling({published_name(name): tuple(tensor.shape) for name, tensor in own.items()})
            if actual == own_shapes:
                return index, window
            if actual.keys() != own_shapes.keys():  # nor with any other window
                break
    return None


def _telling(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Of names and shapes, those that tell block types and windows apart: not those of layers that may be unused."""
    ignored = (*_QUANTIZER, _COUNTER)
    return {name: shape for name, shape in shapes.items() if ".point_conv1." not in name and not name.endswith(ignored)}


def _some(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more:,} more" if more > 0 else "")
