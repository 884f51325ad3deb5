"""Train the teacher whose stages the blocks are distilled from."""

from pathlib import Path

import torch

from spaceevo.artifacts import Record
from spaceevo.config import Augment, TeacherParams
from spaceevo.data.splits import load_split
from spaceevo.nn.initialise import initialise
from spaceevo.nn.store import ImageSpec, write_teacher
from spaceevo.nn.teacher import build_teacher
from spaceevo.scripting import run
from spaceevo.space import load_hyperspace
from spaceevo.train.loop import Task, finish
from spaceevo.train.processes import join_training, own_threads
from spaceevo.train.teacher import teacher_accuracy, teachers_at, train_teacher


def main(
    train: Path,
    val: Path,
    hyperspace: str,
    teacher: TeacherParams,
    augment: Augment,
    seed: int,
    workers: int,
    checkpoint_steps: int,
    threads: int,
    checkpoint: Path,
    output: Path,
) -> None:
    """Train `teacher` on the split `train`, and see how often it is right on `val`."""
    accelerator = join_training()
    torch.set_num_threads(own_threads(threads, accelerator))
    record = Record({"hyperspace": hyperspace, "teacher": teacher.model_dump(), "augment": augment.model_dump()}, seed)
    split = load_split(train)
    spec = ImageSpec.of(split)
    space = load_hyperspace(hyperspace)
    resolutions = space.block_kd_resolutions
    network = build_teacher(teacher.model, space, len(spec.classes), spec.grid, teacher.pretrained)
    initialise(network.untrained(), torch.Generator().manual_seed(seed))
    task = Task("teacher", split, resolutions[-1], seed, checkpoint, augment, checkpoint_steps, workers)
    train_teacher(network, resolutions, teacher.label_smoothing, teacher.recipe, task, record, accelerator)
    if accelerator.is_main_process:
        teachers = teachers_at(network, resolutions, split, teacher.recalibration_images, seed)
        accuracy = teacher_accuracy(teachers, load_split(val), seed)
        write_teacher(output, teachers, teacher.model, space, spec, accuracy, record)
        finish(task)


if __name__ == "__main__":
    run(main)
