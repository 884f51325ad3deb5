import json
import zipfile
from dataclasses import replace

import interpreter
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st

from spaceevo.errors import ExportError
from spaceevo.export import tflite
from spaceevo.export.tflite import check_layer_sizes, float_kernels, to_tflite
from spaceevo.latency.devices import load_device
from spaceevo.latency.files import can_be_written
from spaceevo.nn.blocks import block_plan
from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import Shape, join
from spaceevo.quant.graph import ActivationNode, ConvNode, GateNode, Int8Graph, random_graph
from spaceevo.quant.grids import Grid
from spaceevo.quant.quantizers import MIN_ACTIVATION_SCALE
from spaceevo.space import BlockChoice, parse_space

CASES = ("relu", "relu6", "swish", "hswish", "tiny_0", "tiny_1", "layers_even", "layers_odd")
CONVOLUTIONS = {schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D}


def operators(model):
    """Kernel code, input tensors and output tensors of each operator of a file."""
    (subgraph,) = model.subgraphs
    for operator in subgraph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        yield code, [subgraph.tensors[i] for i in operator.inputs], [subgraph.tensors[i] for i in operator.outputs]


def content(path):
    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


@pytest.mark.parametrize("case", CASES)
def test_no_kernel_is_float(exported, case):
    assert float_kernels(exported[case].file(".debug.tflite").read_bytes()) == []


def test_float_kernels_are_found(exported):
    """A type changed in the file stands for a tensor that the converter found no grid for."""
    model = content(exported["tiny_0"].file(".tflite"))
    (subgraph,) = model.subgraphs
    added = next(i for i, (code, _, _) in enumerate(operators(model)) if code == schema.BuiltinOperator.MEAN)
    subgraph.tensors[subgraph.operators[added].outputs[0]].type = schema.TensorType.FLOAT32
    builder = schema.flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder))
    found = float_kernels(bytes(builder.Output()))
    assert len(found) >= 2  # the pooling itself and what reads it
    assert found[0].startswith("MEAN → ")


@pytest.mark.parametrize("case", ["tiny_0", "tiny_1", "layers_even"])
def test_without_a_signature_it_is_the_same_network(exported, case):
    """What is timed is what is delivered: the same kernels in the same order, and the same integers."""
    named, unnamed = (exported[case].file(suffix) for suffix in (".tflite", ".unnamed.tflite"))
    assert [code for code, _, _ in operators(content(named))] == [code for code, _, _ in operators(content(unnamed))]
    found = []
    for path in (named, unnamed):
        interpreter = Interpreter(model_path=str(path))
        interpreter.allocate_tensors()
        ((source,), (target,)) = interpreter.get_input_details(), interpreter.get_output_details()
        x = np.random.default_rng(0).integers(-128, 128, source["shape"], np.int8)
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        found.append(interpreter.get_tensor(target["index"]))
    assert np.array_equal(*found) and len(np.unique(found[0])) > 1
    assert not Interpreter(model_path=str(unnamed)).get_signature_list()


@pytest.mark.parametrize("case", CASES)
def test_weights_scales_and_biases_are_the_graphs(exported, case):
    model = content(exported[case].file(".debug.tflite"))
    found = {
        outputs[0].name.decode().split("/")[0]: inputs
        for code, inputs, outputs in operators(model)
        if code in CONVOLUTIONS
    }
    nodes = [node for node in exported[case].graph.nodes if isinstance(node, ConvNode)]
    assert len(nodes) == sum(code in CONVOLUTIONS for code, _, _ in operators(model))
    for node in nodes:
        _, weight, bias = found[node.output]
        integers = np.array(model.buffers[weight.buffer].data, np.uint8).view(np.int8).reshape(weight.shape)
        expected = node.weight.transpose(1, 0, 2, 3) if node.groups == len(node.weight) > 1 else node.weight
        np.testing.assert_array_equal(integers, expected.transpose(0, 2, 3, 1))  # OHWI, or 1HWC where depthwise
        np.testing.assert_array_equal(np.array(weight.quantization.scale, np.float32), node.weight_scale)
        assert not np.any(weight.quantization.zeroPoint)
        biases = np.array(model.buffers[bias.buffer].data, np.uint8).view(np.int32)
        np.testing.assert_array_equal(biases, node.bias)


@pytest.mark.parametrize("case", CASES)
def test_grids_are_the_graphs(exported, case):
    graph = exported[case].graph
    model = Interpreter(str(exported[case].file(".debug.tflite")))
    runner = model.get_signature_runner()
    details = runner.get_output_details() | {graph.input: runner.get_input_details()["input"]}
    for name, grid in graph.grids.items():
        scale, zero_point = details[name]["quantization"]
        assert details[name]["dtype"] == np.int8
        assert np.float32(scale) == np.float32(grid.scale)
        assert zero_point == grid.zero_point - 128


