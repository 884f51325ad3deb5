"""Which random subnets the sandwich rule takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from spaceevo.space import Space, Subnet, sample_subnet

Sampler = Callable[[np.random.Generator], Subnet]


def uniform(space: Space) -> Sampler:
    """Any subnet of the space."""
    return partial(sample_subnet, space)


def near_budgets(
    space: Space, latency_ms: Callable[[Subnet], float], budgets_ms: Sequence[float], candidates: int
) -> Sampler:
    """Subnets about as slow as the budgets that SEQnets are searched for, so that training serves those most.

    One budget is drawn, then `candidates` subnets, of which the nearest to it in latency is taken. In the manner of
    AttentiveNAS (Wang et al. 2021), which draws a target of MACs, and ElasticViT (Tang et al. 2023).
    """

    def sample(rng: np.random.Generator) -> Subnet:
        budget = budgets_ms[int(rng.integers(len(budgets_ms)))]
        drawn = [sample_subnet(space, rng) for _ in range(candidates)]
        return min(drawn, key=lambda subnet: abs(latency_ms(subnet) - budget))

    return sample
