"""The random subnets that a supernet's training takes, as its parameters say."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from spaceevo.config import Sandwich
from spaceevo.latency.budgets import resolve_budgets
from spaceevo.latency.devices import read_own_predictor
from spaceevo.space import Space, Subnet
from spaceevo.train.sampling import Sampler, near_budgets, uniform

CACHED = 65536  # latencies that are kept


def sandwich_sampler(
    sandwich: Sandwich,
    space: Space,
    num_classes: int,
    predictor: Path | str | None,
    budgets: Sequence[float | str],
    seed: int,
) -> Sampler:
    """Any subnet of the space, or those near a device's budgets.

    Args:
        predictor: file of the device's latency predictor; needed for `sampling: budgets` alone.
        budgets: of its SEQnets, as in params.yaml.
        seed: of the subnets whose latencies percentages refer to, as in the subnet search.
    """
    if sandwich.sampling == "uniform":
        return uniform(space)
    latency = read_own_predictor(Path(predictor or ""))
    budgets_ms = resolve_budgets(budgets, latency, space.hyperspace, num_classes, seed)

    @lru_cache(maxsize=CACHED)
    def latency_ms(subnet: Subnet) -> float:
        return latency.predict_subnet(space, subnet, num_classes).latency_ms

    return near_budgets(space, latency_ms, budgets_ms, sandwich.candidates)
