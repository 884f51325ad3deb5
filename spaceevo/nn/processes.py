"""Statistics over the batch that the processes of a training share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed
from torch import Tensor, nn


def several_processes() -> bool:
    """Whether this process trains together with others."""
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())


def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of `x` over all processes, through which gradients flow to each; `x` itself in a process of its own.

    Processes share batches evenly, so the mean of their means is that of the batch.
    """
    if not several_processes():
        return x
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(x.contiguous())  # type: ignore[no-untyped-call]
    return total / torch.distributed.get_world_size()


def batch_norm_over_processes(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`x` normalised by mean and variance of the batch that all processes share, in float32 whatever its type.

    Args:
        x: float32 or bfloat16 [N, C, H, W]; of it is the result too.
        weight, bias: float32 [C].
    """
    values = x.float()
    mean = mean_over_processes(values.mean((0, 2, 3)))
    centred = values - mean.view(-1, 1, 1)
    var = mean_over_processes(centred.square().mean((0, 2, 3)))
    gain = weight * (var + eps).rsqrt()
    return (centred * gain.view(-1, 1, 1) + bias.view(-1, 1, 1)).to(x.dtype)


class _SharedNorm(nn.BatchNorm2d):
    """Leaves its running statistics alone where processes share a batch: they have to be recomputed after training."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and several_processes():
            return batch_norm_over_processes(x, self.weight, self.bias, self.eps)
        return super().forward(x)


@contextmanager
def norms_over_processes(module: nn.Module) -> Iterator[None]:
    """Have the BatchNorms of `module` normalise by the batch of all processes, which each of them has to run."""
    norms = [norm for norm in module.modules() if type(norm) is nn.BatchNorm2d]
    try:
        for norm in norms:
            norm.__class__ = _SharedNorm
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d
