"""Which kernels there are for GPUs, beside PyTorch's."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def has_triton() -> bool:
    """Whether kernels in Triton can be compiled: PyTorch for CUDA and ROCm brings it along, on Linux."""
    return find_spec("triton") is not None
