"""Take the shipped predictor of a device that is not at hand."""

from dataclasses import replace
from pathlib import Path

from spaceevo.artifacts import Record
from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.predictor import write_predictor
from spaceevo.scripting import run


def main(device: str, output: Path) -> None:
    """Write the predictor of `device`."""
    predictor = replace(table_predictor(load_device(device)), device=device)  # it may have been fitted elsewhere
    write_predictor(output, predictor, Record({"device": device}))


if __name__ == "__main__":
    run(main)
