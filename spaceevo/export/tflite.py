"""Int8 graph → TFLite, through TensorFlow's converter.

Every tensor passes a fake quantization on its learned grid. The converter takes scales and zero points from these, so
it needs no representative data set; a tensor without one would become a float island. TFLite is NHWC and its
activations are signed: their integers and zero points are those of the graph less 128.

TensorFlow is imported inside `to_tflite` only: it starts slowly and competes with torch for threads.
"""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceevo.errors import ExportError
from spaceevo.export.names import INPUT_NAME, OUTPUT_NAME
from spaceevo.nn.plan import Shape
from spaceevo.quant.graph import (
    ActivationNode,
    AddNode,
    ConcatNode,
    ConvNode,
    GateNode,
    Int8Graph,
    MaxPoolNode,
    Node,
    PoolNode,
    ShuffleNode,
    SigmoidNode,
    SliceNode,
    node_inputs,
)
from spaceevo.quant.grids import HSIGMOID_GRID, LEVELS, SIGMOID_GRID, WEIGHT_LEVELS, Grid

METADATA_FILE = "metadata.json"
LABELS_FILE = "labels.txt"
LABELS_KEY = "class_names"  # of the description

DEPTHWISE_TAPS = 25  # of XNNPACK's largest 8-bit depthwise kernel
BLOCK = 16  # channels of a group in place of such kernels; more would be faster yet, and files larger

# The converter leaves the fake quantization of weights in place where its constants, in float32, are more than this
# together: found by trying; 4096 × 8188 weights with two ends per channel are converted, 4096 × 8189 are not.
FOLDED_BYTES = 1 << 27

INT8_MIN = -128  # of TFLite's activations, where those of a graph begin at 0

ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same file from the same graph, whenever it is written

FloatArray = npt.NDArray[np.float32]


def to_tflite(graph: Int8Graph, outputs: Sequence[str] | None = None, *, signature: bool = True) -> bytes:
    """Convert a graph to a TFLite model.

    Args:
        graph: the network.
        outputs: further tensors to give out, each under its own name in the signature.
        signature: whether the input and the output have names. Without, the network is the same and converted in a
            quarter of the time, which is right for a file that is only timed; there are no further outputs then.

    Returns:
        A flatbuffer followed by a zip archive, where TFLite keeps associated files: `metadata.json` (the description)
        and, where the description has `class_names`, `labels.txt`. Input `input`: int8 [1, height, width, channels].
        Output `output`: int8 [1, channels] where the last map is 1×1 (logits), else [1, height, width, channels].

    Raises:
        ExportError: a layer has more weights than the converter takes; the sentence names it.
        ValueError: further outputs are asked for without a signature to name them.
    """
    if outputs and not signature:
        raise ValueError("further outputs need a signature, which names them")
    check_layer_sizes(graph)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    return _with_files(_named(tf, graph, outputs or ()) if signature else _unnamed(tf, graph), graph)


def _named(tf: Any, graph: Int8Graph, outputs: Sequence[str]) -> bytes:
    """The model with names of its input and outputs, which the converter takes from a saved model."""
    network = TensorFlowNetwork(tf, graph)
    module = tf.Module()
    spec = tf.TensorSpec(_input_shape(graph), tf.float32, name=INPUT_NAME)
    module.network = tf.function(lambda x: network.run(x, outputs), input_signature=[spec], autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.network.get_concrete_function()], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Statistics for quantized inputs")  # the fake quantization of the input is
        model: bytes = converter.convert()
    return model


def _unnamed(tf: Any, graph: Int8Graph) -> bytes:
    """The model of a bare graph, which is neither saved and loaded again nor searched for variables."""
    legacy, grid = tf.compat.v1, graph.grids[graph.input]
    with tf.Graph().as_default() as bare:
        x = legacy.placeholder(tf.float32, _input_shape(graph), name=INPUT_NAME)
        output = tf.identity(TensorFlowNetwork(tf, graph).run(x, ())[OUTPUT_NAME], name=OUTPUT_NAME)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this converter is the older one
        converter = legacy.lite.TFLiteConverter(bare.as_graph_def(), [x], [output])
        converter.inference_type = tf.int8
        converter.quantized_input_stats = {INPUT_NAME: (grid.zero_point + INT8_MIN, 1 / grid.scale)}
        model: bytes = converter.convert()
    return model


def _input_shape(graph: Int8Graph) -> list[int]:
    shape = graph.shapes[graph.input]
    return [1, shape.height, shape.width, shape.channels]


def takes_layer(out_channels: int, weights: int) -> bool:
    """Whether TensorFlow's converter takes a convolution of so many channels and weights."""
    return 4 * (weights + 2 * out_channels) <= FOLDED_BYTES


