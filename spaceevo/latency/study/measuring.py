"""Timing the chains of a study, in batches that an interrupted study goes on from."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from spaceevo.config import StudyParams
from spaceevo.latency.bench import measure_files
from spaceevo.latency.devices import Device
from spaceevo.latency.files import FileWriter, Sketch, reference_sketch
from spaceevo.latency.profile import BATCH, PREPARATION_SHARE, at_one_speed
from spaceevo.latency.study.units import Chain, chains
from spaceevo.space import Hyperspace

STUDY_KIND = "device_study"

ROUNDS = 11  # at least: what is sought are differences
KEY = ("unit", "channels", "repeats", "precision")


def study(
    device: Device,
    hyperspace: Hyperspace,
    params: StudyParams,
    *,
    seed: int,
    budget_s: float,
    earlier: pd.DataFrame | None = None,
    save: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Time every chain on a device.

    Args:
        budget_s: wall seconds to spend, roughly; what there is no time for is left out.
        earlier: what was saved last of a study with the same arguments, to go on from there.
        save: called with all that was measured, after each batch.

    Returns:
        One row per chain: unit, channels, repeats, precision, height, macs (of the whole chain), latency_ms, low_ms and
        high_ms (its 95 % interval), spread_ms (interquartile range over rounds), rounds, outliers; batch (number),
        reference_ms and drift (of the batch).

    Raises:
        DeviceError: nothing can be run on the device, its runtime is not installed, or it is too noisy.
    """
    device.how.check(device)
    deadline = time.perf_counter() + budget_s
    rows = [] if earlier is None else [{str(k): v for k, v in row.items()} for row in earlier.to_dict("records")]
    known = {tuple(row[key] for key in KEY) for row in rows}
    left = [chain for chain in chains(hyperspace, params) if chain.key not in known]
    seconds = 0.0  # for each model, in the last batch
    with tempfile.TemporaryDirectory(prefix="spaceevo-study-") as name, FileWriter(device) as writer:
        (reference,) = writer.write([(reference_sketch(), Path(name) / "reference")])
        while left:
            begun = time.perf_counter()
            if rows and seconds * min(BATCH, len(left)) > deadline - begun:
                break
            number = 1 + max((int(row["batch"]) for row in rows), default=-1)
            measured = _measure_batch(device, left[:BATCH], writer, reference, seed, max(deadline - begun, 0.0))
            rows += [{**row, "batch": number} for row in measured]
            left = left[len(measured) :]
            seconds = (time.perf_counter() - begun) / len(measured)
            if save is not None:
                save(pd.DataFrame(rows))
    return pd.DataFrame(at_one_speed(rows))


def _measure_batch(
    device: Device, batch: Sequence[Chain], writer: FileWriter, reference: Path, seed: int, budget_s: float
) -> list[dict[str, Any]]:
    """Export and time chains; those for which there is no time are left out, but the first."""
    started = time.perf_counter()
    options = device.measure.model_copy(update={"rounds": max(ROUNDS, device.measure.rounds)})
    paths: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="spaceevo-study-") as folder:
        orders = [(_sketch(chain, seed), Path(folder) / str(number)) for number, chain in enumerate(batch)]
        with closing(writer.write(orders)) as written:
            for path in written:
                paths.append(path)
                if time.perf_counter() - started > PREPARATION_SHARE * budget_s:
                    break
        left_s = budget_s - (time.perf_counter() - started)
        found = measure_files(device, paths, options=options, reference=reference, budget_s=left_s)
    assert found.reference is not None
    of_batch = {"reference_ms": found.reference.latency_ms, "drift": found.drift}
    return [
        _described(chain) | asdict(timing) | of_batch
        for chain, timing in zip(batch[: len(paths)], found.timings, strict=True)
    ]


def _sketch(chain: Chain, seed: int) -> Sketch:
    return Sketch(chain.plan, chain.unit.height, seed, chain.precision == "fp32")


def _described(chain: Chain) -> dict[str, Any]:
    return dict(zip(KEY, chain.key, strict=True)) | {"height": chain.unit.height, "macs": chain.macs}
