"""Write the card of one SEQnet: cost, latency, and the accuracy of its exported files on the test split."""

from pathlib import Path

import torch

from spaceevo.artifacts import Record, read_json, write_json
from spaceevo.data.pictures import Pictures
from spaceevo.data.splits import load_split
from spaceevo.export.card import TestSplit, make_card
from spaceevo.latency.devices import load_device, read_own_predictor
from spaceevo.nn.store import load_seqnet, load_supernet
from spaceevo.quant.quantizers import fp32, int8
from spaceevo.scripting import run
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.train.evaluate import EVALUATION_BATCH, RECALIBRATION_BATCH


def main(
    seqnet: Path,
    tflite: Path,
    onnx: Path,
    supernet: Path,
    seqnets: Path,
    predictor: Path,
    device: str,
    name: str,
    train: Path,
    test: Path,
    recalibration_images: int,
    seed: int,
    threads: int,
    output: Path,
) -> None:
    """Write the card of SEQnet `name`, such as A1, of `device`."""
    torch.set_num_threads(threads)
    record = Record({"device": device, "name": name, "recalibration_images": recalibration_images}, seed)
    network, _ = load_seqnet(seqnet)
    space, subnet = network.space, network.subnet
    resolution = space.hyperspace.resolutions[-1]
    train_pictures = Pictures.of_split(load_split(train), resolution, RECALIBRATION_BATCH, recalibration_images, seed)
    test_split = load_split(test)
    pictures = Pictures.of_split(test_split, resolution, EVALUATION_BATCH)
    evaluator = SubnetEvaluator(load_supernet(supernet)[0], train_pictures, pictures, None)
    card = make_card(
        f"SEQnet@{device}-{name}",
        space,
        subnet,
        {".tflite": tflite, ".onnx": onnx},
        TestSplit(lambda: (x.numpy() for x in pictures.batches(subnet.resolution)), test_split.labels),
        evaluator.logits(network, int8).numpy(),
        evaluator.accuracy(subnet, fp32),
        read_own_predictor(predictor),
        load_device(device),
        read_json(seqnets, "seqnets")["seqnets"][name],
    )
    write_json(output, "card", card, record)


if __name__ == "__main__":
    run(main)
