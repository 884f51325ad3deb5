"""`spaceevo import-lut`: a published accuracy LUT as an artifact of this project."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from spaceevo.cli.output import AsJson, Debug, guarded, print_found


def import_lut(
    folder: Annotated[Path, typer.Argument(help="Folder of stage<s>_<type>_<window>.csv of the SpaceEvo release.")],
    hyperspace: Annotated[str, typer.Option(help="Hyperspace of the table: mobilew or onnxw.")],
    output: Annotated[Path, typer.Option(help="Artifact to write.")] = Path("results/imported/lut.parquet"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Import an accuracy LUT of the SpaceEvo release: losses of sampled stages, and latencies."""
    guarded(partial(_import_lut, folder, hyperspace, output, as_json), debug)


def _import_lut(folder: Path, hyperspace: str, output: Path, as_json: bool) -> None:
    from spaceevo.artifacts import Record, write_table
    from spaceevo.search.lut import LUT_KIND
    from spaceevo.search.published_lut import read_published_lut
    from spaceevo.space import load_hyperspace

    record = Record({"hyperspace": hyperspace, "published": str(folder)}, 0)
    table = read_published_lut(folder, load_hyperspace(hyperspace))
    write_table(output, LUT_KIND, table, record)
    stages = {str(name): int(count) for name, count in table["stage"].value_counts(sort=False).items()}
    print_found({"lut": str(output), "hyperspace": hyperspace, "rows": len(table), "stages": stages}, _show, as_json)


def _show(found: dict[str, Any]) -> None:
    stages = ", ".join(f"{name} {count:,}" for name, count in found["stages"].items())
    print(f"{found['rows']:,} rows of {found['hyperspace']} ({stages}) in {found['lut']}")
