"""Hyperspaces, spaces and subnets as plain values, ready for tables and JSON. Imports no torch."""

from __future__ import annotations

from typing import Any

from spaceevo.errors import CodeError
from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import plan_cost
from spaceevo.space import (
    BlockType,
    Hyperspace,
    Space,
    Stage,
    Subnet,
    count_spaces,
    is_name,
    known_names,
    load_hyperspace,
    parse_space,
    parse_subnet,
)

Description = dict[str, Any]


def describe(
    what: str | Hyperspace | Space, subnet: str | Subnet | None = None, num_classes: int = 1000
) -> Description:
    """A hyperspace, a space, or a subnet of a space, each as it is or by its name or code; see the functions below.

    Args:
        what: the name of a subnet, such as SEQnet@pixel4-A1, stands for its space and itself.
        num_classes: of the network, for the cost of a subnet.

    Returns:
        As the functions below; where a space or subnet is given by a name, `name` is that.

    Raises:
        CodeError: a code does not parse, there is no such name, or a subnet is given without its space.
        ParamsError: there is no hyperspace of this name.
    """
    if isinstance(what, str) and is_name(what):
        space = parse_space(what)
        if known_names()[what.strip()].subnet is None:
            return {"name": what} | describe(space, subnet, num_classes)
        if subnet is not None:
            raise CodeError(f"{what} is a subnet already: leave out {subnet}.")
        return describe(space, what, num_classes)
    if isinstance(what, str):
        is_hyperspace = "-" not in what or what.endswith((".yaml", ".yml"))  # a space code has two hyphens
        what = load_hyperspace(what) if is_hyperspace else parse_space(what)
    if isinstance(what, Space):
        if subnet is None:
            return describe_space(what)
        if isinstance(subnet, str) and is_name(subnet):
            return {"name": subnet} | describe_subnet(what, what.subnet(subnet), num_classes)
        parsed = parse_subnet(what.hyperspace, subnet) if isinstance(subnet, str) else subnet
        return describe_subnet(what, parsed, num_classes)
    if subnet is not None:
        raise CodeError(f"A subnet belongs to a space, and {what.name} is a hyperspace: give a space code before it.")
    return describe_hyperspace(what)


def describe_hyperspace(hyperspace: Hyperspace) -> Description:
    """Its stages with all widths and depths, its block types by the digit that stands for them, and how many spaces.

    Returns:
        JSON-serialisable; widths in channels, resolutions in pixels.
    """
    return {
        "hyperspace": hyperspace.name,
        "spaces": count_spaces(hyperspace),
        "resolutions": list(hyperspace.resolutions),
        "block_types": [_block_entry(block_type) for block_type in hyperspace.block_types],
        "stages": [
            {"block": "any" if stage.block_type is None else stage.block_type.block, **_stage_entry(stage)}
            | {"widths_per_space": stage.window}
            for stage in hyperspace.stages
        ],
    }


def describe_space(space: Space) -> Description:
    """Each stage's block type, widths and depths, and how many subnets the space holds.

    Returns:
        JSON-serialisable; widths in channels (none for the logits: one per class), resolutions in pixels.
    """
    stages = []
    for options in space.options:
        widths = {"widths": list(options.widths)}
        stages.append(_block_entry(options.block_type) | _stage_entry(options.stage) | widths)
    for stage in space.hyperspace.head:
        assert stage.block_type is not None
        stages.append(_block_entry(stage.block_type) | _stage_entry(stage))
    return {
        "space": space.code,
        "hyperspace": space.hyperspace.name,
        "subnets": space.count(),
        "resolutions": list(space.hyperspace.resolutions),
        "stages": stages,
    }


def describe_subnet(space: Space, subnet: Subnet, num_classes: int) -> Description:
    """Each stage's blocks, the cost of the whole network, and whether the space contains it.

    Returns:
        JSON-serialisable; `macs` for one picture, `outside` the sentence that says which choice lies outside the
        space, or None.
    """
    try:
        space.check(subnet)
        outside = None
    except CodeError as error:
        outside = str(error)
    cost = plan_cost(subnet_plan(space, subnet, num_classes), subnet.resolution)
    stages = [
        {
            "stage": options.stage.name,
            "block": options.block_type.block,
            "depth": len(choice),
            "kernel_sizes": [block.kernel_size for block in choice],
            "widths": [block.width for block in choice],
            "expand_ratios": [block.expand_ratio for block in choice],
        }
        for options, choice in zip(space.options, subnet.stages, strict=True)
    ]
    return {
        "space": space.code,
        "subnet": subnet.code,
        "contained": outside is None,
        "outside": outside,
        "resolution": subnet.resolution,
        "classes": num_classes,
        "macs": cost.macs,
        "params": cost.params,
        "stages": stages,
    }


def _block_entry(block_type: BlockType) -> Description:
    expands = [ratio for ratio in block_type.expands if ratio]
    return {
        "block": block_type.block,
        "kernel_sizes": list(block_type.kernels),
        "expand_ratios": expands,
        "activation": block_type.activation,
    }


def _stage_entry(stage: Stage) -> Description:
    return {
        "stage": stage.name,
        "searched": stage.searched,
        "widths": list(stage.widths),
        "depths": list(stage.depths),
        "stride": stage.stride,
    }
