"""The joint distribution of a space's loss and latency, summed over its stages in Fourier space.

A subnet's loss and latency are sums over stages, so their characteristic function is a product, stage by stage: with
widths that must agree, a product of small matrices, from the width that arrives to the width that leaves. Each
stage's matrices are computed once and serve every space that has the stage. What a score needs, the loss of everything
within a latency budget, is a linear functional of the product, so no distribution is ever transformed back in two
dimensions, and a few thousand frequencies suffice: the sum of many stages is smooth.

Latencies live on a circle somewhat longer than the largest budget. Weighting them by e^(−λ · latency) while summing
makes what lies beyond, and comes round, negligible (the damping of Abate and Whitt's numerical inversion of
transforms, 1992).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from spaceevo.search.lut import ANY, AccuracyLut, Floats, StageKey
from spaceevo.space import Hyperspace, Space, sample_space

Complexes = npt.NDArray[np.complex128]
# Some pairs of frequencies: ascending indices into [loss frequencies, latency frequencies], flattened.
Pairs = npt.NDArray[np.intp]

LOSS_FREQUENCIES, LATENCY_FREQUENCIES = 64, 64  # of loss 0 … 63, of latency −64 … 64
MOST_FREQUENCIES = 2560  # kept of all pairs
TOLERANCE = 0.02  # pairs that contribute less than this share of the mass looked for are left out
SENTINELS = 128  # of the pairs left out, how many are computed to tell where they would have mattered
MOST_LEFT_OUT = 0.2  # estimated sum of what is left out, as a share of the mass looked for, from which on it is counted
LOG_DAMPING = 11.5  # by how much, as a logarithm, a latency that comes round counts less
MARGIN = 1.2  # of a circle to what lies on it, so that the edges of one end do not reach the other
REMEMBERED = 256  # products of stages: some 80 MB for the published tables
RANDOM_CHECKS = 8  # random spaces on which frequencies are chosen, besides uniform ones
LOSS_POINTS = 1024  # at which the distribution of the loss is evaluated


class Spectrum:
    """Transforms of the loss within each budget, for the spaces of one table, from all pairs of frequencies.

    Args:
        budgets_ms: of one order of magnitude, since they share a circle.
        mass: probability of the part of least loss that `best_within` looks for.
        fineness: 2 has twice the frequencies and points, and more damping: slow, and a measure of the errors of 1.
    """

    def __init__(self, lut: AccuracyLut, budgets_ms: Sequence[float], mass: float, fineness: int = 1) -> None:
        self.lut = lut
        self.mass = mass
        self.fineness = fineness
        self._latest = LATENCY_FREQUENCIES * fineness
        self._loss_count = LOSS_FREQUENCIES * fineness
        self._in_widths = [stage.in_widths for stage in lut.extents]
        self._least_loss = [stage.least_loss for stage in lut.extents]
        self._least_ms = [stage.least_ms for stage in lut.extents]
        self._least_ms[-1] += min(lut.head_ms.values())
        most_ms = sum(stage.most_ms for stage in lut.extents) + max(lut.head_ms.values())
        self._room_ms = np.minimum(budgets_ms, most_ms) - sum(self._least_ms)
        widest = sum(stage.most_loss for stage in lut.extents) - sum(self._least_loss)
        self._period_loss = MARGIN * widest or 1.0
        self._period_ms = MARGIN * max(float(self._room_ms.max()), 1e-6)
        self._damping = LOG_DAMPING * (1.0 if fineness == 1 else 1.4) / self._period_ms
        latency = np.arange(-self._latest, self._latest + 1)
        self._latency_angles = 2j * np.pi / self._period_ms * latency
        self._functional = self._within(latency)
        self._everything = np.arange(self._functional[0].size)

    def whole_transform(self, space: Space) -> Complexes:
        """The transform from all pairs of frequencies; complex128 [budgets, loss frequencies]."""
        return np.asarray(self._whole(space).sum(axis=2))

    def _whole(self, space: Space) -> Complexes:
        """What each pair of frequencies adds to the transform; [budgets, loss, latency frequencies]."""
        keys = self.lut.keys(space)
        cells = [
            self._cells(position, key, self._everything, self.rows(position, keys)) for position, key in enumerate(keys)
        ]
        return np.asarray(product(cells).reshape(self._functional.shape[1:]) * self._functional)

    def best_within(self, transforms: Complexes) -> tuple[Floats, Floats]:
        """Probability of being within each budget, and mean loss of the best there; two arrays [budgets].

        The best are the part of least loss that has the probability `mass`, or everything where that is less.
        """
        points = LOSS_POINTS * self.fineness
        loss = np.arange(points) * (self._period_loss / points)
        mass = np.fft.irfft(transforms, points)
        moment = mass * loss
        reached, reached_moment = np.cumsum(mass, axis=1), np.cumsum(moment, axis=1)
        share = np.clip(transforms[:, 0].real, 0.0, 1.0)
        whole = np.divide(reached_moment[:, -1], share, out=np.zeros_like(share), where=share > 0)
        reached -= mass / 2  # up to each point
        reached_moment -= moment / 2
        end = np.minimum(points - np.argmax(reached[:, ::-1] < self.mass, axis=1), points - 1)
        around = np.arange(len(end)), end + np.array([[-1], [0]])
        (low, high), (low_moment, high_moment) = reached[around], reached_moment[around]
        inside = np.divide(self.mass - low, high - low, out=np.zeros_like(low), where=high > low)
        part = (low_moment + inside * (high_moment - low_moment)) / self.mass
        return share, np.where(reached[:, -1] >= self.mass, part, whole) + sum(self._least_loss)

    def _within(self, latency: npt.NDArray[np.int_]) -> Complexes:
        """Weights [budgets, loss frequencies, latency frequencies] whose sum with a product counts what is within.

        Its filter keeps the sharp edges of tables with few candidates from ringing, and leaves smooth ones as they are.
        """
        rate = self._latency_angles + self._damping
        room = np.maximum(self._room_ms, 0.0)[:, None]
        integral = (np.exp(rate * room) - 1.0) / rate / self._period_ms
        loss_filter = _filter(np.arange(self._loss_count) / self._loss_count)
        latency_filter = _filter(latency / (self._latest + 1))
        return np.asarray(integral[:, None, :] * latency_filter * loss_filter[:, None])

    def rows(self, position: int, keys: Sequence[StageKey]) -> slice:
        """Which of the widths that can arrive at a stage are those that the stage before it sends: a run of them."""
        if position == 0:
            return slice(0, 1)
        sent = self.lut.out_widths(keys[position - 1])
        first = self._in_widths[position].index(sent[0])
        return slice(first, first + len(sent))

    def _cells(self, position: int, key: StageKey, pairs: Pairs, rows: slice) -> Complexes:
        """A stage's matrices; complex128 [widths arriving, widths leaving, resolutions, pairs of frequencies]."""
        last = position == len(self._in_widths) - 1
        sent = (ANY,) if last else self.lut.out_widths(key)
        in_widths, resolutions = self._in_widths[position][rows], self.lut.resolutions
        parts = []
        for (i, in_width), (r, resolution) in itertools.product(enumerate(in_widths), enumerate(resolutions)):
            candidates = self.lut.table(key)[resolution, in_width]
            latency_ms = candidates.latency_ms - self._least_ms[position]
            leaving = np.searchsorted(sent, candidates.out_width)
            if last:
                latency_ms += [self.lut.head_ms[resolution, int(width)] for width in candidates.out_width]
                leaving = np.zeros_like(leaving)
            share = np.full(len(leaving), 1.0 / len(leaving))
            parts.append(((i * len(sent) + leaving) * len(resolutions) + r, share, candidates.loss, latency_ms))
        cell, share, loss, latency_ms = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.argsort(cell, kind="stable")
        order = order[latency_ms[order] <= self._period_ms]  # the others are beyond every budget whatever follows
        by_loss, by_latency = self._waves(share[order], loss[order] - self._least_loss[position], latency_ms[order])
        cells = np.zeros((len(in_widths) * len(sent) * len(resolutions), len(pairs)), dtype=np.complex128)
        ends = np.searchsorted(cell[order], np.arange(len(cells) + 1))
        for number, (start, end) in enumerate(itertools.pairwise(ends)):
            cells[number] = (by_loss[start:end].T @ by_latency[start:end]).take(pairs)
        return cells.reshape(len(in_widths), len(sent), len(resolutions), len(pairs))

    def _waves(self, share: Floats, loss: Floats, latency_ms: Floats) -> tuple[Complexes, Complexes]:
        """Factors whose product is what candidates add to a transform; two arrays [candidates, frequencies]."""
        by_loss = _powers(np.log(share), 2 * np.pi / self._period_loss * loss, self._loss_count)
        first = -(self._latency_angles[0] + self._damping) * latency_ms
        by_latency = _powers(first, 2 * np.pi / self._period_ms * latency_ms, len(self._latency_angles))
        return by_loss, by_latency


