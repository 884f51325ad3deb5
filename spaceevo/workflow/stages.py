"""dvc.yaml, derived from the workflow: one stage per rule and device, with the inputs, outputs and params of its jobs.

Written by hand it would drift from the rules. Two stages are no rule's: `facts` writes the digests that the others
compare, and refuses a dvc.yaml that no longer fits params.yaml; `sync` tells Snakemake of what DVC has fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import spaceevo
from spaceevo.errors import SpaceEvoError
from spaceevo.workflow.dag import PlannedJob
from spaceevo.workflow.values import parsed

DVC_FILE = Path("dvc.yaml")
FACTS, MACHINE = "results/facts.json", "results/machine.json"
FACTS_STAGE, SYNC_STAGE = "facts", "sync"
HEADING = """\
# The workflow's artifacts for DVC: dvc repro, dvc push, dvc pull. docs/working-in-a-team.md
# Written by `spaceevo stages` from workflow/ and params.yaml: run that after a change of devices, dataset or rules.
"""

Stage = dict[str, Any]


def write_stages(jobs: Sequence[PlannedJob], params: Mapping[str, Any]) -> None:
    """Write dvc.yaml for the jobs of the whole workflow and the content of params.yaml."""
    DVC_FILE.write_text(stages_text(jobs, params))


def check_stages(jobs: Sequence[PlannedJob], params: Mapping[str, Any]) -> None:
    """Raise a `SpaceEvoError` where dvc.yaml is not what `write_stages` would write."""
    if not DVC_FILE.is_file() or DVC_FILE.read_text() != stages_text(jobs, params):
        raise SpaceEvoError(f"{DVC_FILE} does not fit params.yaml and workflow/: run spaceevo stages, then go on.")


def stages_text(jobs: Sequence[PlannedJob], params: Mapping[str, Any]) -> str:
    """The text of dvc.yaml."""
    groups: dict[str, list[PlannedJob]] = {}
    for job in jobs:
        if not {FACTS, MACHINE} & {*job.outputs}:
            groups.setdefault(stage_name(job), []).append(job)
    made = {path for job in jobs for path in job.outputs}
    stages = {FACTS_STAGE: _facts_stage()}
    stages |= {name: _stage(group, made, params) for name, group in groups.items()}
    stages[SYNC_STAGE] = {
        "cmd": "spaceevo sync --of-dvc",
        "deps": sorted(made - {MACHINE}),
        "params": [{"params.yaml": None}],
    }
    return HEADING + "\n" + yaml.safe_dump({"stages": stages}, sort_keys=False, width=2**16)


def stage_name(job: PlannedJob) -> str:
    """The name of the stage that a job belongs to."""
    if FACTS in job.outputs:
        return FACTS_STAGE
    return "-".join(filter(None, (job.rule, job.wildcards.get("device"))))


def _facts_stage() -> Stage:
    package = Path(spaceevo.__file__).parent
    folders = [Path("workflow"), Path("hyperspaces"), Path("devices")]
    if package.is_relative_to(Path.cwd()):
        folders.append(package.relative_to(Path.cwd()))
    return {
        "cmd": f"spaceevo stages --check && {_command(['workflow_facts'], [FACTS])}",
        "deps": sorted(str(folder) for folder in folders if folder.is_dir()),
        "params": [{"params.yaml": None}],
        "outs": [FACTS],
    }


def _stage(jobs: Sequence[PlannedJob], made: set[str], params: Mapping[str, Any]) -> Stage:
    outputs = {path for job in jobs for path in job.outputs}
    values = {value.name: value for job in jobs for value in job.values.values()}
    rules, targets = [jobs[0].rule], [job.outputs[0] for job in jobs]
    facts = [fact for name, value in values.items() if (fact := _fact(name, value, jobs[0]))]
    keys: list[Any] = [key for value in values.values() for key in value.keys if _holds(params, key)]
    if facts:
        keys.append({FACTS: sorted(facts)})
    if "machine" in values:
        keys.append({MACHINE: [jobs[0].wildcards["device"]]})
        rules, targets = ["machine_facts", *rules], [MACHINE, *targets]
    deps = sorted(_dependencies({path for job in jobs for path in job.inputs} - outputs, made))
    stage = {"cmd": _command(rules, targets), "deps": deps, "params": keys, "outs": sorted(outputs)}
    return {key: value for key, value in stage.items() if value}


def _command(rules: Sequence[str], targets: Sequence[str]) -> str:
    return f"snakemake --force --allowed-rules {' '.join(rules)} -- {' '.join(targets)}"


def _fact(name: str, value: str, job: PlannedJob) -> str | None:
    """Where results/facts.json has the digest that a parameter stands for; None for what is no digest."""
    match name:
        case "code":
            script = next(key for key in parsed(value) if key.endswith(".py"))
            return f"code.{Path(script).stem}"
        case "hyperspace file":
            return f"hyperspaces.{next(iter(parsed(value)))}"
        case "device file":
            return f"devices.{job.wildcards['device']}"
    return None


def _holds(params: Mapping[str, Any], key: str) -> bool:
    """Whether params.yaml states a key; one that is left out has its default until dvc.yaml is written anew."""
    found: Any = params
    for name in key.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return False
        found = found[name]
    return True


def _dependencies(inputs: set[str], made: set[str]) -> Iterable[str]:
    """The inputs; files that no rule makes by their folder where there are several; not what comes with the package."""
    yield from inputs & made
    package = Path(spaceevo.__file__).parent
    given = [Path(path) for path in inputs - made if not Path(path).resolve().is_relative_to(package)]
    for folder in {path.parent for path in given}:
        files = [path for path in given if path.parent == folder]
        yield str(files[0] if len(files) == 1 else folder)
