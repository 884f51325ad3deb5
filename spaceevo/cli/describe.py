"""`spaceevo describe`: what a hyperspace, a space or a subnet is made of."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from spaceevo.cli.output import AsJson, Debug, guarded, listed, print_found, print_table

EMBEDDED = ("tiny", "small")  # hyperspaces for the embedded dataset


def describe(
    code: Annotated[
        str,
        typer.Argument(
            help="A space such as mobilew-122222-155400 or spaceevo@vnni, a hyperspace such as tiny, "
            "or the name of a subnet such as SEQnet@pixel4-A1."
        ),
    ],
    subnet: Annotated[str | None, typer.Argument(help="A subnet of the space: d…_k…_w…_e…_r…, or its name.")] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of the network; else 10 for tiny and small, 1000 for others.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what a hyperspace, a space or a subnet is made of."""
    guarded(partial(_describe, code, subnet, classes, as_json), debug)


def _describe(code: str, subnet: str | None, classes: int | None, as_json: bool) -> None:
    from spaceevo.report.describe import describe
    from spaceevo.space import is_name, parse_space

    if classes is None:
        space = parse_space(code).code if is_name(code) else code
        classes = usual_classes(space.partition("-")[0])
    found = describe(code, subnet, classes)
    show = _show_subnet if "subnet" in found else _show_space if "space" in found else _show_hyperspace
    print_found(found, show, as_json)


def usual_classes(hyperspace: str) -> int:
    """How many classes the dataset has that a hyperspace is meant for: the embedded one, or ImageNet."""
    return 10 if hyperspace in EMBEDDED else 1000


def _show_hyperspace(found: dict[str, Any]) -> None:
    resolutions = listed(found["resolutions"])
    print(f"Hyperspace {found['hyperspace']}: {found['spaces']:,} spaces, input {resolutions} pixels\n")
    rows = [
        (
            stage["stage"],
            stage["block"],
            listed(stage["widths"]) or "classes",
            stage["widths_per_space"] or "all",
            listed(stage["depths"]),
            stage["stride"],
        )
        for stage in found["stages"]
    ]
    print_table(("stage", "block", "widths", "of these", "depths", "stride"), rows)
    print("\nBlock types, by their digit in a space code\n")
    print_table(
        ("digit", *_BLOCK_COLUMNS), [(digit, *_block_cells(block)) for digit, block in enumerate(found["block_types"])]
    )


def _show_space(found: dict[str, Any]) -> None:
    name = f"{found['name']}, " if "name" in found else ""
    print(f"Space {name}{found['space']}: {found['subnets']:,} subnets, input {listed(found['resolutions'])} pixels\n")
    rows = [
        (
            stage["stage"],
            *_block_cells(stage),
            listed(stage["widths"]) or "classes",
            listed(stage["depths"]),
            stage["stride"],
        )
        for stage in found["stages"]
    ]
    print_table(("stage", *_BLOCK_COLUMNS, "widths", "depths", "stride"), rows)


def _show_subnet(found: dict[str, Any]) -> None:
    if "name" in found:
        print(found["name"])
    print(f"Subnet {found['subnet']}")
    print(f"in {found['space']}: {'yes' if found['contained'] else 'no. ' + found['outside']}")
    print(
        f"{found['macs'] / 1e6:,.2f} M MACs, {found['params'] / 1e6:,.3f} M parameters, "
        f"input {found['resolution']} pixels, {found['classes']} classes\n"
    )
    rows = [
        (
            stage["stage"],
            stage["block"],
            stage["depth"],
            listed(stage["kernel_sizes"]),
            listed(stage["widths"]),
            listed(stage["expand_ratios"]) if any(stage["expand_ratios"]) else "-",
        )
        for stage in found["stages"]
    ]
    print_table(("stage", "block", "blocks", "kernels", "widths", "expand"), rows)


_BLOCK_COLUMNS = ("block", "kernels", "expand", "activation")


def _block_cells(block: dict[str, Any]) -> tuple[str, str, str, str]:
    expand = listed(block["expand_ratios"]) or "-"
    return block["block"], listed(block["kernel_sizes"]), expand, block["activation"] or "-"
