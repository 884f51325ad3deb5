import json
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from spaceevo.quant.graph import ConvNode

INTEGER = {"QLinearConv", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearGlobalAveragePool"}
ENDS = {"QuantizeLinear": 1, "DequantizeLinear": 1}
MOVES = {"Transpose", "Flatten", "Pad"}
OTHER_MOVES = {"NhwcMaxPool", "Concat", "Slice", "Split", "Reshape"}


def optimized(path, folder):
    """How often each operator occurs in what onnxruntime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3  # such files are of use on this machine only, which it warns of
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("case", ["tiny_0", "tiny_1"])
def test_only_integer_kernels_run(exported, tmp_path, case):
    found = optimized(exported[case].file(".onnx"), tmp_path)
    assert set(found) <= INTEGER | set(ENDS) | MOVES
    assert {op: found[op] for op in ENDS} == ENDS
    assert found["QLinearConv"] == sum(isinstance(node, ConvNode) for node in exported[case].graph.nodes)


@pytest.mark.parametrize("case", ["layers_even", "layers_odd"])
def test_only_integer_kernels_run_in_other_networks(exported, tmp_path, case):
    found = optimized(exported[case].file(".onnx"), tmp_path)
    assert set(found) == INTEGER | set(ENDS) | MOVES | OTHER_MOVES
    assert {op: found[op] for op in ENDS} == ENDS


@pytest.mark.parametrize("case", ["relu", "relu6", "swish", "hswish"])
def test_only_integer_kernels_run_in_every_block(exported, tmp_path, case):
    graph = exported[case].graph
    found = optimized(exported[case].file(".debug.onnx"), tmp_path)
    assert set(found) <= INTEGER | set(ENDS) | MOVES | {"Slice"}  # of channels that were added
    assert found["QLinearConv"] == sum(isinstance(node, ConvNode) for node in graph.nodes)


def test_initializers_are_the_graphs(exported):
    graph = exported["swish"].graph
    model = onnx.load(exported["swish"].file(".onnx"))
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in graph.nodes:
        if isinstance(node, ConvNode):
            found = {name: values[f"{node.output}_{name}"] for name in ("weight", "weight_scale", "bias")}
            for name, expected in {name: getattr(node, name) for name in found}.items():
                own = tuple(slice(size) for size in expected.shape)  # the others are of channels that were added
                np.testing.assert_array_equal(found[name][own], expected)
                if name != "weight_scale":
                    assert np.count_nonzero(found[name]) == np.count_nonzero(expected)
    for name, grid in graph.grids.items():
        assert values[f"{name}_scale"].shape == ()
        assert values[f"{name}_scale"] == np.float32(grid.scale)
        assert values[f"{name}_zero_point"] == grid.zero_point


def test_one_quantize_and_one_dequantize_per_tensor(exported):
    """But for the hard swish, which reads the same integers with a sixth of their scale."""
    model = onnx.load(exported["tiny_0"].file(".onnx"))
    for op_type in ENDS:
        reads = Counter(tuple(node.input) for node in model.graph.node if node.op_type == op_type)
        assert set(reads.values()) == {1}


def test_batch_is_free(exported):
    case = exported["tiny_0"]
    session = onnxruntime.InferenceSession(case.file(".onnx"), providers=["CPUExecutionProvider"])
    (whole,) = session.run(["output"], {"input": case.inputs[:3]})
    parts = [session.run(["output"], {"input": x[None]})[0] for x in case.inputs[:3]]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_description_is_in_the_metadata(exported):
    model = onnx.load(exported["tiny_0"].file(".onnx"))
    assert {prop.key: json.loads(prop.value) for prop in model.metadata_props} == exported["tiny_0"].graph.description
