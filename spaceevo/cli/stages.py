"""`spaceevo stages`: dvc.yaml, written from the workflow."""

from __future__ import annotations

from typing import Annotated

import typer

from spaceevo.cli.output import Debug, guarded


def stages(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where dvc.yaml does not fit.")] = False,
    debug: Debug = False,
) -> None:
    """Write dvc.yaml from the workflow and params.yaml: after a change of devices, dataset, hyperspace or rules."""

    def work() -> None:
        import yaml

        from spaceevo.workflow.dag import PARAMS_FILE, plan_jobs
        from spaceevo.workflow.stages import check_stages, write_stages

        jobs = plan_jobs()
        (check_stages if check else write_stages)(jobs, yaml.safe_load(PARAMS_FILE.read_text()))

    guarded(work, debug)
