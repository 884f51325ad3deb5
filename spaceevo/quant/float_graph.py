"""Float graphs: what a network computes before it is quantized, in the nodes of the int8 graph.

A float graph is an int8 graph with real weights, and with kinds of grids in place of grids (`spaceevo.quant.grids`).
BatchNorm is folded into its convolutions, and rectifiers and hard sigmoids are the ends of grids already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spaceevo.nn.plan import Shape
from spaceevo.quant.graph import (
    ActivationNode,
    AddNode,
    ConcatNode,
    ConvNode,
    GateNode,
    Int8Graph,
    MaxPoolNode,
    MovingNode,
    PoolNode,
    ShuffleNode,
    SigmoidNode,
    SliceNode,
    node_inputs,
)
from spaceevo.quant.grids import HSIGMOID_GRID, LEVELS, SIGMOID_GRID, Grid, GridKind

Quantize = Callable[[str | Grid, Tensor], Tensor]  # of a tensor on the grid of its name, or on a fixed grid


@dataclass(frozen=True)
class FloatConv:
    """A convolution with padding kernel_size // 2, or a fully connected layer as one.

    Attributes:
        weight: float64 [out_channels, in_channels / groups, k, k].
        bias: float64 [out_channels].
    """

    output: str
    input: str
    weight: Tensor
    bias: Tensor
    stride: int
    groups: int


FloatNode = FloatConv | PoolNode | AddNode | GateNode | ActivationNode | SigmoidNode | MovingNode


@dataclass(frozen=True)
class FloatGraph:
    """A network before quantization.

    Attributes:
        input: name of the input tensor.
        nodes: in execution order; the last one's output is the network's.
        kinds: of the grid of every tensor.
        shapes: (channels, height, width) of every tensor.
    """

    input: str
    nodes: tuple[FloatNode, ...]
    kinds: Mapping[str, GridKind]
    shapes: Mapping[str, Shape]

    @property
    def output(self) -> str:
        return self.nodes[-1].output

    def grid_owners(self) -> dict[str, str]:
        """For every tensor, the one whose grid it shares: itself, but where integers are only moved."""
        owners = {name: name for name in self.kinds}
        for node in self.nodes:
            if isinstance(node, MovingNode):
                tied = {owners[name] for name in (*node_inputs(node), node.output)}
                owner = owners[node_inputs(node)[0]]
                owners = {name: owner if current in tied else current for name, current in owners.items()}
        return owners


def as_is(grid: str | Grid, x: Tensor) -> Tensor:
    """The quantization of FP32: none."""
    return x


def run(graph: FloatGraph, x: Tensor, quantize: Quantize = as_is) -> Tensor:
    """The output, [N, C, H, W], for float32 inputs [N, C, H, W]; a tensor is dropped once nothing reads it any more."""
    readers = {name: index for index, node in enumerate(graph.nodes) for name in node_inputs(node)}
    tensors = {graph.input: quantize(graph.input, x)}
    for index, node in enumerate(graph.nodes):
        y = _evaluate(node, tensors, quantize)
        match graph.kinds[node.output]:
            case "relu":
                y = y.relu()
            case "relu6":
                y = y.clamp(0, 6)
            case "hsigmoid":
                y = y.clamp(0, 1)
        tensors[node.output] = quantize(node.output, y)
        for name in node_inputs(node):
            if readers[name] == index:
                tensors.pop(name, None)
    return tensors[graph.output]


def dequantized(graph: Int8Graph) -> tuple[FloatGraph, Quantize]:
    """The simulation of an int8 graph: its real weights, and the quantization on its grids."""
    nodes = tuple(_real(node, graph.grids[node.input]) if isinstance(node, ConvNode) else node for node in graph.nodes)

    def quantize(grid: str | Grid, x: Tensor) -> Tensor:
        grid = graph.grids[grid] if isinstance(grid, str) else grid
        return torch.fake_quantize_per_tensor_affine(x, grid.scale, grid.zero_point, 0, LEVELS)

    kinds: dict[str, GridKind] = dict.fromkeys(graph.grids, "affine")  # the ends of grids clip already
    return FloatGraph(graph.input, nodes, kinds, graph.shapes), quantize


def _real(node: ConvNode, grid: Grid) -> FloatConv:
    scale = torch.from_numpy(node.weight_scale).double()
    weight = torch.from_numpy(node.weight).double() * scale[:, None, None, None]
    bias = torch.from_numpy(node.bias).double() * (grid.scale * scale)
    return FloatConv(node.output, node.input, weight, bias, node.stride, node.groups)


def _evaluate(node: FloatNode, tensors: Mapping[str, Tensor], quantize: Quantize) -> Tensor:
    x = tensors[node_inputs(node)[0]]
    match node:
        case FloatConv():
            padding = node.weight.shape[-1] // 2
            return F.conv2d(x, node.weight.float(), node.bias.float(), node.stride, padding, 1, node.groups)
        case PoolNode():
            return x.mean((2, 3), keepdim=True)
        case AddNode():
            return x + tensors[node.other]
        case GateNode():
            return x * tensors[node.gate]
        case ActivationNode(activation="swish"):
            return x * quantize(SIGMOID_GRID, x.sigmoid())
        case ActivationNode():
            return x * quantize(HSIGMOID_GRID, F.hardsigmoid(x))
        case SigmoidNode():
            return x.sigmoid()
        case MaxPoolNode():
            return F.max_pool2d(x, node.kernel_size, node.stride, node.padding)
        case ConcatNode():
            return torch.cat([tensors[name] for name in node.inputs], 1)
        case SliceNode():
            return x[:, node.start : node.stop]
        case ShuffleNode():
            n, channels, height, width = x.shape
            rows = x.reshape(n, node.groups, channels // node.groups, height, width)
            return rows.transpose(1, 2).reshape(x.shape)
