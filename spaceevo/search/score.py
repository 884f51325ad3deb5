"""The Q-T score: how quantization-friendly a space is under latency budgets (SpaceEvo, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spaceevo.config import QTSettings
from spaceevo.search.lut import AccuracyLut, Floats, StageTable
from spaceevo.space import Space


@dataclass(frozen=True)
class SpaceScore:
    """A space's score, and for each budget the share of samples within it and the mean loss of the best of them.

    `losses` holds infinity, and the budget adds nothing to the score, where no sample is within the budget.
    """

    score: float
    shares: tuple[float, ...]
    losses: tuple[float, ...]


def score_space(
    lut: AccuracyLut, space: Space, budgets_ms: Sequence[float], settings: QTSettings, seed: int
) -> SpaceScore:
    """Score a space on sampled subnets whose widths agree: a stage reads what the one before it writes.

    The samples depend on the seed and the space's code alone, not on what was scored before.
    """
    rng = np.random.default_rng([seed, *space.block_types, *space.windows])
    loss, latency_ms = sample_losses(lut, space, settings.samples, rng)
    return qt_score(loss, latency_ms, budgets_ms, settings)


def qt_score(loss: Floats, latency_ms: Floats, budgets_ms: Sequence[float], settings: QTSettings) -> SpaceScore:
    """Σ over budgets of 1 / (max(1, (t / p)^a) · q), q the mean loss of the best within the budget, p their share.

    Args:
        loss, latency_ms: of each sampled subnet, [samples].
    """
    score, shares, losses = 0.0, [], []
    for budget in budgets_ms:
        within = loss[latency_ms <= budget]
        share = len(within) / len(loss)
        best = np.partition(within, settings.top)[: settings.top] if len(within) > settings.top else within
        mean = float(best.mean()) if len(best) else float("inf")
        if len(best):
            score += 1.0 / (max(1.0, (settings.target_share / share) ** settings.exponent) * mean)
        shares.append(share)
        losses.append(mean)
    return SpaceScore(score, tuple(shares), tuple(losses))


def sample_losses(lut: AccuracyLut, space: Space, samples: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Summed loss and latency in ms of `samples` random subnets, resolutions in equal parts; two arrays [samples]."""
    parts = [
        _sample_at(lut, space, resolution, len(part), rng)
        for resolution, part in zip(
            lut.resolutions, np.array_split(np.arange(samples), len(lut.resolutions)), strict=True
        )
    ]
    return np.concatenate([loss for loss, _ in parts]), np.concatenate([latency for _, latency in parts])


def _sample_at(
    lut: AccuracyLut, space: Space, resolution: int, samples: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    loss, latency = np.zeros(samples), np.zeros(samples)
    width = np.full(samples, -1)
    searched = iter(zip(range(len(space.windows)), space.block_types, space.windows, strict=True))
    for number, stage in enumerate(space.hyperspace.body):
        table: StageTable = lut.searched[next(searched)] if stage.searched else lut.fixed[stage.name]
        if number == 0:
            width[:] = next(in_width for _, in_width in table)
        next_width = np.empty_like(width)
        for in_width in np.unique(width):
            members = np.flatnonzero(width == in_width)
            candidates = table[resolution, int(in_width)]
            drawn = rng.integers(len(candidates.loss), size=len(members))
            loss[members] += candidates.loss[drawn]
            latency[members] += candidates.latency_ms[drawn]
            next_width[members] = candidates.out_width[drawn]
        width = next_width
    for out_width in np.unique(width):
        latency[width == out_width] += lut.head_ms[resolution, int(out_width)]
    return loss, latency
