"""The workflow as Snakemake plans it: every job behind a target, and why it would run. Only here is its API used."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceevo.errors import SpaceEvoError
from spaceevo.workflow.values import Value, recorded_values

SNAKEFILE, PARAMS_FILE = Path("workflow/Snakefile"), Path("params.yaml")


@dataclass(frozen=True)
class PlannedJob:
    """One job of the workflow.

    Attributes:
        inputs, outputs: paths, relative to the project.
        values: its parameters by name, as text.
        runs: whether Snakemake would run it.
        missing: outputs that are not there, of those that are asked for.
        newer_inputs: inputs that were written after its outputs.
        redone_inputs: inputs that another job is about to write.
        recorded: its parameters when its outputs were made, by name; None where Snakemake has no record of that.
        recorded_inputs: its inputs then; None as above.
        shell_changed: whether its command has another text since.
    """

    rule: str
    wildcards: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: dict[str, Value]
    runs: bool
    missing: tuple[str, ...]
    newer_inputs: tuple[str, ...]
    redone_inputs: tuple[str, ...]
    recorded: dict[str, Any] | None
    recorded_inputs: tuple[str, ...] | None
    shell_changed: bool


def plan_jobs(
    targets: Sequence[str] = (), configfiles: Sequence[Path] = (), snakefile: Path = SNAKEFILE
) -> list[PlannedJob]:
    """All jobs behind the targets (by default: behind everything), each after those it reads from. Runs nothing.

    Raises:
        SpaceEvoError: the workflow cannot be planned; the sentence is Snakemake's.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings

    if not snakefile.is_file():
        raise SpaceEvoError(f"{snakefile} does not exist: run in the project's folder.")
    said = io.StringIO()
    with contextlib.redirect_stderr(said), SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        try:
            workflow_api = api.workflow(
                ResourceSettings(cores=1), ConfigSettings(configfiles=[*configfiles]), snakefile=snakefile
            )
            workflow_api.dag(DAGSettings(targets=set(targets)))
            workflow = workflow_api._workflow
            workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True)
            workflow._build_dag()
        except Exception as error:
            raise SpaceEvoError(_sentence(error, said.getvalue())) from error
        return [_planned(job, workflow) for level in workflow.dag.toposorted() for job in _sorted(level)]


def _sorted(level: Any) -> list[Any]:
    return sorted((job for job in level if job.output), key=lambda job: sorted(job.output))


def _planned(job: Any, workflow: Any) -> PlannedJob:
    reason, persistence = workflow.dag.reason(job), workflow.persistence
    first = next(iter(job.output))
    known = persistence.has_metadata(job)
    recorded_inputs = persistence.input(first) if known else None
    return PlannedJob(
        rule=job.rule.name,
        wildcards=dict(job.wildcards_dict or {}),
        inputs=tuple(map(str, job.input)),
        outputs=tuple(map(str, job.output)),
        values={value.name: value for value in job.params if isinstance(value, Value)},
        runs=bool(workflow.dag.needrun(job)),
        missing=tuple(path for path in map(str, job.output) if not Path(path).exists()),
        newer_inputs=tuple(sorted(map(str, reason.updated_input))),
        redone_inputs=tuple(sorted(map(str, reason.updated_input_run))),
        recorded=recorded_values(persistence.params(first) or []) if known else None,
        recorded_inputs=None if recorded_inputs is None else tuple(recorded_inputs),
        shell_changed=known and any(persistence.code_changed(job)),
    )


def _sentence(error: Exception, said: str) -> str:
    lines = [line.strip() for line in (str(error) or said).splitlines() if line.strip()]
    return lines[0] if lines else f"The workflow cannot be planned: {type(error).__name__}."
