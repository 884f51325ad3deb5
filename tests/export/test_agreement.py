"""Interpreter, onnxruntime and TFLite agree: every node of every block type, and whole subnets."""

from typing import get_args

import interpreter
import numpy as np
import pytest

from spaceevo.export.runners import load
from spaceevo.nn.blocks import BLOCKS
from spaceevo.quant.graph import MovingNode, Node

SUFFIXES = (".onnx", ".tflite")
ACTIVATIONS = ("relu", "relu6", "swish", "hswish")
SUBNETS = ("tiny_0", "tiny_1")
LAYERS = ("layers_even", "layers_odd")


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


CASES = [(case, suffix) for case in (*ACTIVATIONS, *SUBNETS, *LAYERS) for suffix in SUFFIXES]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("case", "suffix"), [case for case in CASES if case[0] in ACTIVATIONS])
def test_every_block_is_within_one(exported, integers, case, suffix, block):
    found = differences(exported[case].graph, integers(case, suffix), f"{block}_")
    assert found
    assert {name: np.abs(off).max() for name, off in found.items() if np.abs(off).max() > 1} == {}


@pytest.mark.parametrize(("case", "suffix"), CASES)
def test_nearly_all_values_are_equal(exported, integers, case, suffix):
    found = differences(exported[case].graph, integers(case, suffix))
    off = np.concatenate([values.ravel() for values in found.values()])
    assert np.abs(off).max() <= 1
    assert np.mean(off != 0) < 1e-3


@pytest.mark.parametrize(("case", "suffix"), [case for case in CASES if case[0] in LAYERS])
def test_what_moves_integers_is_exact(exported, integers, case, suffix):
    moving = [node.output for node in exported[case].graph.nodes if isinstance(node, MovingNode)]
    found = differences(exported[case].graph, integers(case, suffix))
    assert {type(node) for node in exported[case].graph.nodes} == set(get_args(Node))
    assert [name for name in moving if np.any(found[name])] == []


@pytest.mark.parametrize("case", (*SUBNETS, "layers_even"))
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


@pytest.mark.parametrize("case", (*SUBNETS, "layers_even"))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_giving_out_all_tensors_changes_nothing(exported, suffix, case):
    x = exported[case].inputs
    plain = load(exported[case].file(suffix), threads=1).run(x)
    debug = load(exported[case].file(f".debug{suffix}"), threads=1).run(x)
    np.testing.assert_array_equal(plain, debug)
