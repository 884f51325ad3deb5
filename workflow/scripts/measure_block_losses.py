"""Measure the INT8 loss of sampled choices of one distilled stage: its rows of the accuracy LUT."""

from pathlib import Path

import torch

from spaceevo.artifacts import Record, write_table
from spaceevo.config import LutParams
from spaceevo.data.pictures import Pictures
from spaceevo.data.splits import load_split
from spaceevo.nn.store import STUDENT_KIND, load_teachers, load_weights, read_teacher_accuracy
from spaceevo.scripting import run
from spaceevo.search.block_losses import RECALIBRATION_BATCH, measure_block_losses, resolution_costs
from spaceevo.search.lut import LUT_KIND
from spaceevo.space import load_hyperspace
from spaceevo.train.blocks import Students
from spaceevo.train.evaluate import EVALUATION_BATCH


def main(
    stage: str,
    teacher: Path,
    folder: Path,
    train: Path,
    val: Path,
    hyperspace: str,
    lut: LutParams,
    seed: int,
    threads: int,
    output: Path,
) -> None:
    """Read the distilled stages of `stage` from `folder`."""
    torch.set_num_threads(threads)
    record = Record({"hyperspace": hyperspace, "lut": lut.model_dump()}, seed)
    space = load_hyperspace(hyperspace)
    teachers, _ = load_teachers(teacher)
    resolution = space.block_kd_resolutions[-1]
    students = Students(space, teachers[resolution], [stage], range(len(space.block_types)))
    for key, student in students.students.items():
        load_weights(folder / f"{key}.safetensors", STUDENT_KIND, student)
    train_pictures = Pictures.of_split(load_split(train), resolution, RECALIBRATION_BATCH, lut.train_images, seed)
    val_pictures = Pictures.of_split(load_split(val), resolution, EVALUATION_BATCH, lut.val_images, seed)
    costs = resolution_costs(read_teacher_accuracy(teacher))
    table = measure_block_losses(students, teachers, costs, train_pictures, val_pictures, lut.samples, seed)
    write_table(output, LUT_KIND, table, record)


if __name__ == "__main__":
    run(main)
