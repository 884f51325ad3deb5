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
    """Whether kernels in Triton run on the GPUs here.

    PyTorch for CUDA and ROCm brings Triton along on Linux. It also needs a C compiler and Python's headers, which slim
    images of containers lack.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if find_spec("triton") is None or compiler is None or not headers.is_file() or not torch.cuda.is_available():
        return False
    return all(torch.cuda.get_device_capability(device) >= OLDEST for device in range(torch.cuda.device_count()))
