"""Why an artifact is current or not: of each one behind it, what has changed since it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceevo.artifacts import file_digest, read_header, read_json, verify
from spaceevo.errors import ArtifactError
from spaceevo.workflow.dag import PlannedJob
from spaceevo.workflow.values import changed_values, parsed

ARTIFACT_SUFFIXES = (".json", ".parquet", ".safetensors")
DELIVERED_SUFFIXES = (".tflite", ".onnx")
SHOWN_LENGTH = 60


@dataclass(frozen=True)
class Explained:
    """One artifact.

    Attributes:
        reasons: what has changed, one sentence each; empty where it is current.
    """

    path: str
    rule: str
    reasons: tuple[str, ...]

    @property
    def current(self) -> bool:
        return not self.reasons


def explain(jobs: Sequence[PlannedJob]) -> list[Explained]:
    """Every artifact of these jobs, each after those that it was made from."""
    return [
        Explained(path, job.rule, (*(() if path in job.missing else _damage(path)), *_reasons(job, path)))
        for job in jobs
        for path in job.outputs
    ]


def _reasons(job: PlannedJob, path: str) -> Iterator[str]:
    if path in job.missing:
        yield "it is missing"
        return
    if job.recorded is None:
        yield "there is no record here of how it was made: run spaceevo sync after dvc pull, or snakemake"
        yield from _other_machine(job, path)
    else:
        yield from _changes(job, job.recorded)
        yield from _other_inputs(job)
    if job.shell_changed:
        yield "the command of its rule has changed"
    yield from (f"{name} is newer" for name in job.newer_inputs)
    if job.runs and job.missing:
        yield f"its job is to make {', '.join(job.missing)}, too"
    if job.redone_inputs:
        yield f"{', '.join(job.redone_inputs)} will be made anew"


def _changes(job: PlannedJob, recorded: dict[str, Any]) -> Iterator[str]:
    """Parameters, code and machine that differ from those recorded."""
    now = {name: parsed(value) for name, value in job.values.items()}
    for name in sorted({*recorded, *now}):
        changes = changed_values(recorded.get(name), now.get(name))
        match name:
            case "code":
                modules = [key or "all" for key, _, _ in changes]
                if modules:
                    yield f"code has changed: {', '.join(modules)}"
            case "hyperspace file" | "device file" | "machine":
                yield from (f"{name}{': ' + key if key else ''} {_arrow(old, new)}" for key, old, new in changes)
            case _:
                yield from (f"{name}{'.' + key if key else ''} {_arrow(old, new)}" for key, old, new in changes)


def _other_machine(job: PlannedJob, path: str) -> Iterator[str]:
    """Where the artifact itself says that it was measured on another machine."""
    if "machine" in job.values:
        here = {"machine": parsed(job.values["machine"])}
        there = {"machine": read_header(path)["params"].get("machine", {})}
        yield from (f"{key} {_arrow(old, new)}" for key, old, new in changed_values(there, here))


def _arrow(old: Any, new: Any) -> str:
    return f"{_shown(old)} → {_shown(new)}"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 1] + "…"


def _other_inputs(job: PlannedJob) -> Iterator[str]:
    before, now = {*(job.recorded_inputs or job.inputs)}, {*job.inputs}
    if gone := sorted(before - now):
        yield f"it is no longer made from {', '.join(gone)}"
    if new := sorted(now - before):
        yield f"it is now made from {', '.join(new)}, too"


def _damage(path: str) -> Iterator[str]:
    """Bytes that are not those written."""
    suffix = Path(path).suffix
    if suffix in ARTIFACT_SUFFIXES:
        try:
            verify(path)
        except ArtifactError as error:
            yield str(error).rstrip(".")
    elif suffix in DELIVERED_SUFFIXES and (stated := _stated_digest(Path(path))) not in ("", file_digest(path)):
        yield f"{path} was changed after its card was written (its SHA-256 there is {stated[:12]}…)"


def _stated_digest(path: Path) -> str:
    """SHA-256 of a delivered file, as its card states it; empty where there is no card."""
    try:
        files = read_json(path.with_suffix(".json"), "card")["files"]
    except ArtifactError:
        return ""
    return str(files[path.suffix.removeprefix(".")]["sha256"])
