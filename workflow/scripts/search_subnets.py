"""Search the supernet for the most accurate INT8 subnet within each of the device's five budgets."""

import json
from pathlib import Path

import torch

from spaceevo.artifacts import Record, write_json, write_table
from spaceevo.config import SearchParams
from spaceevo.data.loader import materialise
from spaceevo.data.splits import load_split
from spaceevo.latency.budgets import resolve_budgets
from spaceevo.latency.predictor import read_predictor
from spaceevo.nn.store import load_supernet
from spaceevo.scripting import run
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.search.subnets import search_subnets


def main(
    supernet: Path,
    predictor: Path,
    train: Path,
    val: Path,
    search: SearchParams,
    budgets: str,
    seed: int,
    threads: int,
    output: Path,
    subnets: Path,
) -> None:
    """Write the five winners to `output` and every evaluated subnet to `subnets`; `budgets` is a JSON list."""
    torch.set_num_threads(threads)
    record = Record({"search": search.model_dump(), "subnet_budgets": json.loads(budgets)}, seed)
    network, spec = load_supernet(supernet)
    latency = read_predictor(predictor)
    space, classes = network.space, len(spec.classes)
    resolution = space.hyperspace.resolutions[-1]
    budgets_ms = resolve_budgets(json.loads(budgets), latency, space.hyperspace, classes, seed)
    train_images, _ = materialise(load_split(train), resolution, search.recalibration_images, seed)
    images, labels = materialise(load_split(val), resolution, search.val_images, seed)
    evaluator = SubnetEvaluator(network, train_images, images, labels)
    best, table = search_subnets(
        space,
        lambda subnet: latency.predict_subnet(space, subnet, classes).latency_ms,
        evaluator.accuracy,
        budgets_ms,
        search.settings,
        seed,
    )
    winners = {
        f"A{k}": {
            "subnet": found.subnet.code,
            "budget_ms": budget,
            "latency_ms": found.latency_ms,
            "val_accuracy": found.accuracy,
        }
        for k, (found, budget) in enumerate(zip(best, budgets_ms, strict=True))
    }
    write_json(output, "seqnets", {"space": space.code, "seqnets": winners}, record)
    write_table(subnets, "subnets", table, record)


if __name__ == "__main__":
    run(main)
