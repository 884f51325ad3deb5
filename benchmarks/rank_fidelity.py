"""Whether the proxies rank as training does: the LUT's losses subnets, and the Q-T score spaces. Kendall's τ.

Beside the losses, two simpler proxies: the noise-to-signal ratios that losses are made of, and MACs. Subnets are
put together from the stage choices that the LUT holds, so that their summed loss is known. Spaces are those
of a finished comparison, `snakemake results/<device>/comparison/summary.md`, where that has enough of them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import Check, print_checks, print_table, write_result
from scipy.stats import kendalltau
from trained import OWN, FinishedRun, finished_run

from spaceevo.artifacts import read_table
from spaceevo.latency.devices import read_own_predictor
from spaceevo.progress import progress
from spaceevo.report.comparison import Comparison, read_comparison
from spaceevo.report.results import SEQNETS
from spaceevo.scripting import run
from spaceevo.search.lut import LOG_ODDS_PER_LOSS, LUT_KIND, build_lut
from spaceevo.search.score import make_scorer
from spaceevo.space import IMAGE_CHANNELS, Space, StageChoice, Subnet, parse_stage, sample_stage

SUBNETS_TAU, SPACES_TAU = 0.7, 0.6
PROXIES = {"loss": -1, "nsr": -1, "macs": 1}  # and whether more of it is good


def main(
    results: Path = Path("results"),
    device: str = "cpu",
    configfile: Path | None = None,
    supernet: str = OWN,
    subnets: int = 100,
    fewest_spaces: int = 6,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Compare with the INT8 accuracy of the supernets in `results`, which params.yaml and `configfile` made.

    Subnets are those of `supernet`, one of the device's folder, such as comparison/evolved/supernet_0.
    """
    torch.set_num_threads(threads)
    finished = finished_run(results, device, configfile, supernet)
    drawn, stages = _subnets(finished, subnets, seed)
    groups = {"all": drawn, **{f"{resolution} pixels": group for resolution, group in drawn.groupby("resolution")}}
    taus: dict[str, dict[str, float]] = {
        name: {proxy: _tau(sign * group[proxy], group["accuracy"]) for proxy, sign in PROXIES.items()}
        for name, group in groups.items()
    }
    print_table(
        f"{subnets} subnets: Kendall's τ of INT8 test accuracy and a proxy, and the ends by less loss in the LUT",
        ("subnets", "less loss", "less nsr", "more MACs", "least lossy third, accuracy", "most lossy third, accuracy"),
        [(name, *(f"{tau:.3f}" for tau in taus[name].values()), *_thirds(group)) for name, group in groups.items()],
    )
    (slope,), raised = _slopes(drawn, ["loss"]), _raised(drawn)
    print(f"\nLog-odds of an error: {slope:.2f} per unit of loss within a resolution; above the largest one:")
    for resolution, (found, priced) in raised.items():
        print(f"  {resolution} pixels: {found:+.2f}, priced as {priced:+.2f}")
    by_stage = dict(zip(stages, _slopes(drawn, stages), strict=True))
    print("By the stage that loses it: " + ", ".join(f"{stage} {found:.2f}" for stage, found in by_stage.items()))
    checks = [
        Check(f"subnets: τ at least {SUBNETS_TAU}", f"{taus['all']['loss']:.3f}", taus["all"]["loss"] >= SUBNETS_TAU)
    ]
    content: dict[str, Any] = {
        "device": device,
        "supernet": supernet,
        "split": "test",
        "subnets": drawn.to_dict("list"),
        "tau_of_subnets": taus,
        "log_odds_per_loss": slope,
        "log_odds_per_loss_of_stages": by_stage,
        "log_odds_of_resolutions": raised,
    }
    outcomes = sorted((finished.folder / "comparison").glob("*/outcomes_*.parquet"))
    if len({path.parent for path in outcomes}) >= fewest_spaces:
        comparison = read_comparison(device, finished.folder / "space.json", outcomes)
        spaces, within = _spaces(finished, comparison)
        tau = _tau(spaces["score"], spaces["accuracy"])
        print_table(
            "Spaces: Q-T score, and INT8 accuracy of the best subnets, mean of all budgets and seeds",
            ("space", "blocks", "score", "accuracy"),
            [
                (row["space"], row["blocks"], f"{row['score']:.4f}", f"{100 * row['accuracy']:.2f} %")
                for row in spaces.sort_values("score", ascending=False).to_dict("records")
            ],
        )
        correlations = {str(name): float(cells["loss"].corr(cells["odds"])) for name, cells in within.groupby("budget")}
        print_table(
            "Spaces: correlation of the loss within a budget and the log-odds of an error of the best subnet there",
            tuple(correlations),
            [tuple(f"{found:.2f}" for found in correlations.values())],
        )
        checks.append(Check(f"{len(spaces)} spaces: τ at least {SPACES_TAU}", f"{tau:.3f}", tau >= SPACES_TAU))
        content |= {"spaces": spaces.to_dict("list"), "tau_of_spaces": tau, "correlations_within_budgets": correlations}
    print_checks(checks)
    write_result(f"rank_fidelity{finished.suffix}", content, checks)


def _tau(first: pd.Series[float], second: pd.Series[float]) -> float:
    return float(kendalltau(first, second).statistic)


