"""The accuracy LUT as the search reads it: candidates for each stage of a space, with loss and latency.

Two readings (`score.mode`). *Consistent*: a stage's candidates are those whose arriving width is what the stage before
sends. *Independent*, as the SpaceEvo release has it: stages are drawn on their own, whatever their widths; every stage
then has one arriving and one leaving width, called `ANY`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from spaceevo.config import QTSettings
from spaceevo.errors import ArtifactError, ParamsError
from spaceevo.latency.predictor import Predictor
from spaceevo.space import Hyperspace, Space, StageOptions, parse_stage
from spaceevo.space.hyperspace import Stage

LUT_KIND = "accuracy_lut"
# Log-odds of an error for each unit of summed loss, as subnets of six trained supernets have it, at the same resolution
# and in the same space (docs/findings.md).
LOG_ODDS_PER_LOSS = 0.9
ANY = 0  # the width of stages that are drawn independently

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

# A searched stage's (index, block type, window), or a fixed stage's name.
StageKey = tuple[int, int, int] | str


class Extent(NamedTuple):
    """What one stage of the body spans over all spaces: arriving widths, and the ends of its loss and latency in ms."""

    in_widths: tuple[int, ...]
    least_loss: float
    most_loss: float
    least_ms: float
    most_ms: float


@dataclass(frozen=True)
class AccuracyLut:
    """Losses of the LUT joined with the latencies of one device.

    Attributes:
        searched: for each (searched stage index, block type, window) its candidates.
        fixed: for each stage of the body that is not searched, by name, its candidates: those of the LUT, or where
            that has none (a published one), all its choices, with loss 0.
        head_ms: latency of everything after the body, by (resolution, arriving width), the device's overhead included.
    """

    hyperspace: Hyperspace
    searched: dict[tuple[int, int, int], StageTable]
    fixed: dict[str, StageTable]
    head_ms: dict[tuple[int, int], float]

    @property
    def resolutions(self) -> tuple[int, ...]:
        return self.hyperspace.block_kd_resolutions

    def keys(self, space: Space) -> tuple[StageKey, ...]:
        """What to look each stage of a space's body up by, in order."""
        searched = zip(range(len(space.windows)), space.block_types, space.windows, strict=True)
        return tuple(
            next(searched) if stage.searched else stage.name
            for stage in self.hyperspace.body
            if stage.searched or stage.name in self.fixed
        )

    def table(self, key: StageKey) -> StageTable:
        """The candidates of a stage."""
        return self.fixed[key] if isinstance(key, str) else self.searched[key]

    def out_widths(self, key: StageKey) -> tuple[int, ...]:
        """The widths that a stage can send, ascending: a run of its widths, also where the table misses one between."""
        return self._out_widths[key]

    @cached_property
    def _out_widths(self) -> dict[StageKey, tuple[int, ...]]:
        found: dict[StageKey, tuple[int, ...]] = {}
        keys: list[StageKey] = [*self.fixed, *self.searched]
        for key in keys:
            stage = self.hyperspace.stage(key) if isinstance(key, str) else self.hyperspace.searched_stages[key[0]]
            seen = np.concatenate([part.out_width for part in self.table(key).values()])
            run = tuple(width for width in stage.widths if seen.min() <= width <= seen.max())
            found[key] = run or (ANY,)
        return found

    @cached_property
    def extents(self) -> tuple[Extent, ...]:
        """What each stage of the body spans."""
        return tuple(_extent(tables) for tables in self.alternatives())

    def alternatives(self) -> tuple[tuple[StageTable, ...], ...]:
        """For each stage of the body all candidates it can have, over all spaces."""
        index = iter(range(len(self.hyperspace.searched_stages)))
        found = []
        for stage in self.hyperspace.body:
            if stage.searched:
                number = next(index)
                found.append(tuple(table for (i, _, _), table in self.searched.items() if i == number))
            elif stage.name in self.fixed:
                found.append((self.fixed[stage.name],))
        return tuple(found)


def _extent(tables: Sequence[StageTable]) -> Extent:
    loss = np.concatenate([part.loss for table in tables for part in table.values()])
    latency_ms = np.concatenate([part.latency_ms for table in tables for part in table.values()])
    widths = sorted({width for table in tables for _, width in table})
    ends = (loss.min(), loss.max(), latency_ms.min(), latency_ms.max())
    return Extent(tuple(widths), *(float(end) for end in ends))


