"""Measuring: rounds are interleaved, short invocations are batched, medians, intervals and the drift are right."""

import os
import time

import numpy as np
import pytest

from spaceevo.errors import DeviceError
from spaceevo.latency import measure as measuring
from spaceevo.latency import pinning
from spaceevo.latency.devices import MeasureOptions
from spaceevo.latency.measure import (
    LONGEST_WARM_UP,
    MIN_ROUNDS,
    SAMPLE_S,
    measure,
    measure_with_reference,
    summarise,
    without_slowdowns,
)
from spaceevo.latency.pinning import pinned

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
    per_round = 8  # one to fill the caches and three samples of one invocation, of each
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


def test_a_model_is_warmed_up_until_it_gets_no_faster(clock):
    calls: list[str] = []
    durations = iter([*np.linspace(0.05, 0.004, 12), *[0.004] * 1000])
    measure([Model(clock, "a", calls, lambda: float(next(durations)))], MeasureOptions(warm_up=1, rounds=1))
    before_timing = len(calls) - 1 - 3  # the round: one to fill the caches, three samples
    assert 10 <= before_timing <= 14


def test_a_model_that_gets_ever_faster_is_timed_nevertheless(clock):
    calls: list[str] = []
    durations = iter(1.0 * 0.9 ** np.arange(60))
    measure([Model(clock, "a", calls, lambda: float(next(durations)))], MeasureOptions(warm_up=1, rounds=1))
    assert len(calls) <= LONGEST_WARM_UP + 5


def test_intervals_hold_the_median_as_often_as_they_say():
    rng = np.random.default_rng(0)
    for rounds in (9, 25):
        draws = rng.lognormal(sigma=0.3, size=(2000, rounds))
        timings = [summarise(row) for row in draws]
        held = np.mean([timing.low_ms <= 1.0 <= timing.high_ms for timing in timings])
        assert 0.945 <= held <= 0.985, rounds


def test_outliers_are_counted_and_kept():
    timing = summarise(np.array([1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 3.0]))
    assert timing.outliers == 1 and timing.high_ms == 3.0 and timing.latency_ms == 1.0
    assert timing.error == pytest.approx(2.0)
    assert summarise(np.full(7, 2.0)).outliers == 0


def test_the_reference_shows_the_drift(clock):
    def slowing() -> float:
        return 0.004 * (1 + clock.now)

    models = [Model(clock, "a", [], 0.004), Model(clock, "b", [], 0.004)]
    options = MeasureOptions(warm_up=1, rounds=21, round_s=0.01)
    found = measure_with_reference(models, Model(clock, "r", [], slowing), options)
    assert len(found.timings) == 2 and found.reference is not None
    assert found.timings[0].latency_ms == pytest.approx(4.0)
    assert found.drift > 0.2
    steady = measure_with_reference(models, Model(clock, "r", [], 0.004), options)
    assert steady.drift == pytest.approx(0.0, abs=1e-9)
    assert steady.reference is not None and steady.reference.latency_ms == pytest.approx(4.0)


def noisy(clock: FakeClock, spread: float) -> Model:
    rng = np.random.default_rng(0)
    return Model(clock, "a", [], lambda: 0.004 * float(np.exp(spread * rng.normal())))


def test_rounds_go_on_until_the_interval_is_reached(clock):
    options = MeasureOptions(warm_up=1, rounds=7, round_s=0.004, interval=0.05)
    (timing,) = measure([noisy(clock, 0.1)], options)
    assert 7 < timing.rounds < options.max_rounds and timing.error <= 0.05
    assert measure([Model(clock, "a", [], 0.004)], options)[0].rounds == 7


def test_a_machine_too_noisy_says_how_noisy(clock):
    options = MeasureOptions(warm_up=1, rounds=7, round_s=0.004, interval=0.01, max_rounds=20)
    with pytest.raises(DeviceError, match=r"noisy.*±1\.00%: after 20 rounds .*±\d+\.\d+%.*varied by") as caught:
        measure_with_reference([noisy(clock, 0.3)], noisy(clock, 0.3), options)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not pin threads")
def test_threads_are_pinned_while_it_lasts():
    before = os.sched_getaffinity(0)
    with pinned(1) as cores:
        assert len(cores) == 1 and os.sched_getaffinity(0) == set(cores)
    assert os.sched_getaffinity(0) == before
    with pinned(10_000) as cores:
        assert set(cores) == before


def test_the_idlest_cores_come_first(monkeypatch):
    ticks = iter([{0: 0, 1: 0, 2: 0}, {0: 5, 1: 0, 2: 3}])
    monkeypatch.setattr(pinning, "_busy_ticks", lambda: next(ticks))
    monkeypatch.setattr(pinning, "_is_second", lambda core: False)
    assert pinning._idlest([0, 1, 2]) == [1, 2, 0]


def test_where_pinning_is_forbidden_nothing_changes(monkeypatch):
    def refuse(pid: int, cores: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    with pinned(1) as cores:
        assert cores == ()
