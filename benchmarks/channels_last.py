"""A training step of the supernet on channels-last against contiguous pictures, in FP32 and in simulated INT8.

The step is that of training: the largest subnet on labels, the smallest and two random ones on its logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from common import Check, print_checks, print_table, time_interleaved, write_result
from torch import Tensor

from spaceevo.nn.initialise import initialise
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.grids import image_grid
from spaceevo.quant.quantizers import Precision, fp32, int8
from spaceevo.scripting import run
from spaceevo.space import Subnet, parse_space, sample_subnet
from spaceevo.train.loop import subnet_rng
from spaceevo.train.losses import alpha_divergence

CLASSES = 10
PRECISIONS: dict[str, Precision] = {"fp32": fp32, "int8": int8}
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def main(space: str = "tiny-4664-1222", batch_size: int = 64, rounds: int = 7, seed: int = 0) -> None:
    """Time the four combinations in turns, on one thread."""
    torch.set_num_threads(1)
    parsed = parse_space(space)
    resolution = parsed.hyperspace.resolutions[-1]
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch_size, 3, resolution, resolution, generator=generator)
    labels = torch.randint(CLASSES, (batch_size,), generator=generator)
    rng = subnet_rng(seed, 0)
    subnets = [parsed.largest, parsed.smallest, sample_subnet(parsed, rng), sample_subnet(parsed, rng)]
    supernet = Supernet(parsed, CLASSES, image_grid([0.5] * 3, [0.25] * 3)).train()
    initialise(supernet, generator)
    calibrate(supernet, [partial(supernet, images, subnet) for subnet in subnets], generator)

    times = time_interleaved(
        {
            f"{precision}_{layout}": _step(
                supernet, subnets, images.contiguous(memory_format=FORMATS[layout]), labels, PRECISIONS[precision]
            )
            for precision in PRECISIONS
            for layout in FORMATS
        },
        rounds,
        round_s=0.001,
    )
    ratios = {p: times[f"{p}_contiguous"] / times[f"{p}_channels_last"] for p in PRECISIONS}
    print_table(
        f"Step of the supernet {space}, batch {batch_size} at {resolution} pixels, one thread",
        ("precision", "channels last, ms", "contiguous, ms", "ratio"),
        [
            (p, f"{times[f'{p}_channels_last']:.0f}", f"{times[f'{p}_contiguous']:.0f}", f"{ratios[p]:.2f}")
            for p in PRECISIONS
        ],
    )
    checks = [Check(f"{p}: channels last is faster", f"{r:.2f} times", r > 1) for p, r in ratios.items()]
    print_checks(checks)
    content = {"space": space, "batch_size": batch_size, "resolution": resolution, "threads": 1, "rounds": rounds}
    write_result("channels_last", content | {"step_ms": times, "ratio": ratios}, checks)


def _step(
    supernet: Supernet, subnets: list[Subnet], images: Tensor, labels: Tensor, precision: Precision
) -> Callable[[], None]:
    largest, *students = subnets

    def step() -> None:
        supernet.zero_grad(set_to_none=True)
        logits = supernet(images, largest, precision)
        torch.autograd.backward(F.cross_entropy(logits, labels, label_smoothing=0.05))
        target = logits.detach()
        for student in students:
            torch.autograd.backward(alpha_divergence(supernet(images, student, precision), target))

    return step


if __name__ == "__main__":
    run(main)