def build_lut(
    table: pd.DataFrame, hyperspace: Hyperspace, predictor: Predictor | None, num_classes: int, settings: QTSettings
) -> AccuracyLut:
    """Join the LUT's rows with latencies, in the reading that `settings` ask for.

    Args:
        predictor: of the device; may be None where `settings` take all latencies from elsewhere.

    Raises:
        ArtifactError: a stage, block type, window, arriving width or resolution of the hyperspace has no row.
        ParamsError: latencies are to be the table's, which has none; the fixed stages' are needed and not given.
    """
    _check_rows(table, hyperspace)
    if settings.latency == "predicted":
        assert predictor is not None
        table = table.assign(latency_ms=_latencies(table, hyperspace, predictor))
    elif "latency_ms" not in table:
        raise ParamsError(
            'The accuracy LUT holds no latencies: set space.score.latency to "predicted" or import a published table.'
        )
    independent = settings.mode == "independent"
    if independent:
        table = table.assign(in_width=ANY, out_width=ANY)
    _check_complete(table, hyperspace, independent)
    searched = {}
    for index, stage in enumerate(hyperspace.searched_stages):
        rows = table[table["stage"] == stage.name]
        for key, part in rows.groupby(["block_type", "window"]):
            block_type, window = cast(tuple[int, int], key)
            searched[index, int(block_type), int(window)] = _stage_table(part)
    if settings.fixed_latency_ms is None:
        if predictor is None or independent:
            raise ParamsError(
                "space.score.fixed_latency_ms (--fixed-ms) is not given: where stages are independent or no device "
                "predicts it, the latency of the stages that are not searched is needed for each resolution."
            )
        fixed = _fixed_tables(table, hyperspace, predictor)
        return AccuracyLut(hyperspace, searched, fixed, _head_latencies(hyperspace, predictor, num_classes))
    given = _given_latencies(hyperspace, settings.fixed_latency_ms)
    if independent:
        return AccuracyLut(hyperspace, searched, {}, {(resolution, ANY): ms for resolution, ms in given.items()})
    fixed = _fixed_tables(table.assign(latency_ms=0.0), hyperspace, None)
    head_ms = {(resolution, width): ms for resolution, ms in given.items() for width in hyperspace.body[-1].widths}
    return AccuracyLut(hyperspace, searched, fixed, head_ms)


def _check_rows(table: pd.DataFrame, hyperspace: Hyperspace) -> None:
    """Raise an `ArtifactError` that names a row which the hyperspace does not have."""
    foreign = ~table["stage"].isin([stage.name for stage in hyperspace.body])
    for stage in hyperspace.body:
        own = table["stage"] == stage.name
        windows = [set(stage.window_widths(window)) for window in range(stage.windows)]
        known = table["block_type"].between(0, len(hyperspace.types_of(stage)) - 1) & table["window"].between(
            0, stage.windows - 1
        )
        for window, widths in enumerate(windows):
            known &= (table["window"] != window) | table["out_width"].isin(widths)
        known &= table["in_width"].isin(hyperspace.in_widths(stage.name))
        known &= table["resolution"].isin(hyperspace.block_kd_resolutions)
        foreign |= own & ~known
    if foreign.any():
        row = table[foreign].iloc[0]
        raise ArtifactError(
            f"The accuracy LUT has a row for {row['stage']}, block type {row['block_type']}, window {row['window']}, "
            f"widths {row['in_width']} to {row['out_width']} at {row['resolution']} pixels, which {hyperspace.name} "
            "does not have: it was made for another hyperspace; make it again."
        )


def _head_latencies(hyperspace: Hyperspace, predictor: Predictor, num_classes: int) -> dict[tuple[int, int], float]:
    head_ms = {}
    for resolution in hyperspace.block_kd_resolutions:
        height = hyperspace.map_size(hyperspace.head[0].name, resolution)
        ends = predictor.overhead_ms + predictor.boundary_ms(resolution, num_classes).latency_ms
        for width in hyperspace.body[-1].widths:
            head_ms[resolution, width] = ends + predictor.head_ms(hyperspace, width, height, num_classes).latency_ms
    return head_ms


