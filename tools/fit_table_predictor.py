"""Fit a shipped latency predictor to a published table of stage latencies.

The table is a folder of `stage{s}_{type}_{window}.csv`, as the SpaceEvo release has them: per line the `k#width#expand`
of each block joined by `_`, the input shape `1xCxHxW`, then further columns, the last of them milliseconds. A stage's
latency is the sum of its blocks', so that the lines are a linear system in the latencies of single blocks. Blocks that
it determines are recovered, 20 % of them are held out, and kernel coefficients are fitted on the others.

What a table of stages cannot say is taken from published latencies of whole networks (`--total`): the overhead per
model, with the kinds of kernel that only the fixed stages have borrowed from the nearest kind (`--borrow`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import typer
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import lsmr

from spaceevo.artifacts import Record
from spaceevo.latency.features import Kernel, kernels
from spaceevo.latency.predictor import KernelModel, Predictor, write_predictor
from spaceevo.latency.regression import build_design, error_figures, fit_nonnegative, kernel_models
from spaceevo.nn.blocks import block_plan
from spaceevo.nn.network import IMAGE_CHANNELS
from spaceevo.space import BlockChoice, BlockType, Hyperspace, load_hyperspace, parse_space

Array = npt.NDArray[np.float64]

HELD_OUT = 0.2
FLOOR_MS = 0.05  # errors of faster blocks count absolutely
PUBLISHED_CLASSES = 1000
EMPTY = (1 << 30, 0)  # a range that covers nothing


class Block(NamedTuple):
    """One block as the table has it."""

    block_type: BlockType
    in_channels: int
    choice: BlockChoice
    stride: int
    height: int


def read_lines(folder: Path, hyperspace: Hyperspace) -> Iterator[tuple[tuple[Block, ...], float]]:
    """The blocks and the milliseconds of every line of the table."""
    files = sorted(folder.glob("stage*_*_*.csv"))
    if not files:
        raise typer.BadParameter(f"{folder} holds no stage<s>_<type>_<window>.csv")
    for file in files:
        stage_number, type_index, _ = (int(n) for n in re.findall(r"\d+", file.stem))
        stage = hyperspace.searched_stages[stage_number - 1]
        block_type = hyperspace.block_types[type_index]
        for line in file.read_text().split():
            fields = line.split(",")
            in_channels, height = (int(n) for n in fields[1].split("x")[1:3])
            stride = stage.stride
            blocks = []
            for text in fields[0].split("_"):
                kernel_size, width, expand = text.split("#")
                choice = BlockChoice(int(kernel_size), int(width), 0.0 if expand == "None" else float(expand))
                blocks.append(Block(block_type, in_channels, choice, stride, height))
                in_channels, height, stride = choice.width, (height - 1) // stride + 1, 1
            yield tuple(blocks), float(fields[-1])


def recover_blocks(lines: csr_matrix, stage_ms: Array, rng: np.random.Generator) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Milliseconds of each block, and which of them the lines determine.

    A least-squares solution started elsewhere differs in exactly the blocks that are not determined.
    """

    def solve(start: Array) -> Array:
        step = lsmr(lines, stage_ms - lines @ start, atol=1e-12, btol=1e-12, maxiter=5000)[0]
        return np.asarray(start + step)

    first = solve(np.zeros(lines.shape[1]))
    second = solve(rng.normal(size=lines.shape[1]))
    return first, np.abs(first - second) < 1e-3


def block_kernels(block: Block) -> tuple[Kernel, ...]:
    plan = block_plan(
        block.block_type.block, block.block_type.activation, block.in_channels, block.choice, block.stride
    )
    return kernels(plan, block.height)


def fixed_kernels(hyperspace: Hyperspace) -> Iterator[Kernel]:
    """The kernels of the stages that a table does not list, with all their choices."""
    for resolution in hyperspace.resolutions:
        height = resolution
        arriving: tuple[int, ...] = (IMAGE_CHANNELS,)
        for stage in hyperspace.stages:
            block_type, widths = stage.block_type, stage.widths or (PUBLISHED_CLASSES,)
            if block_type is not None:
                choices = product(block_type.kernels, widths, block_type.expands)
                for in_channels, choice in product(arriving, choices):
                    yield from block_kernels(Block(block_type, in_channels, BlockChoice(*choice), stage.stride, height))
            height, arriving = (height - 1) // stage.stride + 1, widths


def borrow(kinds: dict[str, KernelModel], loans: Sequence[str]) -> None:
    """Give each kind of `loans` (`new=known`) the coefficients of a known kind; its range starts empty."""
    for loan in loans:
        kind, _, source = loan.partition("=")
        if source not in kinds or kind in kinds:
            raise typer.BadParameter(f"--borrow {loan}: the table has {', '.join(sorted(kinds))}")
        kinds[kind] = replace(kinds[source], in_channels=EMPTY, out_channels=EMPTY, height=EMPTY, fitted_kernels=0)


