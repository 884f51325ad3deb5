"""Block-wise distillation of all block types of all stages from one teacher pass, against one type at a time.

One at a time, each block type of each stage is trained in a run of its own: every step takes a teacher pass, as far as
the stage, for one student. Together, one teacher pass per step serves all students.
"""

from __future__ import annotations

import time

import torch
from common import Check, print_checks, print_table, write_result

from spaceevo.nn.initialise import initialise
from spaceevo.nn.teacher import Teacher, build_teacher
from spaceevo.quant.grids import image_grid
from spaceevo.quant.quantizers import fp32
from spaceevo.scripting import run
from spaceevo.space import load_hyperspace
from spaceevo.train.blocks import Students, students_parts
from spaceevo.train.loop import subnet_rng
from spaceevo.train.memory import keep_freed_memory

TARGET = 1 / 5  # seconds per (type, step): together over one at a time


def main(
    hyperspace: str = "mobilew",
    teacher: str = "efficientnet_b5",
    batch_size: int = 4,
    random_choices: int = 2,
    threads: int = 1,
    rounds: int = 2,
    seed: int = 0,
) -> None:
    """Time a step of all students together, and in turn one step of each student by itself, FP32."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    space = load_hyperspace(hyperspace)
    network = build_teacher(teacher, space, 1000, image_grid([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    initialise(network, torch.Generator().manual_seed(seed))
    network.eval().requires_grad_(False)
    resolution = space.block_kd_resolutions[-1]
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch_size, 3, resolution, resolution, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    stages, types = [stage.name for stage in space.searched_stages], range(len(space.block_types))
    together = _made(Students(space, network, stages, types), seed)
    alone = [_made(Students(space, network, [stage], [index]), seed) for stage in stages for index in types]

    shared_s, alone_s = [], []
    for number in range(rounds + 1):
        shared = _step(together, network, images, random_choices, number)
        single = sum(_step(students, network, images, random_choices, number) for students in alone)
        if number:  # the first one warms up
            shared_s.append(shared / len(alone))
            alone_s.append(single / len(alone))
    ratio = min(shared_s) / min(alone_s)
    print_table(
        f"{hyperspace} from {teacher}, batch {batch_size} at {resolution} pixels, {threads} thread(s)",
        ("", "seconds per (type, step)"),
        [("all types of all stages together", f"{min(shared_s):.3f}"), ("one at a time", f"{min(alone_s):.3f}")],
    )
    checks = [Check(f"together at most {TARGET:.2f} of one at a time", f"{ratio:.2f}", ratio <= TARGET)]
    print_checks(checks)
    content = {
        "hyperspace": hyperspace,
        "teacher": teacher,
        "batch_size": batch_size,
        "resolution": resolution,
        "random_choices": random_choices,
        "students": len(alone),
        "threads": threads,
        "together_s": shared_s,
        "one_at_a_time_s": alone_s,
        "ratio": ratio,
    }
    write_result("block_distillation", content, checks)


def _made(students: Students, seed: int) -> Students:
    initialise(students, torch.Generator().manual_seed(seed))
    return students.train()


def _step(students: Students, teacher: Teacher, images: torch.Tensor, random_choices: int, step: int) -> float:
    """CPU seconds of one step."""
    start = time.process_time()
    students.zero_grad(set_to_none=True)
    for part in students_parts(students, teacher, images, random_choices, subnet_rng(0, step), fp32):
        torch.autograd.backward(part.loss())
    return time.process_time() - start


if __name__ == "__main__":
    run(main)
