"""Train the supernet of a space in FP32: the first phase."""

import json
from pathlib import Path

import torch

from spaceevo.artifacts import Record, read_json
from spaceevo.config import Augment, Recipe, Sandwich
from spaceevo.data.splits import load_split
from spaceevo.nn.initialise import initialise
from spaceevo.nn.store import ImageSpec, write_supernet
from spaceevo.nn.supernet import Supernet
from spaceevo.scripting import run
from spaceevo.search.sandwich import sandwich_sampler
from spaceevo.space import parse_space
from spaceevo.train.loop import Task, finish
from spaceevo.train.processes import join_training, share_threads_of_parts
from spaceevo.train.supernet import train_fp32


def main(
    space: Path,
    train: Path,
    sandwich: Sandwich,
    recipe: Recipe,
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
    """Train all subnets of the space in `space`; `predictor` and `budgets`, a JSON list, serve sampling near them."""
    params = {"sandwich": sandwich.model_dump(), "fp32": recipe.model_dump(), "augment": augment.model_dump()}
    accelerator = join_training()
    at_once = share_threads_of_parts(threads, accelerator)
    params |= {"subnet_budgets": json.loads(budgets)}
    record = Record(params, seed)
    split = load_split(train)
    spec = ImageSpec.of(split)
    evolved = parse_space(read_json(space, "space")["space"])
    supernet = Supernet(evolved, len(spec.classes), spec.grid)
    initialise(supernet, torch.Generator().manual_seed(seed))
    resolution = evolved.hyperspace.resolutions[-1]
    sampler = sandwich_sampler(sandwich, evolved, len(spec.classes), predictor, json.loads(budgets), seed)
    label = f"supernet {evolved.code} fp32"
    task = Task(label, split, resolution, seed, checkpoint, augment, checkpoint_steps, workers, at_once)
    train_fp32(supernet, sandwich, recipe, task, record, accelerator, sampler)
    if accelerator.is_main_process:
        write_supernet(output, supernet, spec, record)
        finish(task)


if __name__ == "__main__":
    run(main)
