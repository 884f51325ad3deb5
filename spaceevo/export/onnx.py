"""Int8 graph → ONNX, in the QDQ form that onnxruntime fuses into integer kernels without rest.

uint8 activations with int8 per-channel weights are the fast path of onnxruntime on x86. Every tensor t of the graph
appears as `<t>_q` (uint8) and, where it is read, `<t>_dq` (its float view); a kernel stands between the float views of
its inputs and one QuantizeLinear. Scales and zero points of activations are scalars (rank 0): others do not fuse.
What only moves integers works on `<t>_q` itself. Some tensors have more channels than in the graph
(`spaceevo.export.lanes`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

import spaceevo
from spaceevo.export.lanes import with_full_lanes
from spaceevo.export.names import INPUT_NAME, OUTPUT_NAME, VIEW_SUFFIX
from spaceevo.nn.plan import Shape
from spaceevo.quant.graph import (
    ActivationNode,
    AddNode,
    ConcatNode,
    ConvNode,
    GateNode,
    Int8Graph,
    MaxPoolNode,
    MovingNode,
    Node,
    PoolNode,
    ShuffleNode,
    SigmoidNode,
    SliceNode,
)
from spaceevo.quant.grids import HSIGMOID_GRID, SIGMOID_GRID, Grid

OPSET = 17
IR_VERSION = 8  # of the onnx release that introduced opset 17, so that runtimes from 2022 on load the file
HALF = "half"  # the constant of the hard swish

Integers = npt.NDArray[np.integer[Any]]


def to_onnx(graph: Int8Graph, outputs: Sequence[str] | None = None) -> bytes:
    """Serialize a graph as an ONNX model.

    Args:
        graph: the network.
        outputs: further tensors to give out, dequantized, each as `<tensor>_dq`.

    Returns:
        A `ModelProto`. Input `input`: float32 [N, C, H, W]. Output `output`: float32 [N, channels] where the last
        map is 1×1 (logits), else [N, channels, height, width]. The description is in `metadata_props`, as JSON.
    """
    wide = with_full_lanes(graph)
    writer = _Writer(wide, graph.shapes, frozenset(outputs or ()))
    for node in wide.nodes:
        writer.add(node)
    data: bytes = writer.model(outputs or ()).SerializeToString()
    return data


class _Writer:
    """Collects the nodes and initializers of one model.

    Args:
        graph: what is written.
        shapes: of the tensors as they are given out, which have as many channels or fewer.
        outputs: tensors that are given out.
    """

    def __init__(self, graph: Int8Graph, shapes: Mapping[str, Shape], outputs: frozenset[str]) -> None:
        self.graph = graph
        self.shapes = shapes
        self.cropped = {tensor for tensor in outputs if shapes[tensor] != graph.shapes[tensor]}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.views: set[str] = set()
        self.input()

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        graph = self.graph
        infos = [self.output_info()]
        infos += [_float_info(self.given_out(tensor), self.shapes[tensor]) for tensor in outputs]
        onnx_graph = helper.make_graph(
            self.nodes,
            "spaceevo",
            [_float_info(INPUT_NAME, self.shapes[graph.input])],
            infos,
            list(self.initializers.values()),
        )
        model = helper.make_model(
            onnx_graph,
            producer_name="spaceevo",
            producer_version=spaceevo.__version__,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        helper.set_model_props(model, {key: json.dumps(value) for key, value in graph.description.items()})
        onnx.checker.check_model(model, full_check=True)
        return model

    def input(self) -> None:
        """Quantize the input, and add channels to it where the graph has more."""
        name, grid = self.graph.input, self.graph.grids[self.graph.input]
        added = self.graph.shapes[name].channels - self.shapes[name].channels
        if not added:
            self.quantize(INPUT_NAME, name, grid)
            return
        scale, zero_point = self.grid(name, grid)
        self.node("QuantizeLinear", [INPUT_NAME, scale, zero_point], f"{name}_narrow_q")
        pads = self.initializer(f"{name}_pads", np.array([0, 0, 0, 0, 0, added, 0, 0], np.int64))
        self.node("Pad", [f"{name}_narrow_q", pads, zero_point], f"{name}_q")

    def given_out(self, tensor: str) -> str:
        """Name of the float view of a tensor with the channels that are given out."""
        if tensor not in self.cropped:
            return self.view(tensor)
        self.slice(tensor, f"{tensor}_narrow_q", 0, self.shapes[tensor].channels)
        self.node(
            "DequantizeLinear",
            [f"{tensor}_narrow_q", *self.grid(tensor, self.graph.grids[tensor])],
            tensor + VIEW_SUFFIX,
        )
        return tensor + VIEW_SUFFIX

    def output_info(self) -> onnx.ValueInfoProto:
        """Write the network's output and describe it."""
        graph = self.graph
        shape = graph.shapes[graph.output]
        last = f"{graph.output}_q"
        if (shape.height, shape.width) == (1, 1):
            self.node("Flatten", [last], f"{last}_flat")
            last = f"{last}_flat"
            info = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", shape.channels])
        else:
            info = _float_info(OUTPUT_NAME, shape)
        self.node("DequantizeLinear", [last, *self.grid(graph.output, graph.grids[graph.output])], OUTPUT_NAME)
        return info

    def add(self, node: Node) -> None:
        """Write one node of the graph and the quantization of its output."""
        raw, grid = f"{node.output}_raw", self.graph.grids[node.output]
        match node:
            case MaxPoolNode() | ConcatNode() | SliceNode() | ShuffleNode():
                self.move(node)
                self.grid(node.output, grid)
                return
            case ConvNode():
                self.conv(node, raw)
            case PoolNode():
                self.node("GlobalAveragePool", [self.view(node.input)], raw)
            case AddNode():
                self.node("Add", [self.view(node.input), self.view(node.other)], raw)
            case GateNode():
                self.node("Mul", [self.view(node.input), self.view(node.gate)], raw)
            case ActivationNode():
                gate = self.swish_gate(node) if node.activation == "swish" else self.hswish_gate(node)
                self.node("Mul", [self.view(node.input), gate], raw)
            case SigmoidNode():
                self.node("Sigmoid", [self.view(node.input)], raw)
        self.quantize(raw, node.output, grid)

    def move(self, node: MovingNode) -> None:
        """Write a node that reads and writes integers of one grid."""
        output = f"{node.output}_q"
        match node:
            case MaxPoolNode():
                size, stride, pads = [node.kernel_size] * 2, [node.stride] * 2, [node.padding] * 4
                self.node("MaxPool", [f"{node.input}_q"], output, kernel_shape=size, strides=stride, pads=pads)
            case ConcatNode():
                self.node("Concat", [f"{name}_q" for name in node.inputs], output, axis=1)
            case SliceNode():
                self.slice(node.input, output, node.start, node.stop)
            case ShuffleNode():
                self.shuffle(node, output)

    def slice(self, tensor: str, output: str, start: int, stop: int) -> None:
        """Write the channels `start` to `stop` of a tensor's integers as `output`."""
        start_stop_axis = [self.initializer(f"index_{i}", np.array([i], np.int64)) for i in (start, stop, 1)]
        self.node("Slice", [f"{tensor}_q", *start_stop_axis], output)

    def shuffle(self, node: ShuffleNode, output: str) -> None:
        channels, height, width = self.graph.shapes[node.output]
        rows = np.array([0, node.groups, channels // node.groups, height, width], np.int64)
        self.node("Reshape", [f"{node.input}_q", self.initializer(f"{output}_rows", rows)], f"{output}_rowwise")
        self.node("Transpose", [f"{output}_rowwise"], f"{output}_columnwise", perm=[0, 2, 1, 3, 4])
        flat = self.initializer(f"{output}_shape", np.array([0, channels, height, width], np.int64))
        self.node("Reshape", [f"{output}_columnwise", flat], output)

    def conv(self, node: ConvNode, raw: str) -> None:
        name, pad = node.output, node.kernel_size // 2
        bias_scale = np.float32(self.graph.grids[node.input].scale) * node.weight_scale
        zeros = np.zeros_like(node.weight_scale)
        inputs = [
            self.constant(f"{name}_weight", node.weight, node.weight_scale, zeros.astype(np.int8)),
            self.constant(f"{name}_bias", node.bias, bias_scale, zeros.astype(np.int32)),
        ]
        self.node(
            "Conv",
            [self.view(node.input), *inputs],
            raw,
            kernel_shape=[node.kernel_size] * 2,
            strides=[node.stride] * 2,
            pads=[pad] * 4,
            group=node.groups,
        )

    def swish_gate(self, node: ActivationNode) -> str:
        """The sigmoid of the input."""
        gate = f"{node.output}_gate"
        self.node("Sigmoid", [self.view(node.input)], f"{gate}_raw")
        self.quantize(f"{gate}_raw", gate, SIGMOID_GRID)
        return self.view(gate)

    def hswish_gate(self, node: ActivationNode) -> str:
        """clip(input / 6 + 0.5, 0, 1).

        onnxruntime has no integer HardSwish or HardSigmoid. The input's integers with a sixth of its scale are
        input / 6, the sum with 0.5 is a QLinearAdd, and its grid's ends are the clip.
        """
        gate, grid = f"{node.output}_gate", self.graph.grids[node.input]
        sixth = f"{gate}_sixth"
        sixth_grid = self.grid(sixth, Grid(grid.scale / 6, grid.zero_point))
        self.node("DequantizeLinear", [f"{node.input}_q", *sixth_grid], sixth)
        if HALF not in self.initializers:
            self.constant(HALF, np.array(1, np.uint8), np.array(0.5, np.float32), np.array(0, np.uint8))
        self.node("Add", [sixth, HALF + VIEW_SUFFIX], f"{gate}_raw")
        self.quantize(f"{gate}_raw", gate, HSIGMOID_GRID)
        return self.view(gate)

    def quantize(self, raw: str, tensor: str, grid: Grid) -> None:
        """Put the float value `raw` on the grid of `tensor`."""
        self.node("QuantizeLinear", [raw, *self.grid(tensor, grid)], f"{tensor}_q")

    def view(self, tensor: str) -> str:
        """Name of the float view of a quantized tensor, written when first asked for."""
        name = tensor + ("_wide" if tensor in self.cropped else "") + VIEW_SUFFIX
        if name not in self.views:
            self.views.add(name)
            self.node("DequantizeLinear", [f"{tensor}_q", f"{tensor}_scale", f"{tensor}_zero_point"], name)
        return name

    def constant(self, name: str, integers: Integers, scale: npt.NDArray[np.float32], zero_point: Integers) -> str:
        """A quantized constant (per channel of axis 0 where the scale is an array); returns its float view."""
        parts = [
            self.initializer(name, integers),
            self.initializer(f"{name}_scale", scale),
            self.initializer(f"{name}_zero_point", zero_point),
        ]
        axis = {"axis": 0} if scale.ndim else {}
        self.node("DequantizeLinear", parts, name + VIEW_SUFFIX, **axis)
        return name + VIEW_SUFFIX

    def grid(self, tensor: str, grid: Grid) -> tuple[str, str]:
        """Names of the scalar scale and zero point of a tensor."""
        return (
            self.initializer(f"{tensor}_scale", np.array(grid.scale, np.float32)),
            self.initializer(f"{tensor}_zero_point", np.array(grid.zero_point, np.uint8)),
        )

    def initializer(self, name: str, value: npt.NDArray[Any]) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(value, name)
        return name

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: object) -> None:
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))


def _float_info(name: str, shape: tuple[int, int, int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
