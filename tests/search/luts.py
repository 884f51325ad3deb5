"""Accuracy LUTs made for small hyperspaces: candidates whose losses tell them apart, narrow ones faster."""

from itertools import product

import numpy as np
from made import declared

from spaceevo.search.lut import AccuracyLut, Candidates, Floats
from spaceevo.search.score import combinations
from spaceevo.space import Hyperspace, Space, parse_hyperspace, sample_space

HEAD_MS = 0.5


def made_lut(hyperspace: Hyperspace, samples: int = 2, seed: int = 0) -> AccuracyLut:
    """A LUT with `samples` candidates per key, random losses, and latencies that grow with width and resolution."""
    rng = np.random.default_rng(seed)
    resolutions = hyperspace.block_kd_resolutions

    def candidates(widths: tuple[int, ...], in_width: int, resolution: int, *, searched: bool) -> Candidates:
        out = np.array(widths) if not searched else rng.choice(widths, samples)
        latency_ms = (0.01 * out + 0.005 * in_width) * resolution / resolutions[0] + rng.uniform(0, 0.05, len(out))
        loss = rng.uniform(0.1, 1.0, len(out)) if searched else np.zeros(len(out))
        return Candidates(loss, latency_ms, out.astype(np.int64))

    searched = {
        (index, block_type, window): {
            (resolution, in_width): candidates(stage.window_widths(window), in_width, resolution, searched=True)
            for resolution, in_width in product(resolutions, hyperspace.in_widths(stage.name))
        }
        for index, stage in enumerate(hyperspace.searched_stages)
        for block_type, window in product(range(len(hyperspace.block_types)), range(stage.windows))
    }
    fixed = {
        stage.name: {
            (resolution, in_width): candidates(stage.widths, in_width, resolution, searched=False)
            for resolution, in_width in product(resolutions, hyperspace.in_widths(stage.name))
        }
        for stage in hyperspace.body
        if not stage.searched
    }
    last = hyperspace.body[-1]
    head_ms = {(r, width): HEAD_MS + 0.001 * width for r, width in product(resolutions, last.widths)}
    return AccuracyLut(hyperspace, searched, fixed, head_ms)


def many_lut(samples: int = 25) -> AccuracyLut:
    """A table whose spaces have some 60,000 combinations each."""
    document = declared()
    document["stages"].insert(3, {**document["stages"][2], "name": "stage3", "widths": [24, 32, 40]})
    return made_lut(parse_hyperspace("many", document), samples=samples)


def quantiles(lut: AccuracyLut, *shares: float) -> tuple[float, ...]:
    """Budgets in ms that these shares of the subnets of random spaces meet."""
    rng = np.random.default_rng(0)
    spaces = [sample_space(lut.hyperspace, rng) for _ in range(50)]
    latency_ms = np.concatenate([combinations(lut, space)[1] for space in spaces])
    return tuple(float(budget) for budget in np.quantile(latency_ms, shares))


def draw(lut: AccuracyLut, space: Space, samples: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Loss and latency in ms of random subnets, one stage after the other, as the score's definition has it."""
    loss, latency_ms = np.zeros(samples), np.zeros(samples)
    resolution = rng.choice(lut.resolutions, samples)
    tables = [lut.table(key) for key in lut.keys(space)]
    width = np.full(samples, next(in_width for _, in_width in tables[0]))
    for table in tables:
        following = np.empty_like(width)
        for key in {(int(r), int(w)) for r, w in zip(resolution, width, strict=True)}:
            here = np.flatnonzero((resolution == key[0]) & (width == key[1]))
            drawn = rng.integers(len(table[key].loss), size=len(here))
            loss[here] += table[key].loss[drawn]
            latency_ms[here] += table[key].latency_ms[drawn]
            following[here] = table[key].out_width[drawn]
        width = following
    return loss, latency_ms + [lut.head_ms[int(r), int(w)] for r, w in zip(resolution, width, strict=True)]
