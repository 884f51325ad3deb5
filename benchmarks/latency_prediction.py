"""How well latency predictors do on networks they have not seen: of finished results, or of a device profiled anew."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import Check, print_checks, print_table, write_result

from spaceevo.artifacts import Record, read_table
from spaceevo.errors import ArtifactError, ParamsError
from spaceevo.latency.bench import measure_files
from spaceevo.latency.checkpoint import read_checkpoint, write_checkpoint
from spaceevo.latency.devices import Device, load_device
from spaceevo.latency.features import Array
from spaceevo.latency.files import FileWriter, Sketch, can_be_written
from spaceevo.latency.fit import at_usual_speed, fit_predictor, row_plan, unseen_errors
from spaceevo.latency.predictor import read_predictor
from spaceevo.latency.profile import BATCH, PROFILE_KIND, Limits, profile
from spaceevo.latency.regression import error_figures
from spaceevo.latency.samples import ProfileCounts, sample_models
from spaceevo.progress import progress
from spaceevo.scripting import run
from spaceevo.space import Hyperspace, load_hyperspace
from spaceevo.workflow.plan import merged_params

TARGET_SHARE = 0.9  # of unseen networks, predicted within 15 % of what was measured
AIMS = {5: 0.95, 10: 0.99}  # of a device profiled anew: shares of unseen networks within so many percent
TWICE = ": measured twice"
ANCHORS = 16  # networks that were fitted in each batch of further ones to test on: they tell the speed of the machine
CLASSES = {"tiny": 10}  # else 1000

Figures = dict[str, dict[str, Any]]


def main(
    results: Path = Path("results"),
    configfile: Path | None = None,
    device: str = "",
    hyperspace: str = "tiny",
    blocks_per_type: int = 2,
    nets: int = 80,
    test_nets: int = 30,
    target: float = 0.0,
    time_limit_s: float = 120.0,
    seed: int = 0,
    keep: Path | None = None,
) -> None:
    """Test each predictor in `results` on the networks of its profile it was not fitted on.

    params.yaml and `configfile` made them.

    With `device` that is profiled anew instead, at the resolutions of `hyperspace`. `test_nets` networks are tested on:
    those that the profile has no time for are measured after it. Where the aim is missed, what it is tested on is
    measured a second time: two measurements of a network differ by what no predictor can foresee, each by its share.
    The file `keep` then holds the profile; what it holds of a run with the same arguments is not measured again.
    """
    figures = (
        _profiled_anew(
            load_device(device),
            load_hyperspace(hyperspace),
            ProfileCounts(blocks_per_type, nets, test_nets),
            Limits(time_limit_s, target),
            seed,
            keep,
        )
        if device
        else _of_results(results, load_hyperspace(merged_params([configfile] if configfile else []).hyperspace))
    )
    print_table(
        "Predicted against measured latency of unseen networks",
        ("device", "networks", "within 5 %", "within 10 %", "within 15 %", "mean absolute error", "largest"),
        [
            (
                name,
                found["models"],
                *(f"{found[f'within_{percent}_percent']:.1%}" for percent in (5, 10, 15)),
                f"{found['mean_absolute_relative_error']:.1%}",
                f"{found['largest_relative_error']:.1%}",
            )
            for name, found in figures.items()
        ],
    )
    predicted = {name: found for name, found in figures.items() if not name.endswith(TWICE)}
    checks = [
        _check(name, percent, share, found)
        for name, found in predicted.items()
        for percent, share in (AIMS if device else {15: TARGET_SHARE}).items()
    ]
    print_checks(checks)
    name = f"latency_prediction_{device}_{hyperspace}" if device else "latency_prediction"
    write_result(name, {"devices": figures}, checks)


def _check(name: str, percent: int, share: float, found: dict[str, Any]) -> Check:
    within = found[f"within_{percent}_percent"]
    return Check(f"{name}: at least {share:.0%} within {percent} %", f"{within:.1%}", within >= share)


def _of_results(results: Path, hyperspace: Hyperspace) -> Figures:
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
    return figures


def _profiled_anew(
    device: Device, hyperspace: Hyperspace, counts: ProfileCounts, limits: Limits, seed: int, keep: Path | None
) -> Figures:
    if not (counts.nets and counts.test_nets):
        raise ParamsError("--nets and --test-nets are to be 1 at least: networks are fitted and tested on.")
    if keep is not None and keep.suffix != ".parquet":
        raise ParamsError(f"--keep {keep} is to hold a table: give it a name that ends in .parquet.")
    settings = {"device": device.model_dump(mode="json"), "hyperspace": hyperspace.name, "counts": asdict(counts)}
    record = Record(settings | {"target": limits.target, "machine": device.how.machine(device)}, seed)
    earlier = None if keep is None else read_checkpoint(keep, record)
    limits = Limits(limits.budget_s - record.earlier_wall_s, limits.target)
    classes = CLASSES.get(hyperspace.name, 1000)
    with progress(f"profile of {device.name} on {hyperspace.name}", 100) as tick:
        table = profile(
            device,
            hyperspace,
            classes,
            counts=counts,
            limits=limits,
            seed=seed,
            earlier=earlier,
            save=None if keep is None else partial(write_checkpoint, keep, record=record),
            progress=lambda what, done, total: tick(100 * done // total, what),
        )
    predictor = fit_predictor(table, hyperspace, device.name, device.how.machine(device))
    print_table(
        "The profile",
        ("what", "found"),
        [*predictor.errors["profile"].items(), ("half-width that a network is stated with", predictor.network_error)],
    )
    profiled = {
        **asdict(counts),
        "models": len(table),
        "minutes": round(float((table["export_s"] + table["timing_s"]).sum()) / 60, 1),
    }
    missing = counts.test_nets - int((table["split"] == "test").sum())
    if missing > 0:
        anchors = _records(table[(table["role"] == "net") & (table["split"] == "fit")].head(ANCHORS))
        if not anchors:
            raise ArtifactError("No network was fitted: raise --time-limit-s.")
        further = _further_networks(device, hyperspace, classes, table, missing, seed)
        before = at_usual_speed(predictor, table, hyperspace, anchors)
        rows = _measured_further(
            device, hyperspace, anchors, before, further, first_batch=int(table["batch"].max()) + 1
        )
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
    tested = _records(table[table["split"] == "test"])
    name = f"{device.name}, {hyperspace.name}"
    figures = {name: {**unseen_errors(predictor, table, hyperspace)["unseen_networks"], "profile": profiled}}
    if not all(_check(name, percent, share, figures[name]).met for percent, share in AIMS.items()):
        before = at_usual_speed(predictor, table, hyperspace, tested)
        figures[name + TWICE] = error_figures(_measured_again(device, hyperspace, tested, before), before)
    return figures


def _further_networks(
    device: Device, hyperspace: Hyperspace, classes: int, table: pd.DataFrame, count: int, seed: int
) -> list[dict[str, Any]]:
    """Rows, but for their latency, of networks to test on that are not in `table`."""
    known = set(table["subnet"].dropna())
    drawn = sample_models(hyperspace, classes, ProfileCounts(0, 0, count + len(known)), seed + 1)
    rows = [model.row() for model in drawn if can_be_written(model.plan(), device)]
    return [row for row in rows if row["subnet"] not in known][:count]


def _measured_further(
    device: Device,
    hyperspace: Hyperspace,
    anchors: list[dict[str, Any]],
    before: Array,
    networks: list[dict[str, Any]],
    first_batch: int,
) -> list[dict[str, Any]]:
    """Rows of `networks`, measured now, in batches with `anchors`, which took `before` and tell how fast it is now."""
    rows: list[dict[str, Any]] = []
    with FileWriter(device) as writer:
        for number, start in enumerate(range(0, len(networks), BATCH - ANCHORS), start=first_batch):
            batch = anchors + networks[start : start + BATCH - ANCHORS]
            now = _timed(device, writer, batch, hyperspace)
            now *= np.median(before / now[: len(anchors)])
            rows += [row | {"latency_ms": ms, "batch": number} for row, ms in zip(batch, now, strict=True)]
    return rows


def _measured_again(device: Device, hyperspace: Hyperspace, rows: list[dict[str, Any]], before: Array) -> Array:
    """float64 [rows]: milliseconds found now, each batch at the speed at which its networks took `before`."""
    found: list[Array] = []
    with FileWriter(device) as writer:
        for start in range(0, len(rows), BATCH):
            now = _timed(device, writer, rows[start : start + BATCH], hyperspace)
            found.append(now * np.median(before[start : start + BATCH] / now))
    return np.concatenate(found)


def _timed(device: Device, writer: FileWriter, rows: list[dict[str, Any]], hyperspace: Hyperspace) -> Array:
    """float64 [rows]: milliseconds of the networks of a profile's rows, measured now."""
    sketches = [Sketch(row_plan(row, hyperspace), int(row["height"]), number) for number, row in enumerate(rows)]
    with tempfile.TemporaryDirectory(prefix="spaceevo-") as folder:
        paths = list(writer.write((sketch, Path(folder) / str(i)) for i, sketch in enumerate(sketches)))
        return np.array([timing.latency_ms for timing in measure_files(device, paths).timings])


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


if __name__ == "__main__":
    run(main)
