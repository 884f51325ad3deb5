"""What is measured in a profile: random blocks and whole random networks of a hyperspace.

Blocks show each kind of kernel in many sizes; whole networks show what kernels cost in company, where a runtime's
overhead is shared and no layout is changed between them. Some networks are kept apart to test the predictor on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from spaceevo.nn.blocks import block_plan
from spaceevo.nn.network import head_choices, subnet_plan
from spaceevo.nn.plan import Plan
from spaceevo.space import BlockChoice, BlockType, Hyperspace, Space, Stage, Subnet, sample_space, sample_subnet

Split = Literal["fit", "test"]
T = TypeVar("T")

DRAWS = 20  # tries for each network that is to differ from all others


@dataclass(frozen=True)
class ProfiledBlock:
    """One block of one stage, on the map that arrives there."""

    role: ClassVar[str] = "block"
    split: ClassVar[Split] = "fit"
    stage: str
    block_type: BlockType
    in_channels: int
    choice: BlockChoice
    stride: int
    height: int
    resolution: int

    def plan(self) -> Plan:
        return block_plan(self.block_type.block, self.block_type.activation, self.in_channels, self.choice, self.stride)

    def row(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "split": self.split,
            "stage": self.stage,
            "block": self.block_type.block,
            "activation": self.block_type.activation,
            "in_channels": self.in_channels,
            **self.choice._asdict(),
            "stride": self.stride,
            "height": self.height,
            "resolution": self.resolution,
        }


@dataclass(frozen=True)
class ProfiledNet:
    """A whole network."""

    role: ClassVar[str] = "net"
    space: Space
    subnet: Subnet
    num_classes: int
    split: Split

    @property
    def height(self) -> int:
        return self.subnet.resolution

    def plan(self) -> Plan:
        return subnet_plan(self.space, self.subnet, self.num_classes)

    def row(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "split": self.split,
            "space": self.space.code,
            "subnet": self.subnet.code,
            "num_classes": self.num_classes,
            "height": self.height,
            "resolution": self.subnet.resolution,
        }


Profiled = ProfiledBlock | ProfiledNet


@dataclass(frozen=True)
class ProfileCounts:
    """How many models to profile.

    Attributes:
        blocks_per_type: blocks of each block type in each searched stage; the fixed stages get as many each.
        nets: whole networks to fit on.
        test_nets: whole networks kept to test on.
    """

    blocks_per_type: int = 3
    nets: int = 150
    test_nets: int = 50


def sample_models(hyperspace: Hyperspace, num_classes: int, counts: ProfileCounts, seed: int) -> list[Profiled]:
    """The models to profile, drawn at random; any beginning of the list holds all sorts in proportion.

    A hyperspace that has hardly as many networks as asked for gives fewer.
    """
    rng = np.random.default_rng(seed)
    codes: set[str] = set()
    nets: list[ProfiledNet] = []
    wanted = counts.test_nets + counts.nets
    for _ in range(DRAWS * wanted):
        if len(nets) == wanted:
            break
        space = sample_space(hyperspace, rng)
        subnet = sample_subnet(space, rng)
        if subnet.code not in codes:  # so that no network to test on is also fitted on
            codes.add(subnet.code)
            nets.append(ProfiledNet(space, subnet, num_classes, "test" if len(nets) < counts.test_nets else "fit"))
    blocks = list(sample_blocks(hyperspace, num_classes, counts.blocks_per_type, rng))
    blocks = [blocks[i] for i in rng.permutation(len(blocks))]
    sorts: tuple[Sequence[Profiled], ...] = (nets[counts.test_nets :], blocks, nets[: counts.test_nets])
    return interleaved(sorts)


def interleaved(sorts: Sequence[Sequence[T]]) -> list[T]:
    """All members of several sequences, so that any beginning holds each in proportion."""
    placed = [((i + 0.5) / len(members), member) for members in sorts for i, member in enumerate(members)]
    return [member for _, member in sorted(placed, key=lambda pair: pair[0])]


def sample_blocks(
    hyperspace: Hyperspace, num_classes: int, per_type: int, rng: np.random.Generator
) -> Iterator[ProfiledBlock]:
    """Random blocks: `per_type` of each block type in each stage, with any width that can arrive."""
    for stage in hyperspace.body:
        for block_type in hyperspace.types_of(stage):
            for _ in range(per_type):
                yield _sample_block(hyperspace, stage, block_type, rng)
    for name, block_type, choices, stride in head_choices(hyperspace, num_classes):
        arriving = hyperspace.in_widths(name)
        for _ in range(per_type):
            resolution = _choose(hyperspace.resolutions, rng)
            height = _arriving_height(hyperspace, name, resolution)
            yield ProfiledBlock(name, block_type, _choose(arriving, rng), choices[0], stride, height, resolution)


def _sample_block(
    hyperspace: Hyperspace, stage: Stage, block_type: BlockType, rng: np.random.Generator
) -> ProfiledBlock:
    resolution = _choose(hyperspace.resolutions, rng)
    height = _arriving_height(hyperspace, stage.name, resolution)
    arriving, stride = hyperspace.in_widths(stage.name), stage.stride
    if max(stage.depths) > 1 and rng.random() < 0.5:  # a later block of the stage
        height, arriving, stride = (height - 1) // stride + 1, stage.widths, 1
    choice = BlockChoice(_choose(block_type.kernels, rng), _choose(stage.widths, rng), _choose(block_type.expands, rng))
    return ProfiledBlock(stage.name, block_type, _choose(arriving, rng), choice, stride, height, resolution)


def _arriving_height(hyperspace: Hyperspace, name: str, resolution: int) -> int:
    height = resolution
    for stage in hyperspace.stages:
        if stage.name == name:
            return height
        pooled = stage.block_type is not None and stage.block_type.block == "pool_conv_bn_act"
        height = 1 if pooled else (height - 1) // stage.stride + 1
    raise KeyError(name)


def _choose(values: Sequence[Any], rng: np.random.Generator) -> Any:
    return values[int(rng.integers(len(values)))]
