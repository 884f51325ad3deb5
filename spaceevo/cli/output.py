"""What the commands share: how they print, and how they fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from spaceevo.scripting import clear_errors

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")]


def guarded(work: Callable[[], None], debug: bool) -> None:
    """Do a command's work; an error becomes one sentence and a non-zero exit code, unless in `debug`."""
    if debug:
        work()
    else:
        clear_errors(work)()


def print_found(content: dict[str, Any], show: Callable[[dict[str, Any]], None], as_json: bool) -> None:
    """Print what a command found, as JSON or by `show`."""
    if as_json:
        print(json.dumps(content, indent=2))
    else:
        show(content)


def listed(values: Sequence[float]) -> str:
    """Numbers separated by commas."""
    return ",".join(f"{value:g}" for value in values)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table that fits its width on a terminal, aligned columns elsewhere."""
    texts = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, header_style="bold underline", pad_edge=False, padding=(0, 1, 0, 0))
        for name in header:
            table.add_column(name, overflow="fold")
        for row in texts:
            table.add_row(*(escape(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(len(cell) for cell in column) for column in zip(header, *texts, strict=True)]
    for row in [list(header), *texts]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