class SparseSpectrum(Spectrum):
    """The same from the pairs of frequencies that matter, with every stage's matrices computed once.

    Products of the first and of the last stages are remembered: a space that differs from another in one stage, as a
    mutation does, shares most of them.

    Args:
        rng: draws the random spaces that frequencies are chosen on.
    """

    def __init__(self, lut: AccuracyLut, budgets_ms: Sequence[float], mass: float, rng: np.random.Generator) -> None:
        super().__init__(lut, budgets_ms, mass)
        self._stages: dict[StageKey, Complexes] = {}
        self._products: dict[Hashable, Complexes] = {}  # in the order of their last use
        self._pairs, self._kept = self._choose(rng)
        self._weights = self._functional.reshape(len(self._functional), -1)[:, self._pairs]
        loss_index = self._pairs[: self._kept] // len(self._latency_angles)
        self._present, self._starts = np.unique(loss_index, return_index=True)
        self._left_out = len(self._everything) - self._kept

    def transform(self, space: Space) -> Complexes:
        """The transform of the loss of what is within each budget; complex128 [budgets, loss frequencies]."""
        weighted = self._total(self.lut.keys(space)) * self._weights
        found = np.zeros((len(weighted), self._loss_count), dtype=np.complex128)
        found[:, self._present] = np.add.reduceat(weighted[:, : self._kept], self._starts, axis=1)
        sentinels = weighted[:, self._kept :]
        left_out = np.sqrt((np.abs(sentinels) ** 2).sum(axis=1) * (self._left_out / max(1, sentinels.shape[1])))
        if (left_out > MOST_LEFT_OUT * self._wanted(found)).any():  # latencies that vary little need all frequencies
            return self.whole_transform(space)
        return found

    def _total(self, keys: Sequence[StageKey]) -> Complexes:
        """The product of the stages [frequencies]: that of the first half times that of the second.

        Where they meet is the same for all spaces, so that how a score is rounded depends on the space alone.
        """
        searched = [position for position, key in enumerate(keys) if not isinstance(key, str)]
        middle = searched[len(searched) // 2]
        arriving, following = self._before(middle, keys), self._after(middle, keys)
        return np.asarray(join(arriving, following).mean(axis=0))

    def _before(self, position: int, keys: Sequence[StageKey]) -> Complexes:
        """The product of the stages before a position; [widths leaving, resolutions, frequencies]."""
        if position == 0:
            return np.ones((1, 1, 1), dtype=np.complex128)
        return self._remembered(
            tuple(keys[:position]),
            lambda: join(
                self._before(position - 1, keys),
                self.stage(position - 1, keys[position - 1])[self.rows(position - 1, keys)],
            ),
        )

    def _after(self, position: int, keys: Sequence[StageKey]) -> Complexes:
        """The product of the stages from a position on; [widths arriving, resolutions, frequencies]."""
        rows = self.rows(position, keys)
        matrices = self.stage(position, keys[position])[rows]
        if position == len(keys) - 1:
            return matrices[:, 0]
        return self._remembered(
            (rows.start, rows.stop, *keys[position:]),
            lambda: join(self._after(position + 1, keys), matrices.swapaxes(0, 1)),
        )

    def _remembered(self, key: Hashable, compute: Callable[[], Complexes]) -> Complexes:
        """A product, computed unless it is one of the `REMEMBERED` that were used last."""
        found = self._products.pop(key, None)
        if found is None:
            found = compute()
            if len(self._products) >= REMEMBERED:
                del self._products[next(iter(self._products))]
        self._products[key] = found
        return found

    def _wanted(self, transforms: Complexes) -> Floats:
        """The mass looked for, or what there is of it, but not too little; [..., budgets]."""
        return np.clip(transforms[..., 0].real, 0.2 * self.mass, self.mass)

    def _choose(self, rng: np.random.Generator) -> tuple[Pairs, int]:
        """The pairs of frequencies that matter for various spaces and some others; and how many matter."""
        largest = np.zeros(self._functional.shape[1:])
        for space in _various(self.lut.hyperspace, rng):
            parts = self._whole(space)
            wanted = self._wanted(parts.sum(axis=2))
            largest = np.maximum(largest, (np.abs(parts) / wanted[:, None, None]).max(axis=0))
        chosen = largest >= max(TOLERANCE, float(np.sort(largest, axis=None)[-MOST_FREQUENCIES]))
        chosen[0, self._latest] = True
        others = np.flatnonzero(~chosen)
        sentinels = np.sort(rng.choice(others, min(SENTINELS, len(others)), replace=False))
        return np.concatenate([np.flatnonzero(chosen), sentinels]), int(chosen.sum())

    def stage(self, position: int, key: StageKey) -> Complexes:
        """A stage's matrices, complex128 [widths arriving, widths leaving, resolutions, frequencies]; remembered.

        Those of the last stage hold the head, and one width leaves.
        """
        if key not in self._stages:
            self._stages[key] = self._cells(position, key, self._pairs, slice(None))
        return self._stages[key]


def _various(hyperspace: Hyperspace, rng: np.random.Generator) -> Iterator[Space]:
    """Random spaces, and some of one block type each, whose losses spread less."""
    for _ in range(RANDOM_CHECKS):
        yield sample_space(hyperspace, rng)
    for index in range(len(hyperspace.block_types)):
        windows = sample_space(hyperspace, rng).windows
        yield Space(hyperspace, (index,) * len(windows), windows)


def join(arriving: Complexes, matrices: Complexes) -> Complexes:
    """One more stage: [widths, …] times [widths, widths leaving, …], summed over the widths that arrive."""
    total: Complexes = arriving[0] * matrices[0]
    for width in range(1, len(arriving)):
        total += arriving[width] * matrices[width]
    return total


def product(cells: Sequence[Complexes]) -> Complexes:
    """The product of all stages, from one width to one width, as mean over resolutions: [frequencies]."""
    arriving = cells[0][0]
    for matrices in cells[1:]:
        arriving = join(arriving, matrices)
    return np.asarray(arriving[0].mean(axis=0))


def _powers(first: Floats | Complexes, angle: Floats, count: int) -> Complexes:
    """e^(first − i · k · angle) for k = 0 … count − 1, from some 2 · √count exponentials each; [len(angle), count]."""
    stride = math.isqrt(count)
    strides = -(-count // stride)
    coarse = np.exp(first[:, None] - 1j * np.multiply.outer(angle, stride * np.arange(strides)))
    fine = np.exp(-1j * np.multiply.outer(angle, np.arange(stride)))
    return np.asarray((coarse[:, :, None] * fine[:, None, :]).reshape(len(angle), strides * stride)[:, :count])


def _filter(frequency: Floats | npt.NDArray[np.floating]) -> Floats:
    """An exponential filter of order 8 for frequencies relative to the highest."""
    return np.asarray(np.exp(-36.0 * np.abs(frequency) ** 8))
