"""Int8 graph → TFLite, through TensorFlow's converter.

Every tensor passes a fake quantization on its learned grid, from which the converter takes scales and zero points; no
representative data set is involved. TFLite's activations are signed: integers and zero points are those of the graph
less 128. TensorFlow is imported inside `to_tflite` only, and must not share a process with torch.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from spaceevo.quant.graph import ActivationNode, AddNode, ConvNode, GateNode, Int8Graph, Node, PoolNode
from spaceevo.quant.grids import LEVELS, SIGMOID_GRID, WEIGHT_LEVELS, Grid

def to_tflite(graph: Int8Graph, outputs: Sequence[str] | None = None) -> bytes:
    import tensorflow as tf
    shape = graph.shapes[graph.input]
    specs = [tf.TensorSpec([1, shape.height, shape.width, shape.channels], tf.float32, name="input")]
    build = _Network(graph, tf, outputs or ())
    function = tf.function(build, input_signature=specs, autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return converter.convert()


class _Network:
    def __init__(self, graph, tf, outputs):
        self.graph, self.tf, self.outputs = graph, tf, outputs

    def __call__(self, input):
        g = self.graph
        tf = self.tf
        self.t = {g.input: self.fq(input, g.grids[g.input])}
        for n in g.nodes:
            self.t[n.output] = self.node(n)
        out = self.t[g.output]
        s = g.shapes[g.output]
        if s.height == s.width == 1:
            out = tf.reshape(out, [-1, s.channels])
        r = {"output": out}
        for name in self.outputs:
            r[name] = self.t[name]
        return r

    def node(self, n):
        tf = self.tf
        grid = self.graph.grids[n.output]
        x = self.t[n.input]
        match n:
            case ConvNode():
                y = self.conv(n, x)
            case PoolNode():
                y = tf.reduce_mean(x, [1, 2], keepdims=True)
            case AddNode():
                y = x + self.t[n.other]
            case GateNode():
                y = x * self.t[n.gate]
            case ActivationNode(activation="swish"):
                y = x * self.fq(tf.sigmoid(x), SIGMOID_GRID)
            case ActivationNode():
                y = x * tf.nn.relu6(x + np.float32(3)) * np.float32(1/6)
        return self.fq(y, grid)

    def conv(self, n, x):
        tf = self.tf
        p = n.kernel_size // 2
        s = n.weight_scale
        w = np.moveaxis(n.weight.astype(np.float32) * s[:, None, None, None], (0, 1), (3, 2))
        b = n.bias.astype(np.float32) * (np.float32(self.graph.grids[n.input].scale) * s)
        same = n.stride == 1
        if not same:
            x = tf.pad(x, [[0, 0], [p, p], [p, p], [0, 0]])
        pad = "SAME" if same else "VALID"
        if n.groups > 1:
            w = tf.quantization.fake_quant_with_min_max_vars_per_channel(np.ascontiguousarray(w[:, :, 0, :]), -127 * s, 127 * s, narrow_range=True)
            w = tf.reshape(w, [*w.shape, 1])
            y = tf.nn.depthwise_conv2d(x, w, [1, n.stride, n.stride, 1], pad)
        else:
            w = tf.quantization.fake_quant_with_min_max_vars_per_channel(w, -127 * s, 127 * s, narrow_range=True)
            y = tf.nn.conv2d(x, w, n.stride, pad)
        return y + b

    def fq(self, x, grid):
        return self.tf.quantization.fake_quant_with_min_max_vars(x, -grid.zero_point * grid.scale, (255 - grid.zero_point) * grid.scale)
