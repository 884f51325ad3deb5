"""Search the supernet for the most accurate INT8 subnet within each of the device's five budgets."""

import json
from pathlib import Path

import pandas as pd
import torch

from spaceevo.artifacts import Record, write_json, write_table
from spaceevo.config import FootprintLimits, SearchParams
from spaceevo.data.loader import materialise
from spaceevo.data.splits import load_split
from spaceevo.latency.budgets import resolve_budgets
from spaceevo.latency.devices import read_own_predictor
from spaceevo.nn.store import load_supernet
from spaceevo.scripting import run
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.search.limits import Footprint, footprint, within_limits
from spaceevo.search.subnets import search_subnets
from spaceevo.space import Subnet


def main(
    supernet: Path,
    predictor: Path,
    train: Path,
    val: Path,
    search: SearchParams,
    budgets: str,
    limits: FootprintLimits,
    seed: int,
    threads: int,
    output: Path,
    subnets: Path,
) -> None:
    """Write the five winners to `output` and every evaluated subnet to `subnets`; `budgets` is a JSON list."""
    torch.set_num_threads(threads)
    params = {"search": search.model_dump(), "subnet_budgets": json.loads(budgets), "limits": limits.model_dump()}
    record = Record(params, seed)
    network, spec = load_supernet(supernet)
    latency = read_own_predictor(predictor)
    space, classes = network.space, len(spec.classes)
    resolution = space.hyperspace.resolutions[-1]
    budgets_ms = resolve_budgets(json.loads(budgets), latency, space.hyperspace, classes, seed)
    train_images, _ = materialise(load_split(train), resolution, search.recalibration_images, seed)
    images, labels = materialise(load_split(val), resolution, search.val_images, seed)
    evaluator = SubnetEvaluator(network, train_images, images, labels)

    def latency_ms(subnet: Subnet) -> float:
        return latency.predict_subnet(space, subnet, classes).latency_ms

    limited = within_limits(latency_ms, space, classes, limits)
    best, table = search_subnets(space, limited, evaluator.accuracy, budgets_ms, search.settings, seed)
    footprints = [footprint(space, space.subnet(code), classes) for code in table["code"]]
    table = table.assign(**pd.DataFrame(footprints, columns=Footprint._fields))
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
