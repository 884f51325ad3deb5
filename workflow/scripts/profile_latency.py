"""Measure blocks and whole subnets of the hyperspace on a device at hand."""

from pathlib import Path

from spaceevo.artifacts import Record, write_table
from spaceevo.config import ProfileParams
from spaceevo.data.splits import load_split
from spaceevo.latency.devices import load_device
from spaceevo.latency.profile import PROFILE_KIND, ProfileCounts, profile
from spaceevo.scripting import run
from spaceevo.space import load_hyperspace


def main(device: str, hyperspace: str, val: Path, counts: ProfileParams, seed: int, output: Path) -> None:
    """Profile `device`."""
    record = Record({"device": device, "hyperspace": hyperspace, "profile": counts.model_dump()}, seed)
    table = profile(
        load_device(device),
        load_hyperspace(hyperspace),
        len(load_split(val).classes),
        counts=ProfileCounts(counts.blocks_per_type, counts.nets, counts.test_nets),
        budget_s=counts.time_limit_s,
        seed=seed,
    )
    write_table(output, PROFILE_KIND, table, record)


if __name__ == "__main__":
    run(main)
