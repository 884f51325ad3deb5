"""`spaceevo doctor`: whether this machine can run the workflow."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from spaceevo.cli.output import AsJson, Debug, guarded, print_found, print_table


def doctor(
    params: Annotated[Path | None, typer.Option(help="Parameter file to check instead of params.yaml.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check this machine: packages, accelerator, CPU, devices, params.yaml. Exit code 1 where there is a problem."""
    guarded(partial(_doctor, params, as_json), debug)


def _doctor(params: Path | None, as_json: bool) -> None:
    from spaceevo.report.environment import inspect_environment

    found = inspect_environment(params)
    print_found(found, _show_environment, as_json)
    if found["problems"]:
        raise typer.Exit(1)


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
        *([("kernels for GPUs", found["slower_kernels"] or "our own and PyTorch's")] if found["cuda"] else []),
        ("torchvision import", found["torchvision_error"] or found["torch_error"] or "works"),
        ("CPU", f"{cpu['model']}, {cpu['cores']} cores"),
        ("INT8 features", features),
        ("memory", "unknown" if memory is None else f"{memory:g} GiB available"),
        ("disk", f"{found['disk_free_gib']:g} GiB free in this folder"),
        ("parameters", f"{params['path']}: {params['error'] or 'valid'}"),
    ]
    print_table(("what", "found"), rows)
    print()
    devices = [(d["device"], d["usable"], d["reason"] or d["description"]) for d in found["devices"]]
    print_table(("device", "use", "note"), devices)
    print()
    for problem in found["problems"]:
        print(f"problem: {problem}", file=sys.stderr)
    if not found["problems"]:
        print("No problem found.")
