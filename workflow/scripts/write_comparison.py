"""Compare a device's evolved space with uniform ones: figures and a summary."""

import json
from pathlib import Path

from threadpoolctl import threadpool_limits

from spaceevo.artifacts import read_table
from spaceevo.config import QTSettings, ReportParams
from spaceevo.data.splits import load_split
from spaceevo.latency.budgets import resolve_budgets
from spaceevo.latency.devices import read_own_predictor
from spaceevo.report.comparison import read_comparison, write_comparison
from spaceevo.scripting import run
from spaceevo.search.lut import LUT_KIND, build_lut
from spaceevo.search.score import make_scorer


def main(
    outcomes: list[Path],
    evolved: Path,
    lut: Path,
    predictor: Path,
    val: Path,
    score: QTSettings,
    budgets: str,
    seed: int,
    report: ReportParams,
    output: Path,
) -> None:
    """Write the summary of `outcomes` to `output`; Q-T scores are for `budgets`, a JSON list."""
    latency = read_own_predictor(predictor)
    comparison = read_comparison(latency.device, evolved, outcomes)
    hyperspace, classes = comparison.evolved.space.hyperspace, len(load_split(val).classes)
    budgets_ms = resolve_budgets(json.loads(budgets), latency, hyperspace, classes, seed)
    with threadpool_limits(1):
        scorer = make_scorer(
            build_lut(read_table(lut, LUT_KIND), hyperspace, latency, classes, score), budgets_ms, score, seed
        )
        contenders = (comparison.evolved, *comparison.uniform)
        scores = {contender.space.code: scorer(contender.space).score for contender in contenders}
    write_comparison(comparison, scores, report, output)


if __name__ == "__main__":
    run(main)
