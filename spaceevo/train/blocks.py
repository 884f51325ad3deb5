"""Block-wise distillation: elastic stages learn a teacher's stages, all from one teacher pass per batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spaceevo.artifacts import Record
from spaceevo.config import BlocksParams
from spaceevo.data.loader import batches
from spaceevo.data.transforms import resize
from spaceevo.nn.layout import images_on
from spaceevo.nn.student import StageStudent
from spaceevo.nn.teacher import Teacher, Teachers
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.quantizers import Precision, fp32, int8
from spaceevo.space import Hyperspace, Stage, StageChoice, StageOptions, sample_stage
from spaceevo.train.loop import Objective, Part, Task, subnet_rng, train
from spaceevo.train.losses import noise_to_signal

PHASES = ("fp32", "int8")  # each with a checkpoint of its own


@dataclass(frozen=True)
class StudentChoice:
    """One width that arrives and one stage choice."""

    in_width: int
    stage: StageChoice


class Students(nn.Module):
    """Students of several stages and block types, by their keys `<stage>_<block type index>`.

    Args:
        types: indices of block types, of the searched ones among `stages`; the others have one type each, number 0.
    """

    def __init__(self, hyperspace: Hyperspace, teacher: Teacher, stages: Sequence[str], types: Sequence[int]) -> None:
        super().__init__()
        self.hyperspace = hyperspace
        self.stages = tuple(hyperspace.stage(name) for name in stages)
        self.students = nn.ModuleDict()
        self.options: dict[str, StageOptions] = {}
        names = [stage.name for stage in hyperspace.body]
        self.before = {stage.name: names[names.index(stage.name) - 1] for stage in self.stages}
        self.last = max(stages, key=names.index)
        for stage in self.stages:
            widths = teacher.widths[self.before[stage.name]], teacher.widths[stage.name]
            for index in types if stage.searched else (0,):
                block_type = hyperspace.types_of(stage)[index]
                key = student_key(stage, index)
                self.students[key] = StageStudent(hyperspace, stage, block_type, *widths)
                self.options[key] = StageOptions(stage, block_type, stage.widths)

    def of_stage(self, stage: Stage) -> Iterator[tuple[str, StageStudent, StageOptions]]:
        """Key, student and choices of each block type of one stage."""
        for key, student in self.students.items():
            if self.options[key].stage is stage:
                assert isinstance(student, StageStudent)
                yield key, student, self.options[key]


def student_key(stage: Stage, block_type: int) -> str:
    """Name of a student, also of its file: `<stage>_<block type index>`."""
    return f"{stage.name}_{block_type}"


@torch.no_grad()
def teacher_features(teacher: Teacher, x: Tensor, last: str | None = None) -> Mapping[str, Tensor]:
    """Output of every stage of the body, up to the stage `last`, for one batch, by stage name; one pass."""
    features: dict[str, Tensor] = {}
    for name, maps in teacher.features(x):
        features[name] = maps
        if name == last:
            break
    return features


def distill(
    students: Students,
    teachers: Teachers,
    params: BlocksParams,
    task: Task,
    record: Record,
    accelerator: Accelerator,
) -> None:
    """Train all students in place: FP32 first, then LSQ+ from those weights.

    Every batch takes one pass of the frozen teacher in eval mode, at one of the hyperspace's distillation
    resolutions, and trains the largest, the smallest and some random choices of every student on it.

    Args:
        teachers: the teacher at each of those resolutions.

    Raises:
        TrainingError: a loss is not finite.
    """
    for teacher in teachers.values():
        teacher.to(accelerator.device).eval().requires_grad_(False)
    students.to(accelerator.device)
    _start_exits(students, teachers[task.resolution], task, params.fp32.batch_size)
    phases = ((fp32, params.fp32, PHASES[0]), (int8, params.int8, PHASES[1]))
    for precision, recipe, name in phases:
        phase = task.phase(name)
        if precision is int8:
            _calibrate(students, teachers[task.resolution], phase, recipe.batch_size, params.calibration_batches)
        train(
            students,
            _objective(students, teachers, params.random_choices, phase, precision),
            recipe,
            phase,
            record,
            accelerator,
        )


def _sandwich(
    student: StageStudent, options: StageOptions, random_choices: int, rng: np.random.Generator
) -> Iterator[tuple[str, StudentChoice]]:
    """The largest, the smallest and some random choices of one student."""
    widths = student.in_widths
    yield "largest choice", StudentChoice(widths[-1], options.extreme(-1))
    yield "smallest choice", StudentChoice(widths[0], options.extreme(0))
    for number in range(random_choices):
        yield f"random choice {number}", StudentChoice(int(rng.choice(widths)), sample_stage(options, rng))


def _objective(
    students: Students, teachers: Teachers, random_choices: int, task: Task, precision: Precision
) -> Objective:
    def objective(step: int, x: Tensor, y: Tensor) -> Iterator[Part]:
        rng = subnet_rng(task.seed, step)
        resolution = int(rng.choice(students.hyperspace.block_kd_resolutions))
        images = resize(x, resolution)
        yield from students_parts(students, teachers[resolution], images, random_choices, rng, precision)

    return objective


def students_parts(
    students: Students,
    teacher: Teacher,
    x: Tensor,
    random_choices: int,
    rng: np.random.Generator,
    precision: Precision,
) -> Iterator[Part]:
    """A part for every choice that a step takes of every student; one pass of the teacher serves them all."""
    features = teacher_features(teacher, x, students.last)
    for stage in students.stages:
        source, target = features[students.before[stage.name]], features[stage.name]
        for key, student, options in students.of_stage(stage):
            for label, choice in _sandwich(student, options, random_choices, rng):
                yield Part(f"{key}, {label}", student, partial(_loss, student, source, target, choice, precision))


def _loss(student: StageStudent, source: Tensor, target: Tensor, choice: StudentChoice, precision: Precision) -> Tensor:
    return noise_to_signal(student(source, choice.in_width, choice.stage, precision), target)


@torch.no_grad()
def _start_exits(students: Students, teacher: Teacher, task: Task, batch_size: int) -> None:
    """Let every student's last projection start as the best one for its largest choice.

    A random one would be all that a short training has time for.
    """
    features = _features_of_batches(teacher, task, batch_size, 1)[0]
    students.train()
    for stage in students.stages:
        for _, student, options in students.of_stage(stage):
            student.start_exit(features[students.before[stage.name]], features[stage.name], options.extreme(-1))


@torch.no_grad()
def _calibrate(students: Students, teacher: Teacher, task: Task, batch_size: int, calibration_batches: int) -> None:
    """Initial grids of all students from a few batches, each seen by the largest, the smallest and a random choice.

    The first one is seen by choices too whose widths change from block to block, whose shortcuts hold convolutions.
    """
    rng = subnet_rng(task.seed, 0)
    features = _features_of_batches(teacher, task, batch_size, calibration_batches)
    students.train()
    for stage in students.stages:
        for _, student, options in students.of_stage(stage):
            runs = [
                partial(_run, student, maps[students.before[stage.name]], choice)
                for maps in features
                for _, choice in _sandwich(student, options, 1, rng)
            ]
            first = features[0][students.before[stage.name]]
            runs += [
                partial(_run, student, first, StudentChoice(in_width, options.alternating(start)))
                for in_width in (student.in_widths[0], student.in_widths[-1])
                for start in (0, 1)
            ]
            calibrate(student, runs, torch.Generator().manual_seed(task.seed))


def _features_of_batches(teacher: Teacher, task: Task, batch_size: int, number: int) -> list[Mapping[str, Tensor]]:
    stream = batches(
        task.split, batch_size=batch_size, resolution=task.resolution, seed=task.seed, epoch=0, shuffle=True
    )
    device = next(teacher.parameters()).device
    return [teacher_features(teacher, images_on(x, device)) for (x, _), _ in zip(stream, range(number), strict=False)]


def _run(student: StageStudent, x: Tensor, choice: StudentChoice, precision: Precision) -> Tensor:
    return cast(Tensor, student(x, choice.in_width, choice.stage, precision))
