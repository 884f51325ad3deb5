"""Profiling a device: blocks and networks of a hyperspace, exported, run and timed there, batch by batch.

The first batch covers the hyperspace; each further one holds what makes the predictor surest of networks, given all
that was measured before (`spaceevo.latency.choosing`). Networks of a batch are predicted before they are measured: once
nine in ten are within the target, or time is up, or the numbers asked for are reached, the profile is finished.

The reference model is timed in every batch, and batches are brought to the same speed by it. After each batch what
was measured can be saved, and a profile that was cut short goes on from there to the same models.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from spaceevo.latency.bench import measure_files
from spaceevo.latency.choosing import Chooser, Indices
from spaceevo.latency.devices import Device
from spaceevo.latency.features import Array
from spaceevo.latency.files import FileWriter, Sketch, can_be_written, reference_sketch
from spaceevo.latency.samples import ProfileCounts, Profiled, ProfiledBlock, interleaved, sample_models
from spaceevo.space import BlockType, Hyperspace

PROFILE_KIND = "latency_profile"

BATCH = 48  # models measured at once, in interleaved rounds
LEAST_BATCH = 12  # the last one, when time is short: fewer say too little of how fast the machine was
CHOICE = 4  # candidates for each model that is to be measured
PREPARATION_SHARE = 0.6  # of the time left to the first batch: exporting; the rest is for loading and measuring
TARGET_QUANTILE = 0.9  # of networks, that must be predicted within the target
TARGET_NETS = 20  # the last ones, on which this is judged

_SCALED = ("latency_ms", "low_ms", "high_ms", "spread_ms")
_INTEGERS = ("in_channels", "kernel_size", "width", "stride", "height", "resolution", "num_classes")
_COUNTS = ("rounds", "outliers", "model", "batch")


@dataclass(frozen=True)
class Limits:
    """When a profile is finished.

    Attributes:
        budget_s: wall seconds to spend, roughly: where it is short, fewer models are profiled, in fewer rounds.
        target: relative error that nine in ten networks must be predicted within before they are measured; 0 for never.
    """

    budget_s: float
    target: float = 0.0


def profile(
    device: Device,
    hyperspace: Hyperspace,
    num_classes: int,
    *,
    counts: ProfileCounts,
    limits: Limits,
    seed: int,
    earlier: pd.DataFrame | None = None,
    save: Callable[[pd.DataFrame], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Time blocks and networks of a hyperspace on a device.

    Args:
        num_classes: outputs of the whole networks.
        counts: how many models at most.
        earlier: what was saved last of a profile with the same arguments, to go on from there.
        save: called with all that was measured, after each batch.
        progress: called with what is being done, how much of it is done, and of how much.

    Returns:
        One row per model: role (block or net), split (fit or test), what it is, latency_ms, low_ms and high_ms (its
        95 % interval), spread_ms (interquartile range over rounds), rounds, outliers; model and batch (numbers),
        reference_ms and drift (of the batch), export_s and timing_s (wall seconds per model of the batch), predicted_ms
        (before it was measured; NaN in the first batch).

    Raises:
        DeviceError: nothing can be run on the device, its runtime is not installed, or it is too noisy.
    """
    device.how.check(device)
    started = time.perf_counter()
    pool = ProfileCounts(CHOICE * counts.blocks_per_type, CHOICE * counts.nets, counts.test_nets)
    models = sample_models(hyperspace, num_classes, pool, seed)
    usable = [can_be_written(model.plan(), device) for model in models]
    schedule = _Schedule(models, usable, counts)
    done = _Done([] if earlier is None else _rows(earlier))
    with tempfile.TemporaryDirectory(prefix="spaceevo-profile-") as name, FileWriter(device) as writer:
        (reference,) = writer.write([(reference_sketch(), Path(name) / "reference")])
        while not done.within(limits.target) and (batch := schedule.next_batch(done)):
            remaining = limits.budget_s - (time.perf_counter() - started)
            if done.rows and remaining <= 0:
                break
            pace = done.pace
            if pace is not None and pace.seconds * len(batch.models) > remaining:
                batch = batch.beginning(int(remaining / pace.seconds))
                if len(batch.models) < LEAST_BATCH:
                    break
            done.rows += _measure_batch(device, batch, writer, reference, seed, max(remaining, 0.0), pace, progress)
            if save is not None:
                save(_table(done.rows))
    return _table(at_one_speed(done.rows))


