"""More kernels stay compiled than oneDNN keeps by itself."""

import subprocess
import sys

import pytest
import torch

SHAPES = 1100  # more than the 1,024 kernels that are kept by default

CODE = f"""
import spaceevo.nn
import torch
from torch.nn.functional import conv2d
for again in range(2):
    print("pass", again, flush=True)
    for channels in range(16, {SHAPES} + 16):
        conv2d(torch.zeros(4, channels, 8, 8), torch.zeros(16, channels, 3, 3))
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_kernels_of_many_shapes_are_compiled_once():
    command = [sys.executable, "-c", f"import os; os.environ['ONEDNN_VERBOSE'] = 'profile_create'\n{CODE}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    first, second = said.split("pass 1")
    assert first.count("create:cache_miss") >= SHAPES
    assert second.count("create:cache_miss") == 0
    assert second.count("create:cache_hit") >= SHAPES
