"""Keeping what is measured on the same cores, so that the scheduler does not move it about."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WATCHED_S = 0.05  # to see which cores are idle


@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Run on the `threads` idlest cores that this process may use, one per physical core as far as there are enough.

    Threads that are started inside, such as those of a runtime that is loaded there, stay on these cores.

    Yields:
        The cores; none where the system has no such call or forbids it, which changes nothing.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    allowed = os.sched_getaffinity(0)
    cores = _idlest(sorted(allowed))[:threads]
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        yield ()
        return
    try:
        yield tuple(cores)
    finally:
        os.sched_setaffinity(0, allowed)


def _idlest(cores: list[int]) -> list[int]:
    """Cores, the idlest first; second threads of a physical core come after all first ones."""
    if len(cores) == 1:
        return cores
    before = _busy_ticks()
    time.sleep(WATCHED_S)
    after = _busy_ticks()
    return sorted(cores, key=lambda core: (_is_second(core), after.get(core, 0) - before.get(core, 0), -core))


def _busy_ticks() -> dict[int, int]:
    """By core, what Linux counts as not idle; empty elsewhere."""
    path = Path("/proc/stat")
    lines = path.read_text().splitlines() if path.is_file() else []
    ticks = {}
    for line in lines:
        name, *counts = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _, _, *interrupts = map(int, counts)
            ticks[int(name[3:])] = user + nice + system + sum(interrupts[:3])
    return ticks


def _is_second(core: int) -> bool:
    """Whether another core of a lower number is a thread of the same physical core."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    first = path.read_text().replace("-", ",").split(",")[0].strip() if path.is_file() else ""
    return first.isdigit() and int(first) < core
