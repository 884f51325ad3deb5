"""Quantization after training: grids of least error, one for what shares one, and a simulation of the int8 graph."""

import interpreter
import numpy as np
import pytest
import torch
from layers import Layers, shaken

from spaceevo.artifacts import Record
from spaceevo.export.simulation import simulate_graph
from spaceevo.quant.calibrate import CLIP_RATIOS
from spaceevo.quant.fit import fit, weight_scales
from spaceevo.quant.float_graph import run
from spaceevo.quant.graph import ConvNode, MovingNode, SigmoidNode, node_inputs, read_graph, write_graph
from spaceevo.quant.grids import HSIGMOID_GRID, RELU6_MAX_SCALE, SIGMOID_GRID, image_grid
from spaceevo.quant.trace import trace

GRID = image_grid([128 / 255] * 3, [0.5] * 3)


@pytest.fixture(scope="module")
def images():
    return (0.4 * torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)


@pytest.fixture(scope="module")
def traced(images):
    return trace(shaken(Layers(), 0, images), images[:2])


@pytest.fixture(scope="module")
def graph(traced, images):
    return fit(traced, images.split(8), GRID, torch.Generator().manual_seed(0), {"name": "layers"})


def test_grids_follow_their_kinds(traced, graph):
    assert graph.grids["input"] == GRID
    for name, kind in traced.kinds.items():
        grid = graph.grids[name]
        if kind == "hsigmoid":
            assert grid == HSIGMOID_GRID
        if kind == "sigmoid":
            assert grid == SIGMOID_GRID
        if kind in ("relu", "relu6"):
            assert grid.zero_point == 0
        if kind == "relu6":
            assert grid.scale <= RELU6_MAX_SCALE * (1 + 1e-6)


def test_what_only_moves_integers_keeps_its_grid(graph):
    moving = [node for node in graph.nodes if isinstance(node, MovingNode)]
    assert len({type(node) for node in moving}) == 4
    for node in moving:
        assert {graph.grids[name] for name in node_inputs(node)} == {graph.grids[node.output]}


def test_weights_scales_have_the_least_error():
    weight = torch.randn(4, 5000, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight[2] = 0

    def error(channel, scale):
        integers = (weight[channel] / scale).round().clamp(-127, 127)
        return float((integers * scale - weight[channel]).square().mean())

    scales = weight_scales(weight)
    assert scales.shape == (4,)
    assert bool((scales > 0).all())
    for channel in (0, 1, 3):
        largest = float(weight[channel].abs().max()) / 127
        errors = [error(channel, ratio * largest) for ratio in CLIP_RATIOS]
        assert error(channel, float(scales[channel])) == pytest.approx(min(errors))
        assert min(errors) < errors[0]  # of so many, the few largest are clipped


def test_biases_and_scales_fold_exactly(traced, graph):
    floats = {node.output: node for node in traced.nodes}
    for node in graph.nodes:
        if isinstance(node, ConvNode):
            step = graph.grids[node.input].scale * node.weight_scale.astype(np.float64)
            assert np.abs(node.bias * step - floats[node.output].bias.numpy()).max() <= step.max()


def test_quantized_is_close_to_fp32(traced, graph, images):
    expected = run(traced, images).flatten(1).numpy()
    found = simulate_graph(graph, images).logits
    noise = np.square(found - expected).mean() / np.square(expected - expected.mean()).mean()
    assert 0 < noise < 0.1


def test_simulation_is_the_interpreters(graph, images):
    parts = images.split(4)
    simulated = [simulate_graph(graph, part).tensors for part in parts]
    interpreted = [interpreter.run(graph, part.numpy()) for part in parts]
    assert simulated[0].keys() == interpreted[0].keys()
    for name in simulated[0]:
        q, expected = (np.concatenate([part[name] for part in side]).astype(int) for side in (simulated, interpreted))
        off = np.abs(q - expected)
        assert off.max() <= 3, name  # a unit of a tie here and there, carried on
        assert off.mean() < 0.02, name
    assert simulate_graph(graph, images).logits.shape == (16, 10)


def test_seed_decides(traced, images, graph):
    def grids(seed):
        return fit(traced, images.split(8), GRID, torch.Generator().manual_seed(seed), {}).grids

    assert grids(0) == graph.grids
    assert grids(1) != graph.grids


def test_graphs_are_read_as_they_were_written(graph, tmp_path):
    write_graph(tmp_path / "graph.safetensors", graph, Record({}))
    again = read_graph(tmp_path / "graph.safetensors")
    assert (again.grids, again.shapes, again.description) == (graph.grids, graph.shapes, graph.description)
    for node, expected in zip(again.nodes, graph.nodes, strict=True):
        if isinstance(expected, ConvNode):
            np.testing.assert_array_equal(node.weight, expected.weight)
        else:
            assert node == expected
    assert any(isinstance(node, SigmoidNode) for node in again.nodes)
