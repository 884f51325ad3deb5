"""Winners are measured: those over their budget give way to the next best that is within, and nothing else does."""

import numpy as np
import pytest

from spaceevo.config import SubnetSearchSettings
from spaceevo.errors import BudgetError, DeviceError
from spaceevo.latency.devices import load_device
from spaceevo.latency.measure import Measurement, Timing
from spaceevo.latency.predictor import Predictor
from spaceevo.latency.runtimes import InProcessRuntime
from spaceevo.search import finalists as finalists_module
from spaceevo.search.finalists import Measured, entry, finalists_on, measured_finalists
from spaceevo.search.shortlist import Shortlist, judge_shortlists
from spaceevo.search.subnets import search_subnets
from spaceevo.space import load_hyperspace, sample_space

SPACE = sample_space(load_hyperspace("tiny"), np.random.default_rng(0))
SETTINGS = SubnetSearchSettings(evaluations=80, initial=40, parents=6, mutation_probability=0.3)
PREDICTOR = Predictor("cpu", 0.1, {}, errors={"profile": {"reference_ms": 2.0}})


def predicted_ms(subnet):
    return sum(block.width * block.kernel_size for stage in subnet.stages for block in stage) / 1000


def accuracy(subnet):
    return 1 - 1 / (1 + sum(block.width for stage in subnet.stages for block in stage) / 100)


def judged(subnet):
    """Of a shortlist, which this turns round."""
    return 0.5 - accuracy(subnet) / 10


SHORTLIST = Shortlist(3, judged)


def winners(ranked):
    return [within[0] for within in ranked]


@pytest.fixture(scope="module")
def searched():
    fastest = predicted_ms(SPACE.smallest)
    budgets = [1.5 * fastest, 2 * fastest, 2.5 * fastest]
    found = search_subnets(SPACE, predicted_ms, accuracy, budgets, SETTINGS, 0)
    return *judge_shortlists(*found, budgets, SHORTLIST), budgets


class Device:
    """Measures what the prediction times a factor is, to 1 %, and keeps what it was asked."""

    def __init__(self, factor):
        self.factor, self.asked = factor, []

    def __call__(self, subnets):
        self.asked.append([subnet.code for subnet in subnets])
        found = [predicted_ms(subnet) * self.factor(subnet) for subnet in subnets]
        return [Measured(ms, 0.99 * ms, 1.01 * ms) for ms in found]


def test_exact_predictions_are_confirmed_at_once(searched):
    ranked, table, budgets = searched
    device = Device(lambda subnet: 1.0)
    found, measured = measured_finalists(SPACE, ranked, table, budgets, device)
    assert [finalist.found for finalist in found] == winners(ranked) and not any(
        finalist.replaced for finalist in found
    )
    assert device.asked == [list(dict.fromkeys(winner.subnet.code for winner in winners(ranked)))]
    assert measured["measured_ms"].notna().sum() == len(device.asked[0])
    assert measured.drop(columns=["measured_ms", "measured_low_ms", "measured_high_ms"]).equals(table)


def test_a_budget_within_the_interval_is_kept(searched):
    ranked, table, budgets = searched
    found, _ = measured_finalists(SPACE, ranked, table, budgets, Device(lambda subnet: 1.005))
    assert [finalist.found for finalist in found] == winners(ranked)
    assert any(
        finalist.measured.ms > budget >= finalist.measured.low_ms
        for finalist, budget in zip(found, [predicted_ms(f.found.subnet) for f in found], strict=True)
    )


def test_what_is_over_gives_way_to_the_next_best_within(searched):
    ranked, table, budgets = searched
    slow = {winner.subnet.code for winner in winners(ranked)}
    found, measured = measured_finalists(
        SPACE, ranked, table, budgets, Device(lambda s: 2.0 if s.code in slow else 1.0)
    )
    for finalist, within, budget in zip(found, ranked, budgets, strict=True):
        assert finalist.found == next(other for other in within if other.subnet.code not in slow)
        assert finalist.measured.low_ms <= budget and within[0] in finalist.replaced
        stated = entry(finalist, budget)
        assert stated["latency_ms"] == finalist.found.latency_ms and stated["measured_ms"] == finalist.measured.ms
        assert stated["replaced"][0] == within[0].subnet.code and stated["val_accuracy"] == finalist.found.accuracy
    known = measured.dropna(subset="measured_ms").set_index("code")
    assert slow <= set(known.index)
    assert (known["measured_low_ms"] < known["measured_ms"]).all()


