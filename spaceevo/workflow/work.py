"""How much work a job of the workflow is: a number that its time grows with, in a unit of its rule.

Where networks compute, the unit is the multiply-accumulate (MAC) of a forward pass. A training step counts as three
passes, and a pass that simulates INT8 as two. A network that is not known before it is designed stands for the mean of
random ones of the hyperspace, and the projections around distilled stages are left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open

from spaceevo.config import Dataset
from spaceevo.nn.network import stage_plan, subnet_plan
from spaceevo.nn.plan import plan_cost
from spaceevo.space import Hyperspace, Space, Stage, StageOptions, Subnet, parse_space, sample_space, sample_subnet

MAC, PICTURE, SPACE, SECOND, JOB = "MAC", "picture", "space", "second measured", "job"
UNITS = {
    "prepare_data": PICTURE,
    "train_teacher": MAC,
    "distill_blocks": MAC,
    "measure_block_losses": MAC,
    "profile_latency": SECOND,
    "study_device": SECOND,
    "evolve_space": SPACE,
    "train_supernet_fp32": MAC,
    "train_supernet_int8": MAC,
    "search_subnets": MAC,
    "compare_space": MAC,
    "extract_seqnet": MAC,
    "write_card": MAC,
}
# Rules that run the script of another one.
SCRIPT_OF = {
    "distill_fixed_stage": "distill_blocks",
    "compare_supernet_fp32": "train_supernet_fp32",
    "compare_supernet_int8": "train_supernet_int8",
}

TRAINING = 3  # passes forward that a step forward and backward takes
SIMULATED = 2  # passes in FP32 that one takes in which INT8 is simulated
RANDOM_SPACES = 16
CLASSES = 100
SUBNET_BUDGETS = 5
IMAGENET = 1_281_167  # pictures to train on
CIFAR = 50_000

# MACs and resolution of torchvision's EfficientNets, as their paper has them (table 2; arXiv 1905.11946).
EFFICIENTNETS = {
    "efficientnet_b0": (0.39e9, 224),
    "efficientnet_b1": (0.70e9, 240),
    "efficientnet_b2": (1.0e9, 260),
    "efficientnet_b3": (1.8e9, 300),
    "efficientnet_b4": (4.2e9, 380),
    "efficientnet_b5": (9.9e9, 456),
    "efficientnet_b6": (19e9, 528),
    "efficientnet_b7": (37e9, 600),
}

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What the work of all jobs of a run depends on.

    Attributes:
        images: pictures of the training split.
        teacher: a space code, or the name of an EfficientNet.
    """

    hyperspace: Hyperspace
    images: int
    teacher: str


def work(rule: str, stage: str | None, values: Values, setting: Setting) -> float:
    """The work of one job, in the unit `UNITS` has for its rule; one job where that has none.

    Args:
        stage: which one the job distills or measures, if any.
        values: its parameters, by their keys in params.yaml.
    """
    mean = mean_macs(setting.hyperspace)
    match rule:
        case "prepare_data":
            return setting.images
        case "train_teacher":
            return float(TRAINING * values["teacher"]["recipe"]["epochs"] * setting.images * teacher_macs(setting))
        case "distill_blocks":
            assert stage is not None
            return _distillation(setting.hyperspace.stage(stage), values["blocks"], setting)
        case "measure_block_losses":
            assert stage is not None
            return _block_losses(setting.hyperspace.stage(stage), values["lut"], setting)
        case "profile_latency":
            return float(values["profile"]["time_limit_s"])
        case "study_device":
            return float(values["study"]["time_limit_s"])
        case "evolve_space":
            return float(values["space"]["evolution"]["evaluations"])
        case "train_supernet_fp32":
            sandwich = values["supernet.sandwich"]
            alone = sandwich["largest_alone"]
            first = mean.largest + mean.largest_lower * sandwich["mixed_resolutions"]
            passes = first * alone + _sandwich(mean, sandwich) * (1 - alone)
            return float(TRAINING * values["supernet.fp32"]["epochs"] * setting.images * passes)
        case "train_supernet_int8":
            passes = SIMULATED * _sandwich(mean, values["supernet.sandwich"])
            return float(TRAINING * values["supernet.int8"]["epochs"] * setting.images * passes)
        case "search_subnets":
            return SIMULATED * _searched_images(values["search"]) * mean.random
        case "compare_space":
            drawn = SUBNET_BUDGETS * values["comparison.random_subnets"]
            return SIMULATED * _searched_images(values["search"], drawn) * mean.random
        case "extract_seqnet":
            images = values["export.recalibration_images"] + values["export.verify_images"]
            return float(SIMULATED * images * mean.random)
        case "write_card":
            return float(SIMULATED * values["export.recalibration_images"] * mean.random)
    return 1.0


@dataclass(frozen=True)
class MeanMacs:
    """MACs of subnets, in the mean over random spaces.

    Attributes:
        largest, smallest, random: each at its own resolution.
        largest_lower: the largest at a random resolution but the highest; 0 where there is no other.
        smallest_any: the smallest at a random resolution.
    """

    largest: float
    smallest: float
    random: float
    largest_lower: float
    smallest_any: float


