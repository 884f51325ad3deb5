"""The default's recipe against what else it might be: INT8 accuracy of subnets all over the space, in one run.

Each way differs from params.yaml in one thing, and trains the same space of the embedded dataset from the same start,
with several seeds. Measured is the INT8 accuracy, on val, of subnets as slow as the device's budgets, which only "near
budgets" draws on purpose.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from common import Check, print_checks, print_table, write_result

from spaceevo.artifacts import Record
from spaceevo.config import Augment, Params, Recipe, Sandwich, SupernetParams, load_params
from spaceevo.data.pictures import Pictures
from spaceevo.data.prepare import prepare_dataset
from spaceevo.data.splits import load_split
from spaceevo.errors import SpaceEvoError
from spaceevo.latency.budgets import resolve_budgets
from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.predictor import Predictor
from spaceevo.nn.initialise import initialise
from spaceevo.nn.store import ImageSpec
from spaceevo.nn.supernet import Supernet
from spaceevo.scripting import run
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.space import Space, Subnet, parse_space, sample_subnet
from spaceevo.train.evaluate import EVALUATION_BATCH, RECALIBRATION_BATCH
from spaceevo.train.loop import Task
from spaceevo.train.sampling import Sampler, near_budgets, uniform
from spaceevo.train.supernet import train_fp32, train_int8


@dataclass(frozen=True)
class Way:
    """What a training does otherwise than params.yaml.

    Attributes:
        fp32: keys of the FP32 phase's recipe.
        rate, int8_rate: factors of the learning rates of the two phases.
        ema: decay of the moving average of weights, in both phases.
    """

    sandwich: Mapping[str, Any] = field(default_factory=dict)
    fp32: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    int8_rate: float = 1.0
    ema: float = 0.0


NOTED = 0.5  # points, about what the seed makes
COMMITTED = "params.yaml"
WAYS = {
    COMMITTED: Way(),
    "SGD": Way(fp32={"optimizer": "sgd"}),
    "AdamW": Way(fp32={"optimizer": "adamw", "learning_rate": 0.02, "weight_decay": 0.02, "clip_norm": 5.0}),
    "near budgets": Way({"sampling": "budgets"}),
    "averaged": Way(ema=0.99),
    "adaptive divergence": Way({"divergence": "adaptive"}),
    "largest alone for 0.3": Way({"largest_alone": 0.3}),
    "rate / 2": Way(rate=0.5),
    "rate x 2": Way(rate=2.0),
    "INT8 rate x 4": Way(int8_rate=4.0),
}


def main(
    space: str = "tiny-0610-1220",
    device: str = "pixel4",
    ways: str = ",".join(WAYS),
    seeds: int = 2,
    epochs: float = 6.0,
    int8_epochs: float = 1.0,
    per_budget: int = 8,
    threads: int = 1,
) -> None:
    """Train with every one of `ways` and every seed; each takes some four minutes, at half the default's epochs."""
    torch.set_num_threads(threads)
    params, parsed = load_params(), parse_space(space)
    predictor = table_predictor(load_device(device))
    budgets = resolve_budgets(params.devices[device].subnet_budgets, predictor, parsed.hyperspace, 10, 0)
    names = list(dict.fromkeys([COMMITTED, *ways.split(",")]))
    if unknown := set(names) - set(WAYS):
        raise SpaceEvoError(f"There is no way {sorted(unknown)[0]!r}: --ways takes some of {', '.join(WAYS)}.")
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        files = {split: Path(folder) / f"{split}.safetensors" for split in ("train", "val", "test")}
        prepare_dataset("clutter", files, seed=0, clutter_options=params.dataset.clutter)
        for seed in range(seeds):
            subnets = [_as_slow_as(parsed, predictor, budget, per_budget, seed) for budget in budgets]
            for name in names:
                settings = _settings(params.supernet, WAYS[name], (epochs, int8_epochs))
                sampler = _sampler(parsed, predictor, budgets, settings.sandwich)
                supernet = _trained(parsed, settings, params.augment, files["train"], sampler, seed)
                found[name].append(_accuracies(supernet, params, files, subnets, seed))
    means = {name: np.mean(runs, axis=0) for name, runs in found.items()}
    print_table(
        f"INT8 accuracy on val of subnets of {space} as slow as the budgets of {device}, mean of {seeds} trainings",
        ("way", *(f"{budget:.3g} ms" for budget in budgets), "mean"),
        [(name, *(f"{100 * a:.2f} %" for a in mean), f"{100 * mean.mean():.2f} %") for name, mean in means.items()],
    )
    gains = {
        name: 100 * (np.mean(runs, axis=1) - np.mean(found[COMMITTED], axis=1))
        for name, runs in found.items()
        if name != COMMITTED
    }
    checks = [
        Check(f"no better by {NOTED} points: {name}", f"{gain.mean():+.2f} points", bool(gain.mean() < NOTED))
        for name, gain in gains.items()
    ]
    print_checks(checks)
    content = {"space": space, "device": device, "epochs": epochs, "int8_epochs": int8_epochs, "budgets_ms": budgets}
    write_result("recipe", content | {"accuracy": found}, checks)


def _settings(committed: SupernetParams, way: Way, epochs: tuple[float, float]) -> SupernetParams:
    def recipe(recipe: Recipe, rate: float, count: float) -> Recipe:
        return recipe.model_copy(
            update={"epochs": count, "learning_rate": rate * recipe.learning_rate, "ema": way.ema or recipe.ema}
        )

    return committed.model_copy(
        update={
            "sandwich": committed.sandwich.model_copy(update=way.sandwich),
            "fp32": recipe(committed.fp32.model_copy(update=way.fp32), way.rate, epochs[0]),
            "int8": recipe(committed.int8, way.int8_rate, epochs[1]),
        }
    )


def _sampler(space: Space, predictor: Predictor, budgets: Sequence[float], sandwich: Sandwich) -> Sampler:
    def latency_ms(subnet: Subnet) -> float:
        return predictor.predict_subnet(space, subnet, 10).latency_ms

    if sandwich.sampling == "uniform":
        return uniform(space)
    return near_budgets(space, latency_ms, budgets, sandwich.candidates)


def _as_slow_as(space: Space, predictor: Predictor, budget_ms: float, count: int, seed: int) -> list[Subnet]:
    """Of 200 random subnets those whose latency is nearest to a budget."""
    rng = np.random.default_rng([seed, 1])
    drawn = [sample_subnet(space, rng) for _ in range(200)]
    return sorted(drawn, key=lambda s: abs(predictor.predict_subnet(space, s, 10).latency_ms - budget_ms))[:count]


def _trained(
    space: Space, settings: SupernetParams, augment: Augment, train: Path, sampler: Sampler, seed: int
) -> Supernet:
    split = load_split(train)
    spec = ImageSpec.of(split)
    supernet = Supernet(space, len(spec.classes), spec.grid)
    initialise(supernet, torch.Generator().manual_seed(seed))
    resolution = space.hyperspace.resolutions[-1]
    task = Task("recipe", split, resolution, seed, train.parent / "checkpoint.safetensors", augment, 10**9)
    accelerator, record = Accelerator(), Record({})
    for checkpoint in train.parent.glob("checkpoint*"):
        checkpoint.unlink()
    train_fp32(supernet, settings.sandwich, settings.fp32, task.phase("fp32"), record, accelerator, sampler)
    batches, second = settings.calibration_batches, task.phase("int8")
    train_int8(supernet, settings.sandwich, settings.int8, second, batches, record, accelerator, sampler)
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
