"""What a study's measurements say: the cost of each unit, INT8 against FP32, and which widths are wasteful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd

from spaceevo.latency.study.units import PRECISIONS, REPEATS, WIDTH_LAYERS, Precision, Quantity, width_unit

IQR_OF_NORMAL = 1.349  # standard deviations
MEDIAN_ERROR = 1.253  # standard error of a median, in those of a mean
HALF_WIDTH = 1.96  # of a 95 % interval, in standard errors
AS_LONG = 1.02  # times the latency that still counts as no longer
WORTHWHILE = 0.03  # share of the latency per MAC from which on a width is worth keeping to


@dataclass(frozen=True)
class Cost:
    """Milliseconds of one unit and the half-width of their 95 % interval."""

    ms: float
    error_ms: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.ms - other.ms, float(np.hypot(self.error_ms, other.error_ms)))

    @property
    def resolved(self) -> bool:
        """Whether it is known better than to a factor of two or so."""
        return self.ms > 2 * self.error_ms


@dataclass(frozen=True)
class Row:
    """One quantity of the study in both precisions.

    Attributes:
        macs: of the unit.
    """

    quantity: Quantity
    int8: Cost
    fp32: Cost
    macs: int

    @property
    def speedup(self) -> float | None:
        """FP32 over INT8; None where one of them is lost in noise."""
        return self.fp32.ms / self.int8.ms if self.int8.resolved and self.fp32.resolved else None


@dataclass(frozen=True)
class WidthCost:
    """Latency of a layer of some width.

    Attributes:
        per_mac: picoseconds per multiply-accumulate.
    """

    width: int
    ms: float
    per_mac: float


@dataclass(frozen=True)
class StepGain:
    """How widths that are multiples of a step compare to those of the next finer step alone.

    Attributes:
        finer: the next finer step that was measured.
        saving: share of the latency per MAC that multiples of `step` take less, the median over the others, each
            compared to its neighbours among the multiples.
        compared: how many others there are.
        wasteful: of these, widths that the next multiple, which is wider, takes no longer than.
    """

    layer: str
    precision: Precision
    step: int
    finer: int
    saving: float
    compared: int
    wasteful: tuple[int, ...]


class Findings:
    """Everything that follows from the measurements.

    Args:
        table: as `spaceevo.latency.study.measuring.study` returns it.
        steps: of the widths.
        quantities: the rows that are asked for; those that were not measured are left out.
    """

    def __init__(self, table: pd.DataFrame, steps: Sequence[int], quantities: Sequence[Quantity]) -> None:
        self.steps = sorted(steps)
        self._quantities = quantities
        self._latency: dict[tuple[str, int, int, str], Cost] = {}
        self._macs: dict[tuple[str, int], int] = {}
        for row in table.to_dict("records"):
            unit, channels, repeats = str(row["unit"]), int(row["channels"]), int(row["repeats"])
            error = HALF_WIDTH * MEDIAN_ERROR * row["spread_ms"] / IQR_OF_NORMAL / np.sqrt(row["rounds"])
            cost = Cost(float(row["latency_ms"]), float(error))
            self._latency[unit, channels, repeats, row["precision"]] = cost
            self._macs[unit, channels] = int(row["macs"]) // repeats

    @cached_property
    def rows(self) -> list[Row]:
        """The quantities that were measured, in order."""
        widths = {unit: channels for unit, channels in self._macs if not unit.startswith(width_unit(""))}
        found = []
        for quantity in self._quantities:
            costs = [self._quantity(quantity, widths, precision) for precision in PRECISIONS]
            if costs[0] is not None and costs[1] is not None:
                found.append(Row(quantity, costs[0], costs[1], self._macs[quantity.unit, widths[quantity.unit]]))
        return found

    def group(self, name: str) -> list[Row]:
        """The rows of a group."""
        return [row for row in self.rows if row.quantity.group == name]

    def _quantity(self, quantity: Quantity, widths: Mapping[str, int], precision: Precision) -> Cost | None:
        cost = self._unit(quantity.unit, widths, precision)
        if quantity.less is None or cost is None:
            return cost
        less = self._unit(quantity.less, widths, precision)
        return None if less is None else cost - less

    def _unit(self, unit: str, widths: Mapping[str, int], precision: Precision) -> Cost | None:
        if unit not in widths:
            return None
        return self._pair(unit, widths[unit], precision)

    def _pair(self, unit: str, channels: int, precision: Precision) -> Cost | None:
        """What a unit takes in company: from a chain of several and a chain of one."""
        several = self._latency.get((unit, channels, REPEATS, precision))
        one = self._latency.get((unit, channels, 1, precision))
        if several is None or one is None:
            return None
        more = several - one
        return Cost(more.ms / (REPEATS - 1), more.error_ms / (REPEATS - 1))

    def widths(self, layer: str, precision: Precision) -> list[WidthCost]:
        """Latency of one of `WIDTH_LAYERS` by width, ascending; none where its ends were not measured."""
        unit = width_unit(layer)
        long = {
            c: cost
            for (u, c, repeats, p), cost in self._latency.items()
            if (u, repeats, p) == (unit, REPEATS, precision)
        }
        ends = {}
        for channels in sorted(long):
            if (each := self._pair(unit, channels, precision)) is not None:
                ends[channels] = max(0.0, long[channels].ms - REPEATS * each.ms)
        if not ends:
            return []
        found = []
        for channels in sorted(long):
            ms = (long[channels].ms - float(np.interp(channels, list(ends), list(ends.values())))) / REPEATS
            found.append(WidthCost(channels, ms, 1e9 * ms / self._macs[unit, channels]))
        return found

    @cached_property
    def gains(self) -> list[StepGain]:
        """What keeping to multiples of each step brings, by layer and precision, the finest step first."""
        found = []
        for layer in WIDTH_LAYERS:
            for precision in PRECISIONS:
                costs = self.widths(layer, precision)
                for finer, step in pairwise(self.steps):
                    if (gain := _gain(layer, precision, costs, finer, step)) is not None:
                        found.append(gain)
        return found

    def recommended_step(self, layer: str, precision: Precision) -> int:
        """The largest step whose multiples are worth keeping to; the finest where none is."""
        worthwhile = [
            gain.step
            for gain in self.gains
            if (gain.layer, gain.precision) == (layer, precision) and gain.saving >= WORTHWHILE
        ]
        return max(worthwhile, default=self.steps[0])


def _gain(layer: str, precision: Precision, costs: Sequence[WidthCost], finer: int, step: int) -> StepGain | None:
    multiples = [cost for cost in costs if cost.width % step == 0]
    between = [cost for cost in costs if cost.width % finer == 0 and cost.width % step]
    between = [cost for cost in between if multiples and multiples[0].width < cost.width < multiples[-1].width]
    if not between:
        return None
    per_mac = np.interp(
        [cost.width for cost in between], [cost.width for cost in multiples], [cost.per_mac for cost in multiples]
    )
    shares = per_mac / np.array([cost.per_mac for cost in between])
    following = {cost.width: next(other for other in multiples if other.width > cost.width) for cost in between}
    wasteful = tuple(cost.width for cost in between if following[cost.width].ms <= AS_LONG * cost.ms)
    return StepGain(layer, precision, step, finer, float(1 - np.median(shares)), len(between), wasteful)
