"""The same network in FP32, as a runtime gets it without quantization: what INT8 latencies are compared with.

BatchNorm is folded into its convolutions, and activations are the operations that the runtimes have for them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

import spaceevo
from spaceevo.export.names import INPUT_NAME, OUTPUT_NAME
from spaceevo.export.onnx import IR_VERSION, OPSET
from spaceevo.export.tflite import TensorFlowNetwork
from spaceevo.nn.plan import Add, Conv, Gate, Linear, Plan, Pool
from spaceevo.quant.graph import ActivationNode, ConvNode, Int8Graph, Node, random_graph
from spaceevo.quant.grids import GridKind, grid_kinds


def fp32_onnx(plan: Plan, height: int, rng: np.random.Generator) -> bytes:
    """A plan on a `height` × `height` map as a serialized ONNX model with random weights.

    Input `input`: float32 [1, C, height, height]. Output `output`: float32 [1, C', height', height'].
    """
    plan = plan.without_unit_pools(height)
    writer = _OnnxWriter(plan, height, rng)
    for op in plan.ops:
        writer.add(op)
    model: bytes = writer.model().SerializeToString()
    return model


class _OnnxWriter:
    def __init__(self, plan: Plan, height: int, rng: np.random.Generator) -> None:
        self.plan, self.shapes, self.rng = plan, plan.shapes(height), rng
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.names = {plan.input: INPUT_NAME, plan.output: OUTPUT_NAME}

    def model(self) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(self.names[name], TensorProto.FLOAT, [1, *self.shapes[name]])
            for name in (self.plan.input, self.plan.output)
        ]
        graph = helper.make_graph(self.nodes, "spaceevo", ends[:1], ends[1:], self.initializers)
        model = helper.make_model(
            graph,
            producer_name="spaceevo",
            producer_version=spaceevo.__version__,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def add(self, op: Conv | Pool | Add | Gate | Linear) -> None:
        match op:
            case Conv() | Linear():
                self.conv(op)
            case Pool():
                self.node("GlobalAveragePool", [op.input], op.output)
            case Add():
                self.activated("Add", [op.input, op.other], op.output, op.activation)
            case Gate():
                self.node("Mul", [op.input, op.gate], op.output)

    def conv(self, op: Conv | Linear) -> None:
        """A fully connected layer is a 1×1 convolution here as in the INT8 file, so that the two are alike."""
        size, stride, groups = (1, 1, 1) if isinstance(op, Linear) else (op.kernel_size, op.stride, op.groups)
        shape = (op.out_channels, op.in_channels // groups, size, size)
        weight = self.rng.standard_normal(shape) / np.sqrt(shape[1] * size * size)
        bias = self.rng.standard_normal(op.out_channels)
        inputs = [op.input, self.constant(f"{op.output}_weight", weight), self.constant(f"{op.output}_bias", bias)]
        self.activated(
            "Conv",
            inputs,
            op.output,
            None if isinstance(op, Linear) else op.activation,
            kernel_shape=[size] * 2,
            strides=[stride] * 2,
            pads=[size // 2] * 4,
            group=groups,
        )

    def activated(
        self, op_type: str, inputs: list[str], output: str, activation: str | None, **attributes: object
    ) -> None:
        raw = output if activation is None else f"{output}_raw"
        self.node(op_type, inputs, raw, **attributes)
        match activation:
            case "relu":
                self.node("Relu", [raw], output)
            case "relu6":
                ends = [self.constant(f"{output}_{end}", np.array(end)) for end in (0, 6)]
                self.node("Clip", [raw, *ends], output)
            case "hswish":
                self.node("HardSwish", [raw], output)
            case "hsigmoid":
                self.node("HardSigmoid", [raw], output, alpha=1 / 6, beta=0.5)
            case "swish":
                self.node("Sigmoid", [raw], f"{output}_gate")
                self.node("Mul", [raw, f"{output}_gate"], output)

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: object) -> None:
        inputs, output = [self.names.get(name, name) for name in inputs], self.names.get(output, output)
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))


def fp32_tflite(plan: Plan, height: int, rng: np.random.Generator) -> bytes:
    """A plan on a `height` × `height` map as a TFLite model with random weights.

    Input `input`: float32 [1, height, height, C]. Output `output`: float32 [1, C'] where the last map is 1×1, else
    [1, height', height', C'].
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    graph = random_graph(plan, height, rng)
    converter = fp32_converter(tf, graph, grid_kinds(plan.without_unit_pools(height)))
    model: bytes = converter.convert()
    return model


def fp32_converter(tf: Any, graph: Int8Graph, kinds: Mapping[str, GridKind]) -> Any:
    """TensorFlow's converter of an int8 graph's real weights, without its grids.

    Args:
        tf: the module tensorflow.
        kinds: of the graph's grids: the activations that these stand for.
    """
    shape = graph.shapes[graph.input]
    spec = tf.TensorSpec([1, shape.height, shape.width, shape.channels], tf.float32, name=INPUT_NAME)
    network, module = FloatNetwork(tf, graph, kinds), tf.Module()
    module.network = tf.function(lambda x: network.run(x, ()), input_signature=[spec], autograph=False)
    return tf.lite.TFLiteConverter.from_concrete_functions([module.network.get_concrete_function()], module)


class FloatNetwork(TensorFlowNetwork):
    """The operations of a graph without grids, with the activations that grids stand for."""

    def __init__(self, tf: Any, graph: Int8Graph, kinds: Mapping[str, GridKind]) -> None:
        super().__init__(tf, graph)
        self.kinds = kinds

    def apply(self, node: Node, tensors: dict[str, Any]) -> Any:
        tf, kind = self.tf, self.kinds.get(node.output)
        if kind == "hsigmoid" and isinstance(node, ConvNode):  # whose scale and bias hold a part of it
            scale = self.graph.grids[node.input].scale * node.weight_scale.astype(np.float64)
            bias = np.round(node.bias - 0.5 / scale).astype(np.int32)
            node = replace(node, weight_scale=node.weight_scale * np.float32(6), bias=bias)
        y = super().apply(node, tensors)
        if isinstance(node, ActivationNode) and node.activation == "hswish":
            x = tensors[node.input]
            return x * tf.nn.relu6(x + 3.0) * (1 / 6)
        match kind:
            case "relu":
                return tf.nn.relu(y)
            case "relu6":
                return tf.nn.relu6(y)
            case "hsigmoid":
                return tf.nn.relu6(y + 3.0) * (1 / 6)
        return y

    def quantize(self, x: Any, grid: Any) -> Any:
        return x

    def quantize_weight(self, weight: Any, scale: Any) -> Any:
        return self.tf.constant(weight)
