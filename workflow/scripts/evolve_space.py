"""Evolve the search space of one device, guided by the Q-T score."""

import json
from pathlib import Path

from spaceevo.artifacts import Record, read_table, write_json, write_table
from spaceevo.config import SpaceParams
from spaceevo.data.splits import load_split
from spaceevo.latency.budgets import resolve_budgets
from spaceevo.latency.predictor import read_predictor
from spaceevo.scripting import run
from spaceevo.search.evolve import evolve_space
from spaceevo.search.lut import LUT_KIND, build_lut
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
    latency = read_predictor(predictor)
    num_classes = len(load_split(val).classes)
    budgets_ms = resolve_budgets(params["space_budgets"], latency, declared, num_classes, seed)
    table = build_lut(read_table(lut, LUT_KIND), declared, latency, num_classes)
    best, evaluations = evolve_space(table, budgets_ms, space.score, space.evolution, seed)
    top = evaluations.loc[evaluations["score"].idxmax()]
    content = {
        "space": best.code,
        "score": float(top["score"]),
        "budgets_ms": list(budgets_ms),
        "shares": [float(top[f"share_{i}"]) for i in range(len(budgets_ms))],
        "losses": [float(top[f"loss_{i}"]) for i in range(len(budgets_ms))],
        "subnets": best.count(),
    }
    write_json(output, "space", content, record)
    write_table(history, "space_history", evaluations, record)


if __name__ == "__main__":
    run(main)
