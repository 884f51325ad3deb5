"""Training a supernet on subnets near the budgets against any subnets, and with a moving average of weights: accuracy.

Each way trains the same space of the embedded dataset from the same start, with several seeds. Measured is the INT8
accuracy, on val, of subnets as slow as the device's budgets, which no training draws on purpose.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from common import Check, print_checks, print_table, write_result

from spaceevo.artifacts import Record
from spaceevo.config import Params, load_params
from spaceevo.data.pictures import Pictures
from spaceevo.data.prepare import prepare_dataset
from spaceevo.data.splits import load_split
from spaceevo.latency.budgets import resolve_budgets
from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.predictor import Predictor
from spaceevo.nn.plain import initialise
from spaceevo.nn.store import ImageSpec
from spaceevo.nn.supernet import Supernet
from spaceevo.scripting import run
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.space import Space, Subnet, parse_space, sample_subnet
from spaceevo.train.evaluate import EVALUATION_BATCH, RECALIBRATION_BATCH
from spaceevo.train.loop import Task
from spaceevo.train.sampling import Sampler, near_budgets, uniform
from spaceevo.train.supernet import train_fp32, train_int8

WAYS = ("uniform", "budgets", "uniform, averaged")


def main(
    space: str = "tiny-4664-1222",
    device: str = "pixel4",
    seeds: int = 2,
    epochs: float = 12.0,
    int8_epochs: float = 2.0,
    ema: float = 0.99,
    per_budget: int = 4,
    threads: int = 1,
) -> None:
    """Train with every way and seed; takes about six minutes each at the default's epochs."""
    torch.set_num_threads(threads)
    params, parsed = load_params(), parse_space(space)
    predictor = table_predictor(load_device(device))
    budgets = resolve_budgets(params.devices[device].subnet_budgets, predictor, parsed.hyperspace, 10, 0)
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {split: folder / f"{split}.safetensors" for split in ("train", "val", "test")}
        prepare_dataset("clutter", files, seed=0, clutter_options=params.dataset.clutter)
        for seed in range(seeds):
            subnets = [_as_slow_as(parsed, predictor, budget, per_budget, seed) for budget in budgets]
            for way in WAYS:
                sampler = _sampler(parsed, predictor, budgets, params) if way == "budgets" else uniform(parsed)
                decay = ema if "averaged" in way else 0.0
                supernet = _trained(parsed, params, files["train"], sampler, decay, (epochs, int8_epochs), seed)
                found[way].append(_accuracies(supernet, params, files, subnets, seed))
    means = {way: np.mean(runs, axis=0) for way, runs in found.items()}
    print_table(
        f"INT8 accuracy on val of subnets of {space} as slow as the budgets of {device}, mean of {seeds} trainings",
        ("way", *(f"{budget:.3g} ms" for budget in budgets), "mean"),
        [(way, *(f"{100 * a:.2f} %" for a in means[way]), f"{100 * means[way].mean():.2f} %") for way in WAYS],
    )
    checks = [
        Check(f"{way} is better than uniform", f"{100 * (means[way] - means[WAYS[0]]).mean():+.2f} points",
              bool(means[way].mean() > means[WAYS[0]].mean()))
        for way in WAYS[1:]
    ]  # fmt: skip
    print_checks(checks)
    settings = {"space": space, "device": device, "epochs": epochs, "int8_epochs": int8_epochs, "ema": ema}
    write_result("sampling", settings | {"budgets_ms": budgets, "accuracy": found}, checks)


def _sampler(space: Space, predictor: Predictor, budgets: Sequence[float], params: Params) -> Sampler:
    def latency_ms(subnet: Subnet) -> float:
        return predictor.predict_subnet(space, subnet, 10).latency_ms

    return near_budgets(space, latency_ms, budgets, params.supernet.sandwich.candidates)


def _as_slow_as(space: Space, predictor: Predictor, budget_ms: float, count: int, seed: int) -> list[Subnet]:
    """Of 200 random subnets those whose latency is nearest to a budget."""
    rng = np.random.default_rng([seed, 1])
    drawn = [sample_subnet(space, rng) for _ in range(200)]
    return sorted(drawn, key=lambda s: abs(predictor.predict_subnet(space, s, 10).latency_ms - budget_ms))[:count]


def _trained(
    space: Space, params: Params, train: Path, sampler: Sampler, ema: float, epochs: tuple[float, float], seed: int
) -> Supernet:
    split, settings = load_split(train), params.supernet
    spec = ImageSpec.of(split)
    supernet = Supernet(space, len(spec.classes), spec.grid)
    initialise(supernet, torch.Generator().manual_seed(seed))
    resolution = space.hyperspace.resolutions[-1]
    task = Task("sampling", split, resolution, seed, train.parent / "checkpoint.safetensors", params.augment, 10**9)
    first = settings.fp32.model_copy(update={"epochs": epochs[0], "ema": ema})
    second = settings.int8.model_copy(update={"epochs": epochs[1], "ema": ema})
    accelerator, record = Accelerator(), Record({})
    for checkpoint in train.parent.glob("checkpoint*"):
        checkpoint.unlink()
    train_fp32(supernet, settings.sandwich, first, task.phase("fp32"), record, accelerator, sampler)
    batches = settings.calibration_batches
    train_int8(supernet, settings.sandwich, second, task.phase("int8"), batches, record, accelerator, sampler)
    return supernet


def _accuracies(
    supernet: Supernet, params: Params, files: dict[str, Path], subnets: list[list[Subnet]], seed: int
) -> list[float]:
    """Mean accuracy of the subnets of each budget."""
    resolution, counts = supernet.space.hyperspace.resolutions[-1], params.search
    train = load_split(files["train"])
    pictures = Pictures.of_split(train, resolution, RECALIBRATION_BATCH, counts.recalibration_images, seed)
    val = Pictures.of_split(load_split(files["val"]), resolution, EVALUATION_BATCH, counts.val_images, seed)
    evaluator = SubnetEvaluator(supernet, pictures, val, None)
    return [float(np.mean([evaluator.accuracy(subnet) for subnet in group])) for group in subnets]


if __name__ == "__main__":
    run(main)
