"""The Q-T score: how quantization-friendly a space is under latency budgets (SpaceEvo, section 4).

The score is defined by sampling: draw `samples` subnets of a space; p is the share of them within the budget T, q the
mean loss of the best `top` of those; the score is Σ over budgets of Q(q) / max(1, (t / p)^a). The published quality Q
is 1 / q. It depends on what level losses are at: where they are small, the fast budgets hardly count. By odds, Q is
e^(-λq), λ the log-odds of an error for a unit of loss: the odds of being right against those of a lossless subnet.

Nothing is drawn here. With many samples, q tends to the mean loss of the part within T of least loss whose probability
is top / samples (of everything within T, where that is less probable), so that p and q follow from the joint
distribution of loss and latency. A stage's candidates are equally likely, resolutions too. Small tables are enumerated,
large ones summed in Fourier space (`spaceevo.search.spectra`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from spaceevo.config import QTSettings
from spaceevo.search.lut import LOG_ODDS_PER_LOSS, AccuracyLut, Floats, Integers, smallest_latency
from spaceevo.search.spectra import Complexes, SparseSpectrum, Spectrum
from spaceevo.space import Space, sample_space

NEARNESS = 4.0  # of the rooms of budgets that share a spectrum
ERROR_CHECKS = 5  # random spaces on which the error is measured
LEAST_ERROR = 1e-5  # relative, stated at least
LEAST_LOSS = 1e-9  # whose inverse counts for what is below: bounds of losses can be negative
MAX_ENUMERATED = 20_000  # combinations of candidates per space, over all resolutions


@dataclass(frozen=True)
class SpaceScore:
    """A space's score, and for each budget the probability of being within it and the mean loss of the best there.

    Attributes:
        losses: infinity, and the budget adds nothing to the score, where fewer than one of the samples that the
            score is defined by would be within the budget.
        standard_error: numerical error of the score, against sums of twice the resolution (root mean square over
            random spaces of the same table); 0 where the table was enumerated.
    """

    score: float
    shares: tuple[float, ...]
    losses: tuple[float, ...]
    standard_error: float = 0.0


class Scorer(Protocol):
    """Scores spaces of one table under one device's budgets."""

    lut: AccuracyLut
    budgets_ms: tuple[float, ...]
    settings: QTSettings

    def __call__(self, space: Space) -> SpaceScore: ...


def make_scorer(lut: AccuracyLut, budgets_ms: Sequence[float], settings: QTSettings, seed: int) -> Scorer:
    """The scorer for a table: by enumeration where no space has more than `MAX_ENUMERATED` combinations, else spectral.

    The seed draws the random spaces on which the spectral scorer measures its numerical error.
    """
    if most_combinations(lut) <= MAX_ENUMERATED:
        return EnumeratingScorer(lut, tuple(budgets_ms), settings)
    return SpectralScorer(lut, tuple(budgets_ms), settings, seed)


def most_combinations(lut: AccuracyLut) -> float:
    """An upper bound on the number of combinations of candidates that a space of the table has."""
    total = 0.0
    for resolution in lut.resolutions:
        product = 1.0
        for tables in lut.alternatives():
            product *= max(len(part.loss) for table in tables for (r, _), part in table.items() if r == resolution)
        total += product
    return total


def quality(loss: Floats | float, settings: QTSettings) -> Any:
    """What mean losses within a budget are worth; the larger, the better. Of the losses' shape."""
    if settings.quality == "odds":
        return np.exp(-LOG_ODDS_PER_LOSS * np.asarray(loss))
    return 1.0 / np.maximum(loss, LEAST_LOSS)


def qt_score(
    shares: Sequence[float], losses: Sequence[float], settings: QTSettings, relative_error: float = 0.0
) -> SpaceScore:
    """The score of a space from its share p and mean loss q for each budget."""
    score = 0.0
    kept = []
    for share, loss in zip(shares, losses, strict=True):
        reached = share * settings.samples >= 1.0
        if reached:
            score += float(quality(loss, settings)) / max(1.0, (settings.target_share / share) ** settings.exponent)
        kept.append(float(loss) if reached else math.inf)
    shares = tuple(float(share) for share in shares)
    return SpaceScore(score, shares, tuple(kept), score * relative_error)


def best_of(loss: Floats, probability: Floats, mass: float) -> float:
    """Mean loss of the part of least loss that has probability `mass`, or of everything where that is less."""
    order = np.argsort(loss, kind="stable")
    loss, probability = loss[order], probability[order]
    before = np.cumsum(probability) - probability
    counted = np.clip(mass - before, 0.0, probability)
    return float(loss @ counted / counted.sum()) if len(loss) else math.inf