def check_layer_sizes(graph: Int8Graph) -> None:
    """Raise an `ExportError` that names the first layer with more weights than TensorFlow's converter takes."""
    for node in graph.nodes:
        if isinstance(node, ConvNode) and not takes_layer(len(node.weight), node.weight.size):
            size, (out_channels, in_channels) = node.kernel_size, node.weight.shape[:2]
            raise ExportError(
                f"TFLite's converter cannot take the layer {node.output}: its {size}×{size} convolution of "
                f"{in_channels * node.groups} to {out_channels} channels has {node.weight.size / 1e6:.1f} million "
                f"weights, where it takes about {FOLDED_BYTES / 4e6:.1f}; choose a smaller kernel, width or expand "
                "ratio, or .onnx and a device with onnxruntime."
            )


class TensorFlowNetwork:
    """The graph as TensorFlow operations between fake quantizations.

    Args:
        tf: the module tensorflow.
    """

    def __init__(self, tf: Any, graph: Int8Graph) -> None:
        self.tf = tf
        self.graph = graph

    def run(self, x: Any, outputs: Sequence[str]) -> dict[str, Any]:
        """The network's output and further tensors, by name, for a symbolic input [1, H, W, C]."""
        graph = self.graph
        tensors = {graph.input: self.quantize(x, graph.grids[graph.input])}
        for node in graph.nodes:
            with self.tf.name_scope(node.output):
                tensors[node.output] = self.quantize(self.apply(node, tensors), graph.grids[node.output])
        result = tensors[graph.output]
        shape = graph.shapes[graph.output]
        if (shape.height, shape.width) == (1, 1):
            result = self.tf.reshape(result, [-1, shape.channels])
        return {OUTPUT_NAME: result} | {tensor: tensors[tensor] for tensor in outputs}

    def apply(self, node: Node, tensors: dict[str, Any]) -> Any:
        x = tensors[node_inputs(node)[0]]
        match node:
            case ConvNode():
                return self.conv(node, x)
            case PoolNode():
                return self.tf.reduce_mean(x, [1, 2], keepdims=True)
            case AddNode():
                return x + tensors[node.other]
            case GateNode():
                return x * tensors[node.gate]
            case ActivationNode(activation="swish"):
                return x * self.quantize(self.tf.sigmoid(x), SIGMOID_GRID)
            case ActivationNode():
                # Not as HARD_SWISH: XNNPACK does not take that kernel over, which splits the network around it.
                grid = self.graph.grids[node.input]
                sixth = self.quantize(x * self.constant(1 / 6), Grid(grid.scale / 6, grid.zero_point))
                return x * self.quantize(sixth + self.constant(1 / 2), HSIGMOID_GRID)
            case SigmoidNode():
                return self.tf.sigmoid(x)
            case MaxPoolNode():
                return self.max_pool(node, x)
            case ConcatNode():
                return self.tf.concat([tensors[name] for name in node.inputs], -1)
            case SliceNode():
                return x[..., node.start : node.stop]
            case ShuffleNode():
                channels, height, width = self.graph.shapes[node.output]
                rows = self.tf.reshape(x, [1, height, width, node.groups, channels // node.groups])
                return self.tf.reshape(self.tf.transpose(rows, [0, 1, 2, 4, 3]), [1, height, width, channels])

    def conv(self, node: ConvNode, x: Any) -> Any:
        tf, scale = self.tf, node.weight_scale
        weight = np.moveaxis(node.weight * scale[:, None, None, None], (0, 1), (3, 2))  # OIHW → HWIO
        bias = node.bias * (np.float32(self.graph.grids[node.input].scale) * scale).astype(np.float64)
        padding, pads = _padding(node.kernel_size, node.stride, self.graph.shapes[node.input])
        x = self.pad(x, pads)
        if node.groups == len(node.weight) > 1:
            # The converter finds a scale per channel only where the channels are the last axis.
            quantized = tf.reshape(self.quantize_weight(weight[:, :, 0, :], scale), [*weight.shape[:2], -1, 1])
            y = tf.nn.depthwise_conv2d(x, quantized, [1, node.stride, node.stride, 1], padding)
        else:
            y = tf.nn.conv2d(x, self.quantize_weight(weight, scale), node.stride, padding)
        return y + bias.astype(np.float32)

    def max_pool(self, node: MaxPoolNode, x: Any) -> Any:
        """Padded with the least value of the grid, which never wins against one of the map."""
        shape, grid = self.graph.shapes[node.input], self.graph.grids[node.input]
        padding, pads = ("VALID", node.padding)
        if node.padding == node.kernel_size // 2:
            padding, pads = _padding(node.kernel_size, node.stride, shape)
        x = self.pad(x, pads, -grid.zero_point * grid.scale)
        return self.tf.nn.max_pool2d(x, node.kernel_size, node.stride, padding)

    def pad(self, x: Any, pads: int, value: float = 0.0) -> Any:
        if not pads:
            return x
        return self.tf.pad(x, [[0, 0], [pads, pads], [pads, pads], [0, 0]], constant_values=value)

    def constant(self, value: float) -> Any:
        """A positive scalar, exact on a grid of its own."""
        return self.quantize(self.tf.constant([value], self.tf.float32), Grid(value, 0))

    def quantize(self, x: Any, grid: Grid) -> Any:
        lower, upper = _bounds(np.array(grid.scale, np.float32), grid.zero_point, LEVELS - grid.zero_point)
        return self.tf.quantization.fake_quant_with_min_max_vars(x, lower, upper)

    def quantize_weight(self, weight: FloatArray, scale: FloatArray) -> Any:
        lower, upper = _bounds(scale, WEIGHT_LEVELS, WEIGHT_LEVELS)
        return self.tf.quantization.fake_quant_with_min_max_vars_per_channel(weight, lower, upper, narrow_range=True)


def for_x86(graph: Int8Graph) -> Int8Graph:
    """The same network, of the same values in every tensor, as TFLite computes it fastest on x86.

    Not for phones: what their kernels take for a large depthwise convolution has been measured, for this it has not.
    """
    return replace(graph, nodes=tuple(in_blocks(node) if isinstance(node, ConvNode) else node for node in graph.nodes))


def in_blocks(node: ConvNode) -> ConvNode:
    """A depthwise convolution that XNNPACK has no kernel for, as one in groups of channels with zeros between them.

    Its 8-bit depthwise kernels have up to 25 taps. A 7×7 one would fall back on TFLite's own kernel, which on x86 takes
    a hundred times as long (22 ms against 0.2 ms for 5×5, 192 channels of 26×26; 1.5 ms in groups of 16).
    """
    channels = len(node.weight)
    if node.groups != channels or node.kernel_size**2 <= DEPTHWISE_TAPS:
        return node
    size = max(size for size in range(1, BLOCK + 1) if channels % size == 0)
    weight = np.zeros((channels, size, *node.weight.shape[2:]), np.int8)
    weight[np.arange(channels), np.arange(channels) % size] = node.weight[:, 0]
    return replace(node, weight=weight, groups=channels // size)


def _padding(kernel_size: int, stride: int, shape: Shape) -> tuple[str, int]:
    """TensorFlow's padding of a window and the explicit border before it, which together pad k // 2 on each side.

    SAME pads that much, except that with stride 2 on an even size it pads one less at the start.
    """
    if kernel_size == 1:
        return "VALID", 0
    if kernel_size % 2 and (stride == 1 or (shape.height % 2 and shape.width % 2 and stride == 2)):
        return "SAME", 0
    return "VALID", kernel_size // 2


def _bounds(scale: FloatArray, below: int, above: int) -> tuple[FloatArray, FloatArray]:
    """Float32 ends of the range −below · scale … above · scale in which the converter finds exactly `scale`.

    It divides their difference, in float64, by below + above. Rounding both ends to nearest misses one scale in a
    hundred by a unit in the last place, so the far end is rounded towards zero and the near one makes up for it.
    """
    exact = scale.astype(np.float64)
    far = (max(below, above) * exact).astype(np.float32)
    far = np.where(far > max(below, above) * exact, np.nextafter(far, np.float32(0)), far)
    near = ((below + above) * exact - far).astype(np.float32)
    return (-near, far) if above >= below else (-far, near)


def _with_files(model: bytes, graph: Int8Graph) -> bytes:
    """The model with its metadata as a zip archive at the end, where readers of the flatbuffer do not look."""
    stream = io.BytesIO()
    stream.write(model)
    files = {METADATA_FILE: json.dumps(dict(graph.description), indent=2, sort_keys=True) + "\n"}
    if LABELS_KEY in graph.description:
        files[LABELS_FILE] = "".join(f"{name}\n" for name in graph.description[LABELS_KEY])
    with zipfile.ZipFile(stream, "a") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), text)
    return stream.getvalue()


def float_kernels(model: bytes) -> list[str]:
    """Operations of a TFLite model that read or write floating-point tensors, as `<operation> → <output tensor>`.

    Reads the flatbuffer alone, without TensorFlow.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    floats = {schema.TensorType.FLOAT16, schema.TensorType.FLOAT32, schema.TensorType.FLOAT64}
    content = schema.ModelT.InitFromPackedBuf(model, 0)
    found = []
    for subgraph in content.subgraphs:
        for operator in subgraph.operators:
            used = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
            if any(tensor.type in floats for tensor in used):
                kernel = names[content.operatorCodes[operator.opcodeIndex].builtinCode]
                found.append(f"{kernel} → {subgraph.tensors[operator.outputs[0]].name.decode()}")
    return found
