"""Evolve the search space of one device, guided by the Q-T score."""

import json
import math
from pathlib import Path

from threadpoolctl import threadpool_limits

from spaceevo.artifacts import Record, read_table, write_json, write_table
from spaceevo.config import SpaceParams
from spaceevo.data.splits import load_split
from spaceevo.latency.budgets import resolve_budgets
from spaceevo.latency.devices import read_own_predictor
from spaceevo.scripting import run
from spaceevo.search.evolve import evolve_space
from spaceevo.search.exact import best_space
from spaceevo.search.lut import LUT_KIND, build_lut
from spaceevo.search.score import make_scorer
from spaceevo.space import load_hyperspace


def main(
    lut: Path,
    predictor: Path,
    val: Path,
    hyperspace: str,
    space: SpaceParams,
    budgets: str,
    seed: int,
    output: Path,
    history: Path,
) -> None:
    """Write the best space to `output` and every evaluation to `history`; `budgets` is a JSON list."""
    params = {"hyperspace": hyperspace, "space": space.model_dump(), "space_budgets": json.loads(budgets)}
    record = Record(params, seed)
    declared = load_hyperspace(hyperspace)
    latency = read_own_predictor(predictor)
    num_classes = len(load_split(val).classes)
    budgets_ms = resolve_budgets(params["space_budgets"], latency, declared, num_classes, seed)
    table = build_lut(read_table(lut, LUT_KIND), declared, latency, num_classes, space.score)
    with threadpool_limits(1):  # its matrices are small: more threads only wait for one another
        scorer = make_scorer(table, budgets_ms, space.score, seed)
        best, evaluations = evolve_space(scorer, space.evolution, seed)
        allowed = declared.types_without(space.evolution.leave_out)
        certificate = best_space(scorer, best, allowed) if space.evolution.exact else None
    if certificate is not None:
        best = certificate.space
    found = scorer(best)
    content = {
        "space": best.code,
        "score": found.score,
        "standard_error": found.standard_error,
        "budgets_ms": list(budgets_ms),
        "shares": list(found.shares),
        "losses": [loss if math.isfinite(loss) else None for loss in found.losses],
        "subnets": best.count(),
        "best_of_all": certificate and {"spaces": certificate.spaces, "scored": certificate.scored},
    }
    write_json(output, "space", content, record)
    write_table(history, "space_history", evaluations, record)


if __name__ == "__main__":
    run(main)
