"""Recalibration and evaluation of extracted networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from spaceevo.quant.quantizers import Precision

EVALUATION_BATCH = 250


@torch.no_grad()
def recalibrate(module: nn.Module, run: Callable[[Tensor], object], batches: Iterable[Tensor]) -> None:
    """Recompute all BatchNorm statistics of `module` as the plain average over `batches`; leaves it in eval mode.

    Args:
        module: network of ordinary layers.
        run: runs it once on a batch, in the precision it will be used in.
        batches: images or feature maps of the training split; each counts the same.
    """
    norms = [submodule for submodule in module.modules() if isinstance(submodule, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    module.train()
    for batch in batches:
        run(batch)
    module.eval()


@torch.no_grad()
def logits(network: nn.Module, x: Tensor, precision: Precision) -> Tensor:
    """Logits [N, classes] of a network in eval mode on images [N, 3, H, W], computed in batches."""
    return torch.cat([network(part, precision) for part in torch.split(x, EVALUATION_BATCH)])


def accuracy(network: nn.Module, x: Tensor, y: Tensor, precision: Precision) -> float:
    """Share of images, 0 to 1, whose largest logit is at the label."""
    return float((logits(network, x, precision).argmax(1) == y).double().mean())
