"""Comparing spaces: uniform spaces, and what a supernet gives within each budget."""

from zlib import crc32

import numpy as np
import pytest

from spaceevo.config import SubnetSearchSettings
from spaceevo.search.comparison import BEST, RANDOM, outcomes, uniform_space
from spaceevo.search.shortlist import Shortlist
from spaceevo.search.subnets import fastest_subnet
from spaceevo.space import load_hyperspace, parse_space

SETTINGS = SubnetSearchSettings(evaluations=30, initial=10, parents=3, mutation_probability=0.3)
SPACE = parse_space("tiny-4664-1222")


def latency_ms(subnet):
    return (
        subnet.resolution / 32
        + sum(block.width * block.kernel_size for stage in subnet.stages for block in stage) / 500
    )


def accuracy(subnet):
    """Of a subnet, higher the slower it is, with some noise of its own."""
    return 0.5 + 0.1 * latency_ms(subnet) + 0.01 * np.random.default_rng(crc32(subnet.code.encode())).random()


SHORTLIST = Shortlist(5, lambda subnet: accuracy(subnet) - 0.01 * (latency_ms(subnet) % 0.1))


def found(budgets_ms, random_subnets=5):
    return outcomes(
        SPACE, latency_ms, accuracy, lambda s: accuracy(s) - 0.02, budgets_ms, SETTINGS, SHORTLIST, random_subnets, 0
    )


def test_a_uniform_space_has_one_block_type_and_middle_windows():
    for name in ("tiny", "mobilew", "onnxw"):
        hyperspace = load_hyperspace(name)
        for index in range(len(hyperspace.block_types)):
            space = uniform_space(hyperspace, index)
            assert set(space.block_types) == {index}
            for stage, window in zip(hyperspace.searched_stages, space.windows, strict=True):
                below, above = window, stage.windows - 1 - window
                assert above - below in (0, 1)


def test_each_budget_has_its_best_subnet_and_random_ones_as_slow():
    slow = latency_ms(SPACE.largest)
    table = found([0.6 * slow, 0.9 * slow])
    assert set(table["space"]) == {SPACE.code}
    best = table[table["kind"] == BEST]
    assert list(best["budget"]) == [0, 1]
    for row in best.itertuples():
        subnet = SPACE.subnet(row.subnet)
        assert row.val_accuracy == SHORTLIST.accuracy(subnet) and row.test_accuracy == accuracy(subnet) - 0.02
    drawn = table[table["kind"] == RANDOM]
    assert drawn.groupby("budget").size().max() == 5
    assert drawn["test_accuracy"].isna().all()
    assert (table["latency_ms"] <= table["budget_ms"]).all()
    assert (drawn["latency_ms"] >= 0.75 * drawn["budget_ms"]).all()
    assert best["val_accuracy"].is_monotonic_increasing
    for code in table["subnet"]:
        assert SPACE.contains(SPACE.subnet(code))


def test_a_budget_out_of_reach_has_no_rows():
    fastest = latency_ms(fastest_subnet(SPACE, latency_ms))
    table = found([0.9 * fastest, 1.5 * fastest])
    assert set(table["budget"]) == {1}
    assert found([0.5 * fastest]).empty


def test_the_same_seed_gives_the_same_outcomes():
    budgets = [0.8 * latency_ms(SPACE.largest)]
    assert found(budgets).equals(found(budgets))


@pytest.mark.parametrize("count", [1, 8])
def test_as_many_random_subnets_as_asked_for(count):
    table = found([0.8 * latency_ms(SPACE.largest)], count)
    assert (table["kind"] == RANDOM).sum() == count
