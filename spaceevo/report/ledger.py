"""The cost ledger: what every step of a run cost, from the headers of its artifacts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spaceevo.artifacts import read_header

# Steps in the order they run, with the artifacts of each. One job may write several: `device` and `job` tell which.
STEPS = {
    "data": r"data/.+",
    "teacher": r"teacher\.safetensors",
    "distilled blocks": r"blocks/(?P<job>\w+)_\d+\.safetensors",
    "block losses": r"blocks/(?P<job>\w+)\.lut\.parquet",
    "accuracy LUT": r"blocks/lut\.parquet",
    "latency profile": r"(?P<device>[^/]+)/latency_profile\.parquet",
    "latency predictor": r"(?P<device>[^/]+)/latency_predictor\.json",
    "space evolution": r"(?P<device>[^/]+)/space(\.json|_history\.parquet)",
    "checkpoint import": r"(?!)",  # a space and a supernet, of which the header tells that a checkpoint is imported
    "supernet, FP32 phase": r"(?P<device>[^/]+)/supernet_fp32\.safetensors",
    "supernet, INT8 phase": r"(?P<device>[^/]+)/supernet\.safetensors",
    "subnet search": r"(?P<device>[^/]+)/(seqnets\.json|subnets\.parquet)",
    "SEQnet extraction": r"(?P<device>[^/]+)/seqnet_(?P<job>A\d)(\.graph|\.verification)?\.safetensors",
    "SEQnet cards": r"(?P<device>[^/]+)/seqnet_(?P<job>A\d)\.json",
    "other": r".+",
}


@dataclass(frozen=True)
class Cost:
    """What one artifact says it cost.

    Attributes:
        path: relative to the folder of results.
        device: whose it is; "" where all devices share it.
        job: which job of its step wrote it; "" where the step is one job.
    """

    path: str
    step: str
    device: str
    job: str
    wall_s: float
    cpu_s: float
    gpu_s: float


@dataclass(frozen=True)
class StepCost:
    """What one step cost, for one device or for all."""

    step: str
    device: str
    artifacts: int
    wall_s: float
    cpu_s: float
    gpu_s: float


def read_costs(results: Path, artifacts: Iterable[Path]) -> list[Cost]:
    """The cost of each artifact, in the order of steps, then devices as they come.

    Raises:
        ArtifactError: one is missing, damaged, or has no header.
    """
    costs = []
    for artifact in artifacts:
        path = artifact.relative_to(results).as_posix() if artifact.is_relative_to(results) else artifact.as_posix()
        step, match = next((step, m) for step, form in STEPS.items() if (m := re.fullmatch(form, path)))
        groups = match.groupdict()
        header = read_header(artifact)
        step, cost = "checkpoint import" if "checkpoint" in header["params"] else step, header["cost"]
        job = groups.get("job") or (path if step == "other" else "")
        costs.append(
            Cost(path, step, groups.get("device") or "", job, cost["wall_s"], cost["cpu_s"], cost.get("gpu_s", 0.0))
        )
    order = {step: i for i, step in enumerate(STEPS)}
    return sorted(costs, key=lambda cost: order[cost.step])


def step_costs(costs: Iterable[Cost]) -> list[StepCost]:
    """Sums over each step and device. Artifacts of one job each state what it had cost by then: the largest counts."""
    jobs: dict[tuple[str, str], dict[str, list[Cost]]] = {}
    for cost in costs:
        jobs.setdefault((cost.step, cost.device), {}).setdefault(cost.job, []).append(cost)
    return [
        StepCost(
            step,
            device,
            sum(len(written) for written in by_job.values()),
            sum(max(cost.wall_s for cost in written) for written in by_job.values()),
            sum(max(cost.cpu_s for cost in written) for written in by_job.values()),
            sum(max(cost.gpu_s for cost in written) for written in by_job.values()),
        )
        for (step, device), by_job in jobs.items()
    ]


def solution_costs(steps: Sequence[StepCost]) -> dict[str, tuple[float, float, float]]:
    """Wall, CPU and GPU seconds behind one device's SEQnets, by device: its own steps and those that all share."""
    devices = sorted({step.device for step in steps if step.device})
    return {
        device: (
            sum(step.wall_s for step in steps if step.device in (device, "")),
            sum(step.cpu_s for step in steps if step.device in (device, "")),
            sum(step.gpu_s for step in steps if step.device in (device, "")),
        )
        for device in devices
    }
