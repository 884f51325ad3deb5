"""Quantization after training: a float graph to an int8 graph, with grids fitted to what images bring about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spaceevo.quant.calibrate import CLIP_RATIOS, Observer
from spaceevo.quant.float_graph import FloatConv, FloatGraph, FloatNode, run
from spaceevo.quant.graph import ConvNode, Int8Graph, Node
from spaceevo.quant.grids import WEIGHT_LEVELS, Grid
from spaceevo.quant.lower import integer_bias
from spaceevo.quant.quantizers import MIN_SCALE, ActivationQuantizer, FixedQuantizer, activation_quantizer


@torch.no_grad()
def fit(
    graph: FloatGraph,
    batches: Sequence[Tensor],
    input_grid: Grid,
    generator: torch.Generator,
    description: Mapping[str, Any],
) -> Int8Graph:
    """Quantize a graph: each grid, of a tensor or a channel of weights, is the one of least mean squared error.

    Args:
        batches: normalised images, float32 [N, C, H, W] each, that tensors are observed on.
        input_grid: of these images.
        generator: draws which values are kept to fit grids to.
        description: goes into the files.
    """
    owners = graph.grid_owners()
    quantizers: dict[str, ActivationQuantizer | FixedQuantizer] = {
        owner: activation_quantizer(graph.kinds[owner]) for owner in set(owners.values())
    }
    quantizers[owners[graph.input]] = FixedQuantizer(input_grid)
    observer = Observer(generator)

    def observe(grid: str | Grid, x: Tensor) -> Tensor:
        return observer(quantizers[owners[grid]], x) if isinstance(grid, str) else x

    for batch in batches:
        run(graph, batch, observe)
    for quantizer in observer.samples:
        quantizer.set_range(*observer.best_range(quantizer))
    grids = {name: quantizers[owner].grid() for name, owner in owners.items()}
    nodes = tuple(_quantized(node, grids) for node in graph.nodes)
    return Int8Graph(graph.input, nodes, grids, graph.shapes, description)


def _quantized(node: FloatNode, grids: Mapping[str, Grid]) -> Node:
    if not isinstance(node, FloatConv):
        return node
    scale = weight_scales(node.weight)
    integers = (node.weight / scale[:, None, None, None]).round().clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS)
    parts = integer_bias(integers.numpy().astype(np.int8), scale.numpy(), node.bias.numpy(), grids[node.input].scale)
    return ConvNode(node.output, node.input, *parts, node.stride, node.groups)


def weight_scales(weight: Tensor) -> Tensor:
    """For each output channel, the symmetric scale of least mean squared error; float64 [channels], positive."""
    flat = weight.double().flatten(1)
    largest = flat.abs().amax(1, keepdim=True).clamp(min=MIN_SCALE) / WEIGHT_LEVELS
    scales = torch.stack([largest * ratio for ratio in CLIP_RATIOS])
    integers = (flat / scales).round().clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS)
    best = (integers * scales - flat).square().mean(2).argmin(0)
    return scales[best, torch.arange(len(best)), 0]
