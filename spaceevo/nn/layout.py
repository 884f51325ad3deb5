"""Where images go to be computed on, in the memory format whose convolutions are fast there.

All feature maps of a network take over the format of its images. Depthwise convolutions decide: on CPUs a step of
training is faster with channels last (benchmarks/channels_last.py), and so it is on GPUs where there are kernels of our
own for it. With cuDNN's it took 37 times as long on an H200, 6 images per second where contiguous ones gave 220
(benchmarks/results/gpu_step_pytorch_kernels.json).
"""

from __future__ import annotations

import torch
from torch import Tensor

from spaceevo.gpu import has_triton


def images_on(x: Tensor, device: torch.device) -> Tensor:
    """Images [N, 3, H, W] on `device`: channels last on a CPU, and on a GPU if it has Triton; else contiguous."""
    channels_last = device.type == "cpu" or (device.type == "cuda" and has_triton())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return x.to(device, non_blocking=True, memory_format=layout)
