"""Whether every subnet of a trained supernet is accurate in INT8 as it is: against FP32, and against training it alone.

FP32 stands for two things: the same weights without quantizers, which is what quantization alone costs, and the
supernet as the FP32 phase left it. A subnet trained alone sees the images that the supernet saw, with the same two
phases, from random weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from common import Check, print_checks, print_table, write_result
from torch import Tensor
from trained import OWN, FinishedRun, finished_run

from spaceevo.artifacts import Record
from spaceevo.data.loader import batches
from spaceevo.nn.initialise import initialise
from spaceevo.nn.plain import Network
from spaceevo.progress import progress
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.quantizers import Precision, fp32, int8
from spaceevo.scripting import run
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.space import Subnet, sample_subnet
from spaceevo.train.loop import Part, Task, train

MEAN_GAP, WORST_GAP, ALONE_GAP = 0.3, 1.0, 1.0  # points


def main(
    results: Path = Path("results"),
    device: str = "cpu",
    configfile: Path | None = None,
    supernet: str = OWN,
    subnets: int = 50,
    alone: int = 10,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Evaluate random subnets of a supernet that params.yaml and `configfile` made, and train some alone.

    `supernet` is one of the device's folder, such as comparison/evolved/supernet_0.
    """
    torch.set_num_threads(threads)
    finished = finished_run(results, device, configfile, supernet)
    elastic, before = finished.supernet(), finished.supernet_fp32()
    rng = np.random.default_rng([seed, 2])
    drawn = [sample_subnet(elastic.space, rng) for _ in range(subnets)]
    evaluator, evaluator_before = finished.evaluator(elastic), finished.evaluator(before)
    accuracy: dict[str, list[float]] = {"int8": [], "same_weights_fp32": [], "fp32_phase": []}
    with progress("subnets", len(drawn)) as tick:
        for number, subnet in enumerate(drawn):
            accuracy["int8"].append(evaluator.accuracy(subnet, int8))
            accuracy["same_weights_fp32"].append(evaluator.accuracy(subnet, fp32))
            accuracy["fp32_phase"].append(evaluator_before.accuracy(subnet, fp32))
            tick(number + 1)
    by_itself = [_trained_alone(finished, subnet, evaluator, seed) for subnet in drawn[:alone]]
    points = {name: 100 * np.array(values) for name, values in accuracy.items()}
    gaps = {name: points[name] - points["int8"] for name in ("same_weights_fp32", "fp32_phase")}
    gaps["trained_alone"] = 100 * np.array(by_itself) - points["int8"][:alone]
    print_table(
        f"Accuracy of {subnets} random subnets of {elastic.space.code} on val, minus their INT8 accuracy, points",
        ("FP32 accuracy", "subnets", "mean", "smallest", "largest"),
        [
            (name.replace("_", " "), len(gap), f"{gap.mean():+.2f}", f"{gap.min():+.2f}", f"{gap.max():+.2f}")
            for name, gap in gaps.items()
            if len(gap)
        ],
    )
    checks = []
    for name, words in (("same_weights_fp32", "the same weights in FP32"), ("fp32_phase", "the FP32 phase")):
        mean, worst = float(gaps[name].mean()), float(gaps[name].max())
        checks.append(Check(f"{words}: mean gap at most {MEAN_GAP} points", f"{mean:+.2f}", mean <= MEAN_GAP))
        checks.append(Check(f"{words}: worst at most {WORST_GAP}", f"{worst:+.2f}", worst <= WORST_GAP))
    if alone:
        mean = float(gaps["trained_alone"].mean())
        what = f"trained alone: mean of {alone} at most {ALONE_GAP} point above"
        checks.append(Check(what, f"{mean:+.2f}", mean <= ALONE_GAP))
    print_checks(checks)
    content = {
        "device": device,
        "supernet": supernet,
        "space": elastic.space.code,
        "subnets": [subnet.code for subnet in drawn],
        "accuracy": accuracy | {"trained_alone": by_itself},
    }
    write_result(f"quantized_for_all{finished.suffix}", content, checks)


def _trained_alone(finished: FinishedRun, subnet: Subnet, evaluator: SubnetEvaluator, seed: int) -> float:
    """INT8 accuracy on val of the subnet, trained from random weights on as many images as the supernet."""
    supernet, params, split = evaluator.supernet, finished.params, finished.split("train")
    network = Network(supernet.space, subnet, supernet.num_classes, supernet.image_quantizer.grid())
    initialise(network, torch.Generator().manual_seed(seed))
    resolution, smoothing = supernet.space.hyperspace.resolutions[-1], params.supernet.sandwich.label_smoothing

    def objective(precision: Precision, step: int, x: Tensor, y: Tensor) -> Iterator[Part]:
        def loss() -> Tensor:
            return F.cross_entropy(network(x, precision), y, label_smoothing=smoothing)

        yield Part(subnet.code, network, loss)

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.safetensors"
        task = Task(subnet.code, split, resolution, seed, checkpoint, params.augment, 10**9)
        accelerator, settings = Accelerator(), params.supernet
        train(network, partial(objective, fp32), settings.fp32, task.phase("fp32"), Record({}), accelerator)
        stream = batches(
            split, batch_size=settings.int8.batch_size, resolution=resolution, seed=seed, epoch=0, shuffle=True
        )
        network.train()
        with torch.no_grad():
            runs = [partial(network, x) for (x, _), _ in zip(stream, range(settings.calibration_batches), strict=False)]
            calibrate(network, runs, torch.Generator().manual_seed(seed))
        train(network, partial(objective, int8), settings.int8, task.phase("int8"), Record({}), accelerator)
    return evaluator.accuracy_of(evaluator.recalibrated(network))


if __name__ == "__main__":
    run(main)
