"""Kernels for GPUs where there is none: Triton's interpreter runs them on the CPU. Import this before them."""

import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read where a kernel is defined, and some are in Triton itself

pytest.importorskip("triton", reason="Triton is not installed")
