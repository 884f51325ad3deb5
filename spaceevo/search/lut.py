"""The accuracy LUT as the search reads it: candidates for each stage of a space, with loss and latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from spaceevo.errors import ArtifactError
from spaceevo.latency.predictor import Predictor
from spaceevo.nn.network import IMAGE_CHANNELS
from spaceevo.space import Hyperspace, StageOptions, parse_stage
from spaceevo.space.hyperspace import Stage

LUT_KIND = "accuracy_lut"

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """Stage choices that fit one arriving width at one resolution; arrays of one length."""

    loss: Floats
    latency_ms: Floats
    out_width: Integers


# Stage choices by (resolution, arriving width).
StageTable = dict[tuple[int, int], Candidates]


@dataclass(frozen=True)
class AccuracyLut:
    """Losses of the LUT joined with the predicted latencies of one device.

    Attributes:
        searched: for each (searched stage index, block type, window) its candidates.
        fixed: for each stage of the body that is not searched, by name, all its choices, with loss 0.
        head_ms: latency of everything after the body, by (resolution, arriving width), the device's overhead included.
    """

    hyperspace: Hyperspace
    searched: dict[tuple[int, int, int], StageTable]
    fixed: dict[str, StageTable]
    head_ms: dict[tuple[int, int], float]

    @property
    def resolutions(self) -> tuple[int, ...]:
        return self.hyperspace.block_kd_resolutions


def build_lut(table: pd.DataFrame, hyperspace: Hyperspace, predictor: Predictor, num_classes: int) -> AccuracyLut:
    """Join the LUT with a device's predictor.

    Raises:
        ArtifactError: a stage, block type, window, arriving width or resolution of the hyperspace has no row.
    """
    table = table.assign(latency_ms=_latencies(table, hyperspace, predictor))
    searched = {}
    for index, stage in enumerate(hyperspace.searched_stages):
        rows = table[table["stage"] == stage.name]
        for key, part in rows.groupby(["block_type", "window"]):
            block_type, window = cast(tuple[int, int], key)
            searched[index, int(block_type), int(window)] = _stage_table(part)
    _check_complete(searched, hyperspace)
    fixed = {stage.name: _fixed_table(stage, hyperspace, predictor) for stage in hyperspace.body if not stage.searched}
    head_ms = {}
    last = hyperspace.body[-1]
    for resolution in hyperspace.block_kd_resolutions:
        height = hyperspace.map_size(hyperspace.head[0].name, resolution)
        ends = predictor.overhead_ms + predictor.boundary_ms(resolution, num_classes).latency_ms
        for width in last.widths:
            head_ms[resolution, width] = ends + predictor.head_ms(hyperspace, width, height, num_classes).latency_ms
    return AccuracyLut(hyperspace, searched, fixed, head_ms)


def _latencies(table: pd.DataFrame, hyperspace: Hyperspace, predictor: Predictor) -> list[float]:
    latencies = []
    columns = (table[name].tolist() for name in ("stage", "block_type", "in_width", "choice", "resolution"))
    names = {stage.name for stage in hyperspace.searched_stages}
    for name, block_type, in_width, choice, resolution in zip(*columns, strict=True):
        if name not in names or not 0 <= block_type < len(hyperspace.block_types):
            raise ArtifactError(
                f"The accuracy LUT has a row for {name}, block type {block_type}, which {hyperspace.name} does not "
                "have: it was made for another hyperspace; make it again."
            )
        stage = hyperspace.stage(name)
        height = hyperspace.map_size(name, resolution)
        kind = hyperspace.block_types[block_type]
        latencies.append(predictor.stage_ms(kind, in_width, parse_stage(choice), stage.stride, height).latency_ms)
    return latencies


def _stage_table(rows: pd.DataFrame) -> StageTable:
    table = {}
    for key, part in rows.groupby(["resolution", "in_width"]):
        resolution, in_width = cast(tuple[int, int], key)
        table[int(resolution), int(in_width)] = Candidates(
            part["loss"].to_numpy(np.float64),
            part["latency_ms"].to_numpy(np.float64),
            part["out_width"].to_numpy(np.int64),
        )
    return table


def _fixed_table(stage: Stage, hyperspace: Hyperspace, predictor: Predictor) -> StageTable:
    assert stage.block_type is not None
    choices = tuple(StageOptions(stage, stage.block_type, stage.widths).enumerate())
    out_width = np.array([choice[-1].width for choice in choices])
    table = {}
    for resolution in hyperspace.block_kd_resolutions:
        height = hyperspace.map_size(stage.name, resolution)
        for in_width in hyperspace.in_widths(stage.name) or (IMAGE_CHANNELS,):
            latency = [
                predictor.stage_ms(stage.block_type, in_width, choice, stage.stride, height).latency_ms
                for choice in choices
            ]
            table[resolution, in_width] = Candidates(np.zeros(len(choices)), np.array(latency), out_width)
    return table


def _check_complete(searched: dict[tuple[int, int, int], StageTable], hyperspace: Hyperspace) -> None:
    for index, stage in enumerate(hyperspace.searched_stages):
        for block_type in range(len(hyperspace.block_types)):
            for window in range(stage.windows):
                table = searched.get((index, block_type, window), {})
                for resolution in hyperspace.block_kd_resolutions:
                    for in_width in hyperspace.in_widths(stage.name):
                        if (resolution, in_width) not in table:
                            raise ArtifactError(
                                f"The accuracy LUT has no row for {stage.name}, block type {block_type}, window "
                                f"{window}, {in_width} arriving channels at {resolution} pixels: make it "
                                "again for this hyperspace."
                            )
