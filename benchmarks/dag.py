"""CPU time to read the workflow and build its DAG, for the published hyperspaces and for as many block jobs as asked.

A hyperspace has two block jobs for each searched stage: one distills all its block types, one measures their losses.
For more of them, the searched stages are repeated. Each run is a new process of one thread, whose CPU time other
processes hardly disturb; the median of several counts. Reading includes configuration and devices, building includes
digests of the code that every rule uses; importing Snakemake is apart.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from common import ROOT, Check, print_checks, print_table, write_result

from spaceevo.scripting import run
from spaceevo.space.hyperspace import SHIPPED

HYPERSPACES = ("mobilew", "onnxw")
LIMIT_S = 3.0

# Prints seconds of importing, reading and building, and jobs by rule.
MEASURED = """
import collections, contextlib, io, json, time
from pathlib import Path
start = time.process_time()
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings
imported = time.process_time()
with contextlib.redirect_stderr(io.StringIO()), SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    workflow_api = api.workflow(ResourceSettings(cores=1), ConfigSettings(), snakefile=Path("workflow/Snakefile"))
    workflow_api.dag(DAGSettings())
    workflow = workflow_api._workflow
    workflow.dag_settings = DAGSettings()
    workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True)
    read = time.process_time()
    workflow._build_dag()
    built = time.process_time()
    rules = collections.Counter(job.rule.name for job in workflow.dag.jobs)
print(json.dumps({"import_s": imported - start, "read_s": read - imported, "build_s": built - read, "rules": rules}))
"""


def main(block_jobs: int = 1000, rounds: int = 5) -> None:
    """Measure with the published hyperspaces as they are, and made longer until there are `block_jobs`."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in HYPERSPACES:
            stages = sum("search" in stage for stage in _declared(name)["stages"])
            for jobs in (2 * stages, block_jobs):
                project = _make_project(Path(folder) / f"{name}{jobs}", name, jobs // 2)
                found.append({"hyperspace": name, **_measure(project, rounds)})
    print_table(
        "Reading the workflow and building its DAG, CPU seconds",
        ("hyperspace", "block jobs", "jobs", "read", "build", "both", "importing Snakemake"),
        [
            (
                *(one[key] for key in ("hyperspace", "block_jobs", "jobs")),
                *(f"{one[key]:.2f}" for key in ("read_s", "build_s", "both_s", "import_s")),
            )
            for one in found
        ],
    )
    slowest = max(one["both_s"] for one in found)
    checks = [
        Check(f"DAG with {block_jobs} block jobs in at most {LIMIT_S:g} s", f"{slowest:.2f} s", slowest <= LIMIT_S)
    ]
    print_checks(checks)
    write_result("dag", {"rounds": rounds, "runs": found}, checks)


def _declared(name: str) -> dict[str, Any]:
    declared: dict[str, Any] = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())
    return declared


def _make_project(folder: Path, name: str, searched: int) -> Path:
    """A copy of the workflow with the settings of params/imagenet.yaml and `searched` searched stages."""
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= yaml.safe_load((ROOT / "params" / "imagenet.yaml").read_text()) | {"hyperspace": "long"}
    params["supernet"]["checkpoints"] = {}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    declared = _declared(name)
    stages = declared["stages"]
    first = next(i for i, stage in enumerate(stages) if "search" in stage)
    loop = [stage for stage in stages if "search" in stage]
    repeated = [
        {**loop[i % len(loop)], "name": f"stage{i + 1}", "stride": loop[i]["stride"] if i < len(loop) else 1}
        for i in range(searched)
    ]
    declared["stages"] = [*stages[:first], *repeated, *stages[first + len(loop) :]]
    (folder / "hyperspaces").mkdir()
    (folder / "hyperspaces" / "long.yaml").write_text(yaml.safe_dump(declared))
    return folder


def _measure(project: Path, rounds: int) -> dict[str, Any]:
    runs = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", MEASURED], cwd=project, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    seconds = {key: statistics.median(run[key] for run in runs) for key in ("import_s", "read_s", "build_s")}
    rules = runs[0]["rules"]
    return {
        "jobs": sum(rules.values()),
        "block_jobs": rules["distill_blocks"] + rules["measure_block_losses"],
        **seconds,
        "both_s": statistics.median(run["read_s"] + run["build_s"] for run in runs),
    }


if __name__ == "__main__":
    run(main)
