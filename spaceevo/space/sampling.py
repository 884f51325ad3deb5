"""Random spaces and subnets, and the moves of evolution: mutation and crossover.

Every draw uses the generator given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from spaceevo.space.hyperspace import Hyperspace
from spaceevo.space.space import Space, StageOptions
from spaceevo.space.subnet import BlockChoice, StageChoice, Subnet

T = TypeVar("T")


def _choose(rng: np.random.Generator, values: Sequence[T]) -> T:
    return values[int(rng.integers(len(values)))]


def sample_space(hyperspace: Hyperspace, rng: np.random.Generator, block_types: Sequence[int] | None = None) -> Space:
    """A space drawn uniformly, of these block types if given."""
    searched = hyperspace.searched_stages
    allowed = hyperspace.type_indices(block_types)
    types = tuple(_choose(rng, allowed) for _ in searched)
    windows = tuple(int(rng.integers(stage.windows)) for stage in searched)
    return Space(hyperspace, types, windows)


def mutate_space(space: Space, rng: np.random.Generator, block_types: Sequence[int] | None = None) -> Space:
    """`space` with the block type or the width window of one stage changed to another; never `space` itself.

    Args:
        block_types: those that a stage may change to; None: any.
    """
    allowed = space.hyperspace.type_indices(block_types)
    by_type = bool(rng.integers(2))
    moves = _moves(space, allowed if by_type else None)
    if not moves:
        by_type = not by_type
        moves = _moves(space, allowed if by_type else None)
    index, other = _choose(rng, moves)
    return space.with_stage(index, block_type=other) if by_type else space.with_stage(index, window=other)


def _moves(space: Space, block_types: Sequence[int] | None) -> list[tuple[int, int]]:
    """Each stage's number with each other of these block types (of its windows, where None) that it can have."""
    now = space.windows if block_types is None else space.block_types
    return [
        (index, other)
        for index, stage in enumerate(space.hyperspace.searched_stages)
        for other in (range(stage.windows) if block_types is None else block_types)
        if other != now[index]
    ]


def sample_stage(options: StageOptions, rng: np.random.Generator, *, depth: int | None = None) -> StageChoice:
    """A stage choice: depth uniform (or as given), then kernel, width and expand ratio of each block uniform."""
    depth = _choose(rng, options.stage.depths) if depth is None else depth
    return tuple(_choose(rng, options.blocks) for _ in range(depth))


def measured_choices(options: StageOptions, samples: int, rng: np.random.Generator) -> list[StageChoice]:
    """The choices of a stage whose losses stand for all: all of a stage that is not searched, where they are few."""
    if options.all_measured:
        return list(options.enumerate())
    return [sample_stage(options, rng) for _ in range(samples)]


def sample_subnet(space: Space, rng: np.random.Generator) -> Subnet:
    """A subnet with resolution, depths and blocks drawn uniformly and independently."""
    resolution = _choose(rng, space.hyperspace.resolutions)
    return Subnet(resolution, tuple(sample_stage(options, rng) for options in space.options))


def mutate_subnet(space: Space, subnet: Subnet, probability: float, rng: np.random.Generator) -> Subnet:
    """Redraw the resolution, each depth and each choice of each block with the given probability."""
    resolution = subnet.resolution
    if rng.random() < probability:
        resolution = _choose(rng, space.hyperspace.resolutions)
    stages = tuple(
        _mutate_stage(options, choice, probability, rng)
        for options, choice in zip(space.options, subnet.stages, strict=True)
    )
    return Subnet(resolution, stages)


def _mutate_stage(
    options: StageOptions, choice: StageChoice, probability: float, rng: np.random.Generator
) -> StageChoice:
    depth = _choose(rng, options.stage.depths) if rng.random() < probability else len(choice)
    blocks = list(choice[:depth])
    while len(blocks) < depth:
        blocks.append(_choose(rng, options.blocks))
    return tuple(
        BlockChoice(
            _choose(rng, options.block_type.kernels) if rng.random() < probability else block.kernel_size,
            _choose(rng, options.widths) if rng.random() < probability else block.width,
            _choose(rng, options.block_type.expands) if rng.random() < probability else block.expand_ratio,
        )
        for block in blocks
    )


def cross_subnets(first: Subnet, second: Subnet, rng: np.random.Generator) -> Subnet:
    """The resolution and each whole stage taken from one of the two parents at random."""
    resolution = (first, second)[int(rng.integers(2))].resolution
    stages = tuple(pair[int(rng.integers(2))] for pair in zip(first.stages, second.stages, strict=True))
    return Subnet(resolution, stages)
