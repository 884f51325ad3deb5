"""Keeping quantized activations for the backward pass as a byte per value, where they are large and on a CPU.

Operations keep their inputs for gradients, which is most of a training step's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from spaceevo.nn.norm import LARGE, coded_by_norm
from spaceevo.quant.codes import encode
from spaceevo.quant.fake_quantize import grid_of

_Kept = Tensor | Callable[[], Tensor]


def kept_as_codes(*inputs: Tensor) -> AbstractContextManager[object]:
    """While it lasts, operations keep those of their `inputs` that are large and on a grid as codes."""
    known = {x.data_ptr(): (x.numel(), how) for x in inputs if x.numel() >= LARGE and (how := _as_codes(x))}
    if not known:
        return nullcontext()

    def pack(x: Tensor) -> _Kept:
        count, how = known.get(x.data_ptr(), (-1, None))
        return x if how is None or x.numel() != count else how(x)

    return torch.autograd.graph.saved_tensors_hooks(pack, _unpack)


def _unpack(kept: _Kept) -> Tensor:
    return kept if isinstance(kept, Tensor) else kept()


def _as_codes(y: Tensor) -> Callable[[Tensor], Callable[[], Tensor]] | None:
    """How to keep a tensor that has the memory of `y`, if that is known to be on a grid."""
    if coded := coded_by_norm(y):
        return lambda x: partial(coded.tensor, x.shape, x.stride())
    if grid := grid_of(y):
        return lambda x: partial(encode(x, grid.scale, grid.low).tensor, x.shape, x.stride())
    return None