def at_one_speed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Measured rows with latencies as if the reference had taken the same time in every batch."""
    references = {row["batch"]: row["reference_ms"] for row in rows}
    usual = float(np.median(list(references.values())))
    scales = {batch: usual / reference_ms for batch, reference_ms in references.items()}
    return [{**row, **{key: row[key] * scales[row["batch"]] for key in _SCALED}} for row in rows]


class _Pace(NamedTuple):
    """Wall seconds that a model takes."""

    export_s: float
    timing_s: float

    @property
    def seconds(self) -> float:
        return self.export_s + self.timing_s


class _Done:
    """What was measured, one row per model."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    @property
    def batches(self) -> int:
        return 1 + max((int(row["batch"]) for row in self.rows), default=-1)

    @property
    def pace(self) -> _Pace | None:
        """That of the last batch; None where it is not known."""
        last = self.rows[-1] if self.rows else {}
        pace = _Pace(float(last.get("export_s", 0)), float(last.get("timing_s", 0)))
        return pace if pace.seconds > 0 else None

    def within(self, target: float) -> bool:
        """Whether the last networks to be fitted were predicted within the target before they were measured."""
        nets = [row for row in self.rows if row["role"] == "net" and row["split"] == "fit" and row["predicted_ms"] > 0]
        errors = [abs(row["predicted_ms"] / row["latency_ms"] - 1.0) for row in nets[-TARGET_NETS:]]
        return len(errors) == TARGET_NETS and float(np.quantile(errors, TARGET_QUANTILE)) <= target


class _Batch(NamedTuple):
    """Models to measure next, with their numbers and what they are predicted to take (NaN where nothing is known)."""

    number: int
    models: dict[int, Profiled]
    predicted_ms: Array

    def beginning(self, count: int) -> _Batch:
        """The first models of it."""
        return self._replace(models=dict(list(self.models.items())[:count]))


