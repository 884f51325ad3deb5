"""Measuring the accuracy LUT: what it costs the teacher to have one stage replaced by a distilled INT8 one.

Losses of a subnet's stages are added up, so they have to be in one unit, and resolutions have to count. The teacher's
features would give neither: a ratio of noise in an early stage harms more than the same in a late one, and at a low
resolution teacher and student see the same poor picture. So each stage choice takes its stage's place in the teacher,
behind it the best linear projection to the teacher's width, and what counts is how far the class probabilities then are
from those of the teacher at the largest resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from spaceevo.data.pictures import Pictures
from spaceevo.nn.network import stage_plan
from spaceevo.nn.plan import plan_cost
from spaceevo.nn.student import StageStudent, least_squares
from spaceevo.nn.teacher import Teacher, Teachers
from spaceevo.progress import progress
from spaceevo.quant.quantizers import int8
from spaceevo.space import Stage, StageChoice, StageOptions, format_stage, sample_stage
from spaceevo.train.blocks import Students, teacher_features
from spaceevo.train.evaluate import EVALUATION_BATCH, accelerator_device, recalibrate
from spaceevo.train.losses import noise_to_signal

RECALIBRATION_BATCH = 128

Features = Sequence[Mapping[str, Tensor]]  # of each batch, by stage


@dataclass(frozen=True)
class Setting:
    """What the students of one resolution are measured with.

    Attributes:
        train, val: the teacher's maps that students read or are compared with.
        reference: log-probabilities [N, classes] of the teacher at the largest resolution, on the pictures of `val`.
        divergence: the teacher's own at this resolution, from the reference.
    """

    train: Features
    val: Features
    reference: Tensor
    divergence: float


@torch.no_grad()
def measure_block_losses(
    students: Students, teachers: Teachers, train_images: Tensor, val_images: Tensor, samples: int, seed: int
) -> pd.DataFrame:
    """One row per sampled stage choice of every student: the LUT's rows of their stages.

    For every width window, arriving width and resolution, `samples` choices are drawn uniformly among those of the
    window. Each is extracted, its BatchNorm statistics recomputed, and measured in INT8.

    Args:
        teachers: the teacher at each of the hyperspace's distillation resolutions.
        train_images: normalised images [N, 3, H, W], or pictures, that BatchNorm statistics are recomputed on.
        val_images: the same, that losses are measured on.

    Returns:
        Columns stage, block_type, window, in_width, out_width, choice, resolution, loss, nsr, macs, params. A loss is
        the Kullback-Leibler divergence, in nats, from the class probabilities of the teacher at the largest resolution
        to those of the teacher at this one with the stage in its place; of the teacher's own divergence at this
        resolution every searched stage has an equal part, so that the sum over stages holds it once. nsr is the
        noise-to-signal ratio that stages are distilled by.
    """
    for teacher in teachers.values():
        teacher.to(accelerator_device()).eval()
    hyperspace = students.hyperspace
    train_pictures, val_pictures = _pictures(train_images, RECALIBRATION_BATCH), _pictures(val_images, EVALUATION_BATCH)
    largest = hyperspace.block_kd_resolutions[-1]
    reference = _log_probabilities(teachers[largest], val_pictures, largest)
    others = 1 - 1 / len(hyperspace.searched_stages)
    rows = []
    combinations = list(_combinations(students))
    with progress("block losses", len(combinations) * samples * len(hyperspace.block_kd_resolutions)) as tick:
        for resolution in hyperspace.block_kd_resolutions:
            teacher = teachers[resolution]
            setting = Setting(
                _features(students, teacher, train_pictures, resolution),
                _features(students, teacher, val_pictures, resolution),
                reference,
                _divergence(reference, _log_probabilities(teacher, val_pictures, resolution)),
            )
            for stage, index, window, student, options, in_width in combinations:
                height = hyperspace.map_size(stage.name, resolution)
                rng = np.random.default_rng([seed, hyperspace.stages.index(stage), index, window, in_width, resolution])
                for _ in range(samples):
                    choice = sample_stage(options, rng)
                    before = students.before[stage.name]
                    divergence, nsr = _measure(student, teacher, before, stage, in_width, choice, setting)
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
                            "loss": divergence - others * setting.divergence,
                            "nsr": nsr,
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


def _pictures(images: Tensor | Pictures, batch_size: int) -> Pictures:
    return Pictures.of_tensor(images, batch_size) if isinstance(images, Tensor) else images


def _log_probabilities(teacher: Teacher, pictures: Pictures, resolution: int) -> Tensor:
    device = next(teacher.parameters()).device
    logits = [teacher(batch.to(device)) for batch in pictures.batches(resolution)]
    return F.log_softmax(torch.cat(logits), 1)


def _divergence(reference: Tensor, found: Tensor) -> float:
    """Mean Kullback-Leibler divergence of log-probabilities [N, classes] from the reference's, in nats."""
    return float(F.kl_div(found, reference, reduction="batchmean", log_target=True))


def _features(students: Students, teacher: Teacher, pictures: Pictures, resolution: int) -> Features:
    """The teacher's maps that the students read or are compared with, of each batch, on its device."""
    device = next(teacher.parameters()).device
    needed = {name for stage in students.stages for name in (students.before[stage.name], stage.name)}
    features = (teacher_features(teacher, batch.to(device), students.last) for batch in pictures.batches(resolution))
    return [{name: maps[name] for name in needed} for maps in features]


def _measure(
    student: StageStudent,
    teacher: Teacher,
    before: str,
    stage: Stage,
    in_width: int,
    choice: StageChoice,
    setting: Setting,
) -> tuple[float, float]:
    """Divergence of the teacher with this stage choice in its place, and the choice's noise-to-signal ratio."""
    example = setting.train[0][before]
    plain = student.extract(example.shape[1], in_width, choice).to(example.device)
    recalibrate(plain, partial(plain, precision=int8), (maps[before] for maps in setting.train))
    features = [plain(maps[before], int8) for maps in setting.train]
    readout = least_squares(features, [maps[stage.name] for maps in setting.train])
    outputs = [readout(plain(maps[before], int8)) for maps in setting.val]
    found = F.log_softmax(torch.cat([teacher.after(stage.name, output) for output in outputs]), 1)
    nsr = noise_to_signal(torch.cat(outputs), torch.cat([maps[stage.name] for maps in setting.val]))
    return _divergence(setting.reference, found), float(nsr)
