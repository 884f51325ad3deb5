"""The int8 graph: what a quantized subnet computes, in integers. Both exporters translate it and nothing else.

Nodes hold int8 weights and int32 biases; every tensor has one grid (`spaceevo.quant.grids`). Exact semantics, with
real(t) = scale_t · (q_t − zero_point_t) and Q_t(v) = clip(round(v / scale_t) + zero_point_t, 0, 255):

    conv   q_out = Q(s_in · s_w[o] · (bias[o] + Σ w · (q_in − z_in))), padding kernel_size // 2 with real zeros
    pool   q_out = Q(mean over the map of real(in))
    add    q_out = Q(real(in) + real(other))
    gate   q_out = Q(real(in) · real(gate)), a 1×1 gate broadcast over the map
    swish  q_out = Q(real(in) · g), g the sigmoid of real(in) on the grid 1/256, zero point 0
    hswish q_out = Q(real(in) · g), g = clip(real(in) / 6 + 0.5, 0, 1) on the grid 1/255, zero point 0
    sigmoid q_out = Q(sigmoid(real(in))), always on the grid 1/256, zero point 0

Four nodes only move integers, so that their inputs and output share one grid: maxpool (padding never wins), concat (of
channels), slice (a run of channels) and shuffle (channels in `groups` rows read column by column).

Rectifiers and the hard sigmoid need no nodes: they are the ends of grids. Nor does the pooling of a 1×1 map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
import numpy.typing as npt

from spaceevo.artifacts import Arrays, Record, read_tensors, write_tensors
from spaceevo.nn.plan import Add, Conv, Gate, Linear, Plan, Pool, Shape
from spaceevo.quant.grids import (
    HSIGMOID_GRID,
    RELU6_MAX_SCALE,
    SMOOTH_ACTIVATIONS,
    WEIGHT_LEVELS,
    Grid,
    GridKind,
    before,
    grid_kinds,
)

GRAPH_KIND = "int8_graph"

SmoothActivation = Literal["swish", "hswish"]


@dataclass(frozen=True)
class ConvNode:
    """Convolution, or a fully connected layer as a 1×1 convolution of a 1×1 map.

    Attributes:
        weight: int8 [out_channels, in_channels / groups, k, k] in −127 … 127.
        weight_scale: float32 [out_channels], positive.
        bias: int32 [out_channels], in units of s_in · weight_scale.
    """

    output: str
    input: str
    weight: npt.NDArray[np.int8]
    weight_scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.int32]
    stride: int
    groups: int

    @property
    def kernel_size(self) -> int:
        return int(self.weight.shape[-1])


@dataclass(frozen=True)
class PoolNode:
    """Global average pooling to a 1×1 map."""

    output: str
    input: str


@dataclass(frozen=True)
class AddNode:
    """Sum of two tensors of one shape."""

    output: str
    input: str
    other: str


@dataclass(frozen=True)
class GateNode:
    """Product of a tensor and another with as many channels: a 1×1 map, or a map of the same size."""

    output: str
    input: str
    gate: str


@dataclass(frozen=True)
class ActivationNode:
    """Swish or hard swish."""

    output: str
    input: str
    activation: SmoothActivation


@dataclass(frozen=True)
class SigmoidNode:
    """Sigmoid, onto the runtimes' fixed grid."""

    output: str
    input: str


@dataclass(frozen=True)
class MaxPoolNode:
    """Maximum over windows of `kernel_size` squared, with `padding` on each side."""

    output: str
    input: str
    kernel_size: int
    stride: int
    padding: int


@dataclass(frozen=True)
class ConcatNode:
    """Channels of several maps of one size, one after another."""

    output: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class SliceNode:
    """Channels `start` to `stop` (exclusive)."""

    output: str
    input: str
    start: int
    stop: int


@dataclass(frozen=True)
class ShuffleNode:
    """Channel shuffle: channel i · groups + g of the output is channel g · (channels / groups) + i of the input."""

    output: str
    input: str
    groups: int


MovingNode = MaxPoolNode | ConcatNode | SliceNode | ShuffleNode
Node = ConvNode | PoolNode | AddNode | GateNode | ActivationNode | SigmoidNode | MovingNode

_NODE_TYPES: tuple[type[Node], ...] = get_args(Node)


class Reader(Protocol):
    """A node that reads `input`, and nothing else unless it is one of those above."""

    @property
    def input(self) -> str: ...


def node_inputs(node: Node | Reader) -> tuple[str, ...]:
    """The tensors that a node reads, in order."""
    match node:
        case AddNode():
            return node.input, node.other
        case GateNode():
            return node.input, node.gate
        case ConcatNode():
            return node.inputs
    return (node.input,)


@dataclass(frozen=True)
class Int8Graph:
    """A quantized network.

    Attributes:
        input: name of the input tensor, an RGB picture (or a feature map where a block is measured).
        nodes: in execution order; the last one's output is the network's.
        grids: of every tensor.
        shapes: (channels, height, width) of every tensor.
        description: what files should say of the network: class names, normalisation, codes, version.
    """

    input: str
    nodes: tuple[Node, ...]
    grids: Mapping[str, Grid]
    shapes: Mapping[str, Shape]
    description: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        return self.nodes[-1].output


