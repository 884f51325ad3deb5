"""Latency budgets: milliseconds, or a percentage that means something on any device."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from spaceevo.errors import ParamsError
from spaceevo.latency.predictor import Predictor
from spaceevo.space import Hyperspace, sample_space, sample_subnet

SAMPLES = 2000


def resolve_budgets(
    budgets: Sequence[float | str], predictor: Predictor, hyperspace: Hyperspace, num_classes: int, seed: int
) -> tuple[float, ...]:
    """Budgets in milliseconds, ascending.

    Args:
        budgets: numbers in milliseconds, or percentages such as "30%": the latency that 30 % of random subnets of
            random spaces of the hyperspace meet, as predicted.

    Raises:
        ParamsError: a budget is neither a positive number nor a percentage between 0 % and 100 %, two are equal, or
            there is none.
    """
    if not budgets:
        raise ParamsError("There is no latency budget: give at least one, in milliseconds or as a percentage.")
    quantiles = {budget: _fraction(budget) for budget in budgets if isinstance(budget, str)}
    for budget in budgets:
        if not isinstance(budget, str) and not 0 < budget < float("inf"):
            raise ParamsError(f"The latency budget {budget} is not a positive number of milliseconds.")
    latencies = sampled_latencies(predictor, hyperspace, num_classes, seed) if quantiles else np.empty(0)
    resolved = sorted(
        round(float(np.quantile(latencies, quantiles[budget])), 6) if isinstance(budget, str) else float(budget)
        for budget in budgets
    )
    for faster, slower in pairwise(resolved):
        if faster == slower:
            raise ParamsError(f"Two latency budgets are both {faster:g} ms: leave one out of {list(budgets)}.")
    return tuple(resolved)


def sampled_latencies(
    predictor: Predictor, hyperspace: Hyperspace, num_classes: int, seed: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """float64 [SAMPLES]: predicted milliseconds of random subnets, each of a random space."""
    rng = np.random.default_rng(seed)
    latencies = np.empty(SAMPLES)
    for i in range(SAMPLES):
        space = sample_space(hyperspace, rng)
        latencies[i] = predictor.predict_subnet(space, sample_subnet(space, rng), num_classes).latency_ms
    return latencies


def _fraction(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*%\s*", text)
    if match is None or not 0 < float(match[1]) < 100:
        raise ParamsError(
            f"The latency budget {text!r} is neither a number of milliseconds nor a percentage between 0% and 100%, "
            'such as "30%".'
        )
    return float(match[1]) / 100
