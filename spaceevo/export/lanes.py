"""Convolutions in shapes that onnxruntime's fast integer kernels take, with the same values.

On x86 its depthwise kernel takes 16 channels at a time. Where the channels are no multiple of 16, another one does the
work in two to three times the time (104 channels: 71 µs, 112 channels: 31 µs); likewise a convolution to fewer than 16
channels, or from three instead of four. Channels whose weights are all zero change no value, so that they are added
here, and what reads them gets zero weights for them. Convolutions in groups have no kernel of their own and reach a
twentieth of the speed of dense ones: with few groups, a dense one with zeros between the groups is faster.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from spaceevo.nn.plan import Shape
from spaceevo.quant.graph import ConcatNode, ConvNode, Int8Graph, Node, ShuffleNode, SliceNode, node_inputs

LANES = 16
INPUT_LANES = 4
SMALL_KERNEL = 3
DENSE_GROUPS = 16  # at most, for a dense convolution in place of one in groups


def with_full_lanes(graph: Int8Graph) -> Int8Graph:
    """The graph with few groups made dense, and channels added where kernels want them.

    The first channels of every tensor are those of `graph`. The output keeps its channels, and so do tensors whose
    channels are concatenated, sliced, shuffled or convolved in groups.
    """
    graph = replace(graph, nodes=tuple(_dense(node) for node in graph.nodes))
    widths = _widths(graph)
    nodes = tuple(_widened(node, graph, widths) for node in graph.nodes)
    shapes = {name: Shape(widths[name], *shape[1:]) for name, shape in graph.shapes.items()}
    return replace(graph, nodes=nodes, shapes=shapes)


def _widths(graph: Int8Graph) -> dict[str, int]:
    """Channels of every tensor of the widened graph."""
    widths = {name: shape.channels for name, shape in graph.shapes.items()}
    lanes: dict[str, int] = defaultdict(lambda: 1)
    kept: set[str] = set()
    alike = _alike(graph)
    kept.add(alike[graph.output])
    if sum(alike[name] == alike[graph.input] for name in widths) > 1:
        kept.add(alike[graph.input])
    elif any(_is_stem(node, graph) for node in graph.nodes):
        lanes[alike[graph.input]] = INPUT_LANES
    for node in graph.nodes:
        if _is_depthwise(node) or _is_thin(node, graph):
            lanes[alike[node.output]] = LANES
        elif isinstance(node, ConcatNode | SliceNode | ShuffleNode) or (isinstance(node, ConvNode) and node.groups > 1):
            kept.update(alike[name] for name in (node.output, *node_inputs(node)))
    return {
        name: width if alike[name] in kept else -(-width // lanes[alike[name]]) * lanes[alike[name]]
        for name, width in widths.items()
    }


def _alike(graph: Int8Graph) -> dict[str, str]:
    """For every tensor, one tensor that stands for all that must have the same channels."""
    parents = {name: name for name in graph.shapes}

    def find(name: str) -> str:
        while parents[name] != name:
            name = parents[name]
        return name

    for node in graph.nodes:
        for name in _channelwise(node):
            parents[find(name)] = find(node.output)
    return {name: find(name) for name in parents}


def _channelwise(node: Node) -> Iterator[str]:
    """The inputs of which every channel makes the same channel of the output."""
    if _is_depthwise(node) or not isinstance(node, ConvNode | ConcatNode | SliceNode | ShuffleNode):
        yield from node_inputs(node)


def _dense(node: Node) -> Node:
    if not isinstance(node, ConvNode) or _is_depthwise(node) or not 1 < node.groups <= DENSE_GROUPS:
        return node
    outputs, inputs = (size // node.groups for size in (len(node.weight), node.weight.shape[1] * node.groups))
    weight = np.zeros((len(node.weight), inputs * node.groups, *node.weight.shape[2:]), np.int8)
    for group in range(node.groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        weight[rows, group * inputs : (group + 1) * inputs] = node.weight[rows]
    return replace(node, weight=weight, groups=1)


def _is_depthwise(node: Node) -> bool:
    return isinstance(node, ConvNode) and node.groups == len(node.weight) > 1


def _is_thin(node: Node, graph: Int8Graph) -> bool:
    """Whether this is a convolution of a map to fewer channels than its kernel computes at a time."""
    is_map = graph.shapes[node.output][1:] != (1, 1)
    return isinstance(node, ConvNode) and node.groups == 1 and len(node.weight) < LANES and is_map


def _is_stem(node: Node, graph: Int8Graph) -> bool:
    """Whether this reads the input with a small kernel; with 7×7, three channels are no slower than four."""
    return isinstance(node, ConvNode) and node.input == graph.input and node.kernel_size <= SMALL_KERNEL


def _widened(node: Node, graph: Int8Graph, widths: Mapping[str, int]) -> Node:
    if not isinstance(node, ConvNode):
        return node
    outputs = widths[node.output] - len(node.weight)
    depthwise = _is_depthwise(node)
    inputs = 0 if depthwise else widths[node.input] - graph.shapes[node.input].channels
    return replace(
        node,
        weight=np.pad(node.weight, ((0, outputs), (0, inputs), (0, 0), (0, 0))),
        weight_scale=np.pad(node.weight_scale, (0, outputs), mode="edge"),
        bias=np.pad(node.bias, (0, outputs)),
        groups=node.groups + outputs if depthwise else node.groups,
    )
