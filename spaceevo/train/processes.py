"""The processes of a training: that they find one another, and how many threads each has."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator

from spaceevo.errors import TrainingError
from spaceevo.parallel import MOST_AT_ONCE, share_threads


def join_training() -> Accelerator:
    """This process's part in a training, alone or with the others that `torch.distributed.run` has started.

    Raises:
        TrainingError: there are fewer GPUs than processes.
    """
    started, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    gpus = torch.cuda.device_count()
    if 0 < gpus < here:
        raise TrainingError(f"{here} processes were started for {gpus} GPUs: lower processes, one is for each GPU.")
    # without being told so, several on CPUs would each take itself for the only one
    accelerator = Accelerator(cpu=True) if started > 1 and gpus == 0 else Accelerator()
    if accelerator.num_processes != started:
        raise TrainingError(f"Of {started} processes of a training, {accelerator.num_processes} found one another.")
    return accelerator


def own_threads(threads: int, accelerator: Accelerator) -> int:
    """Threads of this process, of those that a training has."""
    processes: int = accelerator.num_processes
    return max(threads // processes, 1)


def share_threads_of_parts(threads: int, accelerator: Accelerator) -> int:
    """How many parts of a step to compute side by side: one on a GPU, and where processes exchange sums in each."""
    alone = accelerator.device.type != "cpu" or accelerator.num_processes > 1
    return share_threads(own_threads(threads, accelerator), 1 if alone else MOST_AT_ONCE)
