"""Aging evolution of spaces guided by the Q-T score (Real et al. 2019; SpaceEvo, section 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from spaceevo.config import EvolutionSettings
from spaceevo.errors import BudgetError
from spaceevo.progress import progress
from spaceevo.search.lut import smallest_latency
from spaceevo.search.score import Scorer, SpaceScore
from spaceevo.space import Hyperspace, Space, count_spaces, mutate_space, sample_space

TRIES = 200  # at a space that was not evaluated before


def evolve_space(scorer: Scorer, settings: EvolutionSettings, seed: int) -> tuple[Space, pd.DataFrame]:
    """The best space found that has subnets within every budget, and one row per evaluation.

    No space is evaluated twice; the run ends early where the hyperspace has no more of the settings' block types.

    Returns:
        The space, and columns evaluation, code, parent ("" for random ones), score, best_score, and for each budget i
        share_i and loss_i.

    Raises:
        BudgetError: no evaluated space has a subnet within the smallest budget, to speak of.
    """
    lut, budgets_ms = scorer.lut, scorer.budgets_ms
    rng = np.random.default_rng(seed)
    seen: dict[str, tuple[Space, SpaceScore]] = {}
    spaces: list[Space] = []  # the last of them are the population
    rows: list[dict[str, str | int | float]] = []
    best = 0.0
    block_types = lut.hyperspace.types_without(settings.leave_out)
    evaluations = min(settings.evaluations, count_spaces(lut.hyperspace, block_types))
    scores = np.zeros(evaluations)
    with progress("evolution of spaces", evaluations) as tick:
        while len(seen) < evaluations:
            parent = None
            oldest = len(spaces) - settings.population
            if oldest >= 0:
                sample = min(settings.parent_sample, settings.population)
                drawn = oldest + rng.choice(settings.population, sample, replace=False)
                parent = spaces[drawn[np.argmax(scores[drawn])]]
            space = _unseen(lut.hyperspace, block_types, parent, seen, rng)
            if space is None:
                break
            scored = scorer(space)
            seen[space.code] = space, scored
            scores[len(spaces)] = scored.score
            spaces.append(space)
            best = max(best, scored.score)
            rows.append(_row(len(rows), space, parent, scored, best))
            tick(len(seen), f"best score {best:.4f}")
    smallest = int(np.argmin(budgets_ms))
    able = [pair for pair in seen.values() if math.isfinite(pair[1].losses[smallest])]
    if not able:
        raise BudgetError(
            f"Next to no subnet of {len(seen)} spaces is within the budget of {min(budgets_ms):g} ms: the smallest "
            f"latency reachable is about {smallest_latency(lut):.4g} ms; raise the space budgets."
        )
    winner, _ = max(able, key=lambda pair: pair[1].score)
    return winner, pd.DataFrame(rows)


def _unseen(
    hyperspace: Hyperspace,
    block_types: Sequence[int],
    parent: Space | None,
    seen: Mapping[str, object],
    rng: np.random.Generator,
) -> Space | None:
    """A new child of `parent` (or random space); after many tries a longer walk from it; None if nothing is left."""
    space = parent
    for _ in range(TRIES):
        if parent is None:
            space = sample_space(hyperspace, rng, block_types)
        else:
            space = mutate_space(space or parent, rng, block_types)
        if space.code not in seen:
            return space
        if parent is not None and rng.random() < 0.5:
            space = parent
    for _ in range(TRIES):
        space = sample_space(hyperspace, rng, block_types)
        if space.code not in seen:
            return space
    return None


def _row(
    number: int, space: Space, parent: Space | None, scored: SpaceScore, best: float
) -> dict[str, str | int | float]:
    row: dict[str, str | int | float] = {
        "evaluation": number,
        "code": space.code,
        "parent": "" if parent is None else parent.code,
        "score": scored.score,
        "best_score": best,
    }
    for i, (share, loss) in enumerate(zip(scored.shares, scored.losses, strict=True)):
        row |= {f"share_{i}": share, f"loss_{i}": loss}
    return row
