"""Lowering: BatchNorm is folded exactly, and the graph computes what the trained network simulates."""

import copy

import interpreter
import numpy as np
import pytest
import torch
from made import covering_spaces, jitter_scales, pictures, random_subnets, random_supernet
from torch import nn

from spaceevo.artifacts import Record
from spaceevo.errors import ArtifactError
from spaceevo.export.simulation import simulate
from spaceevo.nn.plan import Conv
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.graph import ActivationNode, AddNode, ConvNode, GateNode, PoolNode, read_graph, write_graph
from spaceevo.quant.grids import before
from spaceevo.quant.lower import MAX_BIAS, lower, snap_biases
from spaceevo.quant.quantizers import fp32, int8
from spaceevo.space import load_hyperspace
from spaceevo.train.evaluate import recalibrate

SPACES = covering_spaces(load_hyperspace("tiny"), 5)


def made_network(seed: int):
    """A recalibrated subnet of a random supernet of the embedded hyperspace; its block types depend on the seed."""
    space = SPACES[seed]
    subnet = random_subnets(space, 1, seed)[0]
    x = pictures(32, 32, seed)
    network = random_supernet(space, seed, x, [space.largest, subnet]).extract(subnet)
    # The grids of a trained network fit the statistics it ends with.
    recalibrate(network, lambda batch: network(batch, fp32), [x])
    calibrate(network, [lambda precision: network(x, precision)], torch.Generator().manual_seed(seed))
    jitter_scales(network, seed)
    recalibrate(network, lambda batch: network(batch, int8), [x])
    fit_classes(network, x, torch.arange(len(x)) % network.num_classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.clamp_(min=1e-3)  # dead channels have a test of their own
    return network, x


@torch.no_grad()
def fit_classes(network, x, y):
    """Ridge regression of the last layer, so that logits have margins as those of trained networks do."""
    *_, (_, maps), _ = network.features(x)
    inputs = torch.cat([maps.flatten(1), torch.ones(len(x), 1)], 1).double()
    gram = inputs @ inputs.T
    ridge = 1e-3 * gram.trace() / len(x) * torch.eye(len(x))
    solution = inputs.T @ torch.linalg.solve(gram + ridge, 4.0 * nn.functional.one_hot(y).double())
    (block,) = network.stages["logits"]
    block.convs["linear"].weight.copy_(solution[:-1].T)
    block.convs["linear"].bias.copy_(solution[-1])
    block.weight_quantizers["linear"].set_from(block.convs["linear"].weight)
    block.quantizers["linear"].set_range(-1.0, 5.0)


@pytest.fixture(scope="module", params=range(len(SPACES)), ids=lambda seed: SPACES[seed].code)
def lowered(request):
    """A network whose biases are those of its graph, the graph, and pictures."""
    network, x = made_network(request.param)
    snap_biases(network)
    return network, lower(network, {"name": network.subnet.code}), x


def layers_of(network, graph):
    """Each convolution node with the layer it was made from: its plan's operation and its block."""
    nodes = {node.output: node for node in graph.nodes}
    for stage_name, stage in network.stages.items():
        for index, block in enumerate(stage):
            for op in block.plan.ops:
                name = f"{stage_name}.{index}.{op.output}"
                node = nodes.get(before(name), nodes[name])
                if isinstance(node, ConvNode):
                    yield node, op, block


def folded(op, block):
    """Weight [O, I, k, k] and bias [O] of a layer in float64, with BatchNorm and the hard sigmoid's slope in them."""
    layer = block.convs[op.weight]
    with torch.no_grad():
        weight = block.weight_quantizers[op.weight](layer.weight).double().numpy()
    weight = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().numpy()
    if isinstance(op, Conv) and op.norm:
        norm = block.norms[op.norm]
        values = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        gamma, beta, mean, variance = (value.detach().double().numpy() for value in values)
        gain = gamma / np.sqrt(variance + norm.eps)
        weight, bias = weight * gain[:, None, None, None], beta + gain * (bias - mean)
    if isinstance(op, Conv) and op.activation == "hsigmoid":
        weight, bias = weight / 6, bias / 6 + 0.5
    return weight, bias


def assert_folded(network, graph):
    found = set()
    for node, op, block in layers_of(network, graph):
        found.add("hsigmoid" if getattr(op, "activation", None) == "hsigmoid" else type(op).__name__)
        weight, bias = folded(op, block)
        scale = node.weight_scale.astype(np.float64)
        assert (node.weight_scale > 0).all() and np.abs(node.bias.astype(np.int64)).max() <= MAX_BIAS + 64
        assert node.weight.dtype == np.int8 and node.weight.min() >= -127 and node.bias.dtype == np.int32
        real = node.weight * scale[:, None, None, None]
        # The most that all inputs together can make of the difference, in steps of the output.
        lost = np.abs(real - weight).sum(axis=(1, 2, 3)) * graph.grids[node.input].scale * 255
        exact = np.isclose(real, weight, rtol=1e-5, atol=0).all(axis=(1, 2, 3))
        assert (exact | (lost < 0.01 * graph.grids[node.output].scale)).all()
        step = graph.grids[node.input].scale * scale
        # Half a step of rounding, and the last place of the scale's float32 where the bias is many steps.
        assert (np.abs(node.bias * step - bias) <= 0.5001 * step + 1e-6 * np.abs(bias)).all()
    return found


def test_normalisation_is_folded_exactly(lowered):
    network, graph, _ = lowered
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert any((norm.weight < 0).any() for norm in norms)
    assert {"Conv", "Linear"} <= assert_folded(network, graph)


@pytest.mark.parametrize("seed", range(len(SPACES)))
def test_rounding_biases_changes_no_integer(seed):
    """It moves what is simulated to what the graph computes, by half a step at most, and is done once."""
    network, _ = made_network(seed)
    before, graph = copy.deepcopy(network), lower(network, {})
    snap_biases(network)
    again = lower(network, {})
    for node, same in zip(graph.nodes, again.nodes, strict=True):
        if isinstance(node, ConvNode):
            np.testing.assert_array_equal(node.weight, same.weight)
            np.testing.assert_array_equal(node.bias, same.bias)
    for (node, op, block), (_, _, unrounded) in zip(layers_of(network, graph), layers_of(before, graph), strict=True):
        step = graph.grids[node.input].scale * node.weight_scale.astype(np.float64)
        bias, original = folded(op, block)[1], folded(op, unrounded)[1]
        assert (np.abs(bias - node.bias * step) <= 1e-6 * (np.abs(bias) + 1) + 1e-3 * step).all()
        assert (np.abs(bias - original) <= 0.51 * step + 1e-5).all()
    moved = {name for name, p in network.state_dict().items() if not torch.equal(p, before.state_dict()[name])}
    assert moved and all(name.endswith("bias") for name in moved)


def test_the_slope_of_the_hard_sigmoid_is_folded():
    networks = [made_network(seed)[0] for seed in range(2)]
    assert any("hsigmoid" in assert_folded(network, lower(network, {})) for network in networks)


@pytest.mark.parametrize("gain", [0.0, 1e-20, -1e-12, 1e-7, -1e-4, 1e4])
def test_gains_of_any_size_are_folded(gain):
    """A channel whose gain vanishes becomes the constant it computes."""
    network, x = made_network(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[1] = gain
                module.bias[1] = 0.7
                module.bias[2] = 0.0
                module.weight[2] = 0.0
    graph = lower(network, {})
    assert_folded(network, graph)
    tensors = interpreter.run(graph, x[:2, :, : network.subnet.resolution, : network.subnet.resolution].numpy())
    for node, op, _ in layers_of(network, graph):
        if isinstance(op, Conv) and op.norm and abs(gain) < 1e-10:
            grid = graph.grids[node.output]
            constant = interpreter.quantize(np.array(0.7), grid)
            assert np.abs(tensors[node.output][:, 1].astype(int) - int(constant)).max() <= 1


def test_dead_channels_keep_their_constant():
    """A channel that never varied on the training images has no variance, and a gain that would blow up one step."""
    network, x = made_network(2)
    dead = {}
    for stage, blocks in network.stages.items():
        for index, block in enumerate(blocks):
            for name, norm in block.norms.items():
                with torch.no_grad():
                    block.convs[name if name in block.convs else f"{name}_0"].weight[1] = 0
                    norm.bias[1] = 0.3
                dead[f"{stage}.{index}.{name}"] = norm
    recalibrate(network, lambda batch: network(batch, int8), [x])
    assert all(norm.running_var[1] == 0 for norm in dead.values())
    snap_biases(network)
    graph = lower(network, {})
    simulated = simulate(network, x).tensors
    tensors = {name: q.reshape(len(q), *graph.shapes[name]) for name, q in simulated.items()}
    for node in graph.nodes:
        if isinstance(node, ConvNode):
            expected = interpreter.quantize(interpreter.evaluate(node, tensors, graph.grids), graph.grids[node.output])
            assert np.abs(tensors[node.output].astype(int) - expected).max() <= 1, node.output


def test_the_graph_covers_the_network(lowered):
    network, graph, _ = lowered
    outputs = [node.output for node in graph.nodes]
    assert len(outputs) == len(set(outputs)) and outputs[-1] == graph.output == "logits.0.linear"
    assert {graph.input, *outputs} == set(graph.grids) == set(graph.shapes)
    seen = {graph.input}
    for node in graph.nodes:  # in execution order
        assert {node.input, getattr(node, "other", node.input), getattr(node, "gate", node.input)} <= seen
        seen.add(node.output)
    assert graph.shapes[graph.input] == (3, network.subnet.resolution, network.subnet.resolution)


def test_every_node_computes_what_the_network_simulates(lowered):
    """From the simulation's inputs of the node, within one unit, and nearly always equal."""
    network, graph, x = lowered
    simulated = simulate(network, x).tensors
    assert simulated.keys() == graph.grids.keys()
    tensors = {name: q.reshape(len(q), *graph.shapes[name]) for name, q in simulated.items()}
    differences = []
    for node in graph.nodes:
        expected = interpreter.quantize(interpreter.evaluate(node, tensors, graph.grids), graph.grids[node.output])
        off = np.abs(tensors[node.output].astype(int) - expected)
        assert off.max() <= 1, node.output
        differences.append(off.ravel())
    assert np.mean(np.concatenate(differences) != 0) < 1e-4


def test_the_graph_answers_as_the_network_does(lowered):
    network, graph, x = lowered
    verification = simulate(network, x)
    integers = interpreter.run(graph, verification.inputs)
    logits = interpreter.real(integers[graph.output], graph.grids[graph.output]).reshape(len(x), -1)
    off = np.abs(logits - verification.logits) / graph.grids[graph.output].scale
    assert off.mean() < 0.2
    assert np.mean(logits.argmax(1) == verification.logits.argmax(1)) >= 0.95


def test_every_kind_of_node_and_block_is_covered():
    covered = set()
    for seed in range(len(SPACES)):
        graph = lower(made_network(seed)[0], {})
        covered |= {type(node) for node in graph.nodes}
        covered |= {node.activation for node in graph.nodes if isinstance(node, ActivationNode)}
    assert covered == {ConvNode, PoolNode, AddNode, GateNode, ActivationNode, "swish", "hswish"}
    types = range(len(SPACES[0].hyperspace.block_types))
    assert set(types) == {index for space in SPACES for index in space.block_types}


def test_a_graph_round_trips(lowered, tmp_path):
    _, graph, _ = lowered
    path = tmp_path / "graph.safetensors"
    write_graph(path, graph, Record({}))
    read = read_graph(path)
    assert (read.input, read.output) == (graph.input, graph.output)
    assert (dict(read.grids), dict(read.shapes)) == (dict(graph.grids), dict(graph.shapes))
    assert read.description == graph.description
    assert len(read.nodes) == len(graph.nodes)
    for node, again in zip(graph.nodes, read.nodes, strict=True):
        assert type(node) is type(again)
        for key, value in vars(node).items():
            np.testing.assert_array_equal(getattr(again, key), value)
            if isinstance(value, np.ndarray):
                assert getattr(again, key).dtype == value.dtype
    with pytest.raises(ArtifactError, match=r"lost.safetensors does not exist"):
        read_graph(tmp_path / "lost.safetensors")
