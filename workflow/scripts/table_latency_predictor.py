"""Take the shipped predictor of a device that is not at hand."""

from pathlib import Path

from spaceevo.artifacts import Record
from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.predictor import write_predictor
from spaceevo.scripting import run


def main(device: str, output: Path) -> None:
    """Write the predictor of `device`."""
    write_predictor(output, table_predictor(load_device(device)), Record({"device": device}))


if __name__ == "__main__":
    run(main)
