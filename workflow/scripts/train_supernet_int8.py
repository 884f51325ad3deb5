"""Train the supernet with LSQ+ quantizers: the second phase, after which every subnet is accurate in INT8."""

import json
from pathlib import Path

from spaceevo.artifacts import Record
from spaceevo.config import Augment, Recipe, Sandwich
from spaceevo.data.splits import load_split
from spaceevo.nn.store import load_supernet, write_supernet
from spaceevo.scripting import run
from spaceevo.search.sandwich import sandwich_sampler
from spaceevo.train.loop import Task, finish
from spaceevo.train.processes import join_training, share_threads_of_parts
from spaceevo.train.supernet import train_int8


def main(
    supernet: Path,
    train: Path,
    sandwich: Sandwich,
    recipe: Recipe,
    calibration_batches: int,
    augment: Augment,
    seed: int,
    workers: int,
    checkpoint_steps: int,
    threads: int,
    checkpoint: Path,
    output: Path,
    predictor: str = "",
    budgets: str = "[]",
) -> None:
    """Start from the FP32 supernet in `supernet`; `predictor` and `budgets`, a JSON list, serve sampling near them."""
    params = {
        "sandwich": sandwich.model_dump(),
        "int8": recipe.model_dump(),
        "calibration_batches": calibration_batches,
        "augment": augment.model_dump(),
        "subnet_budgets": json.loads(budgets),
    }
    accelerator = join_training()
    at_once = share_threads_of_parts(threads, accelerator)
    record = Record(params, seed)
    network, spec = load_supernet(supernet)
    code, resolution = network.space.code, network.space.hyperspace.resolutions[-1]
    sampler = sandwich_sampler(sandwich, network.space, len(spec.classes), predictor, json.loads(budgets), seed)
    label = f"supernet {code} int8"
    task = Task(label, load_split(train), resolution, seed, checkpoint, augment, checkpoint_steps, workers, at_once)
    train_int8(network, sandwich, recipe, task, calibration_batches, record, accelerator, sampler)
    if accelerator.is_main_process:
        write_supernet(output, network, spec, record)
        finish(task)


if __name__ == "__main__":
    run(main)
