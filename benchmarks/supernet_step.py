"""A training step of a supernet for photographs, in FP32 and with quantizers: seconds and memory.

The step is that of training: the largest subnet on labels, two random and the smallest on its classes; on two threads,
each computes a subnet. The reference is a straightforward implementation of the same step, timed in turns with it:
contiguous tensors, LSQ+ written out operation by operation, on weights and inputs wherever a layer reads them, and
torch's own threads within each operation.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from common import Check, print_checks, print_table, write_result
from torch import Tensor, nn

from spaceevo.config import Sandwich
from spaceevo.nn.elastic import ElasticBlock, ElasticConv, ElasticNorm, ElasticStage
from spaceevo.nn.initialise import initialise
from spaceevo.nn.layout import images_on
from spaceevo.nn.plain import stage_choices
from spaceevo.nn.plan import Add, Conv, Gate, Linear, Pool
from spaceevo.nn.supernet import Supernet
from spaceevo.parallel import MOST_AT_ONCE, Mapper, SideBySide, share_threads
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.grids import LEVELS, WEIGHT_LEVELS, image_grid
from spaceevo.quant.quantizers import Precision, fp32, int8
from spaceevo.scripting import run
from spaceevo.space import Space, Subnet, parse_space, sample_subnet
from spaceevo.train.loop import back_propagate, subnet_rng, trained_parameters
from spaceevo.train.losses import DIVERGENCES
from spaceevo.train.memory import keep_freed_memory
from spaceevo.train.supernet import sandwich_objective

CLASSES = 1000
CASES = ("fp32", "int8", "reference_fp32", "reference_int8")
FP32_TARGET, INT8_TARGET = 2 / 3, 1 / 2  # of the reference's seconds
RATIO_TARGET = 1.3  # with quantizers over FP32
MEMORY_TARGET_GIB = 6.0
SANDWICH = Sandwich(random_subnets=2)


@dataclass(frozen=True)
class Timed:
    """Seconds of the steps of one case, and the largest memory of its processes, GiB."""

    seconds: list[float]
    memory_gib: float


def main(
    space: str = "onnxw-151122-023231",
    batch_size: int = 8,
    threads: int = 2,
    rounds: int = 3,
    steps: int = 2,
    seed: int = 0,
    case: str = "",
) -> None:
    """Run every case in turns, each time in a new process; with `case`, be that process."""
    if case:
        print(json.dumps(time_case(parse_space(space), case, batch_size, threads, steps, seed)))
        return
    timed = {name: Timed([], 0.0) for name in CASES}
    for _ in range(rounds):
        for name in CASES:
            words = [sys.executable, str(Path(__file__)), "--space", space, "--batch-size", str(batch_size)]
            words += ["--threads", str(threads), "--steps", str(steps), "--seed", str(seed), "--case", name]
            found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            memory = max(timed[name].memory_gib, found["memory_gib"])
            timed[name] = Timed([*timed[name].seconds, *found["seconds"]], memory)
    report(space, batch_size, threads, rounds, timed)


def report(space: str, batch_size: int, threads: int, rounds: int, timed: dict[str, Timed]) -> None:
    """Print and write the table; ratios are of the quickest steps, which other work on the machine disturbs least."""
    least = {name: min(found.seconds) for name, found in timed.items()}
    print_table(
        f"Step of the supernet {space}, batch {batch_size} at 224 pixels, {threads} threads",
        ("case", "quickest, s", "median, s", "peak memory, GiB"),
        [
            (name, f"{least[name]:.2f}", f"{statistics.median(found.seconds):.2f}", f"{found.memory_gib:.2f}")
            for name, found in timed.items()
        ],
    )
    ratios = {
        "fp32 / reference fp32": (least["fp32"] / least["reference_fp32"], FP32_TARGET),
        "int8 / reference int8": (least["int8"] / least["reference_int8"], INT8_TARGET),
        "int8 / fp32": (least["int8"] / least["fp32"], RATIO_TARGET),
    }
    memory = timed["int8"].memory_gib
    checks = [Check(f"{name}: at most {limit:.2f}", f"{r:.2f}", r <= limit) for name, (r, limit) in ratios.items()]
    checks.append(
        Check(f"peak memory of int8 at most {MEMORY_TARGET_GIB:g} GiB", f"{memory:.2f}", memory <= MEMORY_TARGET_GIB)
    )
    print_checks(checks)
    content = {
        "space": space,
        "batch_size": batch_size,
        "threads": threads,
        "rounds": rounds,
        "seconds": {name: found.seconds for name, found in timed.items()},
        "memory_gib": {name: found.memory_gib for name, found in timed.items()},
        "ratios": {name: ratio for name, (ratio, _) in ratios.items()},
    }
    write_result("supernet_step" if threads == 1 else f"supernet_step_{threads}_threads", content, checks)


def time_case(
    space: Space, case: str, batch_size: int, threads: int, steps: int, seed: int
) -> dict[str, float | list[float]]:
    """Seconds of each step after the first, and the process's largest memory; on one thread, seconds of the CPU."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    generator = torch.Generator().manual_seed(seed)
    resolution = space.hyperspace.resolutions[-1]
    images = torch.randn(batch_size, 3, resolution, resolution, generator=generator)
    labels = torch.randint(CLASSES, (batch_size,), generator=generator)
    supernet = Supernet(space, CLASSES, image_grid([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])).train()
    initialise(supernet, generator)
    plain = case.startswith("reference")
    with SideBySide(share_threads(threads, 1 if plain else MOST_AT_ONCE)) as mapper:
        if plain:
            reference = Reference(supernet, quantized=case.endswith("int8"))
            step = reference_step(reference, images, labels, seed)
        else:
            step = trained_step(supernet, int8 if case == "int8" else fp32, images, labels, seed, mapper)
        step()
        seconds = []
        for _ in range(steps):
            start = clock()
            step()
            seconds.append(clock() - start)
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "memory_gib": kib / 2**20}


