"""Whether the proxies rank as training does: the LUT's losses subnets, and the Q-T score spaces. Kendall's τ.

Beside the losses, two simpler proxies: the noise-to-signal ratios that losses are made of, and MACs. Subnets are
put together from the stage choices that the LUT holds, so that their summed loss is known. Spaces are those
of a finished comparison, `snakemake results/<device>/comparison/summary.md`, where that has enough of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import Check, print_checks, print_table, write_result
from scipy.stats import kendalltau
from trained import FinishedRun, finished_run

from spaceevo.artifacts import read_table
from spaceevo.latency.devices import read_own_predictor
from spaceevo.progress import progress
from spaceevo.report.comparison import Comparison, read_comparison
from spaceevo.scripting import run
from spaceevo.search.lut import LOG_ODDS_PER_LOSS, LUT_KIND, build_lut
from spaceevo.search.score import make_scorer
from spaceevo.space import IMAGE_CHANNELS, Space, StageChoice, Subnet, parse_stage, sample_stage

SUBNETS_TAU, SPACES_TAU = 0.7, 0.6
PROXIES = {"loss": -1, "nsr": -1, "macs": 1}  # and whether more of it is good


def main(
    results: Path = Path("results"),
    device: str = "cpu",
    params: Path = Path("params.yaml"),
    subnets: int = 100,
    fewest_spaces: int = 6,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Compare with the INT8 accuracy that the supernets in `results`, made with `params`, give."""
    torch.set_num_threads(threads)
    finished = finished_run(results, device, params)
    drawn = _subnets(finished, subnets, seed)
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
    slope, raised = _log_odds(drawn)
    print(f"\nLog-odds of an error: {slope:.2f} per unit of loss within a resolution; above the largest one:")
    for resolution, (found, priced) in raised.items():
        print(f"  {resolution} pixels: {found:+.2f}, priced as {priced:+.2f}")
    checks = [
        Check(f"subnets: τ at least {SUBNETS_TAU}", f"{taus['all']['loss']:.3f}", taus["all"]["loss"] >= SUBNETS_TAU)
    ]
    content: dict[str, Any] = {
        "device": device,
        "split": "test",
        "subnets": drawn.to_dict("list"),
        "tau_of_subnets": taus,
        "log_odds_per_loss": slope,
        "log_odds_of_resolutions": raised,
    }
    outcomes = sorted((finished.folder / "comparison").glob("*/outcomes_*.parquet"))
    if len({path.parent for path in outcomes}) >= fewest_spaces:
        comparison = read_comparison(device, finished.folder / "space.json", outcomes)
        spaces = _spaces(finished, comparison)
        tau = _tau(spaces["score"], spaces["accuracy"])
        print_table(
            "Spaces: Q-T score, and INT8 accuracy of the best subnets, mean of all budgets and seeds",
            ("space", "blocks", "score", "accuracy"),
            [
                (row["space"], row["blocks"], f"{row['score']:.4f}", f"{100 * row['accuracy']:.2f} %")
                for row in spaces.sort_values("score", ascending=False).to_dict("records")
            ],
        )
        checks.append(Check(f"{len(spaces)} spaces: τ at least {SPACES_TAU}", f"{tau:.3f}", tau >= SPACES_TAU))
        content |= {"spaces": spaces.to_dict("list"), "tau_of_spaces": tau}
    print_checks(checks)
    write_result("rank_fidelity", content, checks)


def _tau(first: pd.Series[float], second: pd.Series[float]) -> float:
    return float(kendalltau(first, second).statistic)


def _log_odds(drawn: pd.DataFrame) -> tuple[float, dict[int, tuple[float, float]]]:
    """Log-odds of an error: by how much they rise with the loss, and between resolutions.

    Returns:
        Least-squares slope within resolutions; and for each resolution how far the mean is above that of the largest,
        found and as the loss prices it.
    """
    wrong = (1 - drawn["accuracy"]).clip(1e-4, 1 - 1e-4)
    table = drawn.assign(odds=np.log(wrong / (1 - wrong)))[["resolution", "loss", "odds"]]
    means = table.groupby("resolution").mean()
    within = table[["loss", "odds"]] - means.loc[table["resolution"]].set_axis(table.index)
    above = means - means.loc[means.index.max()]
    raised = {int(r): (float(row["odds"]), float(LOG_ODDS_PER_LOSS * row["loss"])) for r, row in above.iterrows()}
    return float((within["loss"] * within["odds"]).sum() / (within["loss"] ** 2).sum()), raised


def _thirds(drawn: pd.DataFrame) -> tuple[str, str]:
    """Mean accuracy of the third with the least loss, and of that with the most."""
    accuracy = drawn.sort_values("loss")["accuracy"].to_numpy()
    third = max(len(accuracy) // 3, 1)
    return f"{100 * accuracy[:third].mean():.2f} %", f"{100 * accuracy[-third:].mean():.2f} %"


def _subnets(finished: FinishedRun, count: int, seed: int) -> pd.DataFrame:
    """Random subnets of LUT entries: columns subnet, resolution, sums of loss, nsr and macs, and INT8 test accuracy.

    On all of test, which no choice is made on here: on the search's fewer pictures, noise would pass for disagreement.
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
            subnet, sums = _draw(space, groups, rng)
            rows.append((subnet.code, subnet.resolution, *sums, evaluator.accuracy(subnet)))
            tick(number + 1)
    return pd.DataFrame(rows, columns=["subnet", "resolution", *PROXIES, "accuracy"])


def _draw(
    space: Space, groups: dict[tuple[object, ...], pd.DataFrame], rng: np.random.Generator
) -> tuple[Subnet, tuple[float, ...]]:
    """A subnet whose stages are in the LUT, drawn one after the other, and what `PROXIES` sums over them.

    Of a stage that is not searched, and is not in the LUT, any choice is drawn.
    """
    resolution = int(rng.choice(space.hyperspace.block_kd_resolutions))
    stages: list[StageChoice] = []
    drawn, searched, arriving = [], iter(zip(space.block_types, space.windows, strict=True)), IMAGE_CHANNELS
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
    sums = tuple(float(sum(row[proxy] for row in drawn)) for proxy in PROXIES)
    return Subnet(resolution, tuple(stages)), sums


def _spaces(finished: FinishedRun, comparison: Comparison) -> pd.DataFrame:
    """Columns space, blocks, score and accuracy (mean over budgets and seeds, budgets out of reach as chance)."""
    contenders = (comparison.evolved, *comparison.uniform)
    hyperspace, settings = comparison.evolved.space.hyperspace, finished.params.space.score
    predictor = read_own_predictor(finished.folder / "latency_predictor.json")
    classes = len(finished.split("val").classes)
    rows = read_table(finished.results / "blocks" / "lut.parquet", LUT_KIND)
    lut = build_lut(rows, hyperspace, predictor, classes, settings)
    scorer = make_scorer(lut, comparison.budgets_ms, settings, finished.params.seed)
    found = [
        {
            "space": contender.space.code,
            "blocks": contender.name,
            "score": scorer(contender.space).score,
            "accuracy": float(np.nan_to_num(contender.accuracies, nan=1 / classes).mean()),
        }
        for contender in contenders
    ]
    return pd.DataFrame(found)


if __name__ == "__main__":
    run(main)
