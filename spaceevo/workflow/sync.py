"""After DVC has fetched artifacts: what dvc.lock vouches for, Snakemake takes as current.

Snakemake judges by times and by its own records, which a fresh clone does not have and which are of another branch
after a switch. `snakemake --touch` makes them anew, whatever the files hold; so it is let loose only on artifacts whose
bytes, parameters and code are those of dvc.lock, as far as those behind them are, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceevo.artifacts import read_json
from spaceevo.errors import ArtifactError, SpaceEvoError
from spaceevo.workflow.dag import PlannedJob
from spaceevo.workflow.stages import FACTS, FACTS_STAGE, MACHINE, SYNC_STAGE, stage_name
from spaceevo.workflow.values import parsed

UNCHANGED = ("not in cache",)  # states of an output that say nothing of its bytes here


@dataclass(frozen=True)
class Synced:
    """What Snakemake was told of.

    Attributes:
        current: artifacts that are now current.
        stale: why not, by stage, for the stages whose parameters, code or inputs differ from dvc.lock.
    """

    current: tuple[str, ...]
    stale: dict[str, str]


def sync(jobs: Sequence[PlannedJob]) -> Synced:
    """Let Snakemake take as current what dvc.lock vouches for.

    Args:
        jobs: of the whole workflow, each after those it reads from.

    Raises:
        ArtifactError: files differ from dvc.lock, or are missing; the sentence names them.
    """
    _write_facts(jobs)
    states = dvc_status()
    differing = sorted(
        f"{path} ({state})"
        for name, entries in states.items()
        if name not in (FACTS_STAGE, SYNC_STAGE)
        for path, state in _section(entries, "changed outs")
        if state not in UNCHANGED
    )
    if differing:
        raise ArtifactError(
            f"These files differ from dvc.lock: {', '.join(differing)}; run dvc checkout (or dvc pull) to have "
            "those of dvc.lock, or dvc repro to make them anew."
        )
    stale = _stale(jobs, states)
    current = [path for job in jobs if stage_name(job) not in stale for path in job.outputs if path != MACHINE]
    touch(current)
    return Synced(tuple(current), {name: reason for name, reason in stale.items() if reason})


def _write_facts(jobs: Iterable[PlannedJob]) -> None:
    """Write anew the facts that differ from those here, for DVC to compare; those that came by DVC are of its lock."""
    for job in jobs:
        for path in {FACTS, MACHINE} & {*job.outputs}:
            if _facts_in(path) != parsed(job.values["facts"]):
                _snakemake("--force", "--allowed-rules", job.rule, "--", path)


def _facts_in(path: str) -> Any:
    """What a file of facts states; None where it is missing or damaged."""
    try:
        return read_json(path, Path(path).stem)
    except ArtifactError:
        return None


def touch(paths: Sequence[str]) -> None:
    """Make Snakemake record these files, and all behind them, as made just now from what there is."""
    if paths:
        _snakemake("--touch", "--forceall", "--", *paths)


def dvc_status() -> dict[str, Any]:
    """What `dvc status --json` says: by stage, what has changed since dvc.lock.

    Raises:
        SpaceEvoError: the project is under no DVC, or dvc.yaml is wrong; the sentence is DVC's.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise SpaceEvoError(said[0].removeprefix("ERROR: ") if said else f"dvc status failed: {done.stderr.strip()}")
    states: dict[str, Any] = json.loads(done.stdout)
    return states


def _stale(jobs: Sequence[PlannedJob], states: Mapping[str, Any]) -> dict[str, str]:
    """By stage: why it is to be redone; empty for those that only follow from others."""
    stale: dict[str, str] = {}
    spoiled: set[str] = set()
    for job in jobs:
        name = stage_name(job)
        reason = _reason(states.get(name, [])) if name != FACTS_STAGE else ""
        if reason or spoiled & {*job.inputs}:
            stale[name] = stale.get(name) or reason
            spoiled |= {*job.outputs}
    return stale


def _reason(entries: Iterable[Any]) -> str:
    changes = [f"{key} {state}" for key, state in _flat(_section(entries, "changed deps"))]
    if "changed command" in entries:
        changes.append("its command has changed")
    return ", ".join(changes)


def _section(entries: Iterable[Any], key: str) -> list[tuple[str, Any]]:
    return [item for entry in entries if isinstance(entry, dict) for item in entry.get(key, {}).items()]


def _flat(items: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, str]]:
    for key, state in items:
        if key == MACHINE:
            yield "the machine", "is another one than it was measured on"
        elif isinstance(state, dict):  # a file of parameters
            yield from state.items()
        else:
            yield key, state


def _snakemake(*arguments: str) -> None:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SpaceEvoError(f"snakemake {arguments[0]} failed: {lines[-1] if lines else 'it did not say why'}")