def _given_latencies(hyperspace: Hyperspace, given: Mapping[int, float]) -> Mapping[int, float]:
    if set(given) != set(hyperspace.block_kd_resolutions):
        raise ParamsError(
            f"space.score.fixed_latency_ms is given for {sorted(given)} pixels: the accuracy LUT of "
            f"{hyperspace.name} needs {list(hyperspace.block_kd_resolutions)}."
        )
    return given


def _latencies(table: pd.DataFrame, hyperspace: Hyperspace, predictor: Predictor) -> list[float]:
    latencies = []
    columns = (table[name].tolist() for name in ("stage", "block_type", "in_width", "choice", "resolution"))
    for name, block_type, in_width, choice, resolution in zip(*columns, strict=True):
        stage = hyperspace.stage(name)
        height = hyperspace.map_size(name, resolution)
        kind = hyperspace.types_of(stage)[block_type]
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


def _fixed_tables(table: pd.DataFrame, hyperspace: Hyperspace, predictor: Predictor | None) -> dict[str, StageTable]:
    """Candidates of each fixed stage, from its rows if it has any."""
    found = {}
    for stage in hyperspace.body:
        rows = table[table["stage"] == stage.name]
        if not stage.searched:
            found[stage.name] = _lossless_table(stage, hyperspace, predictor) if rows.empty else _stage_table(rows)
    return found


def _lossless_table(stage: Stage, hyperspace: Hyperspace, predictor: Predictor | None) -> StageTable:
    """All choices of a fixed stage, with loss 0; their latency is 0 without a predictor."""
    assert stage.block_type is not None
    choices = tuple(StageOptions(stage, stage.block_type, stage.widths).enumerate())
    out_width = np.array([choice[-1].width for choice in choices])
    table = {}
    for resolution in hyperspace.block_kd_resolutions:
        height = hyperspace.map_size(stage.name, resolution)
        for in_width in hyperspace.in_widths(stage.name):
            latency_ms = np.zeros(len(choices))
            if predictor is not None:
                latency_ms[:] = [
                    predictor.stage_ms(stage.block_type, in_width, choice, stage.stride, height).latency_ms
                    for choice in choices
                ]
            table[resolution, in_width] = Candidates(np.zeros(len(choices)), latency_ms, out_width)
    return table


def _check_complete(table: pd.DataFrame, hyperspace: Hyperspace, independent: bool) -> None:
    """Raise an `ArtifactError` that names a row which the table lacks; fixed stages may have none at all."""
    keys = ["stage", "block_type", "window", "in_width", "resolution"]
    present = set(table[keys].itertuples(index=False, name=None))
    named = {name for name, *_ in present}
    for stage in hyperspace.body:
        if not stage.searched and stage.name not in named:
            continue
        types, windows = range(len(hyperspace.types_of(stage))), range(stage.windows)
        in_widths = (ANY,) if independent else hyperspace.in_widths(stage.name)
        for row in product([stage.name], types, windows, in_widths, hyperspace.block_kd_resolutions):
            if row not in present:
                _, block_type, window, in_width, resolution = row
                arriving = "" if independent else f" {in_width} arriving channels"
                raise ArtifactError(
                    f"The accuracy LUT has no row for {stage.name}, block type {block_type}, window {window},"
                    f"{arriving} at {resolution} pixels: make it again for this hyperspace."
                )


def smallest_latency(lut: AccuracyLut) -> float:
    """The smallest latency, in ms, of any width-consistent combination of the LUT's stage choices."""
    best = float("inf")
    for resolution in lut.resolutions:
        alternatives = lut.alternatives()
        reach = {in_width: 0.0 for _, in_width in alternatives[0][0]}
        for tables in alternatives:
            parts = [(table[resolution, in_width], so_far) for table in tables for in_width, so_far in reach.items()]
            widths = np.concatenate([candidates.out_width for candidates, _ in parts])
            reached_ms = np.concatenate([candidates.latency_ms + so_far for candidates, so_far in parts])
            reach = {int(width): float(reached_ms[widths == width].min()) for width in np.unique(widths)}
        best = min(best, *(ms + lut.head_ms[resolution, width] for width, ms in reach.items()))
    return best
