"""A plain NumPy interpreter of int8 graphs: the semantics in `spaceevo.quant.graph`, as literally as they stand there.

`calibrated_graph` makes the graphs to run it on.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from spaceevo.nn.plan import Plan
from spaceevo.quant.graph import (
    ActivationNode,
    AddNode,
    ConcatNode,
    ConvNode,
    GateNode,
    Int8Graph,
    MaxPoolNode,
    Node,
    PoolNode,
    ShuffleNode,
    SigmoidNode,
    SliceNode,
    node_inputs,
    random_graph,
)
from spaceevo.quant.grids import HSIGMOID_GRID, LEVELS, RELU6_MAX_SCALE, SIGMOID_GRID, Grid, GridKind, grid_kinds


def real(q: np.ndarray, grid: Grid) -> np.ndarray:
    """The real values (float64) of integers on a grid."""
    return grid.scale * (q.astype(np.int64) - grid.zero_point)


def quantize(v: np.ndarray, grid: Grid) -> np.ndarray:
    """The integers (uint8) of real values on a grid; ties go to the even integer."""
    return np.clip(np.round(v / grid.scale) + grid.zero_point, 0, LEVELS).astype(np.uint8)


def run(graph: Int8Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    """The integers, uint8 [N, C, H, W], of every tensor of a graph for float inputs [N, C, H, W]."""
    tensors = {graph.input: quantize(x, graph.grids[graph.input])}
    for node in graph.nodes:
        tensors[node.output] = quantize(evaluate(node, tensors, graph.grids), graph.grids[node.output])
    return tensors


def evaluate(node: Node, tensors: Mapping[str, np.ndarray], grids: Mapping[str, Grid]) -> np.ndarray:
    """What a node makes of its inputs' integers, as real values (float64) before they are quantized."""
    first = node_inputs(node)[0]
    x = real(tensors[first], grids[first])
    match node:
        case ConvNode():
            scale = grids[node.input].scale * node.weight_scale.astype(np.float64)
            centred = tensors[node.input].astype(np.int64) - grids[node.input].zero_point
            return scale[:, None, None] * accumulate(node, centred)
        case PoolNode():
            return x.mean(axis=(2, 3), keepdims=True)
        case AddNode():
            return x + real(tensors[node.other], grids[node.other])
        case GateNode():
            return x * real(tensors[node.gate], grids[node.gate])
        case ActivationNode(activation="swish"):
            return x * real(quantize(1 / (1 + np.exp(-x)), SIGMOID_GRID), SIGMOID_GRID)
        case ActivationNode():
            return x * real(quantize(np.clip(x / 6 + 0.5, 0, 1), HSIGMOID_GRID), HSIGMOID_GRID)
        case SigmoidNode():
            return 1 / (1 + np.exp(-x))
        case MaxPoolNode():
            return _maximum(node, x)
        case ConcatNode():
            return np.concatenate([real(tensors[name], grids[name]) for name in node.inputs], axis=1)
        case SliceNode():
            return x[:, node.start : node.stop]
        case ShuffleNode():
            per_group = x.shape[1] // node.groups
            order = [g * per_group + i for i in range(per_group) for g in range(node.groups)]
            return x[:, order]


def _maximum(node: MaxPoolNode, x: np.ndarray) -> np.ndarray:
    pad = ((0, 0), (0, 0), (node.padding, node.padding), (node.padding, node.padding))
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, pad, constant_values=-np.inf), (node.kernel_size, node.kernel_size), axis=(2, 3)
    )
    return windows[:, :, :: node.stride, :: node.stride].max(axis=(4, 5))


