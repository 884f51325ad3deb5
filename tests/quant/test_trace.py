"""Torch modules as float graphs: what is folded, what stays, and one sentence for what cannot be."""

import pytest
import torch
import torch.nn.functional as F
from layers import Layers, shaken
from torch import nn

from spaceevo.errors import ExportError
from spaceevo.quant.float_graph import FloatConv, run
from spaceevo.quant.graph import ActivationNode, AddNode, ConcatNode, GateNode, MaxPoolNode, ShuffleNode, SigmoidNode
from spaceevo.quant.trace import trace
from spaceevo.vision_ops import import_torchvision

MODELS = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "shufflenet_v2_x0_5",
    "mnasnet1_0",
    "regnet_y_400mf",
    "resnet18",
)


def pictures(channels=3, size=16, count=2):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


class Function(nn.Module):
    """A module of layers that a function uses."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def traced(function, **layers):
    """The graph of a function of three channels, which computes what the function does."""
    x = pictures()
    module = shaken(Function(function, **layers), 0, x)
    graph = trace(module, x)
    torch.testing.assert_close(run(graph, x).flatten(1), module(x).flatten(1), rtol=1e-4, atol=1e-4)
    return graph


def test_arguments_may_be_given_by_their_names():
    def function(m, x):
        y = torch.cat(tensors=[m.conv(input=x), x], dim=1)
        return torch.flatten(input=F.relu(input=y).mean(dim=(2, 3), keepdim=True), start_dim=1)

    graph = traced(function, conv=nn.Conv2d(3, 4, 1))
    assert count(graph, ConcatNode) == 1 and graph.shapes[graph.output] == (7, 1, 1)


def count(graph, *types):
    return sum(isinstance(node, types) for node in graph.nodes)


@pytest.mark.parametrize("name", MODELS)
def test_networks_of_torchvision(name):
    """Every convolution and classifier once, and nothing else with weights: all BatchNorm and rectifiers are folded."""
    x = pictures(size=64)
    model = shaken(import_torchvision().models.get_model(name, weights=None, num_classes=7), 0, x)
    graph = trace(model, x)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert count(graph, FloatConv) == len(layers)
    expected = model(x).detach()
    torch.testing.assert_close(run(graph, x).flatten(1), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    assert graph.shapes[graph.output] == (7, 1, 1)


def test_every_layer():
    x = pictures(size=32, count=8)
    module = shaken(Layers(), 0, x)
    graph = trace(module, x)
    torch.testing.assert_close(run(graph, x).flatten(1), module(x), rtol=1e-3, atol=1e-4)
    assert set(graph.kinds.values()) == {"image", "affine", "relu", "relu6", "hsigmoid", "sigmoid"}
    assert count(graph, MaxPoolNode) == 2
    assert count(graph, ShuffleNode) == 1


def test_batches_of_other_sizes_are_run():
    x = pictures(size=32, count=8)
    module = shaken(Layers(), 0, x)
    graph = trace(module, x)
    torch.testing.assert_close(run(graph, x[:3]).flatten(1), module(x[:3]), rtol=1e-3, atol=1e-4)


def test_rectifiers_and_hard_sigmoids_are_ends_of_grids():
    graph = traced(lambda m, x: F.relu(m.conv(x)), conv=nn.Conv2d(3, 4, 3, padding=1))
    assert (count(graph, FloatConv), graph.kinds["conv"]) == (1, "relu")
    graph = traced(lambda m, x: F.hardsigmoid(m.norm(m.conv(x))), conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4))
    assert (count(graph, FloatConv), graph.kinds["conv"]) == (1, "hsigmoid")
    graph = traced(lambda m, x: F.relu6(m.conv(x) + x), conv=nn.Conv2d(3, 3, 1))
    assert (count(graph, AddNode), graph.kinds[graph.output]) == (1, "relu6")


def test_what_is_read_elsewhere_too_is_not_changed():
    graph = traced(lambda m, x: (y := m.conv(x)) + F.relu(y), conv=nn.Conv2d(3, 4, 1))
    assert graph.kinds["conv"] == "affine"
    assert count(graph, FloatConv) == 2
    graph = traced(lambda m, x: (y := m.conv(x)) + m.norm(y), conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4))
    assert count(graph, FloatConv) == 2


def test_a_batch_norm_after_a_rectifier_stays_a_layer():
    graph = traced(lambda m, x: m.norm(F.relu(m.conv(x))), conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4))
    assert [graph.kinds[node.output] for node in graph.nodes] == ["relu", "affine"]
    assert graph.nodes[1].groups == 4


def test_a_layer_used_twice_has_two_names():
    graph = traced(lambda m, x: m.conv(m.conv(x)), conv=nn.Conv2d(3, 3, 3, padding=1))
    assert len({node.output for node in graph.nodes}) == 2


def test_the_gate_is_the_smaller_factor():
    graph = traced(lambda m, x: torch.sigmoid(x.mean((2, 3), keepdim=True)) * x)
    (gate,) = (node for node in graph.nodes if isinstance(node, GateNode))
    assert (gate.input, count(graph, SigmoidNode)) == ("input", 1)


def test_concatenated_tensors_share_a_grid_and_its_ends():
    graph = traced(
        lambda m, x: torch.cat([F.relu(m.a(x)), F.relu(m.b(x))], 1), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 5, 1)
    )
    assert (count(graph, FloatConv), len(set(graph.grid_owners().values()) - {"input"})) == (2, 1)
    assert graph.kinds[graph.output] == "relu"
    graph = traced(lambda m, x: torch.cat([F.relu(m.a(x)), m.b(x)], 1), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 5, 1))
    assert count(graph, FloatConv) == 3  # the rectified one gets another grid first
    (node,) = (node for node in graph.nodes if isinstance(node, ConcatNode))
    owners = graph.grid_owners()
    assert len({owners[name] for name in (*node.inputs, node.output)}) == 1
    assert owners["a"] == "a"


def test_classifiers_have_smooth_activations():
    graph = traced(
        lambda m, x: m.last(F.hardswish(m.first(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1)))),
        first=nn.Linear(3, 8),
        last=nn.Linear(8, 2),
    )
    assert count(graph, ActivationNode) == 1


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.ConvTranspose2d(3, 4, 2), "conv.ConvTranspose2d) cannot be exported"),
        (nn.Conv2d(3, 4, 3), "padding (0, 0) is not half its kernel"),
        (nn.Conv2d(3, 4, (1, 3), padding=(0, 1)), "not square and odd"),
        (nn.Conv2d(3, 4, 3, padding=2, dilation=2), "dilated"),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "padded with something else"),
        (nn.AdaptiveAvgPool2d(2), "only pooling to a 1×1 map"),
        (nn.MaxPool2d(2, ceil_mode=True), "rounds up"),
        (nn.BatchNorm2d(3, track_running_stats=False), "no running statistics"),
        (nn.GELU(), "none of the supported layers"),
        (nn.Linear(16, 4), "no flat of channels"),
        (nn.Flatten(), "more than a 1×1 map"),
    ],
)
def test_an_unsupported_layer_is_one_sentence(layer, said):
    with pytest.raises(ExportError) as error:
        trace(Function(lambda m, x: m.odd(x), odd=layer), pictures())
    sentence = str(error.value)
    assert "The layer odd (torch.nn.modules." in sentence
    assert said in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda m, x: torch.exp(x), "The operation exp (exp) cannot be exported"),
        (lambda m, x: x * 2, "The operation mul (mul)"),
        (lambda m, x: 2 * x, "The operation mul (mul)"),
        (lambda m, x: 1 + m.conv(x), "The operation add (add)"),
        (lambda m, x: m.conv(x).mean(-1).mean(-1), "The operation mean (mean)"),
        (lambda m, x: torch.stack([x, m.conv(x)]), "The operation stack (stack)"),
        (lambda m, x: torch.cat(m.conv(x), 1), "The operation cat (cat)"),
        (lambda m, x: m.conv([x]), "The layer conv (torch.nn.modules.conv.Conv2d) cannot be exported"),
        (lambda m, x: x + m.conv(x)[:, :, ::2], "The operation getitem"),
        (lambda m, x: x + m.down(x), "different sizes"),
        (lambda m, x: x * m.down(x), "neither factor is a 1×1 map"),
        (lambda m, x: x.transpose(1, 2), "no part of a channel shuffle"),
        (lambda m, x: m.conv(x) if x.sum() > 0 else x, "cannot be traced by torch.fx"),
        (lambda m, x: (m.conv(x), x), "does not return one tensor"),
        (lambda m, x: x, "does not return one tensor that it computes"),
        (lambda m, x: m.conv(x) + m.conv.weight, "no further tensors"),
    ],
)
def test_an_unsupported_operation_is_one_sentence(function, said):
    with pytest.raises(ExportError) as error:
        trace(Function(function, conv=nn.Conv2d(3, 3, 1), down=nn.Conv2d(3, 3, 1, stride=2)), pictures())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_trace_does_not_show_is_found():
    def in_place(m, x):
        y = m.conv(x)
        F.relu_(y)  # its result is not used, so that nothing in the trace depends on it
        return y

    with pytest.raises(ExportError, match="does not show"):
        trace(Function(in_place, conv=nn.Conv2d(3, 3, 1)), pictures())
