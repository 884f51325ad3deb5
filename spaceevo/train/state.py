"""The state of a training run: what its next step depends on, kept in a checkpoint so that it goes on exactly."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from spaceevo.artifacts import Record, read_tensors, write_tensors
from spaceevo.errors import ArtifactError

CHECKPOINT_KIND = "checkpoint"
SAME_START = 0.01  # of a tensor's norm: what it may be off to count as the same; another machine rounds otherwise
_OPTIMIZER_STATE = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # of a parameter


class WeightAverage:
    """Exponential moving average of a module's parameters.

    The decay starts low, (1 + step) / (10 + step), so that the random weights of the start are forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(module.named_parameters())
        self.shadow = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.shadow.values()), list(self.parameters.values()), 1 - decay)

    @torch.no_grad()
    def to_module(self) -> None:
        """Give the module the averaged weights."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.shadow[name])


@dataclass
class TrainingState:
    """All that a step changes, and what it was before the first one.

    Attributes:
        start: of the module's tensors by name, as `sketches`.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    start: Mapping[str, tuple[float, float]] = field(init=False)

    def __post_init__(self) -> None:
        self.start = sketches(self.module)

    def save(self, path: Path, run: str, step: int, record: Record) -> None:
        """Write the state before step number `step` of a run, which `run` identifies, and what it has cost."""
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.shadow.items()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        content = {"run": run, "step": step, "cost": record.cost(), "start": dict(self.start)}
        write_tensors(path, CHECKPOINT_KIND, arrays, record, content)

    def restore(self, path: Path, run: str, record: Record, accelerator: Accelerator) -> int:
        """Load the state of an unfinished run; returns the step to go on with, 0 where there is none to load.

        A checkpoint of another run is kept under another name, and one sentence says so.
        """
        if not path.is_file():
            return 0
        try:
            arrays, content = read_tensors(path, CHECKPOINT_KIND)
            same = content["run"] == run and same_start(content["start"], self.start)
            reason = "" if same else "is of other parameters, data or initial weights"
        except ArtifactError:
            reason = "is damaged"
        accelerator.wait_for_everyone()  # all have read it before one renames it
        if reason:
            if accelerator.is_main_process:
                aside = path.with_suffix(f".earlier{path.suffix}")
                path.replace(aside)
                said = f"{path} {reason}: training starts from its beginning; the file is kept as {aside}."
                print(said, file=sys.stderr)
            return 0
        own = "module."
        state = {name.removeprefix(own): torch.from_numpy(a) for name, a in arrays.items() if name.startswith(own)}
        self.module.load_state_dict(state)
        for name, parameter in self.module.named_parameters():
            keys = [key for key in _OPTIMIZER_STATE if f"optimizer.{key}.{name}" in arrays]
            for key in keys:
                value = torch.from_numpy(arrays[f"optimizer.{key}.{name}"])
                self.optimizer.state[parameter][key] = value.to(parameter.device)
            if self.average is not None:
                self.average.shadow[name].copy_(torch.from_numpy(arrays[f"average.{name}"]))
        record.resume(content["cost"])
        return int(content["step"])


@torch.no_grad()
def sketches(module: nn.Module) -> dict[str, tuple[float, float]]:
    """What tells the tensors of modules apart, by name: their projection on a random direction, and their norm.

    Quantizers are left out: their grids are fitted to weights and pictures, and rounding may move them by a step.
    """
    found = {}
    for number, (name, tensor) in enumerate(module.state_dict().items()):
        if tensor.is_floating_point() and "quantizer" not in name:
            values = tensor.detach().cpu().double().flatten().numpy()
            direction = np.random.default_rng(number).standard_normal(len(values), dtype=np.float32)
            found[name] = float(values @ direction), float(np.linalg.norm(values))
    return found


def same_start(earlier: Mapping[str, tuple[float, float]], now: Mapping[str, tuple[float, float]]) -> bool:
    """Whether two sketches are of the same weights, up to rounding."""
    return earlier.keys() == now.keys() and all(
        max(abs(first - second) for first, second in zip(earlier[name], now[name], strict=True))
        <= SAME_START * now[name][1]
        for name in now
    )