@cache
def mean_macs(hyperspace: Hyperspace) -> MeanMacs:
    """Of the largest, the smallest and a random subnet of random spaces of the hyperspace."""
    rng = np.random.default_rng(0)
    resolutions = hyperspace.resolutions
    rows = []
    for _ in range(RANDOM_SPACES):
        space = sample_space(hyperspace, rng)
        own = [_macs(space, s) for s in (space.largest, space.smallest, sample_subnet(space, rng))]
        largest, smallest = (
            [_macs(space, replace(subnet, resolution=resolution)) for resolution in resolutions]
            for subnet in (space.largest, space.smallest)
        )
        rows.append([*own, sum(largest[:-1]) / max(len(resolutions) - 1, 1), sum(smallest) / len(resolutions)])
    return MeanMacs(*np.mean(rows, axis=0))


def teacher_macs(setting: Setting) -> float:
    """MACs of one pass of the teacher at the largest resolution of distillation."""
    resolution = setting.hyperspace.block_kd_resolutions[-1]
    if setting.teacher in EFFICIENTNETS:
        macs, native = EFFICIENTNETS[setting.teacher]
        return macs * (resolution / native) ** 2
    space = parse_space(setting.teacher)
    return plan_cost(subnet_plan(space, space.largest, CLASSES), resolution).macs


def count_images(split: Path) -> int | None:
    """Pictures of a prepared split, from the file's header; None where it is not there."""
    if not split.is_file():
        return None
    if split.suffix == ".parquet":
        return int(pq.read_metadata(split).num_rows)
    with safe_open(split, framework="numpy") as stream:
        return int(stream.get_slice("labels").get_shape()[0])


def foreseen_images(dataset: Dataset) -> tuple[int, str]:
    """How many pictures the training split of a dataset that is not prepared will have, and how that is known."""
    rest = 1 - dataset.val_fraction
    match dataset.name:
        case "clutter":
            return dataset.clutter.train_images, "as the parameters say"
        case "cifar10" | "cifar100":
            return round(CIFAR * rest), "as CIFAR has"
    root = Path(str(dataset.root))
    if not root.is_dir():
        return round(IMAGENET * rest), f"assumed, as ImageNet has: there is no folder {root} here"
    train = root / "train"
    if train.is_dir():
        held = any((root / name).is_dir() for name in ("val", "test"))
        return round(_count_files(train) * (rest if held else rest - dataset.test_fraction)), f"counted in {train}"
    return round(_count_files(root) * (rest - dataset.test_fraction)), f"counted in {root}"


def _count_files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _macs(space: Space, subnet: Subnet) -> int:
    return plan_cost(subnet_plan(space, subnet, CLASSES), subnet.resolution).macs


def _sandwich(mean: MeanMacs, sandwich: Values) -> float:
    smallest = mean.smallest_any if sandwich["mixed_resolutions"] else mean.smallest
    return float(mean.largest + smallest + sandwich["random_subnets"] * mean.random)


def _searched_images(search: Values, drawn: int = 0) -> float:
    """Pictures that the subnet search, its shortlists and `drawn` more subnets are shown, each once."""
    subnets, judged = search["settings"]["evaluations"] + drawn, SUBNET_BUDGETS * search["shortlist"]["subnets"]
    shown = subnets * search["val_images"] + judged * search["shortlist"]["val_images"]
    return float(shown + (subnets + judged) * search["recalibration_images"])


def _distillation(stage: Stage, blocks: Values, setting: Setting) -> float:
    """A pass of the teacher and the sandwich of every block type, on each picture of both phases."""
    hyperspace = setting.hyperspace
    widths = hyperspace.in_widths(stage.name)
    students = 0.0
    for block_type in hyperspace.types_of(stage):
        options = StageOptions(stage, block_type, stage.widths)
        largest = _stage_macs(hyperspace, stage, options, widths[-1], -1)
        smallest = _stage_macs(hyperspace, stage, options, widths[0], 0)
        students += largest + smallest + blocks["random_choices"] * (largest + smallest) / 2
    teacher = teacher_macs(setting)
    fp32, int8 = blocks["fp32"]["epochs"], blocks["int8"]["epochs"]
    return float(setting.images * ((fp32 + int8) * teacher + TRAINING * (fp32 + SIMULATED * int8) * students))


def _block_losses(stage: Stage, lut: Values, setting: Setting) -> float:
    """Every sample on the pictures for statistics and for its loss; the teacher's passes on them, once a resolution."""
    hyperspace = setting.hyperspace
    widths = hyperspace.in_widths(stage.name)
    images = lut["train_images"] + lut["val_images"]
    total = len(hyperspace.block_kd_resolutions) * images * teacher_macs(setting)
    for block_type in hyperspace.types_of(stage):
        options = StageOptions(stage, block_type, stage.widths)
        ends = [_stage_macs(hyperspace, stage, options, widths[pick], pick) for pick in (0, -1)]
        drawn = options.count() if options.all_measured else lut["samples"]
        rows = stage.windows * len(widths) * len(hyperspace.block_kd_resolutions) * drawn
        total += SIMULATED * rows * images * sum(ends) / 2
    return float(total)


def _stage_macs(hyperspace: Hyperspace, stage: Stage, options: StageOptions, in_width: int, pick: int) -> float:
    """MACs of the smallest or largest choice of a stage, in the mean over the resolutions of distillation."""
    plan = stage_plan(options.block_type, in_width, options.extreme(pick), stage.stride)
    heights: Sequence[int] = [hyperspace.map_size(stage.name, r) for r in hyperspace.block_kd_resolutions]
    return float(np.mean([plan_cost(plan, height).macs for height in heights]))
