"""Does the search find spaces as good as the published ones, and is the result the best of all?

Needs the folder of the published tables, with `mobilew` and `onnxw` in it: `--tables FOLDER`. Scores are those of the
release: stages drawn independently, latencies of the table.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from common import Check, print_checks, print_table, write_result
from qt_score import BUDGETS_MS, FIXED_MS, SAMPLES, TOP
from threadpoolctl import threadpool_limits

from spaceevo.config import EvolutionSettings, QTSettings
from spaceevo.scripting import run
from spaceevo.search.evolve import evolve_space
from spaceevo.search.exact import best_space
from spaceevo.search.lut import build_lut
from spaceevo.search.published_lut import read_published_lut
from spaceevo.search.score import make_scorer
from spaceevo.space import load_hyperspace, parse_space

PUBLISHED = {
    "mobilew": ("spaceevo@pixel4", "spaceevo@pixel4-tiny", "spaceevo@pixel4-medium"),
    "onnxw": ("spaceevo@vnni", "spaceevo@vnni-large"),
}


def main(tables: Path | None = None, seeds: int = 5, exact: bool = True) -> None:
    """Evolve with several seeds, compare, and search exactly."""
    if tables is None:
        print("skipped: the published tables are needed (--tables FOLDER, with mobilew and onnxw in it)")
        return
    results, checks = {}, []
    with threadpool_limits(1):
        for hyperspace in PUBLISHED:
            found = results[hyperspace] = search(tables / hyperspace, hyperspace, seeds, exact)
            published = max(found["published"].values())
            worst = min(run["score"] for run in found["evolved"])
            checks.append(
                Check(f"{hyperspace}: every seed beats {published:.5f}", f"{worst:.5f} at least", worst > published)
            )
    print_checks(checks)
    write_result("space_search", {"spaces": results}, checks)


def search(folder: Path, hyperspace: str, seeds: int, exact: bool) -> dict[str, Any]:
    """Scores of the published spaces, of the evolved one of each seed, and of the best of all."""
    declared = load_hyperspace(hyperspace)
    settings = QTSettings(
        mode="independent", samples=SAMPLES, top=TOP, latency="table", fixed_latency_ms=FIXED_MS[hyperspace]
    )
    lut = build_lut(read_published_lut(folder, declared), declared, None, 1000, settings)
    scorer = make_scorer(lut, BUDGETS_MS[hyperspace], settings, 0)
    published = {name: scorer(parse_space(name)).score for name in PUBLISHED[hyperspace]}
    evolved: list[dict[str, Any]] = []
    for seed in range(seeds):
        start = time.perf_counter()
        best, _ = evolve_space(scorer, EvolutionSettings(population=500, parent_sample=125, evaluations=5000), seed)
        evolved.append(
            {"seed": seed, "space": best.code, "score": scorer(best).score, "wall_s": time.perf_counter() - start}
        )
    rows = [(name, parse_space(name).code, f"{score:.5f}", "") for name, score in published.items()]
    rows += [(f"seed {run['seed']}", run["space"], f"{run['score']:.5f}", f"{run['wall_s']:.1f}") for run in evolved]
    content: dict[str, Any] = {"published": published, "evolved": evolved}
    if exact:
        start = time.perf_counter()
        top = best_space(scorer, parse_space(max(evolved, key=lambda run: run["score"])["space"]))
        wall_s = time.perf_counter() - start
        content["best_of_all"] = {
            "space": top.space.code,
            "score": top.score.score,
            "spaces": top.spaces,
            "scored": top.scored,
            "wall_s": wall_s,
        }
        rows.append((f"best of {top.spaces:,}", top.space.code, f"{top.score.score:.5f}", f"{wall_s:.1f}"))
    print_table(f"Q-T scores of {hyperspace}", ("space", "code", "score", "seconds"), rows)
    return content


if __name__ == "__main__":
    run(main)
