"""Measuring: rounds are interleaved, short invocations are batched, the medians are right."""

import time

import numpy as np
import pytest

from spaceevo.latency import measure as measuring
from spaceevo.latency.devices import MeasureOptions
from spaceevo.latency.measure import MIN_ROUNDS, SAMPLE_S, measure, without_slowdowns

OPTIONS = MeasureOptions(warm_up=2, rounds=5, round_s=0.01)


class FakeClock:
    """Time that passes only when a model runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Model:
    """Takes as long as it says at each invocation."""

    def __init__(self, clock: FakeClock, name: str, calls: list[str], duration_s) -> None:
        self.clock, self.name, self.calls, self.duration_s = clock, name, calls, duration_s

    def invoke(self) -> None:
        self.calls.append(self.name)
        self.clock.now += self.duration_s() if callable(self.duration_s) else self.duration_s


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(time, "thread_time", clock)
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


@pytest.mark.parametrize("threads", [1, 2])
def test_milliseconds_per_invocation(clock, threads):
    calls: list[str] = []
    models = [Model(clock, name, calls, s) for name, s in (("a", 1e-5), ("b", 3e-4), ("c", 0.05))]
    timings = measure(models, OPTIONS, threads=threads)
    assert [timing.latency_ms for timing in timings] == pytest.approx([0.01, 0.3, 50.0])
    assert all(timing.rounds == 5 and timing.spread_ms == pytest.approx(0, abs=1e-9) for timing in timings)


def test_rounds_are_interleaved(clock):
    calls: list[str] = []
    measure([Model(clock, name, calls, 0.004) for name in "ab"], OPTIONS)
    per_round = len(calls[calls.index("b", 1) :]) // 5
    for round_number in range(5):
        assert set(calls[-per_round * (round_number + 1) :][:per_round]) == {"a", "b"}


def test_short_invocations_are_batched(clock, monkeypatch):
    batches = []
    seconds = measuring._seconds
    monkeypatch.setattr(measuring, "_seconds", lambda m, batch, c: batches.append(batch) or seconds(m, batch, c))
    measure([Model(clock, "a", [], 1e-5)], OPTIONS)
    assert batches[-1] * 1e-5 >= SAMPLE_S * 0.999


def test_a_disturbed_round_does_not_count_but_shows_in_the_spread(clock):
    def disturbed() -> float:
        return 0.004 if clock.now < 0.1 else 0.002

    (timing,) = measure([Model(clock, "a", [], disturbed)], MeasureOptions(warm_up=2, rounds=31, round_s=0.01))
    assert timing.latency_ms == pytest.approx(2.0)
    (steady,) = measure([Model(clock, "a", [], 0.002)], OPTIONS)
    assert steady.spread_ms <= timing.spread_ms


def test_a_short_budget_means_fewer_rounds(clock):
    done: list[int] = []
    timings = measure(
        [Model(clock, "a", [], 0.004)],
        MeasureOptions(rounds=50),
        budget_s=0.0,
        progress=lambda rounds, _: done.append(rounds),
    )
    assert timings[0].rounds == MIN_ROUNDS and done == [1, 2, 3]


def test_slowdowns_that_neighbours_share_are_taken_out():
    rng = np.random.default_rng(0)
    latency = rng.uniform(0.01, 1.0, 100)
    orders = np.array([rng.permutation(100) for _ in range(5)])
    slowness = np.ones(500)
    slowness[30:80] = 2.0
    slowness[250:420] = 1.6
    steady = without_slowdowns(latency[orders] * slowness.reshape(5, 100), orders)
    error = np.abs(steady / latency[orders] - 1)
    assert (error < 1e-9).mean() > 0.95
    medians = np.array([np.median(steady[orders == i]) for i in range(100)])
    assert medians == pytest.approx(latency)


def test_few_models_are_left_as_they_are():
    timed = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert (without_slowdowns(timed, np.array([[0, 1], [1, 0]])) == timed).all()
