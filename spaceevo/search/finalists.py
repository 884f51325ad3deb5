"""Winners of the subnet search measured on their device, and replaced where they turn out to miss their budget."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import pandas as pd

from spaceevo.errors import BudgetError, DeviceError
from spaceevo.latency.devices import Device, at_hand
from spaceevo.latency.measure import Measurement
from spaceevo.latency.predictor import Predictor
from spaceevo.search.subnets import Found
from spaceevo.space import Space, Subnet

_BY_PREDICTION = (
    "The SEQnets are those by prediction: to have them measured, attach it and run snakemake again with --forcerun "
    "search_subnets."
)
ENOUGH = 3  # measured subnets, after which those that are hopeless by them are passed over unmeasured


@dataclass(frozen=True)
class Measured:
    """Milliseconds on the device: the median, and the interval that holds it in 95 % of cases."""

    ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Finalist:
    """What a budget ends up with.

    Attributes:
        found: the subnet, with its predicted latency.
        measured: on the device; None where that is not at hand.
        replaced: better ones that measured over the budget, best first.
    """

    found: Found
    measured: Measured | None = None
    replaced: tuple[Found, ...] = ()


Measure = Callable[[Sequence[Subnet]], Sequence[Measured]]


def entry(finalist: Finalist, budget_ms: float) -> dict[str, Any]:
    """What seqnets.json states of a finalist; JSON-serialisable."""
    found, measured = finalist.found, finalist.measured
    return {
        "subnet": found.subnet.code,
        "budget_ms": budget_ms,
        "latency_ms": found.latency_ms,
        "measured_ms": None if measured is None else measured.ms,
        "measured_interval_ms": None if measured is None else [measured.low_ms, measured.high_ms],
        "val_accuracy": found.accuracy,
        "replaced": [other.subnet.code for other in finalist.replaced],
    }


def finalists_on(
    device: Device,
    time: Callable[[Sequence[Subnet]], Measurement],
    predictor: Predictor,
    space: Space,
    ranked: Sequence[Sequence[Found]],
    table: pd.DataFrame,
    budgets_ms: Sequence[float],
) -> tuple[list[Finalist], pd.DataFrame]:
    """The finalists as measured on a device, or as predicted where it is not at hand: as `measured_finalists`.

    Args:
        time: times subnets on the device in one go, beside the reference model.
    """
    if at_hand(device):
        try:
            return measured_finalists(space, ranked, table, budgets_ms, at_speed_of(predictor, time))
        except DeviceError as error:
            if not device.how.removable:
                raise
            print(f"{error} {_BY_PREDICTION}", file=sys.stderr)
    elif device.measured:
        print(f"{device.name} is not attached. {_BY_PREDICTION}", file=sys.stderr)
    return predicted_finalists(ranked, table)


def predicted_finalists(ranked: Sequence[Sequence[Found]], table: pd.DataFrame) -> tuple[list[Finalist], pd.DataFrame]:
    """The best within each budget by prediction, as `measured_finalists` returns them."""
    return [Finalist(within[0]) for within in ranked], with_measured(table, {})


def at_speed_of(predictor: Predictor, time: Callable[[Sequence[Subnet]], Measurement]) -> Measure:
    """What is timed now, as if the machine were as fast as it was when the predictor's profile was made.

    Args:
        time: times subnets in one go, beside the reference model.
    """
    then_ms = predictor.errors.get("profile", {}).get("reference_ms")

    def measure(subnets: Sequence[Subnet]) -> list[Measured]:
        found = time(subnets)
        scale = 1.0 if then_ms is None or found.reference is None else then_ms / found.reference.latency_ms
        return [Measured(scale * t.latency_ms, scale * t.low_ms, scale * t.high_ms) for t in found.timings]

    return measure


def measured_finalists(
    space: Space, ranked: Sequence[Sequence[Found]], table: pd.DataFrame, budgets_ms: Sequence[float], measure: Measure
) -> tuple[list[Finalist], pd.DataFrame]:
    """The most accurate subnet of each budget that also measures within it.

    A subnet is over its budget where its whole interval is. Of those predicted within a budget, the best is measured,
    then the next best, and so on; all budgets at a time. One that would be over its budget even if it compared to its
    prediction as favourably as any that was measured is passed over.

    Args:
        ranked: what is predicted within each budget, the best first, and every evaluated subnet, as `search_subnets`
            returns them.
        measure: times several subnets in one go.

    Returns:
        The finalists, in the order of `budgets_ms`; and the table with measured_ms, measured_low_ms and
        measured_high_ms, NaN where a subnet was not measured.

    Raises:
        BudgetError: no subnet measures within a budget; the sentence states the smallest latency that was measured.
    """
    queues = list(zip(ranked, budgets_ms, strict=True))
    known: dict[str, Measured] = {}
    while asked := _unmeasured([_candidate(queue, budget, known) for queue, budget in queues], known):
        timings = measure([candidate.subnet for candidate in asked])
        known |= {candidate.subnet.code: timing for candidate, timing in zip(asked, timings, strict=True)}
    finalists = [_finalist(space, queue, budget, known) for queue, budget in queues]
    return finalists, with_measured(table, known)


def with_measured(table: pd.DataFrame, known: Mapping[str, Measured]) -> pd.DataFrame:
    """The table with measured_ms, measured_low_ms and measured_high_ms, by code; NaN where nothing is known."""
    nan = float("nan")
    rows = [astuple(known[code]) if code in known else (nan, nan, nan) for code in table["code"]]
    columns = ["measured_ms", "measured_low_ms", "measured_high_ms"]
    return table.assign(**pd.DataFrame(rows, columns=columns, index=table.index))


def _candidate(queue: Sequence[Found], budget: float, known: Mapping[str, Measured]) -> Found | None:
    """The best that is not known to be over the budget, measured or not; None where there is none."""
    for candidate in queue:
        measured = known.get(candidate.subnet.code)
        if measured is None and not _hopeless(candidate, budget, queue, known):
            return candidate
        if measured is not None and measured.low_ms <= budget:
            return candidate
    return None


def _hopeless(candidate: Found, budget: float, queue: Sequence[Found], known: Mapping[str, Measured]) -> bool:
    ratios = [known[other.subnet.code].low_ms / other.latency_ms for other in queue if other.subnet.code in known]
    return len(ratios) >= ENOUGH and min(ratios) * candidate.latency_ms > budget


def _unmeasured(candidates: Sequence[Found | None], known: Mapping[str, Measured]) -> list[Found]:
    wanted = {c.subnet.code: c for c in candidates if c is not None and c.subnet.code not in known}
    return list(wanted.values())


def _finalist(space: Space, queue: Sequence[Found], budget: float, known: Mapping[str, Measured]) -> Finalist:
    chosen = _candidate(queue, budget, known)
    if chosen is None:
        least = min(measured.ms for measured in known.values())
        raise BudgetError(
            f"The budget of {budget:.4g} ms cannot be met: no subnet of {space.code} that was predicted within it "
            f"measures within it, the fastest of those measured takes {least:.4g} ms; raise this budget."
        )
    better = [other for other in queue[: queue.index(chosen)] if other.subnet.code in known]
    return Finalist(chosen, known[chosen.subnet.code], tuple(better))