def conv_node(
    conv: Conv | Linear,
    output: str,
    weight: npt.NDArray[np.int8],
    weight_scale: npt.NDArray[np.float32],
    bias: npt.NDArray[np.int32],
) -> ConvNode:
    """The node of a plan's convolution or fully connected layer."""
    if isinstance(conv, Linear):
        return ConvNode(output, conv.input, weight.reshape(*weight.shape, 1, 1), weight_scale, bias, 1, 1)
    return ConvNode(output, conv.input, weight, weight_scale, bias, conv.stride, conv.groups)


def random_graph(plan: Plan, height: int, rng: np.random.Generator) -> Int8Graph:
    """A graph with the plan's operations on a `height` × `height` map, and random weights: as fast as a trained one."""
    plan = plan.without_unit_pools(height)
    grids = {plan.input: Grid(0.05, 128)}
    grids |= {tensor: _random_grid(kind) for tensor, kind in grid_kinds(plan).items()}
    shapes = with_pre_activations(plan, plan.shapes(height))
    nodes: list[Node] = []
    for op in plan.ops:
        match op:
            case Conv() | Linear():
                k, groups = (op.kernel_size, op.groups) if isinstance(op, Conv) else (1, 1)
                size = (op.out_channels, op.in_channels // groups, k, k)
                weight = rng.integers(-WEIGHT_LEVELS, WEIGHT_LEVELS + 1, size, dtype=np.int8)
                scale = np.full(op.out_channels, 0.01 / np.sqrt(size[1] * k * k), np.float32)
                bias = rng.integers(-1000, 1000, op.out_channels, dtype=np.int32)
                smooth = isinstance(op, Conv) and op.activation in SMOOTH_ACTIVATIONS
                target = before(op.output) if smooth else op.output
                nodes.append(
                    ConvNode(target, op.input, weight, scale, bias, op.stride if isinstance(op, Conv) else 1, groups)
                )
                nodes += activation_nodes(op)
            case _:
                nodes += plain_nodes(op)
    return Int8Graph(plan.input, tuple(nodes), grids, shapes)


def activation_nodes(op: Conv | Linear | Add) -> list[Node]:
    """The node after a convolution or sum with swish or hard swish, else nothing."""
    if isinstance(op, Conv | Add) and op.activation in SMOOTH_ACTIVATIONS:
        return [ActivationNode(op.output, before(op.output), cast(SmoothActivation, op.activation))]
    return []


def plain_nodes(op: Pool | Add | Gate) -> list[Node]:
    """The nodes of an operation without parameters."""
    match op:
        case Pool():
            return [PoolNode(op.output, op.input)]
        case Add():
            target = before(op.output) if op.activation in SMOOTH_ACTIVATIONS else op.output
            return [AddNode(target, op.input, op.other), *activation_nodes(op)]
        case Gate():
            return [GateNode(op.output, op.input, op.gate)]


def with_pre_activations(plan: Plan, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes of a plan's tensors and of those before its smooth activations."""
    pre = {
        before(op.output): shapes[op.output]
        for op in plan.ops
        if isinstance(op, Conv | Add) and op.activation in SMOOTH_ACTIVATIONS
    }
    return {**shapes, **pre}


def _random_grid(kind: GridKind) -> Grid:
    match kind:
        case "relu":
            return Grid(0.02, 0)
        case "relu6":
            return Grid(RELU6_MAX_SCALE, 0)
        case "hsigmoid":
            return HSIGMOID_GRID
        case _:
            return Grid(0.05, 128)


def write_graph(path: Path | str, graph: Int8Graph, record: Record) -> None:
    """Write a graph as a safetensors artifact."""
    arrays: Arrays = {}
    nodes = []
    for node in graph.nodes:
        entry: dict[str, Any] = {"type": type(node).__name__}
        for key, value in vars(node).items():
            if isinstance(value, np.ndarray):
                arrays[f"{node.output}.{key}"] = value
            else:
                entry[key] = value
        nodes.append(entry)
    content = {
        "input": graph.input,
        "nodes": nodes,
        "grids": {name: [grid.scale, grid.zero_point] for name, grid in graph.grids.items()},
        "shapes": {name: list(shape) for name, shape in graph.shapes.items()},
        "description": dict(graph.description),
    }
    write_tensors(path, GRAPH_KIND, arrays, record, content)


def read_graph(path: Path | str) -> Int8Graph:
    """Read a graph written by `write_graph`; `ArtifactError` where it cannot be."""
    arrays, content = read_tensors(path, GRAPH_KIND)
    types = {cls.__name__: cls for cls in _NODE_TYPES}
    nodes = []
    for entry in content["nodes"]:
        cls = types[entry.pop("type")]
        if cls is ConvNode:
            entry |= {key: arrays[f"{entry['output']}.{key}"] for key in ("weight", "weight_scale", "bias")}
        if cls is ConcatNode:
            entry["inputs"] = tuple(entry["inputs"])
        nodes.append(cls(**entry))
    return Int8Graph(
        input=content["input"],
        nodes=tuple(nodes),
        grids={name: Grid(scale, zero_point) for name, (scale, zero_point) in content["grids"].items()},
        shapes={name: Shape(*shape) for name, shape in content["shapes"].items()},
        description=content["description"],
    )
