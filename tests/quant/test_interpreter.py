"""The interpreter that other tests trust: against torch, against numbers worked out by hand, and on its own graphs."""

import interpreter
import numpy as np
import pytest
import torch

from spaceevo.nn.blocks import block_plan
from spaceevo.nn.plan import Shape
from spaceevo.quant.graph import (
    ActivationNode,
    AddNode,
    ConcatNode,
    ConvNode,
    GateNode,
    Int8Graph,
    MaxPoolNode,
    PoolNode,
    ShuffleNode,
    SigmoidNode,
    SliceNode,
)
from spaceevo.quant.grids import HSIGMOID_GRID, SIGMOID_GRID, Grid
from spaceevo.space import BlockChoice


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel_size", "groups"), [(1, 1), (3, 1), (5, 6), (7, 6)])
def test_accumulators_are_those_of_torch(kernel_size, groups, stride, size):
    rng = np.random.default_rng(0)
    x = rng.integers(-255, 256, (2, 6, size, size))
    weight = rng.integers(-127, 128, (12 if groups == 1 else 6, 6 // groups, kernel_size, kernel_size), dtype=np.int8)
    bias = rng.integers(-9999, 9999, len(weight), dtype=np.int32)
    node = ConvNode("out", "in", weight, np.ones(len(weight), np.float32), bias, stride, groups)
    expected = torch.nn.functional.conv2d(
        *(torch.from_numpy(a.astype(float)) for a in (x, weight, bias)),
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
    )
    np.testing.assert_array_equal(interpreter.accumulate(node, x), expected.numpy())


def test_rounding_is_half_to_even_and_saturates():
    values = np.array([-9.0, 0.25, 0.75, 1.25, 200.0])
    assert interpreter.quantize(values, Grid(0.5, 10)).tolist() == [0, 10, 12, 12, 255]


def test_grids_round_trip():
    integers = np.arange(256, dtype=np.uint8)
    for grid in (Grid(0.0173, 0), Grid(1e-4, 255), Grid(3.7, 91), HSIGMOID_GRID):
        np.testing.assert_array_equal(interpreter.quantize(interpreter.real(integers, grid), grid), integers)


def run_node(node, q, out_grid, other=None):
    """The integers a node makes of a 1 × 2 map on the grid (0.1, 100), the other input on (0.01, 0)."""
    grids = {"in": Grid(0.1, 100), "other": Grid(0.01, 0), "out": out_grid}
    tensors = {"in": np.array(q, np.uint8).reshape(1, 1, 1, 2)}
    if other is not None:
        tensors["other"] = np.array(other, np.uint8).reshape(1, 1, 1, -1)
    return interpreter.quantize(interpreter.evaluate(node, tensors, grids), out_grid).ravel().tolist()


def test_nodes_by_hand():
    conv = ConvNode(
        "out", "in", np.full((1, 1, 1, 1), 3, np.int8), np.array([0.5], np.float32), np.array([7], np.int32), 1, 1
    )
    assert run_node(conv, [110, 90], Grid(0.05, 50)) == [50 + 37, 50 - 23]  # steps of 0.1 · 0.5 = 0.05: 7 + 3 · ±10
    assert run_node(PoolNode("out", "in"), [110, 120], Grid(0.5, 0)) == [3]  # the mean of 1.0 and 2.0
    assert run_node(AddNode("out", "in", "other"), [110, 90], Grid(0.1, 100), [50, 0]) == [115, 90]
    assert run_node(GateNode("out", "in", "other"), [110, 90], Grid(0.1, 100), [50]) == [105, 95]
    hswish = ActivationNode("out", "in", "hswish")
    assert run_node(hswish, [140, 60], Grid(0.1, 100)) == [140, 100]  # 4 and 0, beyond the ends at ±3
    assert run_node(hswish, [110, 115], Grid(1 / 24, 0)) == [16, 27]  # 1 · 4/6 and 1.5 · 0.75
    swish = ActivationNode("out", "in", "swish")
    assert run_node(swish, [110, 100], Grid(1 / 256, 0)) == [187, 0]  # sigmoid(1) = 0.7311 is 187 / 256
    assert run_node(swish, [255, 0], Grid(0.1, 100)) == [100 + 154, 100]  # a sigmoid of one is 255 / 256


def test_other_nodes_by_hand():
    assert run_node(SigmoidNode("out", "in"), [110, 100], SIGMOID_GRID) == [187, 128]
    same = Grid(0.1, 100)
    assert run_node(MaxPoolNode("out", "in", 1, 1, 0), [110, 90], same) == [110, 90]
    assert run_node(MaxPoolNode("out", "in", 3, 2, 1), [3, 90], same) == [90]  # padding is less than any value
    channels = np.arange(6, dtype=np.uint8).reshape(1, 6, 1, 1)
    grids = {"in": same, "out": same}

    def moved(node):
        value = interpreter.evaluate(node, {"in": channels}, grids)
        return interpreter.quantize(value, same).ravel().tolist()

    assert moved(SliceNode("out", "in", 1, 3)) == [1, 2]
    assert moved(ConcatNode("out", ("in", "in"))) == [0, 1, 2, 3, 4, 5] * 2
    assert moved(ShuffleNode("out", "in", 2)) == [0, 3, 1, 4, 2, 5]


def test_graph_runs_in_order_and_pads_with_real_zeros():
    """Each node reads the ones before; a picture of zeros has no border."""
    ones = ConvNode("sum", "input", np.ones((1, 1, 3, 3), np.int8), np.ones(1, np.float32), np.zeros(1, np.int32), 1, 1)
    graph = Int8Graph(
        "input",
        (ones, PoolNode("mean", "sum")),
        {"input": Grid(0.5, 77), "sum": Grid(0.5, 10), "mean": Grid(0.5, 10)},
        {"input": Shape(1, 4, 4), "sum": Shape(1, 4, 4), "mean": Shape(1, 1, 1)},
    )
    tensors = interpreter.run(graph, np.zeros((1, 1, 4, 4), np.float32))
    assert np.all(tensors["input"] == 77)
    assert np.all(tensors["sum"] == 10)
    tensors = interpreter.run(graph, np.ones((1, 1, 4, 4), np.float32))
    np.testing.assert_array_equal(tensors["sum"][0, 0, 0], [18, 22, 22, 18])  # 4 and 6 neighbours, of 2 steps each
    assert tensors["mean"].shape == (1, 1, 1, 1)


@pytest.mark.parametrize("activation", ["relu", "relu6", "swish", "hswish"])
def test_calibrated_graphs_use_their_grids(activation):
    rng = np.random.default_rng(0)
    x = interpreter.pictures(4, 16, 14, rng)
    graph = interpreter.calibrated_graph(
        block_plan("mobilenetv3_res", activation, 16, BlockChoice(5, 24, 2.0), 2), x, rng
    )
    tensors = interpreter.run(graph, x)
    assert tensors.keys() == graph.grids.keys() == graph.shapes.keys()
    for name, q in tensors.items():
        assert q.shape == (4, *graph.shapes[name])
        assert np.mean((q == 0) | (q == 255)) < 0.7, name
        assert len(np.unique(q)) > min(100, q.size // 4), name
