"""The one training loop: any module, any objective, one process or several, resumed exactly after a kill."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spaceevo.artifacts import Record
from spaceevo.config import Augment, Recipe
from spaceevo.data.loader import batches, steps_per_epoch
from spaceevo.data.splits import Split
from spaceevo.errors import TrainingError
from spaceevo.nn.layout import images_on
from spaceevo.parallel import Mapper, SideBySide
from spaceevo.progress import progress
from spaceevo.slices import Slice, gathered_slices
from spaceevo.train.memory import keep_freed_memory
from spaceevo.train.muon import Muon
from spaceevo.train.state import TrainingState, WeightAverage

MOMENTUM = 0.9  # of SGD and Muon


class Part(NamedTuple):
    """A part of a training step: what is trained, which module holds all its parameters, and how to get its loss."""

    label: str
    module: nn.Module
    loss: Callable[[], Tensor]


class Objective(Protocol):
    """The parts of a step on one batch, whose losses add up. A part may wait for one before it, not for a later one."""

    def __call__(self, step: int, x: Tensor, y: Tensor) -> Iterable[Part]: ...


@dataclass(frozen=True)
class Task:
    """What a training run reads and where it keeps its checkpoint.

    Attributes:
        label: shown in progress and errors.
        checkpoint: file that holds the state of an unfinished run; removed by `finish` when its artifact is written.
        checkpoint_steps: steps between two checkpoints.
        workers: processes that decode pictures.
        at_once: parts of a step that are computed side by side; the gradients are the same.
    """

    label: str
    split: Split
    resolution: int
    seed: int
    checkpoint: Path
    augment: Augment | None = None
    checkpoint_steps: int = 100
    workers: int = 0
    at_once: int = 1

    def phase(self, name: str) -> Task:
        """This task for one of several phases, with a checkpoint of its own."""
        checkpoint = self.checkpoint.with_suffix(f".{name}.safetensors")
        return replace(self, label=f"{self.label} {name}", checkpoint=checkpoint)


def train(
    module: nn.Module, objective: Objective, recipe: Recipe, task: Task, record: Record, accelerator: Accelerator
) -> None:
    """Train `module` in place; goes on from `task.checkpoint` where that is of the same run.

    Every step is a pure function of the state before it, the seed and the step's number, so an interrupted run ends
    with the same weights as an uninterrupted one. Processes share each batch and end with the same weights; the first
    one alone reports and writes checkpoints. With `recipe.ema`, the module ends with the average of its weights.

    Raises:
        TrainingError: a loss or gradient is not finite, memory runs out, or processes cannot share a batch evenly.
    """
    keep_freed_memory()
    module.to(accelerator.device).train()
    optimizer = _optimizer(module, recipe)
    average = WeightAverage(module, recipe.ema) if recipe.ema else None
    per_epoch = steps_per_epoch(task.split, recipe.batch_size, drop_last=True)
    steps = max(round(recipe.epochs * per_epoch), 1)
    run = _fingerprint(recipe, task, record.params)
    state = TrainingState(module, optimizer, average)
    start = state.restore(task.checkpoint, run, record, accelerator)
    trained, device = cache(trained_parameters), accelerator.device
    parameters = trained(module)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=recipe.bf16 and device.type == "cuda")
    with (
        progress(task.label, steps, quiet=not accelerator.is_main_process) as tick,
        SideBySide(task.at_once) as side_by_side,
    ):
        for step, (x, y) in _steps(task, recipe, start, steps, per_epoch, accelerator):
            rate = learning_rate(recipe, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            with _enough_memory(task, recipe, step):
                parts = objective(step, images_on(x, device), y.to(device, non_blocking=True))
                losses = back_propagate(parts, trained, side_by_side, autocast)
            total = _average_gradients(parameters, losses, accelerator)
            norm = nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            loss = _checked(losses, total, norm, step, rate, task) / len(losses)
            optimizer.step()
            if average is not None:
                average.update(step)
            tick(step + 1, f"loss {loss:.3f}")
            due = (step + 1) % task.checkpoint_steps == 0 or step + 1 == steps
            if due and accelerator.is_main_process:
                state.save(task.checkpoint, run, step + 1, record)
    if average is not None:
        average.to_module()
    module.eval()


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Learning rate of step number `step` of `steps`: linear warm-up, then a cosine to zero."""
    warm = max(round(recipe.warmup * steps), 1)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def finish(task: Task) -> None:
    """Remove the checkpoint of a run whose artifact is written."""
    task.checkpoint.unlink(missing_ok=True)


