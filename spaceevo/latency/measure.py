"""Measuring latency: the one place that takes time.

Models are timed in interleaved rounds, each in another order, so that a machine that slows down for a while slows down
all of them and not one. Where there are enough models, this shared slow-down is estimated from all that were timed
about the same moment, and taken out. An invocation of a small network is shorter than the clock and the scheduler can
be trusted with, so that a sample is a batch of invocations of at least 2 ms.

A runtime with one thread computes in the thread that calls it, so that its time is the CPU time of that thread: equal
to the wall time on an idle machine, and still right on a busy one, where wall time counts the waiting for a processor
too (with two busy processes beside it on two cores, repeated medians of wall time differed by 30 %, of CPU time by
1 %). With more threads, wall time is all there is: measure on an idle machine.

A reference model, always the same, can be timed among the others: how its time varies is how the machine drifts, and
what is measured at another time is brought to the same speed by it.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from spaceevo.errors import DeviceError
from spaceevo.latency.devices import MeasureOptions

SAMPLE_S = 0.002  # a sample's shortest duration
NEIGHBOURS = 15  # timings in a row that show the machine's speed at a moment; odd
MIN_ROUNDS = 3  # even where time is short
STEADY = 0.05  # warm is a model that the next sample does not find faster than this
LONGEST_WARM_UP = 20  # samples
CONFIDENCE = 0.95  # of an interval about a median
OUTLIER = 5.0  # typical deviations from the median
SMALLEST_DEVIATION = 0.005  # relative, to be an outlier
PER_REFERENCE = 12  # models to one timing of the reference, in each round
QUANTILE = 0.9  # of the models, that must be known as well as asked for

Array = npt.NDArray[np.float64]
Clock = Callable[[], float]


class Invokable(Protocol):
    """What can be timed: `spaceevo.export.runners` and anything alike."""

    def invoke(self) -> None: ...


@runtime_checkable
class SelfTimed(Protocol):
    """What times itself, such as a model on a phone."""

    def round_ms(self, round_s: float) -> float:
        """Milliseconds per invocation, from invocations that take `round_s` together."""
        ...


Timeable = Invokable | SelfTimed


@dataclass(frozen=True)
class Timing:
    """The latency of one model.

    Attributes:
        latency_ms: median over rounds of each round's median sample.
        low_ms, high_ms: interval that holds the true median in 95 % of cases, whatever the distribution; with fewer
            than 6 rounds it is the range of all, and holds it less often.
        spread_ms: interquartile range over rounds.
        rounds: number of rounds.
        outliers: rounds that lie far from the median; they are counted in all the above.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    spread_ms: float
    rounds: int
    outliers: int

    @property
    def error(self) -> float:
        """Relative half-width of the interval: the larger side."""
        return max(self.high_ms - self.latency_ms, self.latency_ms - self.low_ms) / self.latency_ms


@dataclass(frozen=True)
class Measurement:
    """What was measured in one go.

    Attributes:
        timings: of each model, in order.
        reference: timing of the reference model, where there was one.
        drift: how much the time of the reference varied: from its 5 % to its 95 % quantile, relative to its median.
    """

    timings: list[Timing]
    reference: Timing | None = None
    drift: float = 0.0


def measure(
    models: Sequence[Timeable],
    options: MeasureOptions,
    *,
    threads: int = 1,
    budget_s: float = float("inf"),
    progress: Callable[[int, int], None] | None = None,
) -> list[Timing]:
    """Time models in interleaved rounds: the timings of `measure_with_reference`, without a reference."""
    return measure_with_reference(models, None, options, threads=threads, budget_s=budget_s, progress=progress).timings


