"""Measuring latency: the one place that takes time.

Models are timed in interleaved rounds, each in another order, so that a machine that slows down for a while slows down
all of them and not one. Where there are enough models, this shared slow-down is estimated from all that were timed
about the same moment, and taken out. An invocation of a small network is shorter than the clock and the scheduler can
be trusted with, so that a sample is a batch of invocations of at least 2 ms.

A runtime with one thread computes in the thread that calls it, so that its time is the CPU time of that thread: equal
to the wall time on an idle machine, and still right on a busy one, where wall time counts the waiting for a processor
too (with two busy processes beside it on two cores, repeated medians of wall time differed by 30 %, of CPU time by
1 %). With more threads, wall time is all there is: measure on an idle machine.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spaceevo.latency.devices import MeasureOptions

SAMPLE_S = 0.002  # a sample's shortest duration
NEIGHBOURS = 15  # timings in a row that show the machine's speed at a moment; odd
MIN_ROUNDS = 3  # even where time is short


Array = npt.NDArray[np.float64]
Clock = Callable[[], float]


class Invokable(Protocol):
    """What can be timed: `spaceevo.export.runners` and anything alike."""

    def invoke(self) -> None: ...


@dataclass(frozen=True)
class Timing:
    """The latency of one model.

    Attributes:
        latency_ms: median over rounds of each round's median sample.
        spread_ms: interquartile range over rounds.
        rounds: number of rounds.
    """

    latency_ms: float
    spread_ms: float
    rounds: int


def measure(
    models: Sequence[Invokable],
    options: MeasureOptions,
    *,
    threads: int = 1,
    budget_s: float = float("inf"),
    progress: Callable[[int, int], None] | None = None,
) -> list[Timing]:
    """Time models in interleaved rounds.

    Args:
        models: loaded models.
        options: warm-up, rounds, and seconds per round and model.
        threads: of the models' runtime; with 1, what is timed is the CPU time of the calling thread.
        budget_s: wall time after which no further round begins, once `MIN_ROUNDS` are done.
        progress: called after each round with the rounds done and those wanted.

    Returns:
        One timing per model, in order.
    """
    start = time.perf_counter()
    clock = time.thread_time if threads == 1 else time.perf_counter
    batches = [_batch_size(model, options.warm_up, clock) for model in models]
    rng = np.random.default_rng(0)  # of the orders
    orders, timed = [], []
    for done in range(options.rounds):
        if done >= min(MIN_ROUNDS, options.rounds) and time.perf_counter() - start > budget_s:
            break
        order = rng.permutation(len(models))
        timed.append([_round_ms(models[i], batches[i], options.round_s, clock) for i in order])
        orders.append(order)
        if progress is not None:
            progress(done + 1, options.rounds)
    steady = without_slowdowns(np.array(timed), np.array(orders))
    return [_timing(steady[np.array(orders) == i]) for i in range(len(models))]


def _batch_size(model: Invokable, warm_up: int, clock: Clock) -> int:
    """Invocations per sample; warms the model up on the way."""
    for _ in range(warm_up):
        model.invoke()
    batch = 1
    while (elapsed := _seconds(model, batch, clock)) < SAMPLE_S:
        batch = max(2 * batch, int(batch * SAMPLE_S / max(elapsed, 1e-7)))
    return batch


def _round_ms(model: Invokable, batch: int, round_s: float, clock: Clock) -> float:
    """Median milliseconds per invocation over samples that take `round_s` together."""
    model.invoke()  # caches hold another model's data
    samples: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        remaining = round_s
        while remaining > 0 or not samples:
            elapsed = _seconds(model, batch, clock)
            remaining -= elapsed
            samples.append(1000.0 * elapsed / batch)
    finally:
        if collecting:
            gc.enable()
    return float(np.median(samples))


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


def _timing(round_medians: Array) -> Timing:
    low, middle, high = np.percentile(round_medians, [25, 50, 75])
    return Timing(float(middle), float(high - low), len(round_medians))
