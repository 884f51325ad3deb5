"""`spaceevo plan`: what a configuration will cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spaceevo.cli.output import AsJson, Debug, guarded, print_found, print_table


def plan(
    targets: Annotated[list[str] | None, typer.Argument(help="Artifacts, by path; all of them by default.")] = None,
    configfile: Annotated[
        list[Path] | None, typer.Option(help="As given to snakemake, on top of params.yaml; may be repeated.")
    ] = None,
    gpu_rate: Annotated[
        float | None, typer.Option(min=1e-3, help="10^12 multiply-accumulates a second of one GPU in training.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what would run, what is current, and the hours to expect, with what each figure is based on."""

    def work() -> None:
        from dataclasses import asdict

        from spaceevo.workflow.dag import plan_jobs
        from spaceevo.workflow.plan import GPU_RATE, PAPER_GPU_HOURS, SEARCHES_SPACE, merged_params, plan_costs

        files = configfile or ()
        found = plan_costs(plan_jobs(targets or (), files), merged_params(files), gpu_rate or GPU_RATE)
        content = {
            "rules": [asdict(one) for one in found.rules],
            "total": found.total(),
            "space_search": {
                **found.total(SEARCHES_SPACE),
                "rules": list(SEARCHES_SPACE),
                "paper_gpu_h": PAPER_GPU_HOURS,
            },
            "assumptions": list(found.assumptions),
        }
        print_found(content, _show, as_json)

    guarded(work, debug)


def _show(found: dict[str, Any]) -> None:
    rows = [
        (
            one["rule"],
            one["jobs"],
            one["current"],
            _time(one["cpu_h"]),
            _time(one["wall_h"]),
            "-" if one["gpu_h"] is None else _time(one["gpu_h"]),
            one["basis"],
        )
        for one in found["rules"]
    ]
    print_table(("rule", "jobs", "current", "on one core", "wall", "or on one GPU", "based on"), rows)
    total, search = found["total"], found["space_search"]
    print(f"\nAll on CPUs: {_time(total['cpu_h'])} of cores, {_time(total['wall_h'])} with one job at a time.")
    print(f"With GPUs: {_both(total)}.")
    print(
        f"Of that to search for the spaces: {_both(search)}; "
        f"for one device the paper states {search['paper_gpu_h']:g} h of GPUs."
    )
    print("\nAssumed:")
    for line in found["assumptions"]:
        print(f"  {line}")


def _both(total: dict[str, Any]) -> str:
    return f"{_time(total['gpu_h'])} of GPUs and {_time(total['cpu_beside_gpu_h'])} of cores"


def _time(hours: float) -> str:
    if hours >= 100:
        return f"{hours:,.0f} h"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.1f} s"
