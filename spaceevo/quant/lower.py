"""Lowering: a trained, recalibrated network to its int8 graph, with BatchNorm folded exactly.

A convolution with weights s·w (w integer), followed by BatchNorm (γ, β, μ, σ), is the convolution with integer weights
sign(γ)·w, channel scale s·|γ|/σ and bias β − μγ/σ. A hard sigmoid after it scales both by 1/6 and adds 1/2: the ends of
its grid on [0, 1] are the clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plain import Network, PlainBlock
from spaceevo.nn.plan import INPUT, Conv, Linear
from spaceevo.quant.graph import (
    ConvNode,
    Int8Graph,
    Node,
    activation_nodes,
    conv_node,
    plain_nodes,
    with_pre_activations,
)
from spaceevo.quant.grids import SMOOTH_ACTIVATIONS, Grid, before
from spaceevo.quant.quantizers import ActivationQuantizer, FixedQuantizer, WeightQuantizer

MAX_BIAS = 2**30  # leaves room for the products in an int32 accumulator

Floats = npt.NDArray[np.float64]


@torch.no_grad()
def lower(network: Network, description: Mapping[str, Any]) -> Int8Graph:
    """The int8 graph of a network whose BatchNorm statistics are final; `description` goes into the files."""
    plan = subnet_plan(network.space, network.subnet, network.num_classes)
    grids: dict[str, Grid] = {INPUT: network.image_quantizer.grid()}
    nodes: list[Node] = []
    ops = iter(plan.ops)
    for stage_name, stage in network.stages.items():
        for index, block in enumerate(cast(nn.ModuleList, stage)):
            assert isinstance(block, PlainBlock)
            prefix = f"{stage_name}.{index}."
            for tensor, quantizer in block.quantizers.items():
                grids[prefix + tensor] = cast(ActivationQuantizer | FixedQuantizer, quantizer).grid()
            for local in block.plan.ops:
                op = next(ops)
                match op:
                    case Conv() | Linear():
                        assert isinstance(local, Conv | Linear)
                        nodes.append(_conv(block, local, op, grids[op.input].scale))
                        nodes += activation_nodes(op)
                    case _:
                        nodes += plain_nodes(op)
    shapes = with_pre_activations(plan, plan.shapes(network.subnet.resolution))
    return Int8Graph(INPUT, tuple(nodes), grids, shapes, description)


def _conv(block: PlainBlock, local: Conv | Linear, op: Conv | Linear, input_scale: float) -> ConvNode:
    layer = cast(nn.Conv2d | nn.Linear, block.convs[local.weight])
    quantizer = cast(WeightQuantizer, block.weight_quantizers[local.weight])
    integers, scales = quantizer.integers(layer.weight)
    weight = integers.cpu().numpy()
    scale = scales.double().cpu().numpy()
    bias: Floats = np.zeros(op.out_channels)
    if layer.bias is not None:
        bias = layer.bias.double().cpu().numpy()
    target = op.output
    if isinstance(local, Conv):
        if local.norm:
            gain, bias = _folded(cast(nn.BatchNorm2d, block.norms[local.norm]))
            weight = np.where((gain < 0).reshape(-1, 1, 1, 1), -weight, weight)
            scale = scale * np.abs(gain)
        if local.activation == "hsigmoid":
            scale, bias = scale / 6, bias / 6 + 0.5
        if local.activation in SMOOTH_ACTIVATIONS:
            target = before(op.output)
    weight, scale, integer_bias = _integer_bias(weight.astype(np.int8), scale, bias, input_scale)
    return conv_node(op, target, weight, scale, integer_bias)


def _folded(norm: nn.BatchNorm2d) -> tuple[Floats, Floats]:
    """Gain γ/σ and bias β − μγ/σ of a BatchNorm in eval mode, float64 [channels]."""
    assert norm.running_mean is not None and norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * gain
    return gain.cpu().numpy(), bias.cpu().numpy()


def _integer_bias(
    weight: npt.NDArray[np.int8], scale: Floats, bias: Floats, input_scale: float
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Weights, scales and biases in integers; a channel too small to carry its bias becomes a constant."""
    smallest = np.maximum(np.abs(bias) / (input_scale * MAX_BIAS), 1e-12)
    constant = scale < smallest
    weight = np.where(constant.reshape(-1, *(1,) * (weight.ndim - 1)), 0, weight).astype(np.int8)
    single = np.where(constant, smallest, scale).astype(np.float32)
    return weight, single, np.round(bias / (input_scale * single.astype(np.float64))).astype(np.int32)
