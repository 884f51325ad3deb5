"""Published tables of stage latencies as a linear system in blocks, and which of their lines no fit may see.

A table is a data frame with one row per sampled stage: stage, block_type (its digit), choice, in_width, resolution and
latency_ms (`spaceevo.search.published_lut` reads one). A stage's latency is the sum of its blocks'.

A tenth of the blocks is kept apart, and with them every line that has one of these; of the other lines another tenth.
Which ones depends on nothing but their own description, so that anyone can tell what a fit has not seen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix

from spaceevo.latency.features import Array
from spaceevo.latency.kernels import Kernel, kernels
from spaceevo.latency.predictor import Predictor
from spaceevo.latency.regression import error_figures
from spaceevo.nn.blocks import block_plan
from spaceevo.space import BlockChoice, BlockType, Hyperspace, parse_stage

KEPT_APART = 0.1  # of the blocks, and of the lines without any of these

Flags = npt.NDArray[np.bool_]


class Block(NamedTuple):
    """One block on the map that arrives there: the arguments of `Predictor.block_ms`."""

    block_type: BlockType
    in_channels: int
    choice: BlockChoice
    stride: int
    height: int

    @property
    def name(self) -> str:
        """What tells it from all others, for the split."""
        k, width, expand = self.choice
        kind = self.block_type.block
        return f"{kind} {self.in_channels} {k}#{width}#{expand:g} s{self.stride} {self.height}"

    def kernels(self) -> tuple[Kernel, ...]:
        kind = self.block_type
        return kernels(block_plan(kind.block, kind.activation, self.in_channels, self.choice, self.stride), self.height)


@dataclass(frozen=True)
class Table:
    """The lines of a table.

    Attributes:
        blocks: every different block.
        lines: sparse [lines, blocks]: how often a line has a block.
        latency_ms: float64 [lines].
        block_types: [lines]: the name of each line's block type.
        new_block: [lines]: whether a line has a block that is kept apart.
        new_line: [lines]: whether a line is kept apart though none of its blocks is.
    """

    blocks: tuple[Block, ...]
    lines: csr_matrix
    latency_ms: Array
    block_types: npt.NDArray[np.str_]
    new_block: Flags
    new_line: Flags

    @property
    def seen(self) -> Flags:
        """[lines]: the lines to fit to."""
        return ~(self.new_block | self.new_line)


def read_table_lines(table: pd.DataFrame, hyperspace: Hyperspace, seed: int = 0) -> Table:
    """The lines of a data frame, split with this seed."""
    index: dict[Block, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    names: list[str] = []
    fields = ("stage", "block_type", "choice", "in_width", "resolution")
    for row, (stage_name, digit, choice, in_channels, resolution) in enumerate(
        zip(*(table[name].tolist() for name in fields), strict=True)
    ):
        stride, height = hyperspace.stage(stage_name).stride, hyperspace.map_size(stage_name, resolution)
        block_type = hyperspace.block_types[digit]
        names.append(f"{stage_name} {block_type.block} {in_channels} {choice} {resolution}")
        for part in parse_stage(choice):
            block = Block(block_type, in_channels, part, stride, height)
            rows.append(row)
            columns.append(index.setdefault(block, len(index)))
            in_channels, height, stride = part.width, (height - 1) // stride + 1, 1
    blocks = tuple(index)
    lines = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(table), len(blocks)))
    new_block = np.asarray(lines @ _kept_apart([block.name for block in blocks], seed).astype(float)) > 0
    return Table(
        blocks=blocks,
        lines=lines,
        latency_ms=table["latency_ms"].to_numpy(np.float64),
        block_types=np.array([hyperspace.block_types[digit].block for digit in table["block_type"]]),
        new_block=new_block,
        new_line=_kept_apart(names, seed) & ~new_block,
    )


def _kept_apart(names: list[str], seed: int) -> Flags:
    """Whether each name's hash falls into the share kept apart."""
    limit = int(KEPT_APART * 2**32)
    hashes = (hashlib.blake2b(f"{seed} {name}".encode(), digest_size=4).digest() for name in names)
    return np.array([int.from_bytes(digest, "big") < limit for digest in hashes], dtype=bool)


def unseen_figures(predictor: Predictor, table: Table) -> dict[str, Any]:
    """Figures of a predictor on the lines that no fit has seen, together and by block type.

    Returns:
        Groups of `error_figures`; `within_stated_error` is the share of lines within the half-width of the prediction.
    """
    parts = [predictor.block_ms(*block) for block in table.blocks]
    block_ms = np.array([part.latency_ms for part in parts])
    squares = (block_ms * np.array([part.error for part in parts])) ** 2
    predicted = table.lines @ block_ms
    stated = np.sqrt(table.lines @ squares) / predicted
    covered = np.abs(table.latency_ms / predicted - 1.0) <= stated

    def figures(some: Flags) -> dict[str, Any]:
        share = round(float(covered[some].mean()), 4)
        return {**error_figures(predicted[some], table.latency_ms[some]), "within_stated_error": share}

    groups: dict[str, Any] = {}
    for name, unseen in (("unseen_stages", table.new_line), ("stages_with_an_unseen_block", table.new_block)):
        groups[name] = figures(unseen)
        groups[f"{name}_by_type"] = {
            kind: figures(unseen & (table.block_types == kind)) for kind in dict.fromkeys(table.block_types.tolist())
        }
    return groups
