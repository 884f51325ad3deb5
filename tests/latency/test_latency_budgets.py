"""Budgets: milliseconds as they are, percentages as quantiles of random subnets."""

import numpy as np
import pytest

from spaceevo.errors import ParamsError
from spaceevo.latency import budgets as budgeting
from spaceevo.latency.budgets import resolve_budgets, sampled_latencies


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(budgeting, "SAMPLES", 300)


def test_milliseconds_stay_and_are_sorted(truth, tiny):
    assert resolve_budgets([20, 5.5], truth, tiny, 10, 0) == (5.5, 20.0)


def test_percentages_are_met_by_so_many_subnets(truth, tiny):
    low, high = resolve_budgets(["80%", "30 %"], truth, tiny, 10, seed=1)
    latencies = sampled_latencies(truth, tiny, 10, seed=1)
    assert np.mean(latencies <= low) == pytest.approx(0.3, abs=0.01)
    assert np.mean(latencies <= high) == pytest.approx(0.8, abs=0.01)


def test_they_depend_on_the_seed_alone(truth, tiny):
    first, again, other = (resolve_budgets(["50%"], truth, tiny, 10, seed) for seed in (1, 1, 2))
    assert first == again and first != other


@pytest.mark.parametrize("budget", ["fast", "30", "0%", "100%", "-5%", "3ms", ""])
def test_a_text_that_is_no_percentage_is_refused(truth, tiny, budget):
    with pytest.raises(ParamsError, match="neither a number of milliseconds nor a percentage"):
        resolve_budgets([budget], truth, tiny, 10, 0)


@pytest.mark.parametrize("budget", [0, -1.0, float("nan"), float("inf")])
def test_a_number_that_is_no_latency_is_refused(truth, tiny, budget):
    with pytest.raises(ParamsError, match="not a positive number"):
        resolve_budgets([budget], truth, tiny, 10, 0)


def test_equal_budgets_and_none_are_refused(truth, tiny):
    with pytest.raises(ParamsError, match="Two latency budgets"):
        resolve_budgets([5, 5.0], truth, tiny, 10, 0)
    with pytest.raises(ParamsError, match="no latency budget"):
        resolve_budgets([], truth, tiny, 10, 0)