def measure_with_reference(
    models: Sequence[Timeable],
    reference: Timeable | None,
    options: MeasureOptions,
    *,
    threads: int = 1,
    budget_s: float = float("inf"),
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Time models in interleaved rounds, and a reference model among them.

    Args:
        models: loaded models.
        reference: timed once for every `PER_REFERENCE` models in each round.
        options: warm-up, rounds, seconds per round and model, and the interval asked for.
        threads: of the models' runtime; with 1, what is timed is the CPU time of the calling thread.
        budget_s: wall time after which no further round begins, once `MIN_ROUNDS` are done.
        progress: called after each round with the rounds done and those wanted.

    Raises:
        DeviceError: the machine is too noisy to know latencies as well as `options.interval` asks.
    """
    start = time.perf_counter()
    clock = time.thread_time if threads == 1 else time.perf_counter
    timers = [_timer(model, options, clock) for model in models]
    if reference is not None:
        timers += [_timer(reference, options, clock)] * max(1, len(models) // PER_REFERENCE)
    rng = np.random.default_rng(0)  # of the orders
    orders: list[npt.NDArray[np.int64]] = []
    timed: list[list[float]] = []
    rounds = options.rounds
    while len(orders) < rounds:
        if len(orders) >= min(MIN_ROUNDS, options.rounds) and time.perf_counter() - start > budget_s:
            break
        order = rng.permutation(len(timers))
        timed.append([timers[i].round_ms(options.round_s) for i in order])
        orders.append(order)
        if len(orders) == rounds < options.max_rounds and options.interval is not None:
            so_far = _measurement(np.array(timed), np.array(orders), len(models))
            rounds += options.interval < _error(so_far.timings)
        if progress is not None:
            progress(len(orders), rounds)
    found = _measurement(np.array(timed), np.array(orders), len(models))
    if options.interval is not None and _error(found.timings) > options.interval:
        raise DeviceError(_too_noisy(found, options.interval))
    return found


def _measurement(timed: Array, orders: npt.NDArray[np.int64], models: int) -> Measurement:
    """The timings of the first `models`; those after them are the reference, as often as it was timed in a round."""
    steady = without_slowdowns(timed, orders)
    timings = [summarise(steady[orders == i]) for i in range(models)]
    again = orders >= models
    if not again.any():
        return Measurement(timings)
    low, middle, high = np.percentile(timed[again], [5, 50, 95])
    return Measurement(timings, summarise(steady[again]), float((high - low) / middle))


def _error(timings: Sequence[Timing]) -> float:
    """Relative half-width within which nine of ten models are known."""
    return float(np.quantile([timing.error for timing in timings], QUANTILE, method="lower"))


def _too_noisy(found: Measurement, interval: float) -> str:
    drift = "" if found.reference is None else f" and the reference model's time varied by {found.drift:.0%}"
    return (
        f"The machine is too noisy to know latencies to ±{interval:.2%}: after {found.timings[0].rounds} rounds they "
        f"are known to ±{_error(found.timings):.2%}{drift}; stop other programs, or ask for a wider interval."
    )


def _timer(model: Timeable, options: MeasureOptions, clock: Clock) -> SelfTimed:
    return model if isinstance(model, SelfTimed) else _InProcess(model, options.warm_up, clock)


class _InProcess:
    """A model that is invoked and timed here."""

    def __init__(self, model: Invokable, warm_up: int, clock: Clock) -> None:
        self._model, self._clock = model, clock
        self._batch = _batch_size(model, warm_up, clock)

    def round_ms(self, round_s: float) -> float:
        """Median milliseconds per invocation over samples that take `round_s` together."""
        self._model.invoke()  # caches hold another model's data
        samples: list[float] = []
        collecting = gc.isenabled()
        gc.disable()
        try:
            remaining = round_s
            while remaining > 0 or not samples:
                elapsed = _seconds(self._model, self._batch, self._clock)
                remaining -= elapsed
                samples.append(1000.0 * elapsed / self._batch)
        finally:
            if collecting:
                gc.enable()
        return float(np.median(samples))


def _batch_size(model: Invokable, warm_up: int, clock: Clock) -> int:
    """Invocations per sample; warms the model up on the way, until it gets no faster."""
    for _ in range(warm_up):
        model.invoke()
    batch = 1
    while (elapsed := _seconds(model, batch, clock)) < SAMPLE_S:
        batch = max(2 * batch, int(batch * SAMPLE_S / max(elapsed, 1e-7)))
    for _ in range(LONGEST_WARM_UP):
        before, elapsed = elapsed, _seconds(model, batch, clock)
        if elapsed > (1 - STEADY) * before:
            break
    return batch


def _seconds(model: Invokable, batch: int, clock: Clock) -> float:
    invoke = model.invoke
    start = clock()
    for _ in range(batch):
        invoke()
    return clock() - start


def without_slowdowns(timed_ms: Array, orders: npt.NDArray[np.int64]) -> Array:
    """Timings without the slow-downs that models timed about the same moment share.

    A timing is its model's latency times the machine's slowness at that moment. Both are medians in turn: latency
    over rounds, slowness over neighbours in time. The quarter of the time with the fastest machine sets the scale.

    Args:
        timed_ms: float64 [rounds, models], in the order of timing.
        orders: int64 [rounds, models]; which model each timing is of.

    Returns:
        float64 [rounds, models], in the order of timing; unchanged where there are fewer than `NEIGHBOURS` models,
        as then a model would be its own neighbour.
    """
    if orders.shape[1] < NEIGHBOURS:
        return timed_ms
    logs = np.log(timed_ms)
    places = np.argsort(orders, axis=1)
    slowness = np.zeros_like(logs)
    for _ in range(4):  # it settles after two
        latency = np.median(np.take_along_axis(logs - slowness, places, axis=1), axis=0)
        left = np.pad((logs - latency[orders]).ravel(), NEIGHBOURS // 2, mode="edge")
        moments = np.median(np.lib.stride_tricks.sliding_window_view(left, NEIGHBOURS), axis=1)
        slowness = (moments - np.percentile(moments, 25)).reshape(logs.shape)
    return np.asarray(np.exp(logs - slowness))


def summarise(round_medians: Array) -> Timing:
    """The timing of one model from the medians of its rounds, float64 [rounds]."""
    ordered = np.sort(round_medians)
    low, middle, high = np.percentile(ordered, [25, 50, 75])
    deviations = np.abs(ordered - middle)
    typical = max(1.4826 * float(np.median(deviations)), SMALLEST_DEVIATION * float(middle))
    skipped = _outside(len(ordered))
    return Timing(
        latency_ms=float(middle),
        low_ms=float(ordered[skipped]),
        high_ms=float(ordered[-1 - skipped]),
        spread_ms=float(high - low),
        rounds=len(ordered),
        outliers=int((deviations > OUTLIER * typical).sum()),
    )


def _outside(count: int) -> int:
    """How many of the smallest, and of the largest, of `count` draws lie outside the interval about the median.

    The number of draws below the median is binomial, so that no assumption is made on their distribution.
    """
    tail, outside = 0.5**count, 0
    while tail + math.comb(count, outside + 1) * 0.5**count <= (1 - CONFIDENCE) / 2:
        outside += 1
        tail += math.comb(count, outside) * 0.5**count
    return outside
