"""The micro workflow on a real SLURM of one node: a job that takes too much memory and one that is killed run again."""

import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from slurm.cluster import job_of, single_node, why_not
from workflow.micro import make_project, micro_params

from spaceevo.artifacts import read_header

TARGET = "results/pixel4/supernet.safetensors"
TIME_LIMIT_S = 900

MISSING = why_not() or (
    None
    if importlib.util.find_spec("snakemake_executor_plugin_slurm")
    else "no SLURM executor; pip install 'spaceevo[slurm]'"
)
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no SLURM can be started here: {MISSING}")


def make_profile(folder: Path) -> dict[str, Any]:
    """The project's profile, changed for a node without GPUs and with little memory for the first attempt at data."""
    path = folder / "workflow" / "profiles" / "slurm" / "config.yaml"
    profile: dict[str, Any] = yaml.safe_load(path.read_text().replace("--nproc-per-node gpu", "--nproc-per-node 2"))
    profile["set-resources"]["prepare_data"] = {"mem_mb": "100 * attempt ** 5"}
    # What a test can know sooner than a cluster tells.
    profile |= {"latency-wait": 10, "seconds-between-status-checks": 2, "slurm-init-seconds-before-status-checks": 1}
    profile |= {"slurm-no-account": True, "slurm-status-command": "squeue"}
    path.write_text(yaml.safe_dump(profile))
    return profile


def kill_once_running(environment: dict[str, str], rule: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    """Kill the job of a rule in the middle of its script."""
    deadline = time.monotonic() + TIME_LIMIT_S / 2
    while not (log.exists() and (job := job_of(environment, rule))):
        assert process.poll() is None and time.monotonic() < deadline, f"{rule} did not run"
        time.sleep(0.1)
    subprocess.run(["scancel", "--full", "--signal=KILL", job], env=environment, check=True, timeout=60)


def attempts(said: str, rule: str) -> list[str]:
    """What Snakemake said of each attempt at a job of a rule: its resources."""
    return re.findall(rf"^rule {rule}:\n(?:    .*\n)*?    resources: (.*)$", said, re.MULTILINE)


@pytest.mark.slow
def test_jobs_that_are_killed_run_again(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", micro_params())
    make_profile(project)
    words = [sys.executable, "-m", "snakemake", "--workflow-profile", "workflow/profiles/slurm", TARGET]
    said_path = tmp_path / "said.txt"
    with single_node(tmp_path / "slurm") as environment, said_path.open("w") as stream:
        process = subprocess.Popen(
            words,
            cwd=project,
            env={**environment, "ACCELERATE_USE_CPU": "true"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            kill_once_running(environment, "train_teacher", project / "results/logs/train_teacher.log", process)
            process.wait(timeout=TIME_LIMIT_S)
        finally:
            process.kill()

    said = said_path.read_text()
    assert process.returncode == 0, said[-5000:]
    assert read_header(project / TARGET)["kind"] == "supernet"
    data, teacher = attempts(said, "prepare_data"), attempts(said, "train_teacher")
    assert [re.search(r"mem_mb=(\d+)", each)[1] for each in data] == ["100", "3200"], said
    assert [re.search(r"mem_mb=(\d+)", each)[1] for each in teacher] == ["3000", "6000"], said
    (supernet,) = attempts(said, "train_supernet_int8")
    assert "gpu=8" in supernet and "torch.distributed.run" in supernet
    assert said.count("Trying to restart job") == 2
    assert "localrule accuracy_lut:" in said
