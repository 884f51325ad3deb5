"""Lowering: a trained, recalibrated network to its int8 graph, with BatchNorm folded exactly.

A convolution with weights s·w (w integer), followed by BatchNorm (γ, β, μ, σ), is the convolution with integer weights
sign(γ)·w, channel scale s·|γ|/σ and bias β − μγ/σ. A hard sigmoid after it scales both by 1/6 and adds 1/2: the ends of
its grid on [0, 1] are the clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plain import Network, PlainBlock
from spaceevo.nn.plan import INPUT, Conv, Linear, Plan
from spaceevo.quant.graph import (
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


@dataclass(frozen=True)
class _Layer:
    """A convolution or fully connected layer of a network, with what it has in its block and in the whole plan."""

    block: PlainBlock
    local: Conv | Linear
    op: Conv | Linear

    @property
    def module(self) -> nn.Conv2d | nn.Linear:
        return cast(nn.Conv2d | nn.Linear, self.block.convs[self.local.weight])

    @property
    def norm(self) -> nn.BatchNorm2d | None:
        if isinstance(self.local, Conv) and self.local.norm:
            return cast(nn.BatchNorm2d, self.block.norms[self.local.norm])
        return None

    @property
    def gated(self) -> bool:
        return isinstance(self.local, Conv) and self.local.activation == "hsigmoid"

    def weights(self) -> tuple[npt.NDArray[np.int8], Floats]:
        """Integer weights and positive channel scales, BatchNorm and hard sigmoid folded in."""
        quantizer = cast(WeightQuantizer, self.block.weight_quantizers[self.local.weight])
        integers, scales = quantizer.integers(self.module.weight)
        weight, scale = integers.cpu().numpy(), scales.double().cpu().numpy()
        if self.norm is not None:
            gain = _gain(self.norm)
            weight = np.where((gain < 0).reshape(-1, 1, 1, 1), -weight, weight).astype(np.int8)
            scale = scale * np.abs(gain)
        return weight, scale / 6 if self.gated else scale

    def bias(self) -> Floats:
        """The bias, BatchNorm and hard sigmoid folded in; float64 [channels]."""
        bias = np.zeros(self.op.out_channels)
        if self.module.bias is not None:
            bias = self.module.bias.double().cpu().numpy()
        if self.norm is not None:
            assert self.norm.running_mean is not None
            bias = self.norm.bias.double().cpu().numpy()
            bias = bias - self.norm.running_mean.double().cpu().numpy() * _gain(self.norm)
        return bias / 6 + 0.5 if self.gated else bias

    def set_bias(self, folded: Floats) -> None:
        """Let `bias` be `folded`, by moving the layer's or the BatchNorm's bias."""
        moved = torch.from_numpy((folded - self.bias()) * (6 if self.gated else 1))
        target = self.norm.bias if self.norm is not None else self.module.bias
        if target is not None:
            target.copy_((target.double() + moved.to(target.device)).to(target.dtype))


@torch.no_grad()
def lower(network: Network, description: Mapping[str, Any]) -> Int8Graph:
    """The int8 graph of a network whose BatchNorm statistics are final; `description` goes into the files."""
    plan = _plan(network)
    grids = _grids(network)
    layers = {layer.op.output: layer for layer in _layers(network)}
    nodes: list[Node] = []
    for op in plan.ops:
        match op:
            case Conv() | Linear():
                layer = layers[op.output]
                parts = integer_bias(*layer.weights(), layer.bias(), grids[op.input].scale)
                smooth = isinstance(op, Conv) and op.activation in SMOOTH_ACTIVATIONS
                nodes.append(conv_node(op, before(op.output) if smooth else op.output, *parts))
                nodes += activation_nodes(op)
            case _:
                nodes += plain_nodes(op)
    shapes = with_pre_activations(plan, plan.shapes(network.subnet.resolution))
    return Int8Graph(INPUT, tuple(nodes), grids, shapes, description)


@torch.no_grad()
def snap_biases(network: Network) -> None:
    """Round every bias to what an integer kernel can hold, in place, so that the simulation computes with that too.

    A bias of an integer convolution is a multiple of input scale times weight scale. Rounding it only at export would
    move one value in a thousand by a unit, and layer by layer nearly all of them.
    """
    grids = _grids(network)
    for layer in _layers(network):
        input_scale = grids[layer.op.input].scale
        _, scale, integers = integer_bias(*layer.weights(), layer.bias(), input_scale)
        layer.set_bias(integers * (input_scale * scale.astype(np.float64)))


def _plan(network: Network) -> Plan:
    plan = subnet_plan(network.space, network.subnet, network.num_classes)
    return plan.without_unit_pools(network.subnet.resolution)


def _layers(network: Network) -> Iterator[_Layer]:
    ops = (op for op in _plan(network).ops if isinstance(op, Conv | Linear))
    for _, block in _blocks(network):
        for local in block.plan.ops:
            if isinstance(local, Conv | Linear):
                yield _Layer(block, local, next(ops))


def _grids(network: Network) -> dict[str, Grid]:
    grids = {INPUT: network.image_quantizer.grid()}
    for prefix, block in _blocks(network):
        for tensor, quantizer in block.quantizers.items():
            grids[prefix + tensor] = cast(ActivationQuantizer | FixedQuantizer, quantizer).grid()
    return grids


def _blocks(network: Network) -> Iterator[tuple[str, PlainBlock]]:
    for stage_name, stage in network.stages.items():
        for index, block in enumerate(cast(nn.ModuleList, stage)):
            yield f"{stage_name}.{index}.", cast(PlainBlock, block)


def _gain(norm: nn.BatchNorm2d) -> Floats:
    """γ/σ of a BatchNorm in eval mode, float64 [channels]."""
    assert norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    folded: Floats = gain.cpu().numpy()
    return folded


def integer_bias(
    weight: npt.NDArray[np.int8], scale: Floats, bias: Floats, input_scale: float
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Weights, scales and biases in integers; a channel too small to carry its bias becomes a constant.

    Args:
        weight: int8 [channels, ...].
        scale: of the weights, float64 [channels], positive.
        bias: real values, float64 [channels].
        input_scale: of the grid that the layer reads.
    """
    smallest = np.maximum(np.abs(bias) / (input_scale * MAX_BIAS), 1e-12)
    constant = scale < smallest
    weight = np.where(constant.reshape(-1, *(1,) * (weight.ndim - 1)), 0, weight).astype(np.int8)
    single = np.where(constant, smallest, scale).astype(np.float32)
    return weight, single, np.round(bias / (input_scale * single.astype(np.float64))).astype(np.int32)
