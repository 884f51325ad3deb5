"""The README's main job in a fresh copy of the project: seconds, memory, and what each step cost.

Memory is the peak of the sum over all processes of the job, polled four times a second: of the proportional set size
(PSS, each shared page counted once in all) where the system tells it, else of the resident set size, which counts
shared pages once per process.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
from common import ROOT, Check, print_checks, print_table, write_result

from spaceevo.latency.machine import inspect_cpu
from spaceevo.report.environment import GIB
from spaceevo.report.ledger import StepCost, read_costs, step_costs
from spaceevo.scripting import run

WALL_LIMIT_S = 720
MEMORY_LIMIT_GIB = 6
SECOND_RUN_LIMIT_S = 5
POLL_S = 0.25
MEASURE = "pss" if hasattr(psutil.Process().memory_full_info(), "pss") else "rss"


@dataclass(frozen=True)
class Job:
    """One run of the workflow: wall seconds, and peak memory of its processes together."""

    wall_s: float
    peak_gib: float


def main(cores: int = inspect_cpu()["cores"]) -> None:
    """Run the job twice, the second time with everything made."""
    targets = main_targets()
    with tempfile.TemporaryDirectory(prefix="spaceevo-main-job-") as temporary:
        project = Path(temporary)
        copy_project(project)
        first = run_job(project, targets, cores)
        second = run_job(project, targets, cores)
        steps = ledger(project / "results")
    print_table(
        "Cost of each step, from the artifacts' headers",
        ("step", "device", "artifacts", "wall s", "CPU s"),
        [(s.step, s.device, s.artifacts, f"{s.wall_s:.1f}", f"{s.cpu_s:.1f}") for s in (*steps, total(steps))],
    )
    checks = [
        Check(f"the main job within {WALL_LIMIT_S} s", f"{first.wall_s:.1f} s", first.wall_s <= WALL_LIMIT_S),
        Check(
            f"within {MEMORY_LIMIT_GIB} GiB ({MEASURE.upper()} of all its processes)",
            f"{first.peak_gib:.2f} GiB",
            first.peak_gib <= MEMORY_LIMIT_GIB,
        ),
        Check(
            f"a second run within {SECOND_RUN_LIMIT_S} s", f"{second.wall_s:.1f} s", second.wall_s <= SECOND_RUN_LIMIT_S
        ),
    ]
    print_checks(checks)
    content = {
        "targets": targets,
        "cores": cores,
        "memory": MEASURE,
        "first_run": asdict(first),
        "second_run": asdict(second),
        "steps": [asdict(step) for step in steps],
    }
    write_result("main_job", content, checks)


def main_targets() -> list[str]:
    """The files that `make run` makes."""
    found = re.search(r"^TARGET \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None, "the Makefile names no TARGET"
    return found[1].split()


def copy_project(folder: Path) -> None:
    """Copy all files under version control, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def run_job(project: Path, targets: Sequence[str], cores: int) -> Job:
    """Run Snakemake in `project`, whose own copy of the package is used; its messages go to standard error."""
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), *targets]
    environment = {**os.environ, "PYTHONPATH": str(project)}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=sys.stderr)
    poll = _Poll(process.pid)
    try:
        code = process.wait()
    finally:
        poll.stop()
    wall_s = time.perf_counter() - start
    if code != 0:
        raise SystemExit(f"error: the job ended with exit code {code}; see above")
    return Job(round(wall_s, 2), round(poll.peak_bytes / GIB, 3))


def ledger(results: Path) -> list[StepCost]:
    """The cost of each step whose artifacts are in `results`; exported models state none."""
    artifacts = [path for suffix in ("json", "parquet", "safetensors") for path in results.rglob(f"*.{suffix}")]
    costs = step_costs(read_costs(results, sorted(artifacts)))
    return [replace(cost, wall_s=round(cost.wall_s, 3), cpu_s=round(cost.cpu_s, 3)) for cost in costs]


def total(steps: Sequence[StepCost]) -> StepCost:
    """The sum of all steps. The job's wall time differs: jobs run side by side, and start-up and export are not in."""
    return StepCost(
        "all of these",
        "",
        sum(step.artifacts for step in steps),
        sum(step.wall_s for step in steps),
        sum(step.cpu_s for step in steps),
        sum(step.gpu_s for step in steps),
    )


class _Poll:
    """Watches the memory of a process and all its descendants, in a thread of its own."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._root = psutil.Process(pid)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(POLL_S):
            self.peak_bytes = max(self.peak_bytes, self._sum())

    def _sum(self) -> int:
        try:
            return sum(map(_memory, (self._root, *self._root.children(recursive=True))))
        except psutil.NoSuchProcess:
            return 0


def _memory(process: psutil.Process) -> int:
    """Bytes of one process; 0 where it has just ended."""
    try:
        return int(getattr(process.memory_full_info(), MEASURE))
    except psutil.Error:
        return 0


if __name__ == "__main__":
    run(main)
