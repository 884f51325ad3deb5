"""Training steps on a GPU: pictures per second of the supernet and of block distillation, and hours on ImageNet.

A supernet step is that of training: the largest subnet on labels, the smallest and random ones on its logits, then
AdamW. A distillation step trains every block type of every stage on one pass of the teacher. Both on pictures of 224
pixels that are on the GPU already. A few steps with other random subnets take turns, each once before any is timed:
cuDNN looks for a kernel when it meets a shape for the first time, and Triton compiles, which long trainings forget.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import torch
from common import Check, print_checks, print_table, write_result
from torch import Tensor, nn

from spaceevo.config import Params
from spaceevo.errors import SpaceEvoError
from spaceevo.nn.initialise import initialise
from spaceevo.nn.layout import images_on
from spaceevo.nn.supernet import Supernet
from spaceevo.nn.teacher import build_teacher
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.grids import image_grid
from spaceevo.quant.quantizers import Precision, fp32, int8
from spaceevo.scripting import run
from spaceevo.space import load_hyperspace, parse_space
from spaceevo.train.blocks import Students, students_parts
from spaceevo.train.loop import Part, back_propagate, subnet_rng, trained_parameters
from spaceevo.train.supernet import sandwich_objective
from spaceevo.workflow.plan import PAPER_GPU_HOURS, merged_params

CLASSES = 1000
TRAIN_IMAGES = 1_281_167  # of ImageNet-1k
GRID = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
RESOLUTION = 224  # pixels
DISTINCT = 2  # steps that take turns
ENOUGH_S = 8.0  # of one case: a slow one has fewer steps

Step = Callable[[int], Iterable[Part]]  # the parts of a step, by its number
Trained = Callable[[nn.Module], list[nn.Parameter]]  # `trained_parameters`


@dataclass(frozen=True)
class Case:
    """What is timed: which step, in which precision and arithmetic."""

    step: str
    precision: str
    bf16: bool = False

    @property
    def name(self) -> str:
        return "bf16" if self.bf16 else self.precision


CASES = (
    Case("blocks", "fp32"),
    Case("blocks", "int8"),
    Case("supernet", "fp32"),
    Case("supernet", "int8"),
    Case("supernet", "fp32", bf16=True),
    Case("blocks", "fp32", bf16=True),
)


RATIOS = (  # of images per second
    ("supernet", "bf16", "fp32"),
    ("supernet", "int8", "fp32"),
    ("blocks", "bf16", "fp32"),
    ("blocks", "int8", "fp32"),
)


@dataclass(frozen=True)
class Timed:
    """Milliseconds of each step, by the GPU's clock, and the most memory that tensors took, GiB; None: too much."""

    case: Case
    batch_size: int
    step_ms: list[float]
    memory_gib: float | None

    @property
    def images_per_s(self) -> float:
        """By the median step; 0 where memory ran out."""
        ordered = sorted(self.step_ms)
        return 1000 * self.batch_size / ordered[len(ordered) // 2] if ordered else 0.0


def main(
    params: Path = Path("params/imagenet.yaml"),
    space: str = "spaceevo@pixel4",
    batch_size: int = 128,
    blocks_batch_size: int = 256,
    steps: int = 6,
    seed: int = 0,
) -> None:
    """Time every case on one GPU, and project the GPU hours of `params`."""
    if not torch.cuda.is_available():
        raise SpaceEvoError("torch sees no GPU here: run this on a machine that has one.")
    chosen = merged_params([params])
    makers = {"supernet": partial(supernet_step, chosen, space), "blocks": partial(blocks_step, chosen)}
    timed: list[Timed] = []
    for case in CASES:
        size = {"supernet": batch_size, "blocks": blocks_batch_size}[case.step]
        timed.append(time_case(case, makers[case.step], size, steps, seed))
        print(f"{case.step}, {case.name}: {timed[-1].images_per_s:.0f} images/s", flush=True)
        write(chosen, space, timed)  # what is measured is kept, whatever becomes of the cases that follow
    report(chosen, timed)


def report(params: Params, timed: list[Timed]) -> None:
    """Print the tables and the checks."""
    print_table(
        f"Steps on one {torch.cuda.get_device_name()}, torch {torch.__version__}",
        ("step", "case", "batch", "images/s", "ms", "memory, GiB"),
        [
            (
                t.case.step,
                t.case.name,
                str(t.batch_size),
                f"{t.images_per_s:.0f}",
                f"{1000 * t.batch_size / t.images_per_s:.0f}" if t.step_ms else "out of memory",
                f"{t.memory_gib:.1f}" if t.memory_gib is not None else "",
            )
            for t in timed
        ],
    )
    hours = gpu_hours(params, timed)
    print_table("GPU hours on ImageNet", ("phase", "hours"), [(name, f"{found:.1f}") for name, found in hours.items()])
    print_table("Images per second", ("ratio", ""), [(name, f"{gain:.2f}") for name, gain in gains(timed).items()])
    print_checks(checks(hours))


def write(params: Params, space: str, timed: list[Timed]) -> None:
    """Write what is timed so far, and what follows from it."""
    hours = gpu_hours(params, timed)
    content = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "space": space,
        "cases": [asdict(t) | {"name": t.case.name, "images_per_s": t.images_per_s} for t in timed],
        "gpu_hours": hours,
        "ratios": gains(timed),
    }
    write_result("gpu_step", content, checks(hours))