@pytest.mark.parametrize(("channels", "size"), [(48, 16), (24, 12), (7, 7), (34, 2)])
def test_large_depthwise_kernels_come_in_blocks(channels, size):
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (channels, 1, 7, 7), dtype=np.int8)
    bias = rng.integers(-99, 99, channels, dtype=np.int32)
    node = ConvNode("out", "in", weight, np.ones(channels, np.float32), bias, 2, channels)
    blocks = tflite.in_blocks(node)
    assert blocks.groups == channels // size
    shapes = {"in": Shape(channels, 9, 9), "out": Shape(channels, 5, 5)}
    graph = Int8Graph("in", (node,), {"in": Grid(1.0, 0), "out": Grid(1.0, 0)}, shapes)
    assert tflite.for_x86(graph).nodes[0].groups == blocks.groups
    x = rng.integers(-255, 256, (1, channels, 9, 9))
    np.testing.assert_array_equal(interpreter.accumulate(blocks, x), interpreter.accumulate(node, x))


def test_small_depthwise_kernels_stay():
    node = ConvNode("out", "in", np.ones((32, 1, 5, 5), np.int8), np.ones(32), np.zeros(32, np.int32), 1, 32)
    assert tflite.in_blocks(node) is node


def test_activations_use_their_own_kernels(exported):
    def count(case, kernel):
        return sum(code == kernel for code, _, _ in operators(content(exported[case].file(".debug.tflite"))))

    def activations(case, name):
        nodes = exported[case].graph.nodes
        return sum(isinstance(node, ActivationNode) and node.activation == name for node in nodes)

    gates = sum(isinstance(node, GateNode) for node in exported["hswish"].graph.nodes)
    assert count("swish", schema.BuiltinOperator.LOGISTIC) == activations("swish", "swish") > 0
    assert count("hswish", schema.BuiltinOperator.HARD_SWISH) == 0
    assert count("hswish", schema.BuiltinOperator.MUL) == gates + 2 * activations("hswish", "hswish") > gates


def test_files_are_read_by_the_standard_library(exported):
    graph = exported["tiny_0"].graph
    with zipfile.ZipFile(exported["tiny_0"].file(".tflite")) as archive:
        assert json.loads(archive.read("metadata.json")) == graph.description
        assert archive.read("labels.txt").decode().splitlines() == graph.description["class_names"]
        assert {info.date_time for info in archive.infolist()} == {tflite.ZIP_DATE}


@given(
    scale=st.floats(-14, 7).map(lambda exponent: float(np.float32(np.exp(exponent)))),
    ends=st.one_of(st.integers(0, 255).map(lambda z: (z, 255 - z)), st.just((127, 127))),
)
def test_converter_finds_the_exact_scale(scale, ends):
    """Its formula: the difference of the float32 ends in float64, by the number of steps, to float32."""
    below, above = ends
    lower, upper = tflite._bounds(np.array(scale, np.float32), below, above)
    assert lower.dtype == upper.dtype == np.float32
    assert np.float32((np.float64(upper) - np.float64(lower)) / (below + above)) == np.float32(scale)
    assert round(float(-lower) / scale) == below
    assert lower <= 0 <= upper


@pytest.mark.parametrize(("width", "size", "taken"), [(416, 7, False), (416, 5, True), (400, 7, True)])
def test_a_layer_too_large_for_the_converter_is_named(width, size, taken):
    """Before TensorFlow tries for a minute and fails with pages of its own."""
    choice = BlockChoice(size, width, 4.0)
    plan = join(width, [("stage5.0.", block_plan("fused_mbconv_res", "relu", width, choice, 1))])
    graph = random_graph(plan, 7, np.random.default_rng(0))
    assert can_be_written(plan, load_device("cpu-tflite")) == taken and can_be_written(plan, load_device("cpu"))
    if taken:
        check_layer_sizes(graph)
        return
    with pytest.raises(ExportError) as caught:
        to_tflite(graph)
    text = str(caught.value)
    assert "layer stage5.0.fused_conv: its 7×7 convolution of 416 to 1664 channels has 33.9 million weights" in text
    assert text.endswith("a device with onnxruntime.") and "\n" not in text


def test_a_classifier_too_large_for_the_converter_is_known_before():
    space = parse_space("onnxw-151122-023231")
    plans = [subnet_plan(space, space.smallest, classes) for classes in (1000, 20_000)]
    assert [can_be_written(plan, load_device("cpu-tflite")) for plan in plans] == [True, False]


def test_a_rectifier_that_is_dead_is_taken_by_the_runtime(tmp_path):
    """Its grid is as fine as one may be; XNNPACK refuses finer ones, where it does not crash."""
    plan = join(48, [("", block_plan("mobilenetv3_res", "swish", 48, BlockChoice(5, 48, 3.0), 1))])
    graph = random_graph(plan, 4, np.random.default_rng(0))
    assert "se_reduce" in graph.grids
    graph = replace(graph, grids={**graph.grids, "se_reduce": Grid(MIN_ACTIVATION_SCALE, 0)})
    interpreter = Interpreter(model_content=to_tflite(graph, signature=False))
    interpreter.allocate_tensors()
    interpreter.invoke()


def test_further_outputs_need_names():
    graph = random_graph(
        join(8, [("", block_plan("resnet", "relu", 8, BlockChoice(3, 8, 1.0), 1))]), 7, np.random.default_rng(0)
    )
    with pytest.raises(ValueError, match="need a signature"):
        to_tflite(graph, [graph.nodes[0].output], signature=False)