class EnumeratingScorer:
    """Goes through every combination of the candidates of a space."""

    def __init__(self, lut: AccuracyLut, budgets_ms: tuple[float, ...], settings: QTSettings) -> None:
        self.lut = lut
        self.budgets_ms = budgets_ms
        self.settings = settings

    def __call__(self, space: Space) -> SpaceScore:
        loss, latency_ms, probability = combinations(self.lut, space)
        shares, losses = [], []
        for budget in self.budgets_ms:
            within = latency_ms <= budget
            shares.append(float(probability[within].sum()))
            losses.append(best_of(loss[within], probability[within], self.settings.top / self.settings.samples))
        return qt_score(shares, losses, self.settings)


def combinations(lut: AccuracyLut, space: Space) -> tuple[Floats, Floats, Floats]:
    """Loss, latency in ms and probability of every combination of candidates of a space; float64 [combinations]."""
    parts = [_combinations_at(lut, space, resolution) for resolution in lut.resolutions]
    loss, latency_ms, probability = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return loss, latency_ms, probability / len(lut.resolutions)


def _combinations_at(lut: AccuracyLut, space: Space, resolution: int) -> tuple[Floats, Floats, Floats]:
    tables = [lut.table(key) for key in lut.keys(space)]
    width: Integers = np.array([next(in_width for _, in_width in tables[0])])
    loss, latency_ms, probability = np.zeros(1), np.zeros(1), np.ones(1)
    for table in tables:
        grown = []
        for in_width in np.unique(width):
            here = width == in_width
            candidates = table[resolution, int(in_width)]
            count = len(candidates.loss)
            grown.append(
                (
                    np.add.outer(loss[here], candidates.loss).ravel(),
                    np.add.outer(latency_ms[here], candidates.latency_ms).ravel(),
                    np.repeat(probability[here] / count, count),
                    np.tile(candidates.out_width, int(here.sum())),
                )
            )
        loss, latency_ms, probability, width = (np.concatenate(arrays) for arrays in zip(*grown, strict=True))
    head_ms = np.array([lut.head_ms[resolution, int(out_width)] for out_width in width])
    return loss, latency_ms + head_ms, probability


class SpectralScorer:
    """Sums the distributions of a space's stages in Fourier space."""

    def __init__(self, lut: AccuracyLut, budgets_ms: tuple[float, ...], settings: QTSettings, seed: int) -> None:
        self.lut = lut
        self.budgets_ms = budgets_ms
        self.settings = settings
        rng = np.random.default_rng(seed)
        mass = settings.top / settings.samples
        self._groups = _groups(lut, budgets_ms)
        spectra = [SparseSpectrum(lut, [budgets_ms[i] for i in group], mass, rng) for group in self._groups]
        finer = [Spectrum(lut, [budgets_ms[i] for i in group], mass, fineness=2) for group in self._groups]
        self._spectra = spectra
        self.relative_error = 0.0
        errors = [LEAST_ERROR]
        for space in [sample_space(lut.hyperspace, rng) for _ in range(ERROR_CHECKS)]:
            reference = self._score(finer, [spectrum.whole_transform(space) for spectrum in finer]).score
            if reference:
                errors.append(2.0 * (self(space).score / reference - 1.0))  # errors of first order halve there
        self.relative_error = float(np.sqrt(np.sum(np.square(errors)) / max(1, len(errors) - 1)))

    def __call__(self, space: Space) -> SpaceScore:
        return self._score(self._spectra, [spectrum.transform(space) for spectrum in self._spectra])

    def _score(self, spectra: Sequence[Spectrum], transforms: Sequence[Complexes]) -> SpaceScore:
        shares, losses = np.zeros(len(self.budgets_ms)), np.zeros(len(self.budgets_ms))
        for group, spectrum, transform in zip(self._groups, spectra, transforms, strict=True):
            shares[group], losses[group] = spectrum.best_within(transform)
        return qt_score(shares.tolist(), losses.tolist(), self.settings, self.relative_error)


def _groups(lut: AccuracyLut, budgets_ms: Sequence[float]) -> list[list[int]]:
    """Which budgets share a spectrum: those within a factor of `NEARNESS` beyond the least latency there is."""
    rooms = np.array(budgets_ms) - smallest_latency(lut)
    groups: list[list[int]] = []
    for index in np.argsort(rooms):
        if groups and rooms[index] <= NEARNESS * max(rooms[groups[-1][0]], 0.0):
            groups[-1].append(int(index))
        else:
            groups.append([int(index)])
    return groups
