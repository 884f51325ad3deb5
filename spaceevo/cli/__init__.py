"""The command line for people: `spaceevo describe`, `spaceevo doctor`, ….

Each command is one module. Tables on a terminal, aligned plain text in a pipe, JSON with `--json`. Nothing heavy is
imported before a command needs it.
"""

from __future__ import annotations

import typer

from spaceevo.cli.describe import describe
from spaceevo.cli.doctor import doctor
from spaceevo.cli.explain import explain
from spaceevo.cli.export_model import export_model
from spaceevo.cli.import_checkpoint import import_checkpoint
from spaceevo.cli.import_lut import import_lut
from spaceevo.cli.latency import latency
from spaceevo.cli.plan import plan
from spaceevo.cli.score import score
from spaceevo.cli.stages import stages
from spaceevo.cli.sync import sync

app = typer.Typer(
    help="Design search spaces, supernets and fast INT8 networks for real devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    *(describe, doctor, score, latency, import_checkpoint, import_lut, export_model),
    *(stages, sync, explain, plan),
):
    app.command()(command)


def main() -> None:
    """Entry point of `spaceevo`."""
    app()
