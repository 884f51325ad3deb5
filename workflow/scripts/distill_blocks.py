"""Distill one stage of the teacher into every block type, all from one teacher pass per batch."""

from pathlib import Path

import torch

from spaceevo.artifacts import Record
from spaceevo.config import Augment, BlocksParams
from spaceevo.data.splits import load_split
from spaceevo.nn.initialise import initialise
from spaceevo.nn.store import STUDENT_KIND, load_teachers, write_module
from spaceevo.scripting import run
from spaceevo.space import load_hyperspace
from spaceevo.train.blocks import PHASES, Students, distill
from spaceevo.train.loop import Task, finish
from spaceevo.train.processes import join_training, share_threads_of_parts


def main(
    stages: list[str],
    train: Path,
    teacher: Path,
    hyperspace: str,
    blocks: BlocksParams,
    augment: Augment,
    seed: int,
    workers: int,
    checkpoint_steps: int,
    threads: int,
    checkpoint: Path,
    folder: Path,
) -> None:
    """Write `<stage>_<block type>.safetensors` into `folder` for each of `stages` and every block type."""
    accelerator = join_training()
    at_once = share_threads_of_parts(threads, accelerator)
    record = Record({"hyperspace": hyperspace, "blocks": blocks.model_dump(), "augment": augment.model_dump()}, seed)
    space = load_hyperspace(hyperspace)
    teachers, spec = load_teachers(teacher)
    resolution = space.block_kd_resolutions[-1]
    students = Students(space, teachers[resolution], stages, range(len(space.block_types)))
    initialise(students, torch.Generator().manual_seed(seed))
    label = f"blocks of {', '.join(stages)}"
    task = Task(label, load_split(train), resolution, seed, checkpoint, augment, checkpoint_steps, workers, at_once)
    distill(students, teachers, blocks, task, record, accelerator)
    if not accelerator.is_main_process:
        return
    for key, student in students.students.items():
        write_module(folder / f"{key}.safetensors", STUDENT_KIND, student, {"hyperspace": hyperspace}, spec, record)
    for phase in PHASES:
        finish(task.phase(phase))


if __name__ == "__main__":
    run(main)