def trained_step(
    supernet: Supernet, precision: Precision, images: Tensor, labels: Tensor, seed: int, mapper: Mapper
) -> Callable[[], None]:
    """A step as `spaceevo.train.loop.train` takes it, but for the optimizer's part."""
    keep_freed_memory()
    images = images_on(images, torch.device("cpu"))
    if precision is int8:
        space = supernet.space
        runs = [partial(supernet, images, subnet) for subnet in (space.largest, space.smallest)]
        calibrate(supernet, runs, torch.Generator().manual_seed(seed))
    objective = sandwich_objective(supernet, SANDWICH, precision, seed)
    trained = cache(trained_parameters)

    def step() -> None:
        supernet.zero_grad(set_to_none=True)
        back_propagate(objective(0, images, labels), trained, mapper)

    return step


def reference_step(reference: Reference, images: Tensor, labels: Tensor, seed: int) -> Callable[[], None]:
    """A step of the same subnets."""
    space, rng = reference.supernet.space, subnet_rng(seed, 0)
    students = [*(sample_subnet(space, rng) for _ in range(SANDWICH.random_subnets)), space.smallest]
    divergence = DIVERGENCES[SANDWICH.divergence]

    def step() -> None:
        reference.zero_grad(set_to_none=True)
        logits = reference(images, space.largest)
        torch.autograd.backward(F.cross_entropy(logits, labels, label_smoothing=SANDWICH.label_smoothing))
        target = logits.detach()
        for student in students:
            torch.autograd.backward(divergence(reference(images, student), target))

    return step


class Reference(nn.Module):
    """The same subnets of the same weights, one operation of torch after another."""

    def __init__(self, supernet: Supernet, quantized: bool) -> None:
        super().__init__()
        self.supernet = supernet
        self.quantized = quantized
        self.scales = nn.ParameterDict()
        self.offsets = nn.ParameterDict()

    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        size = (subnet.resolution, subnet.resolution)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
        for name, _, choice, _ in stage_choices(self.supernet.space, subnet, CLASSES):
            stage = cast(ElasticStage, self.supernet.stages[name])
            for index, (block, block_choice) in enumerate(zip(stage.blocks, choice, strict=False)):
                x = self._block(f"{name}_{index}", cast(ElasticBlock, block), x, block_choice)
        return x

    def _block(self, name: str, block: ElasticBlock, x: Tensor, choice: object) -> Tensor:
        plan = block.plan(x.shape[1], choice)  # type: ignore[arg-type]
        tensors = {plan.input: x}
        for op in plan.ops:
            source = tensors[op.input]
            match op:
                case Conv():
                    y = self._conv(f"{name}_{op.weight}", block, op, source)
                case Linear():
                    y = self._conv(f"{name}_{op.weight}", block, op, source.flatten(1))
                case Pool():
                    y = source.mean((2, 3), keepdim=True)
                case Add():
                    y = source + tensors[op.other]
                case Gate():
                    y = source * tensors[op.gate]
            activation = op.activation if isinstance(op, Conv | Add) else None
            tensors[op.output] = ACTIVATIONS[activation](y) if activation else y
        return tensors[plan.output]

    def _conv(self, name: str, block: ElasticBlock, op: Conv | Linear, x: Tensor) -> Tensor:
        layer = cast(ElasticConv, block.convs[op.weight])
        weight, bias = layer.sliced(op)
        if self.quantized:
            x = self._quantized_input(name, x)
            weight = self._quantized_weight(f"{name}_weight", layer, weight)
        if isinstance(op, Linear):
            return F.linear(x, weight, bias)
        y = F.conv2d(x, weight, bias, op.stride, op.kernel_size // 2, groups=op.groups)
        if not op.norm:
            return y
        norm = cast(ElasticNorm, block.norms[op.norm])
        c = y.shape[1]
        return F.batch_norm(y, None, None, norm.weight[:c], norm.bias[:c], training=True, eps=norm.eps)

    def _quantized_input(self, name: str, x: Tensor) -> Tensor:
        if name not in self.scales:
            low, high = (float(end) for end in x.detach().aminmax())
            self.scales[name] = nn.Parameter(torch.tensor(max(high - low, 1e-6) / LEVELS))
            self.offsets[name] = nn.Parameter(torch.tensor(low))
        factor = 1 / math.sqrt(x.numel() * LEVELS)
        scale, offset = scale_gradient(self.scales[name], factor), scale_gradient(self.offsets[name], factor)
        return round_through(((x - offset) / scale).clamp(0, LEVELS)) * scale + offset

    def _quantized_weight(self, name: str, layer: ElasticConv, weight: Tensor) -> Tensor:
        if name not in self.scales:
            largest = layer.weight.detach().abs().flatten(1).amax(1).clamp(min=1e-6)
            self.scales[name] = nn.Parameter(largest / WEIGHT_LEVELS)
        scale = scale_gradient(self.scales[name][: len(weight)], 1 / math.sqrt(weight.numel() * WEIGHT_LEVELS))
        scale = scale.reshape(-1, *(1,) * (weight.dim() - 1))
        return round_through((weight / scale).clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS)) * scale


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hsigmoid": F.hardsigmoid,
    "hswish": F.hardswish,
    "swish": lambda x: x * x.sigmoid(),
}


def round_through(x: Tensor) -> Tensor:
    """Rounded, with the gradient of what is rounded."""
    return (x.round() - x).detach() + x


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """The same value, its gradient multiplied."""
    return (x - x * factor).detach() + x * factor


if __name__ == "__main__":
    run(main)
