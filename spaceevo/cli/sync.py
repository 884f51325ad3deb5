"""`spaceevo sync`: after dvc pull, dvc checkout or a switch of branches."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spaceevo.cli.output import AsJson, Debug, guarded, print_found


def sync(
    of_dvc: Annotated[
        bool, typer.Option("--of-dvc", help="Called by dvc repro, which has just made sure of every artifact.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let Snakemake take as current what DVC has fetched: nothing is made again that dvc.lock vouches for."""

    def work() -> None:
        import yaml

        import spaceevo.workflow.sync as workflow_sync
        from spaceevo.workflow.dag import PARAMS_FILE, plan_jobs
        from spaceevo.workflow.stages import check_stages

        jobs = plan_jobs()
        if of_dvc:
            workflow_sync.touch([path for job in jobs for path in job.outputs])
            return
        check_stages(jobs, yaml.safe_load(PARAMS_FILE.read_text()))
        synced = workflow_sync.sync(jobs)
        print_found({"current": list(synced.current), "stale": synced.stale}, _show, as_json)

    guarded(work, debug)


def _show(found: dict[str, Any]) -> None:
    print(f"{len(found['current'])} artifacts are current.")
    for stage, reason in found["stale"].items():
        print(f"{stage} is to be redone, and what follows from it: {reason}.")
