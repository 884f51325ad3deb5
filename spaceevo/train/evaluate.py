"""Recalibration and evaluation of extracted networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from accelerate import PartialState
from torch import Tensor, nn

from spaceevo.nn.layout import images_on
from spaceevo.quant.quantizers import Precision

EVALUATION_BATCH = 250
RECALIBRATION_BATCH = 64


def accelerator_device() -> torch.device:
    """The device that training would use: a GPU where there is one."""
    device: torch.device = PartialState().device
    return device


@torch.no_grad()
def recalibrate(module: nn.Module, run: Callable[[Tensor], object], batches: Iterable[Tensor]) -> None:
    """Recompute all BatchNorm statistics of `module` as the plain average over `batches`; leaves it in eval mode.

    In that mode is all the rest of it from the start, so that nothing is dropped out.

    Args:
        module: network of ordinary layers.
        run: runs it once on a batch, in the precision it will be used in.
        batches: images or feature maps of the training split; each counts the same.
    """
    norms = [submodule for submodule in module.modules() if isinstance(submodule, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    module.eval()
    for norm in norms:
        norm.train()
    for batch in batches:
        run(batch)
    module.eval()


@torch.no_grad()
def logits_of(network: nn.Module, batches: Iterable[Tensor], precision: Precision) -> Tensor:
    """Logits [N, classes], on the CPU, of a network in eval mode on batches of images, computed on its device."""
    device = next(network.parameters()).device
    return torch.cat([network(images_on(batch, device), precision) for batch in batches]).cpu()


def logits(network: nn.Module, x: Tensor, precision: Precision) -> Tensor:
    """The same on images [N, 3, H, W]."""
    return logits_of(network, torch.split(x, EVALUATION_BATCH), precision)


def accuracy(network: nn.Module, x: Tensor, y: Tensor, precision: Precision) -> float:
    """Share of images, 0 to 1, whose largest logit is at the label."""
    return share_right(logits(network, x, precision), y)


def share_right(found: Tensor, y: Tensor) -> float:
    """Share of logits [N, classes] whose largest is at the label, int64 [N]."""
    return float((found.argmax(1) == y.cpu()).double().mean())