class _Schedule:
    """Which models are measured when: each batch has its share of every sort.

    Args:
        usable: of each model, whether it can be measured at all.
    """

    def __init__(self, models: Sequence[Profiled], usable: Sequence[bool], counts: ProfileCounts) -> None:
        self._models = models
        self._chooser = Chooser(models)
        sorts: dict[tuple[str, str], list[int]] = {}
        for index, model in enumerate(models):
            if usable[index]:
                sorts.setdefault((model.role, model.split), []).append(index)
        self._sorts = {sort: np.array(indices) for sort, indices in sorts.items()}
        blocks = self._sorts.get(("block", "fit"), np.array([], dtype=np.int64))
        self._cover = _one_of_each(models, blocks)
        wanted = {("block", "fit"): len(blocks) // CHOICE}
        wanted |= {("net", "fit"): counts.nets, ("net", "test"): counts.test_nets}
        self._wanted = {sort: min(count, len(sorts.get(sort, []))) for sort, count in wanted.items()}
        self._batches = max(1, round(sum(self._wanted.values()) / BATCH))

    def next_batch(self, done: _Done) -> _Batch | None:
        """The next models to measure; None where there are none left."""
        predicted = np.full(len(self._models), np.nan)
        measured = np.array([int(row["model"]) for row in done.rows if row["split"] == "fit"], dtype=np.int64)
        if len(measured):
            latency_ms = [row["latency_ms"] for row in at_one_speed(done.rows) if row["split"] == "fit"]
            predicted = self._chooser.predict(measured, np.array(latency_ms))
        known = {int(row["model"]) for row in done.rows}
        # The first batch may have used up the share of later ones, and a last one that was cut short is gone on with.
        for number in range(min(done.batches, self._batches - 1), self._batches):
            if chosen := self._choose(number, known, measured, predicted):
                return _Batch(done.batches, {index: self._models[index] for index in chosen}, predicted)
        return None

    def _choose(self, number: int, known: set[int], measured: Indices, predicted: Array) -> list[int]:
        """What is missing after batch `number`: blocks and networks by what they teach, those to test on in order.

        Any beginning holds all sorts in proportion, should time be too short for the whole batch.
        """
        chosen: list[list[int]] = []
        for sort, count in self._wanted.items():
            own = self._sorts.get(sort, np.array([], dtype=np.int64))
            left = np.array([i for i in own if i not in known], dtype=np.int64)
            quota = max(0, round(count * (number + 1) / self._batches) - (len(own) - len(left)))
            if sort == ("block", "fit") and number == 0:
                chosen.append([index for index in self._cover if index not in known])
            elif sort == ("net", "test") or not len(measured):
                chosen.append(left[:quota].tolist())
            else:
                nets = self._sorts.get(("net", "fit"), own)
                chosen.append(self._chooser.choose(measured, predicted, left, nets, quota))
        return interleaved(chosen)


def _one_of_each(models: Sequence[Profiled], blocks: Iterable[int]) -> list[int]:
    """The first block of each type in each stage."""
    first: dict[tuple[str, BlockType], int] = {}
    for index in blocks:
        model = models[index]
        if isinstance(model, ProfiledBlock):
            first.setdefault((model.stage, model.block_type), int(index))
    return list(first.values())


def _measure_batch(
    device: Device,
    batch: _Batch,
    writer: FileWriter,
    reference: Path,
    seed: int,
    budget_s: float,
    pace: _Pace | None,
    progress: Callable[[str, int, int], None] | None,
) -> list[dict[str, Any]]:
    """Export and time the models of a batch; those for which there is no time are left out, but the first."""
    started = time.perf_counter()
    preparation_s = budget_s * (PREPARATION_SHARE if pace is None else pace.export_s / pace.seconds)
    paths: dict[int, Path] = {}
    with tempfile.TemporaryDirectory(prefix="spaceevo-profile-") as folder:
        sketches = {i: Sketch(model.plan(), model.height, (seed, 1, i)) for i, model in batch.models.items()}
        with closing(writer.write((sketch, Path(folder) / str(i)) for i, sketch in sketches.items())) as written:
            for index, path in zip(sketches, written, strict=True):
                paths[index] = path
                if progress is not None:
                    progress("exporting", len(paths), len(sketches))
                if time.perf_counter() - started > preparation_s:
                    break
        export_s = time.perf_counter() - started
        found = measure_files(
            device,
            list(paths.values()),
            reference=reference,
            budget_s=budget_s - export_s,
            progress=None if progress is None else lambda done, total: progress("measuring", done, total),
        )
    assert found.reference is not None
    timing_s = time.perf_counter() - started - export_s
    of_batch = {"batch": batch.number, "reference_ms": found.reference.latency_ms, "drift": found.drift}
    of_batch |= {"export_s": export_s / len(paths), "timing_s": timing_s / len(paths)}
    return [
        batch.models[index].row()
        | asdict(timing)
        | of_batch
        | {"model": index, "predicted_ms": float(batch.predicted_ms[index])}
        for index, timing in zip(paths, found.timings, strict=True)
    ]


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype(
        {key: "Int64" for key in (*_INTEGERS, *_COUNTS) if any(key in row for row in rows)}
    )


def profile_figures(table: pd.DataFrame) -> dict[str, Any]:
    """How a profile went, for people: sizes, noise, drift, and the error with which networks were foreseen by batch."""
    if "batch" not in table:
        return {}
    halves = np.maximum(table["high_ms"] - table["latency_ms"], table["latency_ms"] - table["low_ms"])
    nets = table[(table["role"] == "net") & (table["split"] == "fit") & table["predicted_ms"].notna()]
    errors = (nets["predicted_ms"] / nets["latency_ms"] - 1.0).abs().groupby(nets["batch"].astype(int))
    references = table.groupby(table["batch"].astype(int))["reference_ms"].first()
    return {
        "models": len(table),
        "batches": len(references),
        "typical_interval": round(float((halves / table["latency_ms"]).median()), 4),
        "outliers": int(table["outliers"].sum()),
        "timings": int(table["rounds"].sum()),
        "reference_ms": round(float(references.median()), 5),
        "drift_within_batches": round(float(table["drift"].max()), 4),
        "drift_between_batches": round(float(references.max() / references.min() - 1.0), 4),
        "foreseen_within": [
            {"batch": int(str(batch)), "error": round(float(error), 4)}
            for batch, error in errors.quantile(TARGET_QUANTILE).items()
        ],
    }
