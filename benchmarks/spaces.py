"""The evolved space of a device against hand-made ones: INT8 accuracy at its five latency budgets.

Reads a finished comparison, `snakemake results/<device>/comparison/summary.md`, which has the figures too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from common import Check, print_checks, print_table, write_result

from spaceevo.errors import SpaceEvoError
from spaceevo.report.comparison import Contender, Floats, points, read_comparison
from spaceevo.report.results import SEQNETS
from spaceevo.scripting import run


def main(results: Path = Path("results"), device: str = "cpu") -> None:
    """Print the comparison of `device` in `results` and check that the evolved space wins."""
    folder = results / device
    outcomes = sorted((folder / "comparison").glob("*/outcomes_*.parquet"))
    if not outcomes:
        summary = folder / "comparison" / "summary.md"
        raise SpaceEvoError(f"There is no comparison of {device}: make it with snakemake --cores 2 {summary}.")
    comparison = read_comparison(device, folder / "space.json", outcomes)
    contenders = (comparison.evolved, *comparison.uniform)
    budgets = [f"{name}: {ms:.3g} ms" for name, ms in zip(SEQNETS, comparison.budgets_ms, strict=True)]
    print_table(
        "INT8 accuracy on test, mean of all seeds, of the best subnet within each budget",
        ("space", "blocks", "seeds", *budgets, "mean"),
        [(c.space.code, c.name, str(len(c.runs)), *_cells(c)) for c in contenders],
    )
    advantage, error = comparison.advantage
    checks = [
        Check(f"{name}: at least as good as every uniform space", f"{points(ahead, spread)} points", ahead >= 0)
        for name, (ahead, spread) in zip(SEQNETS, comparison.advantages, strict=True)
    ]
    what = f"better on average than {comparison.best_uniform.name}, beyond the seeds' spread"
    of_one = " (one seed)" if np.isnan(error) else ""
    checks.append(Check(what, f"{points(advantage, error)} points{of_one}", advantage > error))
    print_checks(checks)
    content = {
        "device": device,
        "budgets_ms": comparison.budgets_ms,
        "accuracy": {contender.space.code: contender.accuracies.tolist() for contender in contenders},
        "seeds": {contender.space.code: len(contender.runs) for contender in contenders},
        "blocks": {contender.space.code: contender.name for contender in contenders},
        "median_error_of_random_subnets": {
            contender.space.code: [_median(contender.errors(k)) for k in range(len(SEQNETS))]
            for contender in contenders
        },
    }
    write_result(f"spaces_{device}", content, checks)


def _median(errors: Floats) -> float | None:
    """None where the space has no subnet about as slow as the budget, which JSON has no number for."""
    return float(np.median(errors)) if len(errors) else None


def _cells(contender: Contender) -> list[str]:
    values = [*contender.accuracies.mean(0), contender.means.mean()]
    return ["-" if np.isnan(value) else f"{100 * value:.2f} %" for value in values]


if __name__ == "__main__":
    run(main)
