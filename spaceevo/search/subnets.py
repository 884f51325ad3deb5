"""Searching one supernet for the most accurate subnet within each of several latency budgets, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spaceevo.config import SubnetSearchSettings
from spaceevo.errors import BudgetError
from spaceevo.progress import progress
from spaceevo.space import Space, Subnet, cross_subnets, mutate_subnet, sample_subnet

TRIES = 500  # at a subnet that is new and within its budget
NEARNESS = 0.75  # a subnet meant for a budget costs at least this share of it, if one is found in the first tries


@dataclass(frozen=True)
class Found:
    """An evaluated subnet: latency in ms, accuracy 0 to 1."""

    subnet: Subnet
    latency_ms: float
    accuracy: float


def search_subnets(
    space: Space,
    latency_ms: Callable[[Subnet], float],
    accuracy: Callable[[Subnet], float],
    budgets_ms: Sequence[float],
    settings: SubnetSearchSettings,
    seed: int,
) -> tuple[list[Found], pd.DataFrame]:
    """Evolutionary search: budgets take turns, each asking for children of the best subnets within it.

    No subnet is evaluated twice.

    Returns:
        The best subnet within each budget, in the order of `budgets_ms`; and every evaluated subnet, columns code,
        latency_ms, accuracy, origin (fastest, random, mutation or crossover), and on_front: no other is both faster
        and better.

    Raises:
        BudgetError: a budget is below the fastest subnet's latency, which the sentence states.
    """
    fastest = fastest_subnet(space, latency_ms)
    _check_budgets(space, latency_ms(fastest), budgets_ms)
    rng = np.random.default_rng(seed)
    found = {fastest.code: Found(fastest, latency_ms(fastest), accuracy(fastest))}
    origins = {fastest.code: "fastest"}
    with progress("subnet search", settings.evaluations) as tick:
        number = 0
        while len(found) < settings.evaluations and number < 2 * settings.evaluations:
            budget = budgets_ms[number % len(budgets_ms)]
            number += 1
            proposal = _propose(space, latency_ms, budget, found, settings, len(found) < settings.initial, rng)
            if proposal is None:
                continue
            subnet, ms, origin = proposal
            found[subnet.code] = Found(subnet, ms, accuracy(subnet))
            origins[subnet.code] = origin
            tick(len(found), f"best accuracy {max(f.accuracy for f in found.values()):.4f}")
    best = [best_within(found.values(), budget, 1)[0] for budget in budgets_ms]
    return best, _table(found, origins)


def fastest_subnet(space: Space, latency_ms: Callable[[Subnet], float]) -> Subnet:
    """The subnet of the least latency that a descent from the smallest one finds, one block at a time.

    The smallest is not always the fastest: a wider block can spare the convolution of a shortcut.
    """
    best, best_ms = space.smallest, latency_ms(space.smallest)
    improved = True
    while improved:
        improved = False
        for stage, options in enumerate(space.options):
            for position in range(len(best.stages[stage])):
                for block in options.blocks:
                    choice = list(best.stages[stage])
                    choice[position] = block
                    stages = (*best.stages[:stage], tuple(choice), *best.stages[stage + 1 :])
                    candidate = Subnet(best.resolution, stages)
                    if (ms := latency_ms(candidate)) < best_ms:
                        best, best_ms, improved = candidate, ms, True
    return best


def _check_budgets(space: Space, fastest_ms: float, budgets_ms: Sequence[float]) -> None:
    if min(budgets_ms) < fastest_ms:
        raise BudgetError(
            f"The budget of {min(budgets_ms):.4g} ms cannot be met: the fastest subnet of {space.code} takes "
            f"{fastest_ms:.4g} ms; raise the smallest subnet budget."
        )


def _propose(
    space: Space,
    latency_ms: Callable[[Subnet], float],
    budget: float,
    found: dict[str, Found],
    settings: SubnetSearchSettings,
    random: bool,
    rng: np.random.Generator,
) -> tuple[Subnet, float, str] | None:
    """A new subnet within `budget`, preferably not far below it; None where none was met with."""
    parents = [] if random else best_within(found.values(), budget, settings.parents)
    fallback = None
    for attempt in range(TRIES):
        if not parents:
            subnet, origin = sample_subnet(space, rng), "random"
        elif len(parents) == 1 or rng.random() < 0.5:
            parent = parents[int(rng.integers(len(parents)))].subnet
            subnet, origin = mutate_subnet(space, parent, settings.mutation_probability, rng), "mutation"
        else:
            first, second = rng.choice(len(parents), 2, replace=False)
            subnet, origin = cross_subnets(parents[first].subnet, parents[second].subnet, rng), "crossover"
        if subnet.code in found:
            continue
        ms = latency_ms(subnet)
        if ms > budget:
            continue
        if ms >= NEARNESS * budget:
            return subnet, ms, origin
        fallback = fallback or (subnet, ms, origin)
        if attempt >= TRIES // 4:
            break
    return fallback


def best_within(found: Iterable[Found], budget: float, count: int) -> list[Found]:
    """The `count` most accurate of those predicted within a budget; of two as accurate, the faster first."""
    within = [f for f in found if f.latency_ms <= budget]
    return sorted(within, key=lambda f: (-f.accuracy, f.latency_ms, f.subnet.code))[:count]


def _table(found: dict[str, Found], origins: dict[str, str]) -> pd.DataFrame:
    members = sorted(found.values(), key=lambda f: (f.latency_ms, -f.accuracy))
    best, front = -1.0, set()
    for member in members:
        if member.accuracy > best:
            best = member.accuracy
            front.add(member.subnet.code)
    rows = [
        {
            "code": member.subnet.code,
            "latency_ms": member.latency_ms,
            "accuracy": member.accuracy,
            "origin": origins[member.subnet.code],
            "on_front": member.subnet.code in front,
        }
        for member in found.values()
    ]
    return pd.DataFrame(rows)
