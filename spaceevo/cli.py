"""The command line for people: `spaceevo describe` and `spaceevo doctor`.

Tables on a terminal, aligned plain text in a pipe, JSON with `--json`. Nothing heavy is imported before a command
needs it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from spaceevo.scripting import clear_errors

app = typer.Typer(
    help="Design search spaces, supernets and fast INT8 networks for real devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")]

EMBEDDED_CLASSES, IMAGENET_CLASSES = 10, 1000


@app.callback()
def _spaceevo() -> None:
    """Keeps commands by their names, however many there are."""


@app.command()
def describe(
    code: Annotated[str, typer.Argument(help="A space such as mobilew-122222-155400, or a hyperspace such as tiny.")],
    subnet: Annotated[str | None, typer.Argument(help="A subnet of the space: d…_k…_w…_e…_r….")] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of the network: 10 for tiny, else 1000, where not given.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what a hyperspace, a space or a subnet is made of."""
    _guarded(partial(_describe, code, subnet, classes, as_json), debug)


@app.command()
def doctor(
    params: Annotated[Path | None, typer.Option(help="Parameter file to check instead of params.yaml.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check this machine: packages, accelerator, CPU, devices, params.yaml. Exit code 1 where there is a problem."""
    _guarded(partial(_doctor, params, as_json), debug)


def main() -> None:
    """Entry point of `spaceevo`."""
    app()


def _guarded(work: Callable[[], None], debug: bool) -> None:
    if debug:
        work()
    else:
        clear_errors(work)()


def _describe(code: str, subnet: str | None, classes: int | None, as_json: bool) -> None:
    from spaceevo.report.describe import describe

    if classes is None:
        classes = EMBEDDED_CLASSES if code.startswith("tiny-") else IMAGENET_CLASSES
    found = describe(code, subnet, classes)
    show = _show_subnet if "subnet" in found else _show_space if "space" in found else _show_hyperspace
    _print(found, show, as_json)


def _doctor(params: Path | None, as_json: bool) -> None:
    from spaceevo.report.environment import inspect_environment

    found = inspect_environment(params)
    _print(found, _show_environment, as_json)
    if found["problems"]:
        raise typer.Exit(1)


def _print(content: dict[str, Any], show: Callable[[dict[str, Any]], None], as_json: bool) -> None:
    if as_json:
        print(json.dumps(content, indent=2))
    else:
        show(content)


def _show_hyperspace(found: dict[str, Any]) -> None:
    resolutions = _listed(found["resolutions"])
    print(f"Hyperspace {found['hyperspace']}: {found['spaces']:,} spaces, input {resolutions} pixels\n")
    rows = [
        (
            stage["stage"],
            stage["block"],
            _listed(stage["widths"]) or "classes",
            stage["widths_per_space"] or "all",
            _listed(stage["depths"]),
            stage["stride"],
        )
        for stage in found["stages"]
    ]
    _table(("stage", "block", "widths", "of these", "depths", "stride"), rows)
    print("\nBlock types, by their digit in a space code\n")
    _table(
        ("digit", *_BLOCK_COLUMNS), [(digit, *_block_cells(block)) for digit, block in enumerate(found["block_types"])]
    )


def _show_space(found: dict[str, Any]) -> None:
    print(f"Space {found['space']}: {found['subnets']:,} subnets, input {_listed(found['resolutions'])} pixels\n")
    rows = [
        (
            stage["stage"],
            *_block_cells(stage),
            _listed(stage["widths"]) or "classes",
            _listed(stage["depths"]),
            stage["stride"],
        )
        for stage in found["stages"]
    ]
    _table(("stage", *_BLOCK_COLUMNS, "widths", "depths", "stride"), rows)


def _show_subnet(found: dict[str, Any]) -> None:
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
            _listed(stage["kernel_sizes"]),
            _listed(stage["widths"]),
            _listed(stage["expand_ratios"]) if any(stage["expand_ratios"]) else "-",
        )
        for stage in found["stages"]
    ]
    _table(("stage", "block", "blocks", "kernels", "widths", "expand"), rows)


def _show_environment(found: dict[str, Any]) -> None:
    cpu = found["cpu"]
    cuda = f"{found['cuda']}: {', '.join(found['cuda_devices'])}" if found["cuda"] else "none"
    features = "unknown" if cpu["int8_features"] is None else ", ".join(cpu["int8_features"]) or "none"
    memory = found["memory_available_gib"]
    params = found["params"]
    rows = [
        ("Python", f"{found['python']}, {found['executable']}"),
        ("platform", found["platform"]),
        *((name, version or "not installed") for name, version in found["packages"].items()),
        ("CUDA", cuda),
        ("torchvision import", found["torchvision_error"] or found["torch_error"] or "works"),
        ("CPU", f"{cpu['model']}, {cpu['cores']} cores"),
        ("INT8 features", features),
        ("memory", "unknown" if memory is None else f"{memory:g} GiB available"),
        ("disk", f"{found['disk_free_gib']:g} GiB free in this folder"),
        ("parameters", f"{params['path']}: {params['error'] or 'valid'}"),
    ]
    _table(("what", "found"), rows)
    print()
    devices = [(d["device"], d["usable"], d["reason"] or d["description"]) for d in found["devices"]]
    _table(("device", "use", "note"), devices)
    print()
    for problem in found["problems"]:
        print(f"problem: {problem}", file=sys.stderr)
    if not found["problems"]:
        print("No problem found.")


_BLOCK_COLUMNS = ("block", "kernels", "expand", "activation")


def _block_cells(block: dict[str, Any]) -> tuple[str, str, str, str]:
    expand = _listed(block["expand_ratios"]) or "-"
    return block["block"], _listed(block["kernel_sizes"]), expand, block["activation"] or "-"


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table that fits its width on a terminal, aligned columns elsewhere."""
    texts = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, header_style="bold underline", pad_edge=False, padding=(0, 1, 0, 0))
        for name in header:
            table.add_column(name, overflow="fold")
        for row in texts:
            table.add_row(*(escape(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(len(cell) for cell in column) for column in zip(header, *texts, strict=True)]
    for row in [list(header), *texts]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
