"""Interpreter, onnxruntime and TFLite agree: every node of every block type, and whole subnets."""

import interpreter
import numpy as np
import pytest

from spaceevo.export.runners import load
from spaceevo.nn.blocks import BLOCKS
from spaceevo.quant.graph import ActivationNode

SUFFIXES = (".onnx", ".tflite")
ACTIVATIONS = ("relu", "relu6", "swish", "hswish")
SUBNETS = ("tiny_0", "tiny_1", "tiny_2")


@pytest.fixture(scope="module")
def integers(exported):
    """The integers of all tensors of a case, uint8 [N, C, H, W], as a runtime computes them."""
    known = {}

    def of(case, suffix):
        if (case, suffix) not in known:
            graph, x = exported[case].graph, exported[case].inputs
            tensors = load(exported[case].file(f".debug{suffix}"), threads=1).tensors(x) | {graph.input: x}
            known[case, suffix] = {
                name: interpreter.quantize(tensors[name].reshape(-1, *graph.shapes[name]), grid)
                for name, grid in graph.grids.items()
            }
        return known[case, suffix]

    return of


def differences(graph, tensors, prefix=""):
    """What each node adds to the difference: runtime less interpreter, both from the runtime's inputs of the node."""
    return {
        node.output: tensors[node.output].astype(int)
        - interpreter.quantize(interpreter.evaluate(node, tensors, graph.grids), graph.grids[node.output])
        for node in graph.nodes
        if node.output.startswith(prefix)
    }


def assert_within_one(graph, found):
    """At most 1 everywhere; and nowhere for nearly all values, but that onnxruntime quantizes the hard swish's gate."""
    assert found
    hswish = {node.output for node in graph.nodes if isinstance(node, ActivationNode) and node.activation == "hswish"}
    for name, off in found.items():
        assert np.abs(off).max() <= 1, name
        assert np.mean(off != 0) <= (0.1 if name in hswish else 0.02), name


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("case", (*ACTIVATIONS, "hswish_decomposed"))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_block(exported, integers, suffix, case, block):
    if (case, suffix) == ("hswish_decomposed", ".onnx"):
        case = "hswish"
    graph = exported[case].graph
    assert_within_one(graph, differences(graph, integers(case, suffix), f"{block}_"))


@pytest.mark.parametrize("case", SUBNETS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_node_of_subnets(exported, integers, suffix, case):
    graph = exported[case].graph
    assert_within_one(graph, differences(graph, integers(case, suffix)))


@pytest.mark.parametrize("case", SUBNETS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_logits_of_subnets(exported, suffix, case):
    graph, x = exported[case].graph, exported[case].inputs
    logits = load(exported[case].file(suffix), threads=1).run(x)
    assert logits.shape == (len(x), 10)
    assert logits.dtype == np.float32
    grid = graph.grids[graph.output]
    expected = interpreter.real(interpreter.run(graph, x)[graph.output], grid).reshape(len(x), -1)
    lsb = np.abs(logits - expected) / grid.scale
    assert lsb.mean() < 2.0  # random networks have no margins, and carry on every unit
    assert np.mean(logits.argmax(1) == expected.argmax(1)) >= 0.8


@pytest.mark.parametrize("case", SUBNETS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_giving_out_all_tensors_changes_nothing(exported, suffix, case):
    x = exported[case].inputs
    plain = load(exported[case].file(suffix), threads=1).run(x)
    debug = load(exported[case].file(f".debug{suffix}"), threads=1).run(x)
    np.testing.assert_array_equal(plain, debug)
