"""Measuring the accuracy LUT: what share of the teacher's signal a distilled INT8 stage loses, and a resolution.

Losses of a subnet's stages are added up and compared between resolutions, so all are in one unit, that of the
noise-to-signal ratio that is left behind the best linear projection to what the teacher has. That of a stage choice is
taken against the teacher's stage at the same resolution.

A stage that is not searched is in every space, and in trained supernets subnets hardly differ by its own choices, but
they do by the width that arrives there: what that cannot hold is gone. So at such a stage all choices for an arriving
width have the loss of the best among them, and nothing where that is the best of all.

How well a short distillation learns a stage differs between resolutions, for all choices alike, and a supernet that is
trained for long has none of that difference; so the ratios at a resolution are shifted until its best choice loses as
much as the best one at the largest resolution. What a resolution costs is how much likelier the teacher errs there
than at the largest, in log-odds, over the log-odds that a unit of loss costs. Its features would not say it: they can
hardly differ from those at the largest resolution where the teacher errs twice as often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spaceevo.data.pictures import Pictures
from spaceevo.nn.layout import images_on
from spaceevo.nn.network import stage_plan
from spaceevo.nn.plan import plan_cost
from spaceevo.nn.store import TeacherAccuracy
from spaceevo.nn.student import StageStudent, least_squares
from spaceevo.nn.teacher import Teacher, Teachers
from spaceevo.progress import progress
from spaceevo.quant.quantizers import int8
from spaceevo.search.lut import LOG_ODDS_PER_LOSS
from spaceevo.space import Stage, StageChoice, StageOptions, format_stage, measured_choices
from spaceevo.train.blocks import Students, teacher_features
from spaceevo.train.evaluate import EVALUATION_BATCH, accelerator_device, recalibrate
from spaceevo.train.losses import noise_to_signal

RECALIBRATION_BATCH = 128

Features = Sequence[Mapping[str, Tensor]]  # of each batch, by stage


@torch.no_grad()
def measure_block_losses(
    students: Students,
    teachers: Teachers,
    costs: Mapping[int, float],
    train_images: Tensor | Pictures,
    val_images: Tensor | Pictures,
    samples: int,
    seed: int,
) -> pd.DataFrame:
    """One row per sampled stage choice of every student: the LUT's rows of their stages.

    For every width window, arriving width and resolution, `samples` choices are drawn uniformly among those of the
    window; of a stage that is not searched all are taken, where they are few. Each is extracted, its BatchNorm
    statistics recomputed, and measured in INT8.

    Args:
        teachers: the teacher at each of the hyperspace's distillation resolutions.
        costs: of each of these, from `resolution_costs`.
        train_images: normalised images [N, 3, H, W], or pictures, that BatchNorm statistics and projections are
            computed on.
        val_images: the same, that losses are measured on.

    Returns:
        Columns stage, block_type, window, in_width, out_width, choice, resolution, nsr, macs, params, loss. nsr is the
        choice's noise-to-signal ratio. loss is that, shifted as said above, and an equal part of what the resolution
        costs, so that the sum over searched stages holds it once; at other stages it is what the arriving width costs,
        and block_type and window are 0.
    """
    for teacher in teachers.values():
        teacher.to(accelerator_device()).eval()
    hyperspace = students.hyperspace
    train_pictures, val_pictures = _pictures(train_images, RECALIBRATION_BATCH), _pictures(val_images, EVALUATION_BATCH)
    rows = []
    drawn = list(_draws(students, samples, seed))
    with progress("block losses", len(drawn) * len(hyperspace.block_kd_resolutions)) as tick:
        for resolution in hyperspace.block_kd_resolutions:
            train = _features(students, teachers[resolution], train_pictures, resolution)
            val = _features(students, teachers[resolution], val_pictures, resolution)
            for draw in drawn:
                name, block_type = draw.stage.name, hyperspace.types_of(draw.stage)[draw.block_type]
                plan = stage_plan(block_type, draw.in_width, draw.choice, draw.stage.stride)
                cost = plan_cost(plan, hyperspace.map_size(name, resolution))
                rows.append(
                    {
                        "stage": name,
                        "block_type": draw.block_type,
                        "window": draw.window,
                        "in_width": draw.in_width,
                        "out_width": draw.choice[-1].width,
                        "choice": format_stage(draw.choice),
                        "resolution": resolution,
                        "nsr": _nsr(draw, students.before[name], train, val),
                        "macs": cost.macs,
                        "params": cost.params,
                    }
                )
                tick(len(rows))
    table = pd.DataFrame(rows)
    return table.assign(loss=_losses(table, costs, [stage.name for stage in hyperspace.searched_stages]))


def resolution_costs(accuracy: TeacherAccuracy) -> dict[int, float]:
    """What each resolution costs, in the unit of losses; 0 at the largest, and where the teacher errs no more often.

    Half a mistake more and half a right answer more keep log-odds finite (Haldane 1956).
    """
    images = accuracy.images
    log_odds = {
        resolution: math.log((images * (1 - share) + 0.5) / (images * share + 0.5))
        for resolution, share in accuracy.shares.items()
    }
    at_largest = log_odds[max(log_odds)]
    return {resolution: max(0.0, (odds - at_largest) / LOG_ODDS_PER_LOSS) for resolution, odds in log_odds.items()}


def _losses(table: pd.DataFrame, costs: Mapping[int, float], searched: Sequence[str]) -> pd.Series[float]:
    nsr = table["nsr"]
    keys = [table["stage"], table["resolution"]]
    best, best_of_width = nsr.groupby(keys).transform("min"), nsr.groupby([*keys, table["in_width"]]).transform("min")
    at_largest = nsr[table["resolution"] == max(costs)].groupby(table["stage"]).min()
    of_searched = nsr - best + table["stage"].map(at_largest) + table["resolution"].map(costs) / len(searched)
    return of_searched.where(table["stage"].isin(searched), best_of_width - best)


@dataclass(frozen=True)
class _Draw:
    """A stage choice to measure, and the student that it is a part of."""

    student: StageStudent
    stage: Stage
    block_type: int
    window: int
    in_width: int
    choice: StageChoice


def _draws(students: Students, samples: int, seed: int) -> Iterator[_Draw]:
    hyperspace = students.hyperspace
    for stage in students.stages:
        for _, student, options in students.of_stage(stage):
            block_type = hyperspace.types_of(stage).index(options.block_type)
            for window, in_width in product(range(stage.windows), student.in_widths):
                narrowed = StageOptions(stage, options.block_type, stage.window_widths(window))
                # The same draws for every block type and resolution: they are compared by what is drawn.
                rng = np.random.default_rng([seed, hyperspace.stages.index(stage), window, in_width])
                for choice in measured_choices(narrowed, samples, rng):
                    yield _Draw(student, stage, block_type, window, in_width, choice)


def _pictures(images: Tensor | Pictures, batch_size: int) -> Pictures:
    return Pictures.of_tensor(images, batch_size) if isinstance(images, Tensor) else images


def _features(students: Students, teacher: Teacher, pictures: Pictures, resolution: int) -> Features:
    """The teacher's maps that the students read or are compared with, of each batch, on its device."""
    device = next(teacher.parameters()).device
    needed = {name for stage in students.stages for name in (students.before[stage.name], stage.name)}
    features = (
        teacher_features(teacher, images_on(batch, device), students.last) for batch in pictures.batches(resolution)
    )
    return [{name: maps[name] for name in needed} for maps in features]


def _nsr(draw: _Draw, before: str, train: Features, val: Features) -> float:
    """Noise-to-signal ratio of a stage choice in INT8, behind the best projection for it."""
    name, example = draw.stage.name, train[0][before]
    plain = draw.student.extract(example.shape[1], draw.in_width, draw.choice).to(example.device)
    recalibrate(plain, partial(plain, precision=int8), (maps[before] for maps in train))
    projection = least_squares([plain(maps[before], int8) for maps in train], [maps[name] for maps in train])
    outputs = torch.cat([projection(plain(maps[before], int8)) for maps in val])
    return float(noise_to_signal(outputs, torch.cat([maps[name] for maps in val])))
