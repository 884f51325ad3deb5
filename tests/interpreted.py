"""Where kernels for GPUs are tested: on a GPU, or else in Triton's interpreter, which `conftest.py` asks for."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