def _odds(accuracy: pd.Series[float]) -> pd.Series[float]:
    """Log-odds of an error."""
    wrong = (1 - accuracy).clip(1e-4, 1 - 1e-4)
    return wrong.map(lambda share: math.log(share / (1 - share)))


def _slopes(drawn: pd.DataFrame, losses: list[str]) -> list[float]:
    """By how much log-odds of an error rise within a resolution for a unit of each of these columns: least squares."""
    table = drawn[losses].assign(odds=_odds(drawn["accuracy"]))
    centred = table - table.groupby(drawn["resolution"]).transform("mean")
    found, *_ = np.linalg.lstsq(centred[losses].to_numpy(), centred["odds"].to_numpy(), rcond=None)
    return [float(slope) for slope in found]


def _raised(drawn: pd.DataFrame) -> dict[int, tuple[float, float]]:
    """By how much a resolution's mean log-odds of an error are above the largest one's, and as the loss prices it."""
    means = drawn[["loss"]].assign(odds=_odds(drawn["accuracy"])).groupby(drawn["resolution"]).mean()
    above = means - means.loc[means.index.max()]
    return {int(r): (float(row["odds"]), float(LOG_ODDS_PER_LOSS * row["loss"])) for r, row in above.iterrows()}


def _thirds(drawn: pd.DataFrame) -> tuple[str, str]:
    """Mean accuracy of the third with the least loss, and of that with the most."""
    accuracy = drawn.sort_values("loss")["accuracy"].to_numpy()
    third = max(len(accuracy) // 3, 1)
    return f"{100 * accuracy[:third].mean():.2f} %", f"{100 * accuracy[-third:].mean():.2f} %"


def _subnets(finished: FinishedRun, count: int, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Random subnets of LUT entries, and the stages whose losses are added up.

    Columns subnet, resolution, sums of loss, nsr and macs, INT8 test accuracy, and each of those stages' loss.
    Accuracy is on all of test, which no choice is made on here: on the search's fewer pictures, noise would pass for
    disagreement.
    """
    supernet = finished.supernet()
    space = supernet.space
    evaluator = finished.evaluator(supernet, "test")
    table = read_table(finished.results / "blocks" / "lut.parquet", LUT_KIND)
    keys = ["stage", "block_type", "window", "in_width", "resolution"]
    groups = dict(list(table.groupby(keys)))
    rng = np.random.default_rng([seed, 3])
    rows = []
    with progress("subnets", count) as tick:
        for number in range(count):
            subnet, parts = _draw(space, groups, rng)
            sums = {proxy: float(sum(part[proxy] for part in parts)) for proxy in PROXIES}
            losses = {part["stage"]: float(part["loss"]) for part in parts}
            known = {"subnet": subnet.code, "resolution": subnet.resolution, **sums}
            rows.append({**known, "accuracy": evaluator.accuracy(subnet), **losses})
            tick(number + 1)
    return pd.DataFrame(rows), list(losses)


def _draw(
    space: Space, groups: dict[tuple[object, ...], pd.DataFrame], rng: np.random.Generator
) -> tuple[Subnet, list[pd.Series[Any]]]:
    """A subnet whose stages are in the LUT, drawn one after the other, and their rows there.

    Of a stage that is not searched, and is not in the LUT, any choice is drawn.
    """
    resolution = int(rng.choice(space.hyperspace.block_kd_resolutions))
    stages: list[StageChoice] = []
    drawn: list[pd.Series[Any]] = []
    searched, arriving = iter(zip(space.block_types, space.windows, strict=True)), IMAGE_CHANNELS
    for options in space.options:
        type_and_window = next(searched) if options.stage.searched else (0, 0)
        key = (options.stage.name, *type_and_window, arriving, resolution)
        if options.stage.searched or key in groups:
            row = groups[key].iloc[int(rng.integers(len(groups[key])))]
            stages.append(parse_stage(row["choice"]))
            drawn.append(row)
        else:
            stages.append(sample_stage(options, rng))
        arriving = stages[-1][-1].width
    return Subnet(resolution, tuple(stages)), drawn


def _spaces(finished: FinishedRun, comparison: Comparison) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of each space, and of each space within each budget.

    Returns:
        Columns space, blocks, score and accuracy (mean over budgets and seeds, budgets out of reach as chance); and
        columns budget, loss as it is scored, and odds, the log-odds of an error of the best subnets (mean of seeds).
    """
    hyperspace, settings = comparison.evolved.space.hyperspace, finished.params.space.score
    predictor = read_own_predictor(finished.folder / "latency_predictor.json")
    classes = len(finished.split("val").classes)
    rows = read_table(finished.results / "blocks" / "lut.parquet", LUT_KIND)
    lut = build_lut(rows, hyperspace, predictor, classes, settings)
    scorer = make_scorer(lut, comparison.budgets_ms, settings, finished.params.seed)
    spaces, cells = [], []
    for contender in (comparison.evolved, *comparison.uniform):
        score = scorer(contender.space)
        accuracy = pd.Series(np.nan_to_num(contender.accuracies, nan=1 / classes).mean(0))
        spaces.append(
            {
                "space": contender.space.code,
                "blocks": contender.name,
                "score": score.score,
                "accuracy": float(accuracy.mean()),
            }
        )
        cells.append(pd.DataFrame({"budget": SEQNETS, "loss": score.losses, "odds": _odds(accuracy)}))
    return pd.DataFrame(spaces), pd.concat(cells)


if __name__ == "__main__":
    run(main)
