"""Search the supernet for the most accurate INT8 subnet within each of the device's five budgets, and measure them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from spaceevo.artifacts import Record, write_json, write_table
from spaceevo.config import FootprintLimits, SearchParams
from spaceevo.data.pictures import Pictures
from spaceevo.data.splits import load_split
from spaceevo.latency.apart import measure_subnets_apart
from spaceevo.latency.budgets import resolve_budgets
from spaceevo.latency.devices import load_device, read_own_predictor
from spaceevo.nn.store import load_supernet
from spaceevo.parallel import SideBySide, share_threads
from spaceevo.scripting import run
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.search.finalists import entry, finalists_on, predicted_finalists
from spaceevo.search.limits import Footprint, footprint, within_limits
from spaceevo.search.shortlist import judge_shortlists, shortlist_of
from spaceevo.search.subnets import search_subnets
from spaceevo.space import Subnet
from spaceevo.train.evaluate import EVALUATION_BATCH, RECALIBRATION_BATCH


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
    at_once = share_threads(threads)
    params = {"search": search.model_dump(), "subnet_budgets": json.loads(budgets), "limits": limits.model_dump()}
    record = Record(params, seed)
    network, spec = load_supernet(supernet)
    latency = read_own_predictor(predictor)
    space, classes = network.space, len(spec.classes)
    resolution = space.hyperspace.resolutions[-1]
    budgets_ms = resolve_budgets(json.loads(budgets), latency, space.hyperspace, classes, seed)
    images = search.recalibration_images
    seen = Pictures.of_split(load_split(train), resolution, RECALIBRATION_BATCH, images, seed)

    def accuracy_on(count: int) -> Callable[[Subnet], float]:
        shown = Pictures.of_split(load_split(val), resolution, EVALUATION_BATCH, count, seed)
        return SubnetEvaluator(network, seen, shown, None).accuracy

    def latency_ms(subnet: Subnet) -> float:
        return latency.predict_subnet(space, subnet, classes).latency_ms

    limited = within_limits(latency_ms, space, classes, limits)
    accuracy, shortlist = accuracy_on(search.val_images), shortlist_of(search.shortlist, accuracy_on)
    with SideBySide(at_once) as mapper:
        ranked, table = search_subnets(space, limited, accuracy, budgets_ms, search.settings, seed, mapper)
        ranked, table = judge_shortlists(ranked, table, budgets_ms, shortlist, mapper)
    footprints = [footprint(space, space.subnet(code), classes) for code in table["code"]]
    table = table.assign(**pd.DataFrame(footprints, columns=Footprint._fields))
    if search.remeasure:
        time = partial(measure_subnets_apart, latency.device, space, num_classes=classes)
        device = load_device(latency.device)
        finalists, table = finalists_on(device, time, latency, space, ranked, table, budgets_ms)
    else:
        finalists, table = predicted_finalists(ranked, table)
    winners = {f"A{k}": entry(*pair) for k, pair in enumerate(zip(finalists, budgets_ms, strict=True))}
    write_json(output, "seqnets", {"space": space.code, "seqnets": winners}, record)
    write_table(subnets, "subnets", table, record)


if __name__ == "__main__":
    run(main)
