"""Training the quantized-for-all supernet: an FP32 phase, then an LSQ+ phase from its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from spaceevo.artifacts import Record
from spaceevo.config import Recipe, Sandwich
from spaceevo.data.loader import batches, steps_per_epoch
from spaceevo.data.splits import Split
from spaceevo.nn.layout import images_on
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.quantizers import Precision, fp32, int8
from spaceevo.space import Space, Subnet, sample_subnet
from spaceevo.train.loop import Objective, Part, Task, subnet_rng, train
from spaceevo.train.losses import DIVERGENCES
from spaceevo.train.sampling import Sampler, uniform


def train_fp32(
    supernet: Supernet,
    sandwich: Sandwich,
    recipe: Recipe,
    task: Task,
    record: Record,
    accelerator: Accelerator,
    sampler: Sampler | None = None,
) -> None:
    """FP32 phase: the largest subnet alone, then the sandwich rule with in-place distillation from it, in place.

    Args:
        sampler: of the sandwich's random subnets; any subnet of the space where it is absent.
    """
    steps = recipe.epochs * steps_per_epoch(task.split, recipe.batch_size, drop_last=True)
    alone = round(sandwich.largest_alone * steps)
    objective = sandwich_objective(supernet, sandwich, fp32, task.seed, alone, _share(accelerator), sampler)
    train(supernet, objective, recipe, task, record, accelerator)


def train_int8(
    supernet: Supernet,
    sandwich: Sandwich,
    recipe: Recipe,
    task: Task,
    calibration_batches: int,
    record: Record,
    accelerator: Accelerator,
    sampler: Sampler | None = None,
) -> None:
    """LSQ+ phase: grids initialised on a few batches of several subnets, then trained with the weights, in place."""
    supernet.to(accelerator.device)
    calibrate_supernet(supernet, task, recipe.batch_size, calibration_batches)
    objective = sandwich_objective(supernet, sandwich, int8, task.seed, 0, _share(accelerator), sampler)
    train(supernet, objective, recipe, task, record, accelerator)


@torch.no_grad()
def calibrate_supernet(supernet: Supernet, task: Task, batch_size: int, calibration_batches: int) -> None:
    """Initial grids from `calibration_batches` batches, each seen by several subnets (`calibration_runs`)."""
    runs = calibration_runs(supernet, task.split, task.resolution, batch_size, calibration_batches, task.seed)
    calibrate(supernet, runs, torch.Generator().manual_seed(task.seed))


def calibration_runs(
    supernet: Supernet,
    split: Split,
    resolution: int,
    batch_size: int,
    calibration_batches: int,
    seed: int,
) -> list[Callable[[Precision], object]]:
    """Runs of the largest, the smallest and a random subnet on each of a few batches; together they use every grid.

    On the first batch subnets run too whose widths change from block to block: the shortcuts of the others hold no
    convolution but where a stage begins. Puts `supernet` in train mode.
    """
    space = supernet.space
    rng = subnet_rng(seed, 0)
    stream = batches(split, batch_size=batch_size, resolution=resolution, seed=seed, epoch=0, shuffle=True)
    supernet.train()
    device = next(supernet.parameters()).device
    runs: list[Callable[[Precision], object]] = []
    for number, (x, _) in zip(range(calibration_batches), stream, strict=False):
        x = images_on(x, device)
        for subnet in (
            space.largest,
            space.smallest,
            sample_subnet(space, rng),
            *(() if number else space.alternating),
        ):
            runs.append(partial(supernet, x, subnet))
    return runs


def sandwich_objective(
    supernet: Supernet,
    sandwich: Sandwich,
    precision: Precision,
    seed: int,
    steps_alone: int = 0,
    share: tuple[int, int] = (0, 1),
    sampler: Sampler | None = None,
) -> Objective:
    """The largest subnet on labels; random ones and the smallest on its classes, after `steps_alone` steps.

    Of the loss of these, `sandwich.label_share` is of labels as well.

    Args:
        share: (i, n): this is process i of n, which share each batch.
        sampler: of the random subnets; any subnet of the space where it is absent.
    """
    space = supernet.space
    sample, divergence = sampler or uniform(space), DIVERGENCES[sandwich.divergence]
    label_share = sandwich.label_share

    def objective(step: int, x: Tensor, y: Tensor) -> Iterator[Part]:
        rng = subnet_rng(seed, step)
        target: Future[Tensor] = Future()

        def of_largest() -> Tensor:
            try:
                logits = supernet(x, space.largest, precision, dropout=_dropout(sandwich.dropout, seed, step, share))
            except BaseException as error:
                target.set_exception(error)
                raise
            target.set_result(logits.detach())
            return of_labels(logits)

        def of_student(subnet: Subnet) -> Tensor:
            logits = supernet(x, subnet, precision)
            learned = divergence(logits, target.result())
            return (1 - label_share) * learned + label_share * of_labels(logits) if label_share else learned

        def of_labels(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, y, label_smoothing=sandwich.label_smoothing)

        yield Part(space.largest.code, supernet, of_largest)
        for student in _students(space, sandwich, sample, rng, alone=step < steps_alone):
            yield Part(student.code, supernet, partial(of_student, student))

    return objective


def _share(accelerator: Accelerator) -> tuple[int, int]:
    return accelerator.process_index, accelerator.num_processes


def _students(
    space: Space, sandwich: Sandwich, sample: Sampler, rng: np.random.Generator, *, alone: bool
) -> Iterator[Subnet]:
    """The subnets that learn from the largest in one step; `alone`: while no other width, depth and kernel is trained.

    The ends of a space learn most, for each step has them. Where the smallest is seen at the lowest resolution only,
    and the largest at the highest, a subnet of the lowest is better the smaller it is, and the smallest is poor at all
    higher ones. Mixed resolutions show all of them to the smallest, and to the largest while it is alone; from then on
    it is the target of the others, at the highest.

    The smallest is the last: its short pass beside the largest's would be waiting for the target most of the time.
    """
    *lower, _ = resolutions = space.hyperspace.resolutions
    if alone:
        if sandwich.mixed_resolutions and lower:
            yield replace(space.largest, resolution=int(rng.choice(lower)))
        return
    smallest = space.smallest
    if sandwich.mixed_resolutions:
        smallest = replace(smallest, resolution=int(rng.choice(resolutions)))
    for _ in range(sandwich.random_subnets):
        yield sample(rng)
    yield smallest


def _dropout(probability: float, seed: int, step: int, share: tuple[int, int]) -> Callable[[Tensor], Tensor] | None:
    if probability == 0:
        return None
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)

    def dropout(x: Tensor) -> Tensor:
        index, processes = share
        kept = torch.rand((len(x) * processes, *x.shape[1:]), generator=generator)[index::processes] >= probability
        if x.is_cuda:  # from pinned memory, for which nothing waits
            kept = kept.pin_memory()
        return x * kept.to(x.device, non_blocking=True) / (1 - probability)

    return dropout
