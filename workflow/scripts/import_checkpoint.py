"""Import a published supernet in the place of a trained one."""

from pathlib import Path

import torch

from spaceevo.artifacts import Record, write_json
from spaceevo.data.splits import load_split
from spaceevo.nn.store import write_supernet
from spaceevo.scripting import run
from spaceevo.space import parse_space
from spaceevo.train.published import image_spec, import_int8, open_checkpoint


def main(
    checkpoint: Path,
    space: str,
    train: Path,
    calibration_batches: int,
    batch_size: int,
    seed: int,
    threads: int,
    space_output: Path,
    output: Path,
) -> None:
    """Write the supernet to `output` and its space to `space_output`; grids are fitted to the training split."""
    torch.set_num_threads(threads)
    params = {"checkpoint": str(checkpoint), "space": space}
    record = Record({**params, "calibration_batches": calibration_batches, "batch_size": batch_size}, seed)
    published, split = open_checkpoint(checkpoint, parse_space(space)), load_split(train)
    spec = image_spec(published, split)
    supernet, origins = import_int8(published, spec, split, batch_size, calibration_batches, seed)
    grids = {"weights": dict(origins.weights), "activations": dict(origins.activations)}
    content = {"space": published.space.code, "checkpoint": str(checkpoint), "subnets": published.space.count()}
    write_json(space_output, "space", {**content, "grids": origins.counts()}, record)
    write_supernet(output, supernet, spec, record, {"checkpoint": checkpoint.name, "grids": grids})


if __name__ == "__main__":
    run(main)
