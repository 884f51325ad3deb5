"""Seconds of scoring and evolving spaces, against a sampler as the score's definition and the release have it.

The table is a published one where its folder is given (`--table FOLDER`), else made up, of the same size.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from common import Check, print_checks, print_table, time_interleaved, write_result
from threadpoolctl import threadpool_limits

from spaceevo.config import EvolutionSettings, QTSettings
from spaceevo.latency.devices import device_predictor
from spaceevo.scripting import run
from spaceevo.search.evolve import evolve_space
from spaceevo.search.lut import ANY, AccuracyLut, build_lut
from spaceevo.search.published_lut import read_published_lut
from spaceevo.search.score import Scorer, make_scorer
from spaceevo.space import Hyperspace, Space, load_hyperspace, sample_space

SAMPLES, TOP = 100_000, 50
ROWS = 900  # of a file of the published tables
BUDGETS_MS = {"mobilew": (15.0, 20.0), "onnxw": (10.0,)}
FIXED_MS = {"mobilew": {160: 1.5, 192: 2.1, 224: 2.8}, "onnxw": {160: 0.40, 192: 0.55, 224: 0.75}}
DEVICE = {"mobilew": "pixel4", "onnxw": "vnni"}
SCORE_LIMIT_MS = {"independent": 1.3, "consistent": 5.0}
EVOLUTION_LIMIT_S = 10.0
ERROR_LIMIT = 0.003
MEMORY_LIMIT_GIB = 1.0


def main(hyperspace: str = "mobilew", table: Path | None = None, spaces: int = 200, rounds: int = 7) -> None:
    """Time both modes on random spaces, so many that little is remembered between two scores of one, and evolutions."""
    declared = load_hyperspace(hyperspace)
    rows = read_published_lut(table, declared) if table else made_table(declared)
    budgets = BUDGETS_MS[hyperspace]
    rng = np.random.default_rng(0)
    drawn = [sample_space(declared, rng) for _ in range(spaces)]
    results = {}
    checks = []
    with threadpool_limits(1):
        for mode in ("independent", "consistent"):
            found = results[mode] = compare(rows, declared, mode, budgets, drawn, rounds)
            limit = SCORE_LIMIT_MS[mode]
            checks += [
                Check(f"{mode}: a score within {limit} ms", f"{found['score_ms']:.2f} ms", found["score_ms"] <= limit),
                Check(
                    f"{mode}: standard error within {ERROR_LIMIT:.1%}",
                    f"{found['relative_error']:.1e}",
                    found["relative_error"] <= ERROR_LIMIT,
                ),
                Check(
                    f"{mode}: an evolution of 5,000 within {EVOLUTION_LIMIT_S:g} s",
                    f"{found['evolution_s']:.1f} s",
                    found["evolution_s"] <= EVOLUTION_LIMIT_S,
                ),
            ]
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    checks.append(Check(f"memory within {MEMORY_LIMIT_GIB:g} GiB", f"{peak_gib:.2f} GiB", peak_gib <= MEMORY_LIMIT_GIB))
    print_table(
        f"Q-T scores of {hyperspace} ({'published' if table else 'made-up'} table of {len(rows):,} rows, one thread)",
        ("mode", "score ms", "sampler ms", "ratio", "error", "sampler's error", "evolution s", "preparation s"),
        [
            (
                mode,
                *(f"{found[key]:.2f}" for key in ("score_ms", "sampler_ms", "ratio")),
                *(f"{found[key]:.1e}" for key in ("relative_error", "sampler_error")),
                *(f"{found[key]:.2f}" for key in ("evolution_s", "preparation_s")),
            )
            for mode, found in results.items()
        ],
    )
    print_checks(checks)
    content = {"hyperspace": hyperspace, "table": "published" if table else "made up", "rows": len(rows)}
    write_result(f"qt_score_{hyperspace}", {**content, "modes": results, "peak_gib": peak_gib}, checks)


def compare(
    rows: pd.DataFrame,
    hyperspace: Hyperspace,
    mode: str,
    budgets: tuple[float, ...],
    spaces: list[Space],
    rounds: int,
) -> dict[str, float]:
    """Milliseconds of a score and of the sampler, their errors, and seconds of an evolution."""
    independent = mode == "independent"
    settings = QTSettings(
        mode="independent" if independent else "consistent",
        samples=SAMPLES,
        top=TOP,
        latency="table",
        fixed_latency_ms=FIXED_MS[hyperspace.name] if independent else None,
    )
    predictor = None if independent else device_predictor(DEVICE[hyperspace.name])
    lut = build_lut(rows, hyperspace, predictor, 1000, settings)
    start = time.perf_counter()
    scorer = make_scorer(lut, budgets, settings, 0)
    preparation_s = time.perf_counter() - start
    for space in spaces:
        scorer(space)  # every stage is prepared once
    rng = np.random.default_rng(1)
    timings = time_interleaved(
        {
            "score": cycle(spaces, scorer),
            "sampler": cycle(spaces, lambda space: sampled_score(lut, space, budgets, settings, rng)),
        },
        rounds,
        0.2,
    )
    evolution = EvolutionSettings(population=500, parent_sample=125, evaluations=5000)
    del scorer  # so that what an evolution prepares is counted once, in seconds and in memory
    scorer = make_scorer(lut, budgets, settings, 0)
    start = time.perf_counter()
    best, _ = evolve_space(scorer, evolution, 0)
    evolution_s = time.perf_counter() - start
    repeated = [sampled_score(lut, best, budgets, settings, rng) for _ in range(20)]
    return {
        "score_ms": timings["score"],
        "sampler_ms": timings["sampler"],
        "ratio": timings["sampler"] / timings["score"],
        "relative_error": scorer(best).standard_error / scorer(best).score,
        "sampler_error": float(np.std(repeated, ddof=1) / np.mean(repeated)),
        "difference_to_sampler": scorer(best).score / float(np.mean(repeated)) - 1.0,
        "evolution_s": evolution_s + preparation_s,
        "preparation_s": preparation_s,
    }


def cycle(spaces: list[Space], score: Scorer | Callable[[Space], object]) -> Callable[[], object]:
    """Scores the next of the spaces at every call."""
    position = 0

    def next_one() -> object:
        nonlocal position
        position += 1
        return score(spaces[position % len(spaces)])

    return next_one


def sampled_score(
    lut: AccuracyLut, space: Space, budgets: tuple[float, ...], settings: QTSettings, rng: np.random.Generator
) -> float:
    """The score as it is defined: draw subnets, sort those within each budget by loss, average the best."""
    losses, latencies = [], []
    keys = lut.keys(space)
    for resolution in lut.resolutions:
        count = settings.samples // len(lut.resolutions)
        loss, latency = np.zeros(count), np.zeros(count)
        width = np.full(count, next(in_width for _, in_width in lut.table(keys[0])))
        for key in keys:
            following = np.empty_like(width)
            for in_width in np.unique(width):
                candidates = lut.table(key)[resolution, int(in_width)]
                here = slice(None) if in_width == ANY else np.flatnonzero(width == in_width)
                drawn = rng.integers(len(candidates.loss), size=len(width[here]))
                loss[here] += candidates.loss[drawn]
                latency[here] += candidates.latency_ms[drawn]
                following[here] = candidates.out_width[drawn]
            width = following
        for out_width in np.unique(width):
            latency[width == out_width] += lut.head_ms[resolution, int(out_width)]
        losses.append(loss)
        latencies.append(latency)
    loss, latency = np.concatenate(losses), np.concatenate(latencies)
    score = 0.0
    for budget in budgets:
        within = np.sort(loss[latency <= budget])
        if len(within):
            share = len(within) / len(loss)
            punishment = max(1.0, (settings.target_share / share) ** settings.exponent)
            score += 1.0 / (punishment * float(within[: settings.top].mean()))
    return score


def made_table(hyperspace: Hyperspace) -> pd.DataFrame:
    """Random rows, as many as a published table has, with losses that fall and latencies that rise with the width."""
    rng = np.random.default_rng(0)
    parts = []
    for number, stage in enumerate(hyperspace.searched_stages):
        for block_type, window in product(range(len(hyperspace.block_types)), range(stage.windows)):
            depth = rng.choice(stage.depths, ROWS)
            width = rng.choice(stage.window_widths(window), ROWS)
            size = depth * width * (1.0 + 0.3 * block_type) * rng.uniform(0.7, 1.3, ROWS)
            size /= stage.depths[-1] * stage.widths[-1]
            parts.append(
                pd.DataFrame(
                    {
                        "stage": stage.name,
                        "block_type": block_type,
                        "window": window,
                        "in_width": rng.choice(hyperspace.in_widths(stage.name), ROWS),
                        "out_width": width,
                        "resolution": rng.choice(hyperspace.block_kd_resolutions, ROWS),
                        "loss": np.round(0.3 + 0.05 * number + 0.2 * np.exp(-3 * size) + rng.normal(0, 0.02, ROWS), 4),
                        "latency_ms": np.round(0.3 + 4.0 * size, 4),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    run(main)
