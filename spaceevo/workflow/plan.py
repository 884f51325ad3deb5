"""What a configuration will cost: jobs by rule, what is current, and expected hours with what each figure is based on.

A job costs its work (`spaceevo.workflow.work`) times a rate. The rate of a rule is that of its recorded jobs: what the
headers of their artifacts say they took, for the parameters that Snakemake recorded of them. Where nothing is recorded,
and for GPUs, of which nothing is ever recorded, rates are assumed, and said to be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from spaceevo.artifacts import read_header
from spaceevo.config import Dataset, Params, parse_params
from spaceevo.errors import ArtifactError, ParamsError, SpaceEvoError
from spaceevo.space import load_hyperspace
from spaceevo.workflow.dag import PARAMS_FILE, PlannedJob
from spaceevo.workflow.values import parsed
from spaceevo.workflow.work import JOB, SCRIPT_OF, UNITS, Setting, count_images, foreseen_images, work

HOUR_S = 3600.0
PAPER_GPU_HOURS = 25.0  # of the search for one device's space, as the paper states
# 10^12 MACs per second of one GPU, a fifth of the FP32 peak of the V100s of the paper's time; an H200 came to 4.2 in
# FP32 and 2.2 with quantizers (benchmarks/gpu_step.py).
GPU_RATE = 1.5

# Core-seconds per unit of work, measured with params.yaml as committed on one core of a shared server CPU.
ASSUMED_CPU_S = {
    "prepare_data": 4e-4,
    "train_teacher": 2.8e-11,
    "distill_blocks": 9.3e-11,
    "measure_block_losses": 4.5e-11,
    "profile_latency": 1.0,
    "study_device": 1.0,
    "evolve_space": 1.9e-3,
    "train_supernet_fp32": 1.2e-10,
    "train_supernet_int8": 1.2e-10,
    "search_subnets": 6.5e-11,
    "compare_space": 6.5e-11,
    "extract_seqnet": 1.2e-10,
    "write_card": 4.1e-10,
}
ASSUMED_JOB_S = 5.0  # of rules whose time does not grow with anything

TRAINS = ("train_teacher", "distill_blocks", "train_supernet_fp32", "train_supernet_int8")
SEARCHES_SPACE = (
    *("train_teacher", "distill_blocks", "measure_block_losses", "accuracy_lut", "import_lut"),
    *("profile_latency", "fit_latency_predictor", "table_latency_predictor", "evolve_space"),
)


@dataclass(frozen=True)
class Expected:
    """What the jobs of one rule will cost; hours are of those that would run.

    Attributes:
        jobs, current: how many there are, and how many of these need not run.
        cpu_h: core hours, where the rule runs on a CPU.
        wall_h: on a CPU, one job after the other.
        gpu_h: GPU hours, where it runs on a GPU; None where it never does.
        basis: where the figures come from.
    """

    rule: str
    jobs: int
    current: int
    work: float
    unit: str
    cpu_h: float
    wall_h: float
    gpu_h: float | None
    basis: str


@dataclass(frozen=True)
class CostPlan:
    """All rules in the order they run, and what is assumed of all of them."""

    rules: tuple[Expected, ...]
    assumptions: tuple[str, ...]

    def total(self, rules: Iterable[str] | None = None) -> dict[str, float]:
        """Core hours on CPUs alone; and with GPUs for what trains, GPU hours and core hours of all else."""
        chosen = [one for one in self.rules if rules is None or one.rule in rules]
        return {
            "cpu_h": sum(one.cpu_h for one in chosen),
            "wall_h": sum(one.wall_h for one in chosen),
            "gpu_h": sum(one.gpu_h or 0.0 for one in chosen),
            "cpu_beside_gpu_h": sum(one.cpu_h for one in chosen if one.gpu_h is None),
        }


@dataclass(frozen=True)
class _Recorded:
    """One finished job."""

    work: float
    cpu_s: float
    wall_s: float


def merged_params(configfiles: Sequence[Path] = ()) -> Params:
    """params.yaml with these files laid over it, as Snakemake does."""
    from snakemake.utils import update_config

    document: dict[str, Any] = {}
    for path in (PARAMS_FILE, *configfiles):
        try:
            update_config(document, yaml.safe_load(path.read_text()))
        except OSError:
            raise ParamsError(f"{path} does not exist: run in the project's folder, or name the file.") from None
    return parse_params(document, " + ".join(map(str, (PARAMS_FILE, *configfiles))))


def plan_costs(jobs: Sequence[PlannedJob], params: Params, gpu_rate: float = GPU_RATE) -> CostPlan:
    """What these jobs will cost.

    Args:
        jobs: of `plan_jobs`.
        gpu_rate: 10^12 MACs per second of one GPU in training.
    """
    images, origin = _images(jobs, params.dataset)
    setting = Setting(load_hyperspace(params.hyperspace), images, params.teacher.model)
    by_rule: dict[str, list[PlannedJob]] = {}
    for job in jobs:
        rule = SCRIPT_OF.get(job.rule, job.rule)
        by_rule.setdefault(rule, []).append(replace(job, rule=rule))
    recorded_setting = _recorded_names(jobs)
    rules = tuple(
        _expected(rule, some, setting, [*_records(some, recorded_setting)], gpu_rate) for rule, some in by_rule.items()
    )
    assumptions = (
        f"{images:,} pictures to train on ({origin}).",
        f"GPU hours: {gpu_rate:g}·10^12 MACs a second of each GPU, assumed of pictures of some 200 pixels: small ones "
        "leave a GPU waiting and take longer. A training step is three passes forward, one with simulated INT8 is two "
        "in FP32.",
        "Spaces that are yet to be designed: the mean of random ones. Starting a job's process is not counted; what is "
        "recorded is taken to have run on CPUs.",
    )
    return CostPlan(rules, assumptions)


def _expected(
    rule: str, jobs: Sequence[PlannedJob], setting: Setting, records: Sequence[_Recorded], gpu_rate: float
) -> Expected:
    due = [job for job in jobs if job.runs]
    amount = sum(work(rule, job.wildcards.get("stage"), _values(job.values), setting) for job in due)
    unit = UNITS.get(rule, JOB)
    done, cpu_s, wall_s = (sum(getattr(r, key) for r in records) for key in ("work", "cpu_s", "wall_s"))
    if done:
        rate, slowness = cpu_s / done, wall_s / cpu_s if cpu_s else 1.0
        basis = f"{len(records)} recorded: {cpu_s / done:.2g} core-seconds per {unit}"
    else:
        rate, slowness = ASSUMED_CPU_S.get(rule, ASSUMED_JOB_S), 1.0
        basis = f"assumed: {rate:.2g} core-seconds per {unit}"
    return Expected(
        rule=rule,
        jobs=len(jobs),
        current=len(jobs) - len(due),
        work=amount,
        unit=unit,
        cpu_h=amount * rate / HOUR_S,
        wall_h=amount * rate * slowness / HOUR_S,
        gpu_h=amount / (gpu_rate * 1e12) / HOUR_S if rule in TRAINS else None,
        basis=basis,
    )


def _values(values: Mapping[str, str]) -> dict[str, Any]:
    return {name: parsed(value) for name, value in values.items()}


def _images(jobs: Sequence[PlannedJob], dataset: Dataset) -> tuple[int, str]:
    """Pictures of the training split: of the file that is there if it is current, else as far as can be foreseen."""
    for job in jobs:
        if job.rule == "prepare_data" and not job.runs and (split := _train_split(job.outputs)):
            counted = count_images(split)
            if counted is not None:
                return counted, f"counted in {split}"
    return foreseen_images(dataset)


def _train_split(paths: Iterable[str]) -> Path | None:
    return next((Path(path) for path in paths if re.search(r"data/[^/]+/train\.\w+$", path)), None)


def _recorded_names(jobs: Sequence[PlannedJob]) -> dict[str, Any]:
    """Hyperspace and teacher that the recorded jobs were run with, as any of them says."""
    names: dict[str, Any] = {}
    for job in jobs:
        for key in ("hyperspace", "teacher"):
            if job.recorded and key in job.recorded:
                names.setdefault(key, job.recorded[key])
    return names


def _records(jobs: Sequence[PlannedJob], names: Mapping[str, Any]) -> Iterable[_Recorded]:
    """What the jobs that were run before did and cost; those of which too little is known are left out."""
    for job in jobs:
        cost = _cost(job.outputs)
        if job.recorded is None or cost is None:
            continue
        values = {**names, **job.recorded}
        split = _train_split((*(job.recorded_inputs or ()), *job.outputs))
        images = 0 if split is None else count_images(split)
        if images is None:
            continue
        try:
            setting = Setting(load_hyperspace(str(values["hyperspace"])), images, str(values["teacher"]["model"]))
            amount = work(job.rule, job.wildcards.get("stage"), values, setting)
        except (KeyError, TypeError, SpaceEvoError):
            continue
        if amount > 0:
            yield _Recorded(amount, *cost)


def _cost(outputs: Iterable[str]) -> tuple[float, float] | None:
    """Core and wall seconds of a job: its artifacts each state what it had cost by then, so the largest count."""
    costs = []
    for path in outputs:
        try:
            costs.append(read_header(path)["cost"])
        except ArtifactError:
            continue
    if not costs:
        return None
    return max(cost["cpu_s"] for cost in costs), max(cost["wall_s"] for cost in costs)
