"""Extract one SEQnet from the supernet: its final BatchNorm statistics, its int8 graph, and what it computes."""

from pathlib import Path

import torch

from spaceevo.artifacts import Record, read_json
from spaceevo.data.loader import materialise
from spaceevo.data.pictures import Pictures
from spaceevo.data.splits import load_split
from spaceevo.export.description import file_description
from spaceevo.export.simulation import simulate
from spaceevo.export.verify import write_verification
from spaceevo.nn.store import load_supernet, write_seqnet
from spaceevo.quant.graph import write_graph
from spaceevo.quant.lower import lower, snap_biases
from spaceevo.scripting import run
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.train.evaluate import RECALIBRATION_BATCH


def main(
    supernet: Path,
    seqnets: Path,
    device: str,
    name: str,
    train: Path,
    test: Path,
    recalibration_images: int,
    verify_images: int,
    seed: int,
    threads: int,
    output: Path,
    graph: Path,
    verification: Path,
) -> None:
    """Write SEQnet `name`, such as A1, of `device`."""
    torch.set_num_threads(threads)
    params = {"recalibration_images": recalibration_images, "verify_images": verify_images}
    record = Record({"device": device, "name": name} | params, seed)
    network, spec = load_supernet(supernet)
    resolution = network.space.hyperspace.resolutions[-1]
    subnet = network.space.subnet(read_json(seqnets, "seqnets")["seqnets"][name]["subnet"])
    train_pictures = Pictures.of_split(load_split(train), resolution, RECALIBRATION_BATCH, recalibration_images, seed)
    test_images, labels = materialise(load_split(test), resolution, verify_images, seed)
    seqnet = SubnetEvaluator(network, train_pictures, test_images, labels).network(subnet).cpu()
    snap_biases(seqnet)
    description = file_description(seqnet, spec, f"SEQnet@{device}-{name}")
    write_seqnet(output, seqnet, spec, record)
    write_graph(graph, lower(seqnet, description), record)
    write_verification(verification, simulate(seqnet, test_images), record)


if __name__ == "__main__":
    run(main)