def widen(kinds: dict[str, KernelModel], more: Iterator[Kernel]) -> None:
    """Count further kernels as known, where their kind is."""
    for kernel in more:
        if (model := kinds.get(kernel.kind)) is not None and not model.covers(kernel):
            kinds[kernel.kind] = replace(
                model,
                in_channels=_span(model.in_channels, kernel.in_channels),
                out_channels=_span(model.out_channels, kernel.out_channels),
                height=_span(model.height, kernel.height),
            )


def _span(pair: tuple[int, int], value: int) -> tuple[int, int]:
    return min(pair[0], value), max(pair[1], value)


def calibrate(predictor: Predictor, totals: Sequence[str]) -> tuple[Predictor, list[dict[str, Any]]]:
    """The predictor with the overhead that fits published totals best, and its error on each of them."""
    if not totals:
        return predictor, []
    nets = []
    for total in totals:
        space_code, subnet_code, milliseconds = total.split()
        space = parse_space(space_code)
        nets.append((space, space.subnet(subnet_code), float(milliseconds)))
    published = np.array([milliseconds for _, _, milliseconds in nets])
    kernels_ms = np.array([predictor.predict_subnet(*net[:2], PUBLISHED_CLASSES).latency_ms for net in nets])
    weights = 1.0 / published
    overhead = float(np.sum(weights**2 * (published - kernels_ms)) / np.sum(weights**2))
    calibrated = replace(predictor, overhead_ms=round(max(0.0, overhead), 4))
    rows = [
        {"subnet": f"{space.code} {subnet.code}", "published_ms": given, "predicted_ms": round(float(ms), 3)}
        for (space, subnet, given), ms in zip(nets, kernels_ms + calibrated.overhead_ms, strict=True)
    ]
    return calibrated, rows


def main(
    folder: Path,
    hyperspace: Annotated[str, typer.Option(help="Hyperspace of the table.")],
    device: Annotated[str, typer.Option(help="Name of the device that the table was made for.")],
    source: Annotated[str, typer.Option(help="Where the table comes from, for the notes.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    borrow_kinds: Annotated[list[str], typer.Option("--borrow", help="NEW=KNOWN: a kind outside the table.")] = [],  # noqa: B006
    total: Annotated[list[str], typer.Option(help="'SPACE SUBNET MS': a published whole network.")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Seed of the blocks held out.")] = 0,
) -> None:
    """Fit the predictor, print its errors, write it."""
    record = Record({"hyperspace": hyperspace, "source": source, "borrow": borrow_kinds, "total": total}, seed)
    rng = np.random.default_rng(seed)
    space = load_hyperspace(hyperspace)
    index: dict[Block, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    milliseconds: list[float] = []
    for blocks, line_ms in read_lines(folder, space):
        rows += [len(milliseconds)] * len(blocks)
        columns += [index.setdefault(block, len(index)) for block in blocks]
        milliseconds.append(line_ms)
    stage_ms = np.array(milliseconds)
    lines = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(stage_ms), len(index)))
    block_ms, determined = recover_blocks(lines, stage_ms, rng)

    held_out = rng.random(len(index)) < HELD_OUT
    fitted, tested = determined & ~held_out, determined & held_out
    design = build_design([block_kernels(block) for block in index])
    coefficients = fit_nonnegative(design.matrix[fitted], block_ms[fitted], floor_ms=FLOOR_MS)
    kinds = kernel_models(design, coefficients)
    borrow(kinds, borrow_kinds)
    widen(kinds, fixed_kernels(space))
    predictor, totals = calibrate(Predictor(device, 0.0, kinds), total)

    predicted = design.matrix @ coefficients
    types = [block.block_type.block for block in index]
    names = np.array(types)
    has_held_out = np.asarray(lines @ held_out.astype(float)) > 0
    errors = {
        "held_out_blocks": error_figures(predicted[tested], block_ms[tested]),
        "held_out_blocks_by_type": {
            name: error_figures(predicted[tested & (names == name)], block_ms[tested & (names == name)])
            for name in dict.fromkeys(types)
        },
        "stages_with_a_held_out_block": error_figures((lines @ predicted)[has_held_out], stage_ms[has_held_out]),
        "published_networks": totals,
    }
    notes = (
        f"Fitted to {int(fitted.sum())} of {len(index)} blocks recovered from {len(stage_ms)} stage latencies "
        f"({source}). "
        + (f"Kinds outside the table borrow their coefficients: {', '.join(borrow_kinds)}. " if borrow_kinds else "")
        + (
            f"The overhead that fits {len(total)} published networks best is {predictor.overhead_ms:g} ms."
            if total
            else "It has no overhead."
        )
    )
    write_predictor(output, replace(predictor, errors=errors, notes=notes), record)
    for key, figures in errors.items():
        typer.echo(f"{key}: {figures}")
    typer.echo(f"overhead_ms: {predictor.overhead_ms}")


if __name__ == "__main__":
    typer.run(main)
