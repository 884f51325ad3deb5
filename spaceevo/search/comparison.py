"""Spaces put side by side under the same budgets: the best subnets of their supernets, and random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from spaceevo.config import SubnetSearchSettings
from spaceevo.parallel import Mapper
from spaceevo.progress import progress
from spaceevo.search.shortlist import Shortlist, judge_shortlists
from spaceevo.search.subnets import NEARNESS, fastest_subnet, search_subnets
from spaceevo.space import Hyperspace, Space, Subnet, sample_subnet

OUTCOMES_KIND = "space_outcomes"
BEST, RANDOM = "best", "random"
TRIES = 2000  # at a random subnet that costs about as much as a budget


def uniform_space(hyperspace: Hyperspace, block_type: int) -> Space:
    """The space a person would draw up: one block type in every searched stage, and the middle width window of each.

    Args:
        block_type: index into `hyperspace.block_types`.
    """
    searched = hyperspace.searched_stages
    return Space(hyperspace, (block_type,) * len(searched), tuple((stage.windows - 1) // 2 for stage in searched))


def outcomes(
    space: Space,
    latency_ms: Callable[[Subnet], float],
    val_accuracy: Callable[[Subnet], float],
    test_accuracy: Callable[[Subnet], float],
    budgets_ms: Sequence[float],
    settings: SubnetSearchSettings,
    shortlist: Shortlist,
    random_subnets: int,
    seed: int,
    mapper: Mapper = map,
) -> pd.DataFrame:
    """What a trained supernet gives within each budget: its best subnet, and random ones that cost about as much.

    Args:
        val_accuracy, test_accuracy: of a subnet, 0 to 1; test is read for the best alone.
        budgets_ms: ascending; those that no subnet of the space meets have no rows.
        random_subnets: per budget, drawn uniformly among those that take the budget or up to a quarter less.
        mapper: applies accuracies to subnets.

    Returns:
        Columns space (its code), kind (best or random), budget (its number), budget_ms, subnet, latency_ms,
        val_accuracy and test_accuracy, NaN where it was not read.
    """
    fastest_ms = latency_ms(fastest_subnet(space, latency_ms))
    reached = [(number, budget) for number, budget in enumerate(budgets_ms) if budget >= fastest_ms]
    rows = []
    if reached:
        within = [ms for _, ms in reached]
        ranked, table = search_subnets(space, latency_ms, val_accuracy, within, settings, seed, mapper)
        ranked, _ = judge_shortlists(ranked, table, within, shortlist, mapper)
        best = [found for found, *_ in ranked]
        winners = list(dict.fromkeys(found.subnet for found in best))
        tested = dict(zip(winners, mapper(test_accuracy, winners), strict=True))
        for (number, budget), found in zip(reached, best, strict=True):
            measured = found.latency_ms, found.accuracy, tested[found.subnet]
            rows.append((BEST, number, budget, found.subnet.code, *measured))
    rng = np.random.default_rng(seed)
    with progress("random subnets", len(reached) * random_subnets) as tick:
        for done, (number, budget) in enumerate(reached):
            drawn = _about_as_slow(space, latency_ms, budget, random_subnets, rng)
            accuracies = mapper(val_accuracy, [subnet for subnet, _ in drawn])
            for count, ((subnet, ms), measured_accuracy) in enumerate(zip(drawn, accuracies, strict=True), start=1):
                rows.append((RANDOM, number, budget, subnet.code, ms, measured_accuracy, np.nan))
                tick(done * random_subnets + count)
    names = ["kind", "budget", "budget_ms", "subnet", "latency_ms", "val_accuracy", "test_accuracy"]
    table = pd.DataFrame(rows, columns=names)
    table.insert(0, "space", space.code)
    return table


def _about_as_slow(
    space: Space, latency_ms: Callable[[Subnet], float], budget_ms: float, count: int, rng: np.random.Generator
) -> list[tuple[Subnet, float]]:
    """Random subnets that take the budget or up to a quarter less, with their latency; fewer where they are rare."""
    found = []
    for _ in range(TRIES):
        subnet = sample_subnet(space, rng)
        ms = latency_ms(subnet)
        if NEARNESS * budget_ms <= ms <= budget_ms:
            found.append((subnet, ms))
            if len(found) == count:
                break
    return found