def _steps(
    task: Task, recipe: Recipe, start: int, steps: int, per_epoch: int, accelerator: Accelerator
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Number of each step and this process's share of its batch."""
    if recipe.batch_size % accelerator.num_processes:
        raise TrainingError(
            f"{task.label}: {accelerator.num_processes} processes cannot share batches of {recipe.batch_size} evenly: "
            "make batch_size a multiple of processes."
        )
    step = start
    while step < steps:
        epoch, start_step = divmod(step, per_epoch)
        for batch in batches(
            task.split,
            batch_size=recipe.batch_size,
            resolution=task.resolution,
            seed=task.seed,
            epoch=epoch,
            shuffle=True,
            augment=task.augment,
            workers=task.workers,
            start_step=start_step,
            drop_last=True,
            share=(accelerator.process_index, accelerator.num_processes),
        ):
            yield step, batch
            step += 1
            if step == steps:
                return


def back_propagate(
    parts: Iterable[Part],
    trained: Callable[[nn.Module], list[nn.Parameter]],
    mapper: Mapper = map,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Tensor]:
    """Add the gradients of every part of a step to those of the parameters, in the order of the parts.

    Args:
        trained: the parameters of a part's module, such as `trained_parameters`.
        mapper: computes the parts, perhaps several side by side.
        autocast: around the forward pass of each.

    Returns:
        The losses by label, still on the device.
    """

    def gradients(part: Part) -> tuple[Part, Tensor, Sequence[Tensor | None], Sequence[Slice]]:
        with autocast(), gathered_slices() as slices:
            loss = part.loss()
        variables = [*trained(part.module), *(one.variable for one in slices)]
        return part, loss.detach(), torch.autograd.grad(loss, variables, allow_unused=True), slices

    losses: dict[str, Tensor] = {}
    for part, loss, found, slices in mapper(gradients, parts):
        losses[part.label] = loss
        parameters = trained(part.module)
        of_parameters, of_slices = found[: len(parameters)], found[len(parameters) :]
        for parameter, gradient in zip(parameters, of_parameters, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:  # a copy, for a gradient may be that of several parameters
                # laid out as the parameter: torch's fused optimizers take both for arrays of the same order
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            else:
                parameter.grad.add_(gradient)
        for one, gradient in zip(slices, of_slices, strict=True):
            if gradient is not None:
                one.add_gradient(gradient)
    return losses


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those that have gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@contextmanager
def _enough_memory(task: Task, recipe: Recipe, step: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(
            f"{task.label}: memory ran out at step {step}, with a batch_size of {recipe.batch_size}: lower it, to "
            f"{max(recipe.batch_size // 2, 1)} for instance, or use more processes; the last checkpoint is kept."
        ) from None


def _optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay on convolution and fully connected weights alone, not on norms, biases or quantizers."""
    trained = trained_parameters(module)
    weights: dict[str, Any] = {"params": [p for p in trained if p.dim() >= 2], "weight_decay": recipe.weight_decay}
    others: dict[str, Any] = {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0}
    match recipe.optimizer:
        case "adamw":
            return torch.optim.AdamW([weights, others], lr=recipe.learning_rate, fused=True)
        case "sgd":
            # not fused, which wants all parameters from the first step on: those of an elastic network come by and by
            return torch.optim.SGD([weights, others], lr=recipe.learning_rate, momentum=MOMENTUM, nesterov=True)
        case "muon":
            return Muon(weights, others, recipe.learning_rate, MOMENTUM, recipe.matrix_share)


def _checked(losses: Mapping[str, Tensor], total: Tensor, norm: Tensor, step: int, rate: float, task: Task) -> float:
    """The sum of all losses as a number: it and the norm of the gradient are what a step waits for.

    A loss may be finite whose gradient is not, and one step by that would spoil every weight.
    """
    number, length = torch.stack([total, norm.to(total)]).tolist()
    if not (math.isfinite(number) and math.isfinite(length)):
        culprits = [name for name, loss in losses.items() if not bool(torch.isfinite(loss))]
        what = "the gradient" if math.isfinite(number) else f"the loss of {(culprits or ['another process'])[0]}"
        raise TrainingError(
            f"{task.label}: {what} is not finite at step {step} (learning rate {rate:.3g}): lower the learning rate; "
            "the last good checkpoint is kept."
        )
    return float(number)


def _average_gradients(
    parameters: list[nn.Parameter], losses: Mapping[str, Tensor], accelerator: Accelerator
) -> Tensor:
    """Mean gradient and mean sum of losses over processes; one bucket, because every step trains other parameters."""
    total = torch.stack(list(losses.values())).sum()
    if accelerator.num_processes == 1:
        return total
    trained = [p for p in parameters if p.grad is not None]  # the same on all processes: choices are seeded
    flat = torch.cat([*(p.grad.flatten() for p in trained if p.grad is not None), total.reshape(1)])
    *means, mean_total = accelerator.reduce(flat, reduction="mean").split([*(p.numel() for p in trained), 1])
    for parameter, mean in zip(trained, means, strict=True):
        parameter.grad = mean.view_as(parameter)
    return cast(Tensor, mean_total[0])


def _fingerprint(recipe: Recipe, task: Task, params: Mapping[str, Any]) -> str:
    """Identifies a run but for the weights it starts from: what it reads and does."""
    data = [task.split.digest(), task.resolution, repr(task.augment)]
    parts = [recipe.model_dump(), task.label, task.seed, *data, dict(params)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def subnet_rng(seed: int, step: int) -> np.random.Generator:
    """The generator of one step's random subnets: independent of all other steps, so that a run can resume."""
    return np.random.default_rng([seed, step])
