"""What a finished network computes in simulated INT8: the reference its exported files are verified against."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spaceevo.data.transforms import resize
from spaceevo.export.verify import Verification
from spaceevo.nn.plain import Network, PlainBlock
from spaceevo.nn.plan import INPUT
from spaceevo.quant.float_graph import dequantized, run
from spaceevo.quant.graph import Int8Graph
from spaceevo.quant.grids import LEVELS, Grid
from spaceevo.quant.quantizers import ActivationQuantizer, FixedQuantizer, int8
from spaceevo.train.evaluate import logits

BATCH = 16  # images per pass over an int8 graph
TRACED_IMAGES = 4  # whose tensors are all kept, to find where a file diverges


@torch.no_grad()
def simulate(network: Network, images: Tensor) -> Verification:
    """Inputs at the network's resolution, its logits, and all tensors of the first few images.

    Args:
        network: in eval mode.
        images: normalised images [N, 3, H, W] of any size.
    """
    inputs = resize(images, network.subnet.resolution)
    names = _tensor_names(network)
    tensors: dict[str, npt.NDArray[np.uint8]] = {}

    def trace(quantizer: nn.Module, x: Tensor) -> Tensor:
        y = int8(quantizer, x)
        if quantizer in names:
            grid = cast(ActivationQuantizer | FixedQuantizer, quantizer).grid()
            tensors[names[quantizer]] = _integers(y, grid)
        return y

    network(inputs[:TRACED_IMAGES], trace)
    return Verification(inputs.cpu().numpy(), logits(network, inputs, int8).cpu().numpy(), tensors)


@torch.no_grad()
def simulate_graph(graph: Int8Graph, images: Tensor) -> Verification:
    """The same of an int8 graph itself, for float32 images [N, C, H, W] of the size that it takes."""
    simulated, quantize = dequantized(graph)
    tensors: dict[str, npt.NDArray[np.uint8]] = {}

    def trace(name: str | Grid, x: Tensor) -> Tensor:
        y = quantize(name, x)
        if isinstance(name, str):
            tensors[name] = _integers(y, graph.grids[name])
        return y

    run(simulated, images[:TRACED_IMAGES], trace)
    logits = torch.cat([run(simulated, batch, quantize).flatten(1) for batch in torch.split(images, BATCH)])
    return Verification(images.cpu().numpy(), logits.cpu().numpy(), tensors)


def _integers(x: Tensor, grid: Grid) -> npt.NDArray[np.uint8]:
    """The integers of values that lie on a grid."""
    integers = torch.round(x.double() / grid.scale) + grid.zero_point
    return integers.clamp(0, LEVELS).to(torch.uint8).cpu().numpy()


def _tensor_names(network: Network) -> dict[nn.Module, str]:
    names: dict[nn.Module, str] = {network.image_quantizer: INPUT}
    for stage_name, stage in network.stages.items():
        for index, block in enumerate(cast(nn.ModuleList, stage)):
            for tensor, quantizer in cast(PlainBlock, block).quantizers.items():
                names[quantizer] = f"{stage_name}.{index}.{tensor}"
    return names
