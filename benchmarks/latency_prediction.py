"""How well the latency predictor of each measured device predicts networks it has not seen, from finished results."""

from __future__ import annotations

from pathlib import Path

from common import Check, print_checks, print_table, write_result

from spaceevo.artifacts import read_table
from spaceevo.config import load_params
from spaceevo.errors import ArtifactError
from spaceevo.latency.fit import unseen_errors
from spaceevo.latency.predictor import read_predictor
from spaceevo.latency.profile import PROFILE_KIND
from spaceevo.scripting import run
from spaceevo.space import load_hyperspace

TARGET_SHARE = 0.9  # of unseen networks, predicted within 15 % of what was measured


def main(results: Path = Path("results"), params: Path = Path("params.yaml")) -> None:
    """Test each predictor in `results` on the networks of its profile that it was not fitted on.

    `params` is the parameter file that the results were made with.
    """
    hyperspace = load_hyperspace(load_params(params).hyperspace)
    profiles = sorted(results.glob("*/latency_profile.parquet"))
    if not profiles:
        raise ArtifactError(f"{results} holds no latency profile: run snakemake results/cpu/latency_predictor.json.")
    figures = {}
    for path in profiles:
        predictor = read_predictor(path.parent / "latency_predictor.json")
        unseen = unseen_errors(predictor, read_table(path, PROFILE_KIND), hyperspace)
        if not unseen:
            raise ArtifactError(f"{path} has no network to test on: raise profile.time_limit_s and run again.")
        figures[path.parent.name] = unseen["unseen_networks"]
    print_table(
        "Predicted against measured latency of unseen networks",
        ("device", "networks", "within 5 %", "within 10 %", "within 15 %", "mean absolute error", "largest"),
        [
            (
                device,
                found["models"],
                *(f"{found[f'within_{percent}_percent']:.1%}" for percent in (5, 10, 15)),
                f"{found['mean_absolute_relative_error']:.1%}",
                f"{found['largest_relative_error']:.1%}",
            )
            for device, found in figures.items()
        ],
    )
    checks = [
        Check(
            f"{device}: at least {TARGET_SHARE:.0%} within 15 %",
            f"{found['within_15_percent']:.1%}",
            found["within_15_percent"] >= TARGET_SHARE,
        )
        for device, found in figures.items()
    ]
    print_checks(checks)
    write_result("latency_prediction", {"devices": figures}, checks)


if __name__ == "__main__":
    run(main)
