"""`spaceevo explain`: which artifacts are current, and what has changed behind the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spaceevo.cli.output import AsJson, Debug, guarded, print_found


def explain(
    targets: Annotated[list[str] | None, typer.Argument(help="Artifacts, by path; all of them by default.")] = None,
    configfile: Annotated[
        list[Path] | None, typer.Option(help="As given to snakemake, on top of params.yaml; may be repeated.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say of each artifact behind the targets whether it is current and, if not, exactly what has changed."""

    def work() -> None:
        from spaceevo.workflow.dag import plan_jobs
        from spaceevo.workflow.explain import explain as explained

        found = explained(plan_jobs(targets or (), configfile or ()))
        artifacts = [
            {"path": one.path, "rule": one.rule, "current": one.current, "reasons": list(one.reasons)} for one in found
        ]
        print_found({"artifacts": artifacts}, _show, as_json)

    guarded(work, debug)


def _show(found: dict[str, Any]) -> None:
    stale = [artifact for artifact in found["artifacts"] if not artifact["current"]]
    for artifact in stale:
        print(f"{artifact['path']} is not current:")
        for reason in artifact["reasons"]:
            print(f"  {reason}")
    print(f"{len(found['artifacts']) - len(stale)} of {len(found['artifacts'])} artifacts are current.")
