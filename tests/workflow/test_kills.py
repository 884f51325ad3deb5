"""Snakemake killed over and over, anywhere in the DAG, and started again: the same artifacts in the end."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workflow.team import call, environment, make_team_project

from spaceevo.artifacts import read_header, read_json, read_table, read_tensors

KILLS = 20
FIRST_JOBS = 3  # rules that a run begins with
# Latencies that are measured differ from run to run; all that a table device needs does not.
CHAIN = (
    "data/clutter/train.safetensors", "data/clutter/test.safetensors", "teacher.safetensors",
    "blocks/stage1_0.safetensors", "blocks/stage2_1.safetensors", "blocks/lut.parquet", "pixel4/space.json",
    "pixel4/space_history.parquet", "pixel4/supernet_fp32.safetensors", "pixel4/supernet.safetensors",
    "pixel4/seqnets.json", "pixel4/subnets.parquet", "pixel4/seqnet_A1.safetensors",
    "pixel4/seqnet_A1.graph.safetensors", "pixel4/seqnet_A1.tflite", "pixel4/seqnet_A1.onnx", "pixel4/seqnet_A1.json",
    "pixel4/seqnet_A4.tflite",
)  # fmt: skip
TARGETS = [f"results/{name}" for name in CHAIN]


def content(path: Path) -> Any:
    """What an artifact holds, without what it cost."""
    match path.suffix:
        case ".json":
            return read_json(path, read_header(path)["kind"])
        case ".parquet":
            return read_table(path, read_header(path)["kind"]).to_csv()
        case ".safetensors":
            arrays, beside = read_tensors(path, read_header(path)["kind"])
            return {name: array.tobytes() for name, array in arrays.items()}, beside
    return path.read_bytes()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_team_project(tmp_path / "project")


@pytest.mark.slow
def test_twenty_kills_change_nothing(finished: Path, project: Path) -> None:
    rng = np.random.default_rng(0)
    reached = set()
    kills = 0
    longest_s = 12.0
    while kills < KILLS:
        with subprocess.Popen(
            ["snakemake", "--cores", "2", *TARGETS],
            cwd=project, env=environment(project), text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                _, said = process.communicate(timeout=rng.uniform(2, longest_s))
            except subprocess.TimeoutExpired:
                process.kill()  # Snakemake alone: its jobs end by themselves
                _, said = process.communicate()
            else:
                assert process.returncode == 0 or "unlock" in said, said[-3000:]
        reached |= {
            line.split()[1].rstrip(":") for line in said.splitlines() if line.startswith(("rule ", "localrule "))
        }
        kills += process.returncode < 0
        if len(reached) <= FIRST_JOBS:
            longest_s *= 1.2  # a slow machine ends no job in so little time
        if process.returncode == 0:  # all is made: something along the way is to be made again
            (project / "results" / CHAIN[rng.integers(len(CHAIN))]).unlink()
        if "unlock" in said:
            assert call(project, "snakemake", "--unlock").returncode == 0  # as Snakemake says
    assert len(reached) > FIRST_JOBS, "the kills fell on more than the first jobs"
    call(project, "snakemake", "--unlock")
    done = call(project, "snakemake", "--cores", "2", *TARGETS)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in CHAIN:
        assert content(project / "results" / name) == content(finished / "results" / name), name
    assert not list((project / "results" / "checkpoints").glob("*"))
