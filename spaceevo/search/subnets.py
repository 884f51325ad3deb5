"""Searching one supernet for the most accurate subnet within each of several latency budgets, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from spaceevo.config import SubnetSearchSettings
from spaceevo.errors import BudgetError
from spaceevo.parallel import Mapper
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


class Proposal(NamedTuple):
    """A subnet to evaluate: latency in ms, and how it came about."""

    subnet: Subnet
    latency_ms: float
    origin: str


def search_subnets(
    space: Space,
    latency_ms: Callable[[Subnet], float],
    accuracy: Callable[[Subnet], float],
    budgets_ms: Sequence[float],
    settings: SubnetSearchSettings,
    seed: int,
    mapper: Mapper = map,
) -> tuple[list[list[Found]], pd.DataFrame]:
    """Evolutionary search in rounds: each budget asks for a child of the best subnets within it, and all are evaluated.

    It starts from the ends of the space, the smallest and the largest subnet at every resolution: training gives them
    more steps than any other, and random subnets hardly ever come near them. No subnet is evaluated twice.

    Args:
        mapper: applies `accuracy` to the subnets of a round; the result is the same however many it takes at a time.

    Returns:
        What was found within each budget, in the order of `budgets_ms`, the best first; and every evaluated subnet,
        columns code, latency_ms, accuracy, origin (fastest, end, random, mutation or crossover), and on_front: no other
        is both faster and better.

    Raises:
        BudgetError: a budget is below the fastest subnet's latency, which the sentence states.
    """
    fastest = fastest_subnet(space, latency_ms)
    fastest_ms = latency_ms(fastest)
    _check_budgets(space, fastest_ms, budgets_ms)
    rng = np.random.default_rng(seed)
    found: dict[str, Found] = {}
    origins: dict[str, str] = {}
    proposals = [Proposal(fastest, fastest_ms, "fastest"), *_ends(space, latency_ms, max(budgets_ms), fastest)]
    proposals = proposals[: settings.evaluations]
    with progress("subnet search", settings.evaluations) as tick:
        for _ in range(2 * settings.evaluations):
            accuracies = mapper(accuracy, [proposal.subnet for proposal in proposals])
            for proposal, measured in zip(proposals, accuracies, strict=True):
                code = proposal.subnet.code
                found[code] = Found(proposal.subnet, proposal.latency_ms, measured)
                origins[code] = proposal.origin
                tick(len(found), f"best accuracy {max(f.accuracy for f in found.values()):.4f}")
            if len(found) >= settings.evaluations:
                break
            proposals = _round(space, latency_ms, budgets_ms, found, settings, rng)
    return [best_within(found.values(), budget) for budget in budgets_ms], _table(found, origins)


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


def _ends(space: Space, latency_ms: Callable[[Subnet], float], budget: float, fastest: Subnet) -> Iterator[Proposal]:
    """The smallest and the largest subnet at every resolution, but for those over `budget` and the fastest."""
    for resolution in space.hyperspace.resolutions:
        for end in dict.fromkeys((space.smallest.stages, space.largest.stages)):  # one where there is no choice
            subnet = Subnet(resolution, end)
            ms = latency_ms(subnet)
            if subnet != fastest and ms <= budget:
                yield Proposal(subnet, ms, "end")


def _round(
    space: Space,
    latency_ms: Callable[[Subnet], float],
    budgets_ms: Sequence[float],
    found: Mapping[str, Found],
    settings: SubnetSearchSettings,
    rng: np.random.Generator,
) -> list[Proposal]:
    """A new subnet for each budget in turn, as far as some are found and there are evaluations left."""
    proposals: dict[str, Proposal] = {}
    for budget in budgets_ms:
        known = len(found) + len(proposals)
        if known >= settings.evaluations:
            break
        parents = [] if known < settings.initial else best_within(found.values(), budget)[: settings.parents]
        taken = found.keys() | proposals.keys()
        proposal = _propose(space, latency_ms, budget, parents, taken, settings.mutation_probability, rng)
        if proposal is not None:
            proposals[proposal.subnet.code] = proposal
    return list(proposals.values())


def _propose(
    space: Space,
    latency_ms: Callable[[Subnet], float],
    budget: float,
    parents: Sequence[Found],
    taken: Set[str],
    mutation_probability: float,
    rng: np.random.Generator,
) -> Proposal | None:
    """A new subnet within `budget`, preferably not far below it, random without parents; None where none was met."""
    fallback = None
    for attempt in range(TRIES):
        if not parents:
            subnet, origin = sample_subnet(space, rng), "random"
        elif len(parents) == 1 or rng.random() < 0.5:
            parent = parents[int(rng.integers(len(parents)))].subnet
            subnet, origin = mutate_subnet(space, parent, mutation_probability, rng), "mutation"
        else:
            first, second = rng.choice(len(parents), 2, replace=False)
            subnet, origin = cross_subnets(parents[first].subnet, parents[second].subnet, rng), "crossover"
        if subnet.code in taken:
            continue
        ms = latency_ms(subnet)
        if ms > budget:
            continue
        if ms >= NEARNESS * budget:
            return Proposal(subnet, ms, origin)
        fallback = fallback or Proposal(subnet, ms, origin)
        if attempt >= TRIES // 4:
            break
    return fallback


def best_within(found: Iterable[Found], budget: float) -> list[Found]:
    """Those predicted within a budget, the most accurate first; of two as accurate, the faster."""
    within = [f for f in found if f.latency_ms <= budget]
    return sorted(within, key=lambda f: (-f.accuracy, f.latency_ms, f.subnet.code))


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
