"""Random subnets of the sandwich rule: anywhere, or near budgets; by the generator alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from made import random_subnets, small_hyperspace

from spaceevo.artifacts import Record
from spaceevo.config import Sandwich
from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.predictor import write_predictor
from spaceevo.search.sandwich import sandwich_sampler
from spaceevo.space import Space, Subnet
from spaceevo.train.sampling import near_budgets, uniform

SPACE = Space(small_hyperspace(), (0, 2), (1, 0))


def cost(subnet: Subnet) -> float:
    """A stand-in for latency."""
    return float(sum(block.width * block.kernel_size for stage in subnet.stages for block in stage))


COSTS = [cost(subnet) for subnet in random_subnets(SPACE, 200, 0)]


def drawn(sampler, count: int = 60) -> list[Subnet]:
    return [sampler(np.random.default_rng([5, step])) for step in range(count)]


def test_near_budgets_are_nearer_than_anywhere() -> None:
    budgets = list(np.quantile(COSTS, [0.1, 0.9]))

    def distance(subnets: list[Subnet]) -> float:
        return float(np.mean([min(abs(cost(subnet) - budget) for budget in budgets) for subnet in subnets]))

    near, anywhere = drawn(near_budgets(SPACE, cost, budgets, 8)), drawn(uniform(SPACE))
    assert distance(near) < 0.5 * distance(anywhere)
    assert all(SPACE.contains(subnet) for subnet in near)
    middle = float(np.mean(budgets))  # both budgets have their turn
    assert 15 < sum(cost(subnet) > middle for subnet in near) < 45


@pytest.mark.parametrize("sampler", [uniform(SPACE), near_budgets(SPACE, cost, COSTS[:2], 4)])
def test_a_sample_depends_on_its_generator_alone(sampler) -> None:
    first = drawn(sampler)
    assert drawn(sampler) == first and len(set(first)) > 5


def test_the_sampler_of_a_device(tmp_path: Path) -> None:
    """Its budgets may be percentages, and its predictor is read only where it is needed."""
    path = tmp_path / "predictor.json"
    write_predictor(path, table_predictor(load_device("pixel4")), Record({}))
    budgets = json.loads('["5%", "90%"]')
    near = Sandwich(random_subnets=2, sampling="budgets", candidates=3)
    sampler = sandwich_sampler(near, SPACE, 4, path, budgets, 0)
    assert all(SPACE.contains(subnet) for subnet in drawn(sampler, 5))
    anywhere = sandwich_sampler(near.model_copy(update={"sampling": "uniform"}), SPACE, 4, None, [], 0)
    assert drawn(anywhere, 5) == drawn(uniform(SPACE), 5)
