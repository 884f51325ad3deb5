"""Measure blocks and whole subnets of the hyperspace on a device at hand."""

from functools import partial
from pathlib import Path

from spaceevo.artifacts import Record, write_table
from spaceevo.config import ProfileParams
from spaceevo.latency.checkpoint import read_checkpoint, write_checkpoint
from spaceevo.latency.devices import load_device
from spaceevo.latency.profile import PROFILE_KIND, Limits, profile
from spaceevo.latency.samples import ProfileCounts
from spaceevo.scripting import run
from spaceevo.space import load_hyperspace


def main(
    device: str, hyperspace: str, val: Path, counts: ProfileParams, seed: int, checkpoint: Path, output: Path
) -> None:
    """Profile `device`; what a run that was cut short left in `checkpoint` is not measured again."""
    from spaceevo.data.splits import load_split  # brings torch, which the processes that convert networks do without

    declared, space = load_device(device), load_hyperspace(hyperspace)
    declared.how.check(declared)
    machine = declared.how.machine(declared)
    params = {"device": declared.model_dump(mode="json"), "hyperspace": hyperspace, "profile": counts.model_dump()}
    record = Record(params | {"machine": machine}, seed)
    earlier = read_checkpoint(checkpoint, record)
    table = profile(
        declared,
        space,
        len(load_split(val).classes),
        counts=ProfileCounts(counts.blocks_per_type, counts.nets, counts.test_nets),
        limits=Limits(counts.time_limit_s - record.earlier_wall_s, counts.target),
        seed=seed,
        earlier=earlier,
        save=partial(write_checkpoint, checkpoint, record=record),
    )
    write_table(output, PROFILE_KIND, table, record)
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main)
