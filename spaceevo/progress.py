"""Progress of long work: a bar with an estimate on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class Ticker(Protocol):
    """Called after each piece of work with how many pieces are done, and a note such as the current loss."""

    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress(label: str, total: int, *, quiet: bool = False) -> Iterator[Ticker]:
    """Report on `total` pieces of work called `label` to standard error; `quiet`: not at all."""
    if quiet:
        yield lambda done, note="": None
        return
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total, note="")
            yield lambda done, note="": bar.update(task, completed=done, note=note)
    else:
        yield _LineTicker(label, total)


class _LineTicker:
    def __init__(self, label: str, total: int) -> None:
        self.label, self.total = label, total
        self.start = self.last = time.monotonic()
        self.first_done: int | None = None

    def __call__(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if self.first_done is None:
            self.first_done = done - 1
        if now - self.last < SECONDS_BETWEEN_LINES and done < self.total:
            return
        self.last = now
        remaining = (now - self.start) / max(done - self.first_done, 1) * (self.total - done)
        print(f"{self.label}: {done}/{self.total}, {remaining:.0f} s left {note}", file=sys.stderr, flush=True)
