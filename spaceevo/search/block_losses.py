"""Measuring the accuracy LUT: INT8 loss of sampled stage choices of the distilled blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spaceevo.data.pictures import Pictures
from spaceevo.nn.network import stage_plan
from spaceevo.nn.plan import plan_cost
from spaceevo.nn.student import StageStudent
from spaceevo.nn.teacher import Teacher
from spaceevo.progress import progress
from spaceevo.quant.quantizers import int8
from spaceevo.space import Stage, StageChoice, StageOptions, format_stage, sample_stage
from spaceevo.train.blocks import Students, teacher_features
from spaceevo.train.evaluate import EVALUATION_BATCH, accelerator_device, recalibrate
from spaceevo.train.losses import noise_to_signal

RECALIBRATION_BATCH = 128


def measure_block_losses(
    students: Students, teacher: Teacher, train_images: Tensor, val_images: Tensor, samples: int, seed: int
) -> pd.DataFrame:
    """One row per sampled stage choice of every student: the LUT's rows of their stages.

    For every width window, arriving width and resolution, `samples` choices are drawn uniformly among those of the
    window. Each is extracted, its BatchNorm statistics recomputed, and its noise-to-signal ratio measured in INT8.

    Args:
        train_images: normalised images [N, 3, H, W], or pictures, that BatchNorm statistics are recomputed on.
        val_images: the same, that losses are measured on.

    Returns:
        Columns stage, block_type, window, in_width, out_width, choice, resolution, loss, macs, params.
    """
    device = accelerator_device()
    teacher.to(device).eval()
    hyperspace = students.hyperspace
    rows = []
    combinations = list(_combinations(students))
    with progress("block losses", len(combinations) * samples * len(hyperspace.block_kd_resolutions)) as tick:
        for resolution in hyperspace.block_kd_resolutions:
            train = _features(students, teacher, train_images, RECALIBRATION_BATCH, resolution)
            val = _features(students, teacher, val_images, EVALUATION_BATCH, resolution)
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
def _features(
    students: Students, teacher: Teacher, images: Tensor | Pictures, batch_size: int, resolution: int
) -> list[Mapping[str, Tensor]]:
    """The teacher's maps that the students read or are compared with, of each batch, on its device."""
    pictures = Pictures.of_tensor(images, batch_size) if isinstance(images, Tensor) else images
    device = next(teacher.parameters()).device
    needed = {name for stage in students.stages for name in (students.before[stage.name], stage.name)}
    features = (teacher_features(teacher, batch.to(device), students.last) for batch in pictures.batches(resolution))
    return [{name: maps[name] for name in needed} for maps in features]


@torch.no_grad()
def _loss(
    student: StageStudent,
    before: str,
    stage: Stage,
    in_width: int,
    choice: StageChoice,
    train: Sequence[Mapping[str, Tensor]],
    val: Sequence[Mapping[str, Tensor]],
) -> float:
    device = train[0][before].device
    plain = student.extract(train[0][before].shape[1], in_width, choice).to(device)
    recalibrate(plain, partial(plain, precision=int8), (maps[before] for maps in train))
    outputs = torch.cat([plain(maps[before], int8) for maps in val])
    return float(noise_to_signal(outputs, torch.cat([maps[stage.name] for maps in val])))
