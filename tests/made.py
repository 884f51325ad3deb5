"""Small things made for tests: a hyperspace, supernets whose parameters are far from their initial values, a split."""

import copy
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spaceevo.data.splits import ArraySplit, SplitInfo
from spaceevo.nn.elastic import ElasticNorm
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.grids import image_grid
from spaceevo.quant.quantizers import ActivationQuantizer, WeightQuantizer, fp32
from spaceevo.space import Hyperspace, Space, Subnet, parse_hyperspace, sample_subnet

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
GRID = image_grid([0.5] * 3, [0.25] * 3)

SMALL = {
    "resolutions": [8, 12],
    "block_kd_resolutions": [8, 12],
    "stages": [
        {"name": "stem", "block": "conv_bn_act", "kernels": [3], "activation": "relu", "widths": [8, 16], "depths": [1]}
        | {"stride": 2},
        {"name": "stage1", "search": True, "widths": [8, 16, 24], "depths": [1, 2], "stride": 2, "window": 2},
        {"name": "stage2", "search": True, "widths": [16, 24], "depths": [1], "stride": 1, "window": 2},
        {
            "name": "mix",
            "block": "pool_conv_bn_act",
            "activation": "hswish",
            "widths": [16],
            "depths": [1],
            "stride": 1,
        },
        {"name": "logits", "block": "linear", "depths": [1], "stride": 1},
    ],
    "block_types": [
        {"block": "mobilenetv1_dual", "kernels": [3, 5]},
        {"block": "mobilenetv2_res", "kernels": [3], "expands": [2, 3], "activation": "relu6"},
        {"block": "resnet_se", "kernels": [3], "expands": [0.5, 1.0], "activation": "relu"},
    ],
}


def declared() -> dict[str, Any]:
    """A copy of the declaration of the small hyperspace, to be changed at will."""
    return copy.deepcopy(SMALL)


def small_hyperspace() -> Hyperspace:
    """Two searched stages with three block types: 18 spaces of some 300 subnets."""
    return parse_hyperspace("small", declared())


def reference(name: str) -> Path:
    """A file of the reference data that lies beside the repository; skips the test where there is none."""
    path = REFERENCE / name
    if not path.is_file():
        pytest.skip(f"there is no reference data at {path}")
    return path


def pictures(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Normalised pictures, float32 [count, 3, size, size]."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed)).clamp(-2, 2)


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Random weights, BatchNorm parameters (a few gains negative) and statistics, and biases.

    Filters overlap, as those of trained networks do: they are drawn one by one, of He's mean square (fan out).
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name.endswith("weight") and parameter.dim() >= 2:
            filters, inputs, *area = parameter.shape
            fan_out = prod(area) * (1 if inputs == 1 else filters)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan_out) ** 0.5)
    for submodule in module.modules():
        if isinstance(submodule, ElasticNorm | nn.BatchNorm2d):
            submodule.weight.copy_(1 + 0.3 * torch.randn(submodule.weight.shape, generator=generator))
            submodule.weight[::7].neg_()
            submodule.bias.copy_(0.3 * torch.randn(submodule.bias.shape, generator=generator))
            submodule.running_mean.copy_(0.1 * torch.randn(submodule.running_mean.shape, generator=generator))
            submodule.running_var.copy_(0.5 + torch.rand(submodule.running_var.shape, generator=generator))
    for name, parameter in module.named_parameters():
        if "norms" not in name and name.endswith("bias"):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        if parameter.dim() == 2:  # logits that tell classes apart
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / parameter.shape[1]) ** 0.5)


@torch.no_grad()
def jitter_scales(module: nn.Module, seed: int) -> None:
    """Move every learned scale and offset a little, so that grids clip and no two are alike."""
    generator = torch.Generator().manual_seed(seed)
    for submodule in module.modules():
        if isinstance(submodule, ActivationQuantizer | WeightQuantizer):
            noise = 0.2 * torch.randn(submodule.log_scale.shape, generator=generator)
            submodule.log_scale.add_(noise - 0.2)
        if isinstance(submodule, ActivationQuantizer) and submodule.offset is not None:
            submodule.offset.mul_(1 + 0.2 * float(torch.randn((), generator=generator)))


def random_supernet(space: Space, seed: int, x: torch.Tensor, subnets: list[Subnet], num_classes: int = 10) -> Supernet:
    """A supernet in eval mode with random parameters and grids calibrated on `x` through `subnets`, then moved."""
    supernet = Supernet(space, num_classes, GRID).eval()
    randomise(supernet, seed)
    runs = [lambda precision, subnet=subnet: supernet(x, subnet, precision) for subnet in subnets]
    calibrate(supernet, runs, torch.Generator().manual_seed(seed))
    jitter_scales(supernet, seed)
    return supernet


def random_subnets(space: Space, count: int, seed: int) -> list[Subnet]:
    """Subnets of a space, drawn at random."""
    rng = np.random.default_rng(seed)
    return [sample_subnet(space, rng) for _ in range(count)]


def covering_spaces(hyperspace: Hyperspace, count: int) -> list[Space]:
    """Spaces that together have every block type, if they are enough, with random width windows."""
    stages, types = len(hyperspace.searched_stages), len(hyperspace.block_types)
    rng = np.random.default_rng(0)
    return [
        Space(
            hyperspace,
            tuple((start * stages + i) % types for i in range(stages)),
            tuple(int(rng.integers(stage.windows)) for stage in hyperspace.searched_stages),
        )
        for start in range(count)
    ]


def is_quantized(network: nn.Module, x: torch.Tensor) -> bool:
    """Whether simulated INT8 makes a difference."""
    return not torch.equal(network(x), network(x, fp32))


def made_split(images: int = 64, size: int = 12, classes: int = 4, seed: int = 0) -> ArraySplit:
    """Pictures with one bright quarter, which is their class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (images, size, size, 3), dtype=np.uint8)
    labels = np.arange(images, dtype=np.int64) % classes
    half = size // 2
    for picture, label in zip(pixels, labels, strict=True):
        row, column = divmod(int(label), 2)
        picture[row * half : (row + 1) * half, column * half : (column + 1) * half] += 120
    info = SplitInfo(tuple(f"quarter {i}" for i in range(classes)), (0.5,) * 3, (0.25,) * 3)
    return ArraySplit(info, pixels, labels)
