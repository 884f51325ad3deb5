"""One step of each training with all that a batch is normalised or masked by; run in one process or in several."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from made import GRID, made_split, randomise, small_hyperspace

from spaceevo.artifacts import Record
from spaceevo.config import Augment, BlocksParams, Recipe, Sandwich
from spaceevo.nn import teacher as teachers
from spaceevo.nn.initialise import initialise
from spaceevo.nn.supernet import Supernet
from spaceevo.space import Space
from spaceevo.train.blocks import Students, distill
from spaceevo.train.loop import Task
from spaceevo.train.processes import join_training, share_threads_of_parts
from spaceevo.train.supernet import train_fp32, train_int8
from spaceevo.train.teacher import train_teacher

SPACE = Space(small_hyperspace(), (0, 2), (1, 0))
RECIPE = Recipe(epochs=0.25, batch_size=16, learning_rate=0.01, ema=0.9)  # one step


def main(folder: Path, processes: int) -> None:
    """Leave the checkpoints of one step each in `folder`; it should be run in so many processes."""
    accelerator = join_training()
    assert accelerator.num_processes == processes
    assert accelerator.is_main_process == (accelerator.process_index == 0)
    at_once = share_threads_of_parts(2, accelerator)
    assert at_once * torch.get_num_threads() * processes == 2
    split, augment = made_split(), Augment(shift=1, horizontal_flip=True)
    task = Task("supernet", split, 12, 0, folder / "supernet.safetensors", augment, checkpoint_steps=1, at_once=at_once)
    sandwich = Sandwich(random_subnets=2, dropout=0.3)
    supernet = Supernet(SPACE, 4, GRID)
    randomise(supernet, 0)
    train_fp32(supernet, sandwich, RECIPE, task.phase("fp32"), Record({}), accelerator)
    supernet = Supernet(SPACE, 4, GRID)
    randomise(supernet, 0)
    train_int8(supernet, sandwich, RECIPE, task.phase("int8"), 2, Record({}), accelerator)

    teachers.parse_space = lambda code: SPACE
    teacher = teachers.SubnetTeacher("small-02-10", SPACE.hyperspace, 4, GRID)
    randomise(teacher, 0)
    students = Students(SPACE.hyperspace, teacher.eval(), ["stage1"], [0, 2])
    initialise(students, torch.Generator().manual_seed(0))
    params = BlocksParams(random_choices=1, calibration_batches=1, fp32=RECIPE, int8=RECIPE)
    blocks = replace(task, label="blocks", checkpoint=folder / "blocks.safetensors")
    by_resolution = dict.fromkeys(SPACE.hyperspace.block_kd_resolutions, teacher)
    distill(students, by_resolution, params, blocks, Record({}), accelerator)

    learner = teachers.SubnetTeacher("small-02-10", SPACE.hyperspace, 4, GRID)
    initialise(learner, torch.Generator().manual_seed(0))
    of_teacher = replace(task, label="teacher", checkpoint=folder / "teacher.safetensors")
    train_teacher(learner, SPACE.hyperspace.block_kd_resolutions, 0.1, RECIPE, of_teacher, Record({}), accelerator)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
