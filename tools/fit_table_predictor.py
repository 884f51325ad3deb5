"""Fit a shipped latency predictor to a published table of stage latencies.

The table is a folder of `stage{s}_{type}_{window}.csv`, as the SpaceEvo release has them. Kernel coefficients are
fitted to its lines; the lines that `spaceevo.latency.table` keeps apart are only tested on.

What a table of searched stages cannot say is how the stages that are not searched and the overhead per model cost.
For these a second fit adds published latencies of whole networks (`--total`). It is held near the first: the kernels
of the fixed stages are to cost what the first fit makes of them, where need be in the place of another kind
(`--borrow`), up to what the totals demand. docs/predictors.md says more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.sparse import block_diag, identity

from spaceevo.artifacts import Record
from spaceevo.latency.confidence import kernel_errors, network_error
from spaceevo.latency.kernels import Kernel, kernels
from spaceevo.latency.predictor import KernelModel, Predictor, write_predictor
from spaceevo.latency.regression import build_design, fit_nonnegative, kernel_models, summed
from spaceevo.latency.table import Table, read_table_lines, unseen_figures
from spaceevo.nn.network import head_plan, stage_plan, subnet_plan
from spaceevo.scripting import clear_errors
from spaceevo.search.published_lut import read_published_lut
from spaceevo.space import IMAGE_CHANNELS, Hyperspace, Space, Subnet, load_hyperspace, parse_space

PUBLISHED_CLASSES = 1000
OTHER_CLASSES = (10, 100)
ROBUST: dict[str, Any] = {"robust_scale": 4.0, "robust_rounds": 4}
TOTAL_IMPORTANCE = 30.0  # of a total's relative error against a line's, of which there are some 100,000
PRIOR_IMPORTANCE = 3.0  # of a fixed stage's kernel as the table alone has it
BORROWED_ERROR = 0.5

Net = tuple[Space, Subnet, float]


def fixed_kernels(hyperspace: Hyperspace) -> Iterator[Kernel]:
    """The kernels of the stages that a table does not list, at each resolution with their least and largest widths."""
    searched = len(hyperspace.searched_stages)
    space = Space(hyperspace, (0,) * searched, (0,) * searched)
    for subnet in (space.smallest, space.largest):
        for resolution in hyperspace.resolutions:
            in_channels, height = IMAGE_CHANNELS, resolution
            for options, choice in zip(space.options, subnet.stages, strict=True):
                if not options.stage.searched:
                    yield from kernels(
                        stage_plan(options.block_type, in_channels, choice, options.stage.stride), height
                    )
                in_channels, height = choice[-1].width, (height - 1) // options.stage.stride + 1
            for classes in (*OTHER_CLASSES, PUBLISHED_CLASSES):
                for width in (hyperspace.body[-1].widths[0], hyperspace.body[-1].widths[-1]):
                    yield from kernels(head_plan(hyperspace, width, classes), height)


def lent(kinds: dict[str, KernelModel], loans: Sequence[str]) -> dict[str, KernelModel]:
    """The kinds, and each of `loans` (`new=known`) with the coefficients of a known one."""
    known = dict(kinds)
    for loan in loans:
        kind, _, source = loan.partition("=")
        if source not in kinds or kind in kinds:
            raise typer.BadParameter(f"--borrow {loan}: the table has {', '.join(sorted(kinds))}")
        known[kind] = kinds[source]
    return known


def read_totals(totals: Sequence[str]) -> list[Net]:
    nets = []
    for total in totals:
        space_code, subnet_code, milliseconds = total.split()
        space = parse_space(space_code)
        nets.append((space, space.subnet(subnet_code), float(milliseconds)))
    return nets


def fit(table: Table, hyperspace: Hyperspace, nets: Sequence[Net], loans: Sequence[str], device: str) -> Predictor:
    """Fit to the lines that may be seen; then again with totals and what the first fit makes of the fixed stages."""
    blocks = [block.kernels() for block in table.blocks]
    seen, seen_ms = table.lines[table.seen], table.latency_ms[table.seen]
    design = build_design(blocks, fine=True)
    first = lent(kernel_models(design, fit_nonnegative(summed(design, seen).matrix, seen_ms, **ROBUST)), loans)

    fixed = sorted(set(fixed_kernels(hyperspace)))
    expected_ms = np.array([first[kernel.kind].latency_ms([kernel])[0] for kernel in fixed])
    whole = [kernels(subnet_plan(*net[:2], PUBLISHED_CLASSES), net[1].resolution) for net in nets]
    totals_ms = np.array([total_ms for _, _, total_ms in nets])
    design = build_design([*blocks, *whole, *((kernel,) for kernel in fixed)], fine=True)
    design = summed(design, block_diag([seen, identity(len(nets) + len(fixed))], format="csr"))
    latency_ms = np.concatenate([seen_ms, totals_ms, expected_ms])
    counts = [len(seen_ms), len(nets), len(fixed)]
    matrix = np.column_stack([design.matrix, np.repeat([0.0, 1.0, 0.0], counts)])  # the overhead is the nets'
    importance = np.repeat([1.0, TOTAL_IMPORTANCE, PRIOR_IMPORTANCE], counts)
    coefficients = fit_nonnegative(matrix, latency_ms, importance=importance, **ROBUST)
    errors = kernel_errors(design, coefficients[:-1], latency_ms)
    errors |= {loan.partition("=")[0]: BORROWED_ERROR for loan in loans}
    kinds = kernel_models(design, coefficients[:-1], errors)
    predictor = Predictor(device, float(f"{coefficients[-1]:.6g}"), kinds)

    rows: list[dict[str, Any]] = []
    for i, (space, subnet, total_ms) in enumerate(nets, start=len(seen_ms)):
        others = importance * (np.arange(len(importance)) != i)
        left_out = fit_nonnegative(matrix, latency_ms, importance=others, **ROBUST)
        prediction = predictor.predict_subnet(space, subnet, PUBLISHED_CLASSES)
        rows.append(
            {
                "subnet": f"{space.code} {subnet.code}",
                "published_ms": total_ms,
                "predicted_ms": round(prediction.latency_ms, 3),
                "predicted_without_it_ms": round(float(matrix[i] @ left_out), 3),
                "kernels_error": round(prediction.error, 4),
            }
        )
    unexplained = 0.0
    if rows:
        off = np.array([row["published_ms"] / row["predicted_without_it_ms"] - 1.0 for row in rows])
        unexplained = network_error(off, np.array([row["kernels_error"] for row in rows]))
    return replace(predictor, network_error=unexplained, errors={"published_networks": rows})


def main(
    folder: Path,
    hyperspace: Annotated[str, typer.Option(help="Hyperspace of the table.")],
    device: Annotated[str, typer.Option(help="Name of the device that the table was made for.")],
    source: Annotated[str, typer.Option(help="Where the table comes from, for the notes.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    borrow: Annotated[list[str], typer.Option(help="NEW=KNOWN: a kind outside the table.")] = [],  # noqa: B006
    total: Annotated[list[str], typer.Option(help="'SPACE SUBNET MS': a published whole network.")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Seed of the lines and blocks kept apart.")] = 0,
) -> None:
    """Fit the predictor, print its figures, write it."""
    record = Record({"hyperspace": hyperspace, "source": source, "borrow": borrow, "total": total}, seed)
    declared, nets = load_hyperspace(hyperspace), read_totals(total)
    table = read_table_lines(read_published_lut(folder, declared), declared, seed)
    predictor = fit(table, declared, nets, borrow, device)
    errors: dict[str, Any] = {**unseen_figures(predictor, table), **predictor.errors}
    notes = (
        f"Fitted to {table.seen.sum()} of {len(table.seen)} stage latencies ({source}) and to {len(nets)} published "
        "networks, from which the stages that the table does not list and the overhead are. "
        f"Kinds outside the table start from others: {', '.join(borrow) or 'none'}."
    )
    write_predictor(output, replace(predictor, errors=errors, notes=notes), record)
    for key, figures in errors.items():
        typer.echo(f"{key}:")
        rows = figures.items() if isinstance(figures, dict) else enumerate(figures)
        for name, value in rows:
            typer.echo(f"  {name}: {value}")
    typer.echo(f"overhead_ms: {predictor.overhead_ms}, network_error: {predictor.network_error}")


if __name__ == "__main__":
    typer.run(clear_errors(main))
