"""What the benchmarks share: interleaved timing, tables, checks against targets, and JSON with the machine's data."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import spaceevo
from spaceevo.artifacts import write_bytes
from spaceevo.latency.devices import MeasureOptions
from spaceevo.latency.machine import inspect_cpu
from spaceevo.latency.measure import measure
from spaceevo.report.environment import PACKAGES, package_version

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Check:
    """A figure beside its target.

    Attributes:
        what: what is asked for, with its limit and unit.
        found: the figure as text.
        met: whether it is within the limit.
    """

    what: str
    found: str
    met: bool


@dataclass(frozen=True)
class _Timed:
    """A function as something that `spaceevo.latency.measure` can time."""

    function: Callable[[], object]

    def invoke(self) -> None:
        self.function()


def time_interleaved(functions: Mapping[str, Callable[[], object]], rounds: int, round_s: float) -> dict[str, float]:
    """Median milliseconds of each function, timed in turns in one run; CPU time of this thread.

    Args:
        functions: what to time, by name; each computes in the calling thread alone.
        rounds: times that every function has its turn.
        round_s: seconds of a turn, at least.
    """
    timings = measure(
        [_Timed(function) for function in functions.values()],
        MeasureOptions(warm_up=2, rounds=rounds, round_s=round_s),
    )
    return {name: timing.latency_ms for name, timing in zip(functions, timings, strict=True)}


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns, the first column to the left and all others to the right."""
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        first, *others = zip(row, widths, strict=True)
        print("  ".join((first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others))).rstrip())


def print_checks(checks: Iterable[Check]) -> None:
    """Print each check as met or not met."""
    print_table("Targets", ("target", "found", ""), [(c.what, c.found, "met" if c.met else "NOT MET") for c in checks])


def write_result(name: str, content: Mapping[str, Any], checks: Sequence[Check] = ()) -> None:
    """Write `results/<name>.json` beside this file: content, checks and the machine."""
    document = {"benchmark": name, "machine": machine(), **content, "checks": [asdict(check) for check in checks]}
    write_bytes(RESULTS / f"{name}.json", (json.dumps(document, indent=2) + "\n").encode())
    print(f"\nwritten to {(RESULTS / name).relative_to(ROOT)}.json")


def machine() -> dict[str, Any]:
    """CPU, system and versions; nothing that names this machine."""
    return {
        "cpu": inspect_cpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "spaceevo": spaceevo.__version__,
        "packages": {name: package_version(name) for name in PACKAGES},
    }
