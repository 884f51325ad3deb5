"""The checkpoint of a profile: what was measured so far, for a run that goes on after a kill."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from spaceevo.artifacts import Record, read_header, read_table, write_table
from spaceevo.errors import ArtifactError

CHECKPOINT_KIND = "latency_profile_checkpoint"


def write_checkpoint(path: Path, table: pd.DataFrame, record: Record) -> None:
    """Keep what was measured so far."""
    write_table(path, CHECKPOINT_KIND, table, record)


def read_checkpoint(path: Path, record: Record) -> pd.DataFrame | None:
    """What an interrupted run with the same parameters, seed and machine left, its cost added to the record's.

    None where there is nothing, or what is there is of another run or damaged: then all is measured anew.
    """
    if not path.is_file():
        return None
    try:
        header, table = read_header(path), read_table(path, CHECKPOINT_KIND)
    except ArtifactError:
        return None
    if header["params"] != dict(record.params) or header["seed"] != record.seed:
        return None
    record.resume(header["cost"])
    return table
