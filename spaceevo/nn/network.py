"""Plans of stages and of whole subnets."""

from __future__ import annotations

from functools import lru_cache

from spaceevo.nn.blocks import block_plan
from spaceevo.nn.plan import Plan, join
from spaceevo.space import IMAGE_CHANNELS, BlockChoice, BlockType, Hyperspace, Space, StageChoice, Subnet


@lru_cache(maxsize=65536)
def stage_plan(block_type: BlockType, in_channels: int, choice: StageChoice, stride: int) -> Plan:
    """The blocks of one stage; names are `<block index>.<local name>`."""
    parts = []
    arriving = in_channels
    for index, block in enumerate(choice):
        block_stride = stride if index == 0 else 1
        parts.append((f"{index}.", block_plan(block_type.block, block_type.activation, arriving, block, block_stride)))
        arriving = block.width
    return join(in_channels, parts)


def head_choices(hyperspace: Hyperspace, num_classes: int) -> tuple[tuple[str, BlockType, StageChoice, int], ...]:
    """Name, block type, choice and stride of each stage after the body."""
    choices = []
    for stage in hyperspace.head:
        block_type = stage.block_type
        assert block_type is not None
        width = stage.widths[0] if stage.widths else num_classes
        block = BlockChoice(block_type.kernels[0], width, block_type.expands[0])
        choices.append((stage.name, block_type, (block,) * stage.depths[0], stage.stride))
    return tuple(choices)


@lru_cache(maxsize=4096)
def head_plan(hyperspace: Hyperspace, in_channels: int, num_classes: int) -> Plan:
    """The stages after the body, for `in_channels` arriving; names are `<stage>.<block index>.<local name>`."""
    parts = []
    arriving = in_channels
    for name, block_type, choice, stride in head_choices(hyperspace, num_classes):
        parts.append((f"{name}.", stage_plan(block_type, arriving, choice, stride)))
        arriving = choice[-1].width
    return join(in_channels, parts)


def subnet_plan(space: Space, subnet: Subnet, num_classes: int) -> Plan:
    """The whole network on an RGB picture; names are `<stage>.<block index>.<local name>`."""
    parts = []
    arriving = IMAGE_CHANNELS
    for options, choice in zip(space.options, subnet.stages, strict=True):
        stage = options.stage
        parts.append((f"{stage.name}.", stage_plan(options.block_type, arriving, choice, stage.stride)))
        arriving = choice[-1].width
    parts.append(("", head_plan(space.hyperspace, arriving, num_classes)))
    return join(IMAGE_CHANNELS, parts)
