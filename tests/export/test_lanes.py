"""Channels that are added for the kernels' sake change no value, and are added where the kernels want them."""

import interpreter
import numpy as np
import pytest

from spaceevo.export.lanes import DENSE_GROUPS, LANES, with_full_lanes
from spaceevo.nn.plan import Shape
from spaceevo.quant.graph import ConcatNode, ConvNode, Int8Graph, PoolNode
from spaceevo.quant.grids import Grid

CASES = ("relu", "relu6", "swish", "hswish", "tiny_0", "tiny_1", "layers_even", "layers_odd")


def conv(output, input, channels, groups, kernel_size=3, out_channels=None):
    rng = np.random.default_rng(0)
    out_channels = out_channels or channels
    weight = rng.integers(-9, 9, (out_channels, channels // groups, kernel_size, kernel_size), dtype=np.int8)
    scale = rng.uniform(0.01, 0.1, out_channels).astype(np.float32)
    return ConvNode(output, input, weight, scale, np.arange(out_channels, dtype=np.int32), 1, groups)


def convolutions(graph):
    return [node for node in graph.nodes if isinstance(node, ConvNode)]


def widths(channels, *nodes):
    """Channels of every tensor after widening, for a picture of `channels` channels."""
    shapes = {"input": Shape(channels, 6, 6)}
    for node in nodes:
        if isinstance(node, ConvNode):
            shapes[node.output] = Shape(len(node.weight), 6, 6)
        elif isinstance(node, PoolNode):
            shapes[node.output] = Shape(shapes[node.input].channels, 1, 1)
        else:
            shapes[node.output] = Shape(sum(shapes[name].channels for name in node.inputs), 6, 6)
    graph = Int8Graph("input", nodes, dict.fromkeys(shapes, Grid(0.1, 7)), shapes)
    return {name: shape.channels for name, shape in with_full_lanes(graph).shapes.items()}


@pytest.mark.parametrize("case", CASES)
def test_values_stay(exported, case):
    graph, x = exported[case].graph, exported[case].inputs[:2]
    wide = with_full_lanes(graph)
    added = wide.shapes[graph.input].channels - x.shape[1]
    expected = interpreter.run(graph, x)
    found = interpreter.run(wide, np.pad(x, ((0, 0), (0, added), (0, 0), (0, 0))))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape[1] == wide.shapes[name].channels
        np.testing.assert_array_equal(found[name][:, : value.shape[1]], value)


@pytest.mark.parametrize("case", ["tiny_0", "tiny_1"])
def test_subnets_have_the_channels_that_kernels_want(exported, case):
    graph = with_full_lanes(exported[case].graph)
    assert graph.shapes[graph.input].channels == 4
    assert [len(node.weight) for node in convolutions(graph) if node.groups > 1 and len(node.weight) % LANES] == []


def test_few_groups_become_dense(exported):
    graph = exported["layers_even"].graph
    groups = {node.output: node.groups for node in convolutions(graph) if 1 < node.groups < len(node.weight)}
    assert set(groups.values()) == {3, 18}
    wide = {node.output: node.groups for node in convolutions(with_full_lanes(graph)) if node.output in groups}
    assert wide == {name: 1 if count <= DENSE_GROUPS else count for name, count in groups.items()}


def test_a_picture_gets_a_fourth_channel_before_a_small_kernel():
    assert widths(3, conv("a", "input", 3, 1, out_channels=32), PoolNode("p", "a"))["input"] == 4
    assert widths(3, conv("a", "input", 3, 1, 7, out_channels=32), PoolNode("p", "a"))["input"] == 3
    assert widths(24, conv("a", "input", 24, 1), PoolNode("p", "a"))["input"] == 24


def test_depthwise_channels_are_added_as_far_as_they_go():
    first, depth = conv("a", "input", 4, 1, 1, out_channels=40), conv("b", "a", 40, 40)
    last = conv("c", "b", 40, 1, 1, out_channels=20)
    assert widths(4, first, depth, last, PoolNode("p", "c")) == {"input": 4, "a": 48, "b": 48, "c": 20, "p": 20}


def test_output_and_concatenated_channels_stay():
    assert widths(4, conv("a", "input", 4, 1, out_channels=24), conv("b", "a", 24, 24))["a"] == 24
    first, depth = conv("a", "input", 4, 1, out_channels=24), conv("b", "a", 24, 24)
    after = ConcatNode("c", ("b", "a"))
    assert widths(4, first, depth, after, conv("d", "c", 48, 1))["b"] == 24


def test_thin_convolutions_are_widened_on_maps_alone():
    thin = conv("a", "input", 16, 1, out_channels=8), conv("b", "a", 8, 1, out_channels=32)
    assert widths(16, *thin)["a"] == LANES
    pooled = PoolNode("p", "input"), conv("a", "p", 16, 1, 1, out_channels=8), conv("b", "a", 8, 1, 1, out_channels=32)
    shapes = {"input": Shape(16, 6, 6), "p": Shape(16, 1, 1), "a": Shape(8, 1, 1), "b": Shape(32, 1, 1)}
    graph = Int8Graph("input", pooled, dict.fromkeys(shapes, Grid(0.1, 7)), shapes)
    assert with_full_lanes(graph).shapes["a"].channels == 8
