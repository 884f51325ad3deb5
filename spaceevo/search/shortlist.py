"""Who wins within a budget, decided on more images than the search went through.

The best of many is the best by luck as well, by as much as accuracy scatters over the images it is measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from spaceevo.config import ShortlistSettings
from spaceevo.parallel import Mapper
from spaceevo.progress import progress
from spaceevo.search.subnets import Found, best_within
from spaceevo.space import Subnet


@dataclass(frozen=True)
class Shortlist:
    """How the most accurate subnets within a budget are judged once more.

    Attributes:
        size: how many, per budget; with 0 the search's own accuracy decides.
        accuracy: as the search's, but of more images.
    """

    size: int
    accuracy: Callable[[Subnet], float]


def shortlist_of(settings: ShortlistSettings, accuracy_on: Callable[[int], Callable[[Subnet], float]]) -> Shortlist:
    """The shortlist that the parameters ask for; `accuracy_on` gives the accuracy on so many images."""
    return Shortlist(settings.subnets, accuracy_on(settings.val_images))


def judge_shortlists(
    ranked: Sequence[Sequence[Found]],
    table: pd.DataFrame,
    budgets_ms: Sequence[float],
    shortlist: Shortlist,
    mapper: Mapper = map,
) -> tuple[list[list[Found]], pd.DataFrame]:
    """Judge the first within each budget once more, each subnet once.

    Args:
        ranked: what was found within each budget, the best first, and every evaluated subnet, as
            `spaceevo.search.subnets.search_subnets` returns them.
        mapper: applies `shortlist.accuracy`.

    Returns:
        What was found within each budget: those of its shortlist in their new order, with the new accuracies, and then
        the others as they were. And the table with shortlist_accuracy, NaN for those on no shortlist.
    """
    subnets = {found.subnet.code: found.subnet for within in ranked for found in within[: shortlist.size]}
    judged: dict[str, float] = {}
    with progress("shortlist", len(subnets)) as tick:
        for code, accuracy in zip(subnets, mapper(shortlist.accuracy, subnets.values()), strict=True):
            judged[code] = accuracy
            tick(len(judged), f"best accuracy {max(judged.values()):.4f}")
    again = [
        [*best_within(_judged(within[: shortlist.size], judged), budget), *within[shortlist.size :]]
        for within, budget in zip(ranked, budgets_ms, strict=True)
    ]
    return again, table.assign(shortlist_accuracy=table["code"].map(judged).astype("float64"))


def _judged(listed: Sequence[Found], judged: Mapping[str, float]) -> list[Found]:
    return [replace(found, accuracy=judged[found.subnet.code]) for found in listed]
