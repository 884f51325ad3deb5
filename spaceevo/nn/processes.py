"""Statistics over the batch that the processes of a training share."""

from __future__ import annotations

import torch.distributed
from torch import Tensor


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
