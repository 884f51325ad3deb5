"""Fit the latency predictor of a device to what was measured on it."""

from pathlib import Path

from spaceevo.artifacts import Record, read_header, read_table
from spaceevo.latency.devices import check_machine, load_device
from spaceevo.latency.fit import fit_predictor
from spaceevo.latency.predictor import write_predictor
from spaceevo.latency.profile import PROFILE_KIND
from spaceevo.scripting import run
from spaceevo.space import load_hyperspace


def main(profile: Path, device: str, hyperspace: str, output: Path) -> None:
    """Write the predictor of `device`, with its error on unseen subnets."""
    record = Record({"device": device, "hyperspace": hyperspace})
    machine = read_header(profile)["params"].get("machine", {})
    check_machine(load_device(device), machine, profile)
    predictor = fit_predictor(read_table(profile, PROFILE_KIND), load_hyperspace(hyperspace), device, machine)
    write_predictor(output, predictor, record)


if __name__ == "__main__":
    run(main)
