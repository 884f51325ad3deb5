"""Extract one SEQnet from the supernet: its final BatchNorm statistics, its int8 graph, and what it computes."""

from pathlib import Path

import torch

from spaceevo.artifacts import Record, read_json
from spaceevo.config import ExportParams
from spaceevo.data.loader import materialise
from spaceevo.data.splits import load_split
from spaceevo.export.description import file_description
from spaceevo.export.simulation import simulate
from spaceevo.export.verify import write_verification
from spaceevo.nn.store import load_supernet, write_seqnet
from spaceevo.quant.graph import write_graph
from spaceevo.quant.lower import lower, snap_biases
from spaceevo.scripting import run
from spaceevo.search.evaluator import SubnetEvaluator


def main(
    supernet: Path,
    seqnets: Path,
    device: str,
    name: str,
    train: Path,
    test: Path,
    export: ExportParams,
    seed: int,
    threads: int,
    output: Path,
    graph: Path,
    verification: Path,
) -> None:
    """Write SEQnet `name`, such as A1, of `device`."""
    torch.set_num_threads(threads)
    record = Record({"device": device, "name": name, "export": export.model_dump()}, seed)
    network, spec = load_supernet(supernet)
    resolution = network.space.hyperspace.resolutions[-1]
    subnet = network.space.subnet(read_json(seqnets, "seqnets")["seqnets"][name]["subnet"])
    train_images, _ = materialise(load_split(train), resolution, export.recalibration_images, seed)
    images, labels = materialise(load_split(test), resolution, export.verify_images, seed)
    seqnet = SubnetEvaluator(network, train_images, images, labels).network(subnet)
    snap_biases(seqnet)
    description = file_description(seqnet, spec, f"SEQnet@{device}-{name}")
    write_seqnet(output, seqnet, spec, record)
    write_graph(graph, lower(seqnet, description), record)
    write_verification(verification, simulate(seqnet, images), record)


if __name__ == "__main__":
    run(main)
