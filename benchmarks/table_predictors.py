"""How well the shipped predictors predict stages of the published tables that they were not fitted on, and how fast."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, Check, print_checks, print_table, write_result

from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.predictor import Predictor
from spaceevo.latency.table import read_table_lines, unseen_figures
from spaceevo.scripting import run
from spaceevo.search.published_lut import read_published_lut
from spaceevo.space import Hyperspace, load_hyperspace, sample_space, sample_subnet

HYPERSPACES = {"pixel4": "mobilew", "vnni": "onnxw"}
SHARES = {"within_5_percent": 0.8, "within_10_percent": 0.95}
NETWORK_LIMIT = 0.1
SUBNETS = 10_000
TARGET_PER_S = 10_000
LARGEST_FILE = 1 << 20


def main(tables: Path = ROOT.parent / "shared" / "reference" / "block_lut") -> None:
    """Test each shipped predictor on the lines that `spaceevo.latency.table` keeps apart, and time it.

    `tables` holds a folder of a published LUT per hyperspace; without them only speed and size are tested.
    """
    figures: dict[str, Any] = {}
    checks: list[Check] = []
    for device, name in HYPERSPACES.items():
        declared, hyperspace = load_device(device), load_hyperspace(name)
        predictor = table_predictor(declared)
        assert declared.predictor is not None
        size = declared.predictor.stat().st_size
        found: dict[str, Any] = {"file_bytes": size, **_speed(predictor, hyperspace)}
        checks.append(Check(f"{device}: file of at most {LARGEST_FILE:,} bytes", f"{size:,}", size <= LARGEST_FILE))
        for how in ("at_once_per_s", "one_by_one_per_s"):
            what = f"{device}: subnets of one space, {how.replace('_', ' ')}, at least {TARGET_PER_S:,}"
            checks.append(Check(what, f"{found[how]:,.0f}", found[how] >= TARGET_PER_S))
        found["published_networks"] = predictor.errors["published_networks"]
        for net in found["published_networks"]:
            off = net["predicted_ms"] / net["published_ms"] - 1.0
            what = f"{device}: network of {net['published_ms']:g} ms within {NETWORK_LIMIT:.0%}"
            checks.append(Check(what, f"{off:+.1%}", abs(off) <= NETWORK_LIMIT))
        if (tables / name).is_dir():
            groups = unseen_figures(
                predictor, read_table_lines(read_published_lut(tables / name, hyperspace), hyperspace)
            )
            _print_groups(device, groups)
            found |= groups
            for group in ("unseen_stages", "stages_with_an_unseen_block"):
                for key, least in SHARES.items():
                    what = f"{device}: {least:.0%} of {group} {key}".replace("_", " ")
                    checks.append(Check(what, f"{groups[group][key]:.1%}", groups[group][key] >= least))
        else:
            print(f"\n{device}: accuracy is not tested, for there is no table at {tables / name}")
        figures[device] = found
    print_checks(checks)
    write_result("table_predictors", {"devices": figures}, checks)


def _print_groups(device: str, groups: dict[str, Any]) -> None:
    rows = []
    for group in ("unseen_stages", "stages_with_an_unseen_block"):
        rows.append((group.replace("_", " "), groups[group]))
        rows += [(f"  {kind}", figures) for kind, figures in groups[f"{group}_by_type"].items()]
    keys = ("within_5_percent", "within_10_percent", "within_15_percent", "within_stated_error")
    print_table(
        f"{device}: stages that were not fitted on",
        ("", "stages", "within 5 %", "within 10 %", "within 15 %", "within stated error", "mean absolute error"),
        [
            (name, f["models"], *(f"{f[key]:.1%}" for key in keys), f"{f['mean_absolute_relative_error']:.1%}")
            for name, f in rows
        ],
    )


def _speed(predictor: Predictor, hyperspace: Hyperspace) -> dict[str, float]:
    """Subnets predicted in a second of CPU time, from nothing remembered; sampling them is not counted.

    Of one space, as a search has them, at once or one by one; and of 100 spaces, where most blocks are new.
    """
    rng = np.random.default_rng(0)
    rates: dict[str, float] = {}
    for how, spaces in (("at_once_per_s", 1), ("one_by_one_per_s", 1), ("of_100_spaces_per_s", 100)):
        fresh = replace(predictor)
        seconds = 0.0
        for _ in range(spaces):
            space = sample_space(hyperspace, rng)
            subnets = [sample_subnet(space, rng) for _ in range(SUBNETS // spaces)]
            started = time.thread_time()
            if how == "one_by_one_per_s":
                for subnet in subnets:
                    fresh.predict_subnet(space, subnet, 1000)
            else:
                fresh.predict_subnets(space, subnets, 1000)
            seconds += time.thread_time() - started
        rates[how] = round(SUBNETS / seconds)
    print_table(
        f"{predictor.device}: subnets predicted in a second of CPU time",
        ("how", "subnets/s"),
        [(how.removesuffix("_per_s").replace("_", " "), f"{rate:,}") for how, rate in rates.items()],
    )
    return rates


if __name__ == "__main__":
    run(main)
