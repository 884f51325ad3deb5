"""Which kernels there are for GPUs, beside PyTorch's."""

from __future__ import annotations

import os
import shutil
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

OLDEST = (7, 0)  # compute capability that Triton compiles for


@cache
def has_triton() -> bool:
    """Whether kernels in Triton run on the GPUs here; false where there is none."""
    return torch.cuda.is_available() and lacking_for_triton() is None


def lacking_for_triton() -> str | None:
    """What kernels in Triton would need on the GPUs here, or None.

    PyTorch for CUDA and ROCm brings Triton along on Linux. It also needs a C compiler and Python's headers, which slim
    images of containers lack.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler: install gcc, or name one in CC"
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not headers.is_file():
        return f"Triton needs Python's headers: there is no {headers}"
    for device in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(device)
        if capability < OLDEST:
            found, needed = ("{}.{}".format(*version) for version in (capability, OLDEST))
            return f"Triton needs GPUs of compute capability {needed} or newer: number {device} has {found}"
    return None
