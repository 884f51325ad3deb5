"""The best space of all: branch and bound over the stages of a space.

A space's score is bounded from above stage by stage. Let the best subnets within a budget T be a part of probability m
of all of a space's subnets. Among all parts of probability m, relative entropy to the whole is at most log(1/m), and so
(Donsker and Varadhan's variational formula) for any β, γ ≥ 0 their mean loss is

    q ≥ −(log E[e^(−β · loss − γ · latency)] + log(1/m) + γ · T) / β,

where the expectation is over all subnets. Likewise the share within T is p ≤ E[e^(−γ · latency)] · e^(γ · T). Both
expectations are products over stages, or of matrices where widths must agree, so that the best continuation of a
partial space is bounded by a recursion from the last stage backwards. What no bound excludes is scored.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from spaceevo.config import QTSettings
from spaceevo.progress import progress
from spaceevo.search.lut import AccuracyLut, Floats, StageKey
from spaceevo.search.score import Scorer, SpaceScore, quality
from spaceevo.space import Space, count_spaces

CHUNK = 2048  # partial spaces that are continued at once
LOG_RANGE = (-9.0, 9.0)  # of β and γ


@dataclass(frozen=True)
class Certificate:
    """What a search through all spaces found.

    Attributes:
        space: the best of all, up to the numerical error of its score.
        spaces: how many there are.
        scored: how many of them no bound excluded.
    """

    space: Space
    score: SpaceScore
    spaces: int
    scored: int


def best_space(scorer: Scorer, good: Space, block_types: Sequence[int] | None = None) -> Certificate:
    """The best space of the scorer's table that has subnets within every budget.

    Args:
        good: a space to start from; the better it is, the more is excluded without being scored.
        block_types: those that spaces may have; None: all.
    """
    allowed = scorer.lut.hyperspace.type_indices(block_types)
    bounds = [_Bound(scorer.lut, budget, scorer.settings, good, allowed) for budget in scorer.budgets_ms]
    best, best_score = good, scorer(good)
    hyperspace = scorer.lut.hyperspace
    spaces, scored, behind = count_spaces(hyperspace, allowed), 0, 0
    tightest = int(np.argmin(scorer.budgets_ms))
    search = _search(scorer.lut, bounds)
    next(search)
    with progress("exact search of spaces", spaces) as tick:
        while behind < spaces:
            candidates, behind = search.send(best_score.score)
            for choice in candidates:
                searched = [key for key in choice if not isinstance(key, str)]
                space = Space(hyperspace, tuple(key[1] for key in searched), tuple(key[2] for key in searched))
                found = scorer(space)
                scored += 1
                if found.score > best_score.score and math.isfinite(found.losses[tightest]):
                    best, best_score = space, found
            tick(behind, f"{scored} scored, best score {best_score.score:.5f}")
    return Certificate(best, best_score, spaces, scored)


class _Tilt:
    """E[e^(−β · loss − γ · latency)] of everything that can be within a budget, for whole and for partial spaces.

    Losses count from `least_loss`, the least sum there is, so that nothing underflows that matters.

    Attributes:
        matrices: per stage, float64 [options, widths arriving, widths leaving, resolutions].
        ahead: per stage, the same times the most that can follow; [options, widths arriving, resolutions].
    """

    def __init__(self, lut: AccuracyLut, options: Sequence[Sequence[StageKey]], budget_ms: float) -> None:
        self.lut = lut
        self.options = options
        self.widths = [stage.in_widths for stage in lut.extents]
        self.least_loss = [stage.least_loss for stage in lut.extents]
        least_ms = [stage.least_ms for stage in lut.extents]
        self.budget_ms = budget_ms
        self.room_ms = [budget_ms - sum(least_ms) + least - min(lut.head_ms.values()) for least in least_ms]

    def fit(self, beta: float, gamma: float) -> None:
        """Compute everything for one β and γ."""
        self.matrices = [
            np.stack([self._matrix(position, key, beta, gamma) for key in keys])
            for position, keys in enumerate(self.options)
        ]
        self.ahead: list[Floats] = []
        after = np.ones((1, len(self.lut.resolutions)))
        for matrices in reversed(self.matrices):
            self.ahead.insert(0, np.einsum("kior,or->kir", matrices, after))
            after = self.ahead[0].max(axis=0)

    def log_of(self, choice: Sequence[StageKey], beta: float, gamma: float) -> float:
        """The logarithm of the expectation for one whole space."""
        vector = np.ones((1, len(self.lut.resolutions)))
        for position, key in enumerate(choice):
            vector = np.einsum("ir,ior->or", vector, self._matrix(position, key, beta, gamma))
        return float(np.log(max(vector[0].mean(), 1e-300)))

    def _matrix(self, position: int, key: StageKey, beta: float, gamma: float) -> Floats:
        last = position == len(self.options) - 1
        leaving = (0,) if last else self.widths[position + 1]
        matrix = np.zeros((len(self.widths[position]), len(leaving), len(self.lut.resolutions)))
        table = self.lut.table(key)
        for r, resolution in enumerate(self.lut.resolutions):
            for i, in_width in enumerate(self.widths[position]):
                part = table[resolution, in_width]
                head_ms = [self.lut.head_ms[resolution, int(w)] for w in part.out_width] if last else 0.0
                near = part.latency_ms <= self.room_ms[position]
                exponent = -beta * (part.loss - self.least_loss[position]) - gamma * (part.latency_ms + head_ms)
                weight = np.where(near, np.exp(exponent), 0.0) / len(part.loss)
                for o, width in enumerate(leaving):
                    matrix[i, o, r] = weight.sum() if last else weight[part.out_width == width].sum()
        return matrix


class _Bound:
    """An upper bound on what one budget adds to the score of a space; as tight as it gets for a good space."""

    def __init__(
        self, lut: AccuracyLut, budget_ms: float, settings: QTSettings, good: Space, allowed: Sequence[int]
    ) -> None:
        self.settings = settings
        self.budget_ms = budget_ms
        self.mass = min(1.0, settings.top / settings.samples)
        choice = lut.keys(good)
        options = [(key,) if isinstance(key, str) else _options(lut, key[0], allowed) for key in choice]
        self.loss, self.share = (_Tilt(lut, options, budget_ms) for _ in range(2))
        self.least_loss = sum(self.loss.least_loss)
        found = minimize(
            lambda x: -self._loss(self.loss.log_of(choice, *np.exp(x)), np.exp(x[0]), np.exp(x[1]), self.mass),
            np.log([10.0 / max(self.least_loss, 1e-3), 10.0 / budget_ms]),
            method="Nelder-Mead",
            bounds=[LOG_RANGE, LOG_RANGE],
        )
        self.beta, self.gamma = np.exp(found.x)
        found = minimize(
            lambda x: self.share.log_of(choice, 0.0, *np.exp(x)) + float(np.exp(x[0])) * budget_ms,
            np.log([10.0 / budget_ms]),
            method="Nelder-Mead",
            bounds=[LOG_RANGE],
        )
        self.share_gamma = float(np.exp(found.x[0]))
        self.loss.fit(self.beta, self.gamma)
        self.share.fit(0.0, self.share_gamma)

    @property
    def tilts(self) -> tuple[_Tilt, _Tilt]:
        return self.loss, self.share

    def _loss(self, log_expectation: Floats | float, beta: float, gamma: float, mass: Floats | float) -> Any:
        """The least mean loss that a part of probability `mass` can have."""
        return self.least_loss - (log_expectation - np.log(mass) + gamma * self.budget_ms) / beta

    def upper(self, loss_expectation: Floats, share_expectation: Floats) -> Floats:
        """The most that the budget can add, from upper bounds of the expectations (any shape).

        The least loss of the best rises with p up to the mass looked for, and the punishment falls with p up to the
        target share. Between these points the logarithm of the bound is convex in log(1/p), so that its maximum is at
        one of them or at an end.
        """
        with np.errstate(divide="ignore"):
            log_loss, log_share = np.log(loss_expectation), np.log(share_expectation)
        share = np.minimum(1.0, np.exp(log_share + self.share_gamma * self.budget_ms))
        fewest = 1.0 / self.settings.samples
        most = np.zeros_like(share)
        most_likely = np.maximum(share, fewest)
        for point in (1.0, self.settings.target_share, self.mass, fewest):
            end = np.clip(point, fewest, most_likely)
            loss = self._loss(log_loss, self.beta, self.gamma, np.minimum(end, self.mass))
            punishment = np.maximum(1.0, (self.settings.target_share / end) ** self.settings.exponent)
            with np.errstate(over="ignore"):  # an infinite bound excludes nothing
                most = np.maximum(most, quality(loss, self.settings) / punishment)
        return np.where(share < fewest, 0.0, most)


def _options(lut: AccuracyLut, index: int, allowed: Sequence[int]) -> tuple[StageKey, ...]:
    """What a searched stage can be, over all spaces of these block types."""
    return tuple(sorted(key for key in lut.searched if key[0] == index and key[1] in allowed))


def _search(
    lut: AccuracyLut, bounds: Sequence[_Bound]
) -> Generator[tuple[list[tuple[StageKey, ...]], int], float, None]:
    """Depth first through all spaces; sent the best score so far, yields spaces that may be better.

    With them comes how many spaces lie behind, scored or excluded. The first yield is empty.

    A partial space is the options of its first stages, and for each tilt the product of their matrices.
    """
    options = bounds[0].loss.options
    tilts = [tilt for bound in bounds for tilt in bound.tilts]
    whole = [math.prod(len(keys) for keys in options[depth:]) for depth in range(len(options) + 1)]
    start = np.zeros((1, len(tilts[0].widths[0]), len(lut.resolutions)))
    start[:, 0] = 1.0
    stack = [(np.zeros((1, 0), dtype=np.intp), [start] * len(tilts))]
    behind = 0
    least = yield [], behind
    while stack:
        choices, products = stack.pop()
        depth = choices.shape[1]
        expectations = [
            np.einsum("nir,kir->nk", product, tilt.ahead[depth]) / len(lut.resolutions)
            for product, tilt in zip(products, tilts, strict=True)
        ]
        pairs = zip(expectations[::2], expectations[1::2], strict=True)
        upper = np.sum([bound.upper(*pair) for bound, pair in zip(bounds, pairs, strict=True)], axis=0)
        parents, picks = np.nonzero(upper > least)
        behind += (upper.size - len(parents)) * whole[depth + 1]
        children = np.concatenate([choices[parents], picks[:, None]], axis=1)
        found: list[tuple[StageKey, ...]] = []
        if depth + 1 == len(options):
            behind += len(children)
            found = [tuple(keys[pick] for keys, pick in zip(options, child, strict=True)) for child in children]
        else:
            for begin in range(0, len(children), CHUNK):
                part = slice(begin, begin + CHUNK)
                moved = [
                    np.einsum("nir,nior->nor", product[parents[part]], tilt.matrices[depth][picks[part]])
                    for product, tilt in zip(products, tilts, strict=True)
                ]
                stack.append((children[part], moved))
        least = yield found, behind