def gpu_hours(params: Params, timed: list[Timed]) -> dict[str, float]:
    """Hours of each phase that is timed, on ImageNet, by the fastest way of its precision."""
    images = TRAIN_IMAGES * (1 - params.dataset.val_fraction)
    recipes = {"supernet": params.supernet, "blocks": params.blocks}
    best: dict[tuple[str, str], float] = {}
    for t in timed:
        phase = t.case.step, t.case.precision
        best[phase] = max(best.get(phase, 0.0), t.images_per_s)
    return {
        f"{step} {precision}": getattr(recipes[step], precision).epochs * images / speed / 3600
        for (step, precision), speed in best.items()
        if speed
    }


def gains(timed: list[Timed]) -> dict[str, float]:
    """By how many times one case is as fast as another, for all of `RATIOS` that are timed."""
    speed = {(t.case.step, t.case.name): t.images_per_s for t in timed}
    return {
        f"{of}: {first} over {second}": speed[of, first] / speed[of, second]
        for of, first, second in RATIOS
        if (of, first) in speed and speed.get((of, second))
    }


def checks(hours: dict[str, float]) -> list[Check]:
    """Whether the blocks are distilled as fast as the paper searches for a space; none before that is known."""
    if not {"blocks fp32", "blocks int8"} <= hours.keys():
        return []
    found = hours["blocks fp32"] + hours["blocks int8"]
    what = f"blocks distilled in at most the paper's {PAPER_GPU_HOURS:g} GPU hours"
    return [Check(what, f"{found:.1f}", found <= PAPER_GPU_HOURS)]


def time_case(
    case: Case,
    maker: Callable[[Precision, Tensor, Tensor, int], tuple[nn.Module, Step]],
    batch_size: int,
    steps: int,
    seed: int,
) -> Timed:
    """Time the steps of one case, in a network of its own."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    generator = torch.Generator().manual_seed(seed)
    images = images_on(torch.randn(batch_size, 3, RESOLUTION, RESOLUTION, generator=generator), torch.device("cuda"))
    labels = torch.randint(CLASSES, (batch_size,), generator=generator).cuda()
    try:
        module, parts = maker(int8 if case.precision == "int8" else fp32, images, labels, seed)
        optimizer = torch.optim.AdamW(trained_parameters(module), lr=1e-6, fused=True)
        found: list[float] = []
        timed_step = partial(_timed_step, case, parts, cache(trained_parameters), optimizer)
        for number in range(DISTINCT):
            timed_step(number)
        while len(found) < steps and sum(found) < 1000 * ENOUGH_S:
            found.append(timed_step(len(found) % DISTINCT))
    except torch.OutOfMemoryError:
        return Timed(case, batch_size, [], None)
    return Timed(case, batch_size, found, torch.cuda.max_memory_allocated() / 2**30)


def _timed_step(case: Case, parts: Step, trained: Trained, optimizer: torch.optim.Optimizer, number: int) -> float:
    autocast = partial(torch.autocast, "cuda", torch.bfloat16, enabled=case.bf16)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    optimizer.zero_grad(set_to_none=True)
    back_propagate(parts(number), trained, autocast=autocast)
    optimizer.step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def supernet_step(
    params: Params, space_code: str, precision: Precision, images: Tensor, labels: Tensor, seed: int
) -> tuple[nn.Module, Step]:
    """A supernet on the GPU, and the parts of its steps."""
    space = parse_space(space_code)
    supernet = Supernet(space, CLASSES, image_grid(*GRID))
    initialise(supernet, torch.Generator().manual_seed(seed))
    supernet.cuda().train()
    if precision is int8:
        few = images[:8]
        runs = [partial(supernet, few, subnet) for subnet in (space.largest, space.smallest)]
        calibrate(supernet, runs, torch.Generator().manual_seed(seed))
    objective = sandwich_objective(supernet, params.supernet.sandwich, precision, seed)
    return supernet, lambda number: objective(number, images, labels)


def blocks_step(
    params: Params, precision: Precision, images: Tensor, labels: Tensor, seed: int
) -> tuple[nn.Module, Step]:
    """Students of all stages and block types on the GPU, and the parts of their steps."""
    hyperspace = load_hyperspace(params.hyperspace)
    teacher = build_teacher(params.teacher.model, hyperspace, CLASSES, image_grid(*GRID))
    initialise(teacher, torch.Generator().manual_seed(seed))
    teacher.cuda().eval().requires_grad_(False)
    stages, types = [stage.name for stage in hyperspace.searched_stages], range(len(hyperspace.block_types))
    students = Students(hyperspace, teacher, stages, types)
    initialise(students, torch.Generator().manual_seed(seed))
    students.cuda().train()

    def parts(number: int) -> Iterable[Part]:
        return students_parts(
            students, teacher, images, params.blocks.random_choices, subnet_rng(seed, number), precision
        )

    return students, parts


if __name__ == "__main__":
    run(main)
