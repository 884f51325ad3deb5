"""The one training loop: any module, any objective, one process or several, resumed exactly after a kill."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spaceevo.artifacts import Record, read_tensors, write_tensors
from spaceevo.config import Augment, Recipe
from spaceevo.data.loader import batches, steps_per_epoch
from spaceevo.data.splits import Split
from spaceevo.errors import ArtifactError, TrainingError
from spaceevo.progress import progress

CHECKPOINT_KIND = "checkpoint"


class Objective(Protocol):
    """Yields (what is trained, its loss) for one batch; each loss is back-propagated before the next is computed."""

    def __call__(self, step: int, x: Tensor, y: Tensor) -> Iterator[tuple[str, Tensor]]: ...


@dataclass(frozen=True)
class Task:
    """What a training run reads and where it keeps its checkpoint.

    Attributes:
        label: shown in progress and errors.
        checkpoint: file that holds the state of an unfinished run; removed by `finish` when its artifact is written.
        checkpoint_steps: steps between two checkpoints.
        workers: processes that decode pictures.
    """

    label: str
    split: Split
    resolution: int
    seed: int
    checkpoint: Path
    augment: Augment | None = None
    checkpoint_steps: int = 100
    workers: int = 0

    def phase(self, name: str) -> Task:
        """This task for one of several phases, with a checkpoint of its own."""
        checkpoint = self.checkpoint.with_suffix(f".{name}.safetensors")
        return replace(self, label=f"{self.label} {name}", checkpoint=checkpoint)


def train(
    module: nn.Module, objective: Objective, recipe: Recipe, task: Task, record: Record, accelerator: Accelerator
) -> None:
    """Train `module` in place; goes on from `task.checkpoint` where that is of the same run.

    Every step is a pure function of the state before it, the seed and the step's number, so an interrupted run ends
    with the same weights as an uninterrupted one.

    Raises:
        TrainingError: a loss is not finite; names the step, the learning rate and what was trained.
    """
    module.to(accelerator.device).train()
    optimizer = _optimizer(module, recipe)
    per_epoch = steps_per_epoch(task.split, recipe.batch_size, drop_last=True)
    steps = max(round(recipe.epochs * per_epoch), 1)
    run = _fingerprint(module, recipe, task, record.params)
    start = _restore(task.checkpoint, run, module, optimizer, record)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with progress(task.label, steps) as tick:
        for step, (x, y) in _steps(task, recipe, start, steps, per_epoch):
            rate = learning_rate(recipe, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            part = slice(accelerator.process_index, None, accelerator.num_processes)
            losses: dict[str, Tensor] = {}
            # Channels last: depthwise convolutions train several times faster so, on CPUs and on GPUs alike.
            images = x[part].to(accelerator.device, non_blocking=True, memory_format=torch.channels_last)
            for name, loss in objective(step, images, y[part].to(accelerator.device)):
                accelerator.backward(loss)
                losses[name] = loss.detach()
            total = _checked(losses, step, rate, task)
            _average_gradients(parameters, accelerator)
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            optimizer.step()
            tick(step + 1, f"loss {total / len(losses):.3f}")
            due = (step + 1) % task.checkpoint_steps == 0 or step + 1 == steps
            if due and accelerator.is_main_process:
                _save(task.checkpoint, run, step + 1, module, optimizer, record)
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
    task: Task, recipe: Recipe, start: int, steps: int, per_epoch: int
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
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
        ):
            yield step, batch
            step += 1
            if step == steps:
                return


def _optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Weight decay on convolution and fully connected weights alone, not on norms, biases or quantizers."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    decayed = [p for _, p in named if p.dim() >= 2]
    others = [p for _, p in named if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _checked(losses: Mapping[str, Tensor], step: int, rate: float, task: Task) -> float:
    total = float(torch.stack(list(losses.values())).sum())
    if not math.isfinite(total):
        culprit = next(name for name, loss in losses.items() if not bool(torch.isfinite(loss)))
        raise TrainingError(
            f"{task.label}: the loss of {culprit} is not finite at step {step} (learning rate {rate:.3g}): lower the "
            "learning rate; the last good checkpoint is kept."
        )
    return total


def _average_gradients(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """Mean gradient over processes; one bucket, because every step trains other parameters."""
    if accelerator.num_processes == 1:
        return
    trained = [p for p in parameters if p.grad is not None]  # the same on all processes: choices are seeded
    flat = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
    means = accelerator.reduce(flat, reduction="mean").split([p.numel() for p in trained])
    for parameter, mean in zip(trained, means, strict=True):
        parameter.grad = mean.view_as(parameter)


def _fingerprint(module: nn.Module, recipe: Recipe, task: Task, params: Mapping[str, Any]) -> str:
    """Identifies a run: what it starts from, reads and does."""
    weights = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        weights.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    data = [task.split.digest(), task.resolution, repr(task.augment)]
    parts = [weights.hexdigest(), recipe.model_dump(), task.label, task.seed, *data, dict(params)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _save(path: Path, run: str, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, record: Record) -> None:
    arrays = {f"module.{name}": tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            arrays[f"optimizer.{key}.{name}"] = value.detach().cpu().numpy()
    write_tensors(path, CHECKPOINT_KIND, arrays, record, {"run": run, "step": step, "cost": record.cost()})


def _restore(path: Path, run: str, module: nn.Module, optimizer: torch.optim.Optimizer, record: Record) -> int:
    """Load the state of an unfinished run; returns the step to go on with, 0 where there is none to load."""
    if not path.is_file():
        return 0
    try:
        arrays, content = read_tensors(path, CHECKPOINT_KIND)
    except ArtifactError:
        return 0  # a damaged checkpoint only costs time
    if content["run"] != run:
        return 0
    state = {name.removeprefix("module."): torch.from_numpy(a) for name, a in arrays.items() if name[:7] == "module."}
    module.load_state_dict(state)
    for name, parameter in module.named_parameters():
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"optimizer.{key}.{name}" in arrays]
        for key in keys:
            value = torch.from_numpy(arrays[f"optimizer.{key}.{name}"])
            optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
    record.resume(content["cost"])
    return int(content["step"])


def subnet_rng(seed: int, step: int) -> np.random.Generator:
    """The generator of one step's random subnets: independent of all other steps, so that a run can resume."""
    return np.random.default_rng([seed, step])