def test_a_device_slower_than_predicted_is_not_asked_for_all(searched):
    ranked, table, budgets = searched
    device = Device(lambda subnet: 1.3)
    found, _ = measured_finalists(SPACE, ranked, table, budgets, device)
    for finalist, within, budget in zip(found, ranked, budgets, strict=True):
        assert finalist.found == next(other for other in within if 0.99 * 1.3 * other.latency_ms <= budget)
    asked = [code for codes in device.asked for code in codes]
    assert len(asked) == len(set(asked)) <= 4 * len(budgets)


def test_a_budget_that_nothing_measures_within_states_the_least(searched):
    ranked, table, budgets = searched
    device = Device(lambda subnet: 3.0)
    with pytest.raises(BudgetError) as caught:
        measured_finalists(SPACE, ranked, table, budgets, device)
    least = min(3.0 * predicted_ms(SPACE.subnet(code)) for codes in device.asked for code in codes)
    assert f"{budgets[0]:.4g} ms" in str(caught.value) and f"{least:.4g} ms" in str(caught.value)
    assert "\n" not in str(caught.value)


def timed(speed):
    """Timings on a machine so many times slower than when it was profiled."""

    def of(subnets):
        timings = [predicted_ms(subnet) * speed for subnet in subnets]
        found = [Timing(ms, ms, ms, 0.0, 21, 0) for ms in timings]
        return Measurement(found, Timing(2.0 * speed, 2.0, 2.0, 0.0, 21, 0))

    return of


def test_the_machine_is_taken_for_as_fast_as_it_was(searched):
    ranked, table, budgets = searched
    found, measured = finalists_on(load_device("cpu"), timed(1.4), PREDICTOR, SPACE, ranked, table, budgets)
    assert [finalist.found for finalist in found] == winners(ranked)
    assert found[0].measured.ms == pytest.approx(ranked[0][0].latency_ms)
    assert "measured_ms" in measured


@pytest.mark.parametrize("name", ["pixel4", "pixel4-adb"])
def test_elsewhere_predictions_count(searched, name, monkeypatch, capsys):
    ranked, table, budgets = searched
    monkeypatch.setenv("PATH", "")  # no adb

    def never(subnets):
        raise AssertionError

    found, measured = finalists_on(load_device(name), never, PREDICTOR, SPACE, ranked, table, budgets)
    assert [finalist.found for finalist in found] == winners(ranked) and measured["measured_ms"].isna().all()
    stated = entry(found[0], budgets[0])
    assert stated["measured_ms"] is None and stated["measured_interval_ms"] is None and stated["replaced"] == []
    said = capsys.readouterr().err
    assert ("--forcerun search_subnets" in said) == (name == "pixel4-adb")


@pytest.mark.parametrize("removable", [True, False])
def test_a_phone_that_disconnects_costs_no_search(searched, removable, monkeypatch, capsys):
    ranked, table, budgets = searched
    monkeypatch.setattr(finalists_module, "at_hand", lambda device: True)
    monkeypatch.setattr(InProcessRuntime, "removable", removable)

    def gone(subnets):
        raise DeviceError("The phone has disconnected: connect it.")

    arguments = (load_device("cpu"), gone, PREDICTOR, SPACE, ranked, table, budgets)
    if not removable:
        with pytest.raises(DeviceError, match="has disconnected"):
            finalists_on(*arguments)
        return
    found, _ = finalists_on(*arguments)
    assert [finalist.found for finalist in found] == winners(ranked)
    assert "has disconnected" in capsys.readouterr().err
