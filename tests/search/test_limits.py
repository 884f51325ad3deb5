"""Limits on the file and on activations: searches keep them, and those out of reach are named."""

import numpy as np
import pytest

from spaceevo.config import FootprintLimits, SubnetSearchSettings
from spaceevo.errors import BudgetError
from spaceevo.search.limits import footprint, within_limits
from spaceevo.search.subnets import search_subnets
from spaceevo.space import parse_space, sample_subnet

SPACE = parse_space("tiny-4664-1222")
CLASSES = 10


def latency_ms(subnet):
    return float(sum(block.width for stage in subnet.stages for block in stage))


def test_without_limits_nothing_changes():
    assert within_limits(latency_ms, SPACE, CLASSES, FootprintLimits()) is latency_ms


@pytest.mark.parametrize("key", ["file_kib", "activation_kib"])
def test_a_search_stays_within_a_limit(key):
    rng = np.random.default_rng(0)
    drawn = [getattr(footprint(SPACE, sample_subnet(SPACE, rng), CLASSES), key) for _ in range(60)]
    limit = float(np.quantile(drawn, 0.3))
    limited = within_limits(latency_ms, SPACE, CLASSES, FootprintLimits(**{key: limit}))
    settings = SubnetSearchSettings(evaluations=40, initial=20, parents=4, mutation_probability=0.3)
    ranked, table = search_subnets(SPACE, limited, lambda subnet: latency_ms(subnet) / 1e4, [600.0, 900.0], settings, 0)
    found = [getattr(footprint(SPACE, SPACE.subnet(code), CLASSES), key) for code in table["code"]]
    assert len(found) == 40 and max(found) <= limit
    assert all(member.latency_ms < float("inf") for within in ranked for member in within)


@pytest.mark.parametrize("key", ["file_kib", "activation_kib"])
def test_a_limit_out_of_reach_states_the_least(key):
    least = getattr(footprint(SPACE, SPACE.smallest, CLASSES), key)
    with pytest.raises(BudgetError) as caught:
        within_limits(latency_ms, SPACE, CLASSES, FootprintLimits(**{key: 0.9 * least}))
    sentence = str(caught.value)
    assert key in sentence and SPACE.code in sentence and f"{least:.1f} KiB" in sentence and "\n" not in sentence
