"""Measuring the accuracy LUT: INT8 loss of sampled stage choices of the distilled blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spaceevo.data.transforms import resize
from spaceevo.nn.network import stage_plan
from spaceevo.nn.plan import plan_cost
from spaceevo.nn.student import StageStudent
from spaceevo.nn.teacher import Teacher
from spaceevo.progress import progress
from spaceevo.quant.quantizers import int8
from spaceevo.space import Stage, StageChoice, StageOptions, format_stage, sample_stage
from spaceevo.train.blocks import Students, teacher_features
from spaceevo.train.evaluate import EVALUATION_BATCH, recalibrate
from spaceevo.train.losses import noise_to_signal


def measure_block_losses(
    students: Students, teacher: Teacher, train_images: Tensor, val_images: Tensor, samples: int, seed: int
) -> pd.DataFrame:
    """One row per sampled stage choice of every student: the LUT's rows of their stages.

    For every width window, arriving width and resolution, `samples` choices are drawn uniformly among those of the
    window. Each is extracted, its BatchNorm statistics recomputed, and its noise-to-signal ratio measured in INT8.

    Args:
        train_images: normalised images [N, 3, H, W] that BatchNorm statistics are recomputed on.
        val_images: normalised images that losses are measured on.

    Returns:
        Columns stage, block_type, window, in_width, out_width, choice, resolution, loss, macs, params.
    """
    teacher.eval()
    hyperspace = students.hyperspace
    rows = []
    combinations = list(_combinations(students))
    with progress("block losses", len(combinations) * samples * len(hyperspace.block_kd_resolutions)) as tick:
        for resolution in hyperspace.block_kd_resolutions:
            train = _features(teacher, train_images, resolution)
            val = _features(teacher, val_images, resolution)
            for stage, index, window, student, options, in_width in combinations:
                height = hyperspace.map_size(stage.name, resolution)
                rng = np.random.default_rng([seed, hyperspace.stages.index(stage), index, window, in_width, resolution])
                for _ in range(samples):
                    choice = sample_stage(options, rng)
                    loss = _loss(student, students.before[stage.name], stage, in_width, choice, train, val)
                    cost = plan_cost(stage_plan(options.block_type, in_width, choice, stage.stride), height)
                    rows.append(
                        {
                            "stage": stage.name,
                            "block_type": index,
                            "window": window,
                            "in_width": in_width,
                            "out_width": choice[-1].width,
                            "choice": format_stage(choice),
                            "resolution": resolution,
                            "loss": loss,
                            "macs": cost.macs,
                            "params": cost.params,
                        }
                    )
                    tick(len(rows))
    return pd.DataFrame(rows)


def _combinations(
    students: Students,
) -> Iterator[tuple[Stage, int, int, StageStudent, StageOptions, int]]:
    hyperspace = students.hyperspace
    for stage in students.stages:
        for _, student, options in students.of_stage(stage):
            index = hyperspace.block_types.index(options.block_type)
            for window in range(stage.windows):
                narrowed = StageOptions(stage, options.block_type, stage.window_widths(window))
                for in_width in hyperspace.in_widths(stage.name):
                    yield stage, index, window, student, narrowed, in_width


@torch.no_grad()
def _features(teacher: Teacher, images: Tensor, resolution: int) -> Mapping[str, Tensor]:
    images = resize(images, resolution).contiguous(memory_format=torch.channels_last)
    parts = [teacher_features(teacher, part) for part in torch.split(images, EVALUATION_BATCH)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.no_grad()
def _loss(
    student: StageStudent,
    before: str,
    stage: Stage,
    in_width: int,
    choice: StageChoice,
    train: Mapping[str, Tensor],
    val: Mapping[str, Tensor],
) -> float:
    plain = student.extract(train[before].shape[1], in_width, choice)
    recalibrate(plain, partial(plain, precision=int8), [train[before]])
    return float(noise_to_signal(plain(val[before], int8), val[stage.name]))