def accumulate(node: ConvNode, x: np.ndarray) -> np.ndarray:
    """bias + Σ w · x as int64 [N, out_channels, H', W'], for integers x without their zero point."""
    k, pad, groups = node.kernel_size, node.kernel_size // 2, node.groups
    n, _, height, width = x.shape
    out_height, out_width = (height - 1) // node.stride + 1, (width - 1) // node.stride + 1
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    weight = node.weight.astype(np.int64).reshape(groups, -1, node.weight.shape[1], k, k)
    total = np.zeros((n, groups, weight.shape[1], out_height, out_width), np.int64)
    for i in range(k):
        for j in range(k):
            rows = slice(i, i + node.stride * (out_height - 1) + 1, node.stride)
            columns = slice(j, j + node.stride * (out_width - 1) + 1, node.stride)
            tap = padded[:, :, rows, columns].reshape(n, groups, -1, out_height, out_width)
            total += np.einsum("goc,ngchw->ngohw", weight[..., i, j], tap)
    return total.reshape(n, -1, out_height, out_width) + node.bias[:, None, None]


def calibrated_graph(plan: Plan, x: np.ndarray, rng: np.random.Generator) -> Int8Graph:
    """A random graph whose tensors spread over their grids for the inputs `x`, with a scale of its own per channel."""
    graph = random_graph(plan, x.shape[2], rng)
    kinds = grid_kinds(plan)
    grids = dict(graph.grids) | {plan.input: _covering(x, "affine")}
    tensors = {plan.input: quantize(x, grids[plan.input])}
    nodes: list[Node] = []
    for node in graph.nodes:
        kind = kinds[node.output]
        if isinstance(node, ConvNode):
            node = _normalised(node, tensors, grids, kind, rng)
        value = evaluate(node, tensors, grids)
        grids[node.output] = _covering(value, kind)
        tensors[node.output] = quantize(value, grids[node.output])
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), grids=grids)


def _normalised(
    node: ConvNode,
    tensors: Mapping[str, np.ndarray],
    grids: Mapping[str, Grid],
    kind: GridKind,
    rng: np.random.Generator,
) -> ConvNode:
    """The convolution with centred outputs of about unit variance (less where a hard sigmoid follows).

    The variance is that for independent inputs: as trained networks do, it damps small differences between inputs that
    are alike, such as pooled maps, instead of blowing them up to full range.
    """
    mean, deviation = (0.5, 0.3) if kind == "hsigmoid" else (0.3, 1.5)
    channels = len(node.bias)
    centred = tensors[node.input].astype(np.int64) - grids[node.input].zero_point
    sums = accumulate(replace(node, bias=np.zeros(channels, np.int32)), centred)
    spread = np.sqrt((node.weight.astype(float) ** 2).sum(axis=(1, 2, 3)) * (centred**2).mean())
    scale = deviation * np.exp(rng.normal(0, 0.3, channels)) / spread
    bias = np.round(rng.normal(mean, 0.3 * deviation, channels) / scale - sums.mean(axis=(0, 2, 3)))
    weight_scale = (scale / grids[node.input].scale).astype(np.float32)
    return replace(node, weight_scale=weight_scale, bias=bias.astype(np.int32))


def pictures(count: int, channels: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Inputs that differ in colour, contrast and texture, float32 [count, channels, size, size]."""
    coarse = rng.normal(size=(count, channels, 4, 4)).repeat(-(-size // 4), axis=2).repeat(-(-size // 4), axis=3)
    contrast = np.exp(rng.normal(0, 0.5, (count, 1, 1, 1)))
    colour = rng.normal(0, 0.7, (count, channels, 1, 1))
    noise = rng.normal(0, 0.3, (count, channels, size, size))
    return (contrast * coarse[:, :, :size, :size] + colour + noise).astype(np.float32)


def _covering(value: np.ndarray, kind: GridKind) -> Grid:
    """A grid of the kind that covers nearly all the values."""
    low, high = np.quantile(value, [0.001, 0.999])
    match kind:
        case "hsigmoid":
            return HSIGMOID_GRID
        case "relu":
            return Grid(float(np.float32(high / LEVELS)), 0)
        case "relu6":
            return Grid(float(np.float32(min(high / LEVELS, RELU6_MAX_SCALE))), 0)
        case _:
            scale = float(np.float32((max(high, 0) - min(low, 0)) / LEVELS))
            return Grid(scale, round(-min(low, 0) / scale))
