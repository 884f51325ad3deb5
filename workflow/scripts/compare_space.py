"""Search a trained supernet, and draw random subnets from it, under the budgets that other spaces are compared at."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from spaceevo.artifacts import Record, write_table
from spaceevo.config import SearchParams
from spaceevo.data.pictures import Pictures
from spaceevo.data.splits import load_split
from spaceevo.latency.budgets import resolve_budgets
from spaceevo.latency.devices import read_own_predictor
from spaceevo.nn.store import load_supernet
from spaceevo.parallel import SideBySide, share_threads
from spaceevo.scripting import run
from spaceevo.search.comparison import OUTCOMES_KIND, outcomes
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.search.shortlist import shortlist_of
from spaceevo.space import Subnet
from spaceevo.train.evaluate import EVALUATION_BATCH, RECALIBRATION_BATCH


def main(
    supernet: Path,
    predictor: Path,
    train: Path,
    val: Path,
    test: Path,
    search: SearchParams,
    recalibration_images: int,
    budgets: str,
    budgets_seed: int,
    random_subnets: int,
    seed: int,
    threads: int,
    output: Path,
) -> None:
    """Write the outcomes of one supernet to `output`; `budgets` is a JSON list, and percentages have a seed."""
    at_once = share_threads(threads)
    params = {"search": search.model_dump(), "budgets": json.loads(budgets)}
    record = Record(params | {"recalibration_images": recalibration_images}, seed)
    network, spec = load_supernet(supernet)
    latency = read_own_predictor(predictor)
    space, classes = network.space, len(spec.classes)
    resolution = space.hyperspace.resolutions[-1]
    budgets_ms = resolve_budgets(json.loads(budgets), latency, space.hyperspace, classes, budgets_seed)

    @cache
    def seen(count: int) -> Pictures:
        return Pictures.of_split(load_split(train), resolution, RECALIBRATION_BATCH, count, seed)

    def evaluator(images: Path, count: int | None, statistics: int) -> SubnetEvaluator:
        shown = Pictures.of_split(load_split(images), resolution, EVALUATION_BATCH, count, seed)
        return SubnetEvaluator(network, seen(statistics), shown, None)

    def val_accuracy(count: int) -> Callable[[Subnet], float]:
        return evaluator(val, count, search.recalibration_images).accuracy

    def latency_ms(subnet: Subnet) -> float:
        return latency.predict_subnet(space, subnet, classes).latency_ms

    with SideBySide(at_once) as mapper:
        table = outcomes(
            space,
            latency_ms,
            val_accuracy(search.val_images),
            evaluator(test, None, recalibration_images).accuracy,
            budgets_ms,
            search.settings,
            shortlist_of(search.shortlist, val_accuracy),
            random_subnets,
            seed,
            mapper,
        )
    write_table(output, OUTCOMES_KIND, table, record)


if __name__ == "__main__":
    run(main)
