"""A float graph while it is drawn up, layer by layer: what each layer of torch becomes, and what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from spaceevo.nn.plan import Shape
from spaceevo.quant.float_graph import FloatConv, FloatGraph, FloatNode
from spaceevo.quant.graph import (
    ActivationNode,
    AddNode,
    ConcatNode,
    GateNode,
    MaxPoolNode,
    PoolNode,
    ShuffleNode,
    SigmoidNode,
    SliceNode,
    SmoothActivation,
    node_inputs,
)
from spaceevo.quant.grids import SMOOTH_ACTIVATIONS, GridKind

Activation = Literal["relu", "relu6", "hsigmoid", "sigmoid", "swish", "hswish"]

FREE_KINDS: tuple[GridKind, ...] = ("affine", "relu", "relu6")  # whose grids are fitted, and so can be shared


class UnsupportedError(Exception):
    """A layer, or its arguments, cannot be expressed; the text says what it is."""


@dataclass(frozen=True)
class Value:
    """A tensor of the draft as torch sees it.

    Attributes:
        sole: whether nothing else reads it, so that what follows may change what it is made by.
        form: map is [N, C, H, W], flat [N, C], rows [N, groups, C / groups, H, W], and columns rows transposed.
    """

    name: str
    sole: bool = True
    form: Literal["map", "flat", "rows", "columns"] = "map"
    groups: int = 1


class Draft:
    """Collects nodes; a method adds what one layer is made of and returns its output.

    Args:
        input: name of the input tensor.
        images: of the size and number that the network is drawn up for.
    """

    def __init__(self, input: str, images: Tensor) -> None:
        self.input = input
        self.batch = len(images)
        self.nodes: list[FloatNode] = []
        self.kinds: dict[str, GridKind] = {input: "image"}
        self.shapes = {input: Shape(*images.shape[1:])}

    def graph(self, output: Value) -> FloatGraph:
        """The draft as a graph, without nodes that `output` does not need."""
        needed = {output.name}
        nodes: list[FloatNode] = []
        for node in reversed(self.nodes):
            if node.output in needed:
                needed.update(node_inputs(node))
                nodes.insert(0, node)
        needed.add(self.input)
        kinds = {name: kind for name, kind in self.kinds.items() if name in needed}
        return FloatGraph(self.input, tuple(nodes), kinds, {name: self.shapes[name] for name in kinds})

    def size(self, x: Value) -> tuple[int, ...]:
        """The size that torch sees."""
        channels, height, width = self.shapes[x.name]
        rows = (x.groups, channels // x.groups)
        match x.form:
            case "map":
                return self.batch, channels, height, width
            case "flat":
                return self.batch, channels
            case "rows":
                return self.batch, *rows, height, width
            case "columns":
                return self.batch, *rows[::-1], height, width

    def convolve(self, x: Value, layer: nn.Conv2d, name: str) -> Value:
        kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding
        if len(set(layer.kernel_size)) > 1 or len(set(layer.stride)) > 1 or kernel % 2 == 0:
            raise UnsupportedError(f"its kernel {layer.kernel_size} or stride {layer.stride} is not square and odd")
        if any(step != 1 for step in layer.dilation) or layer.padding_mode != "zeros":
            raise UnsupportedError("it is dilated, or padded with something else than zeros")
        if padding != "same" and any(pad != kernel // 2 for pad in cast(tuple[int, ...], padding)):
            raise UnsupportedError(f"its padding {padding} is not half its kernel {layer.kernel_size}")
        self._expect(x, "map")
        weight = layer.weight.detach().double().cpu()
        return self._conv(name, x, weight, _bias(layer), stride, layer.groups)

    def connect(self, x: Value, layer: nn.Linear, name: str) -> Value:
        self._expect(x, "flat")
        weight = layer.weight.detach().double().cpu()[:, :, None, None]
        return replace(self._conv(name, x, weight, _bias(layer)), form="flat")

    def normalise(self, x: Value, layer: nn.BatchNorm2d, name: str) -> Value:
        if layer.running_mean is None or layer.running_var is None:
            raise UnsupportedError("it keeps no running statistics")
        gain = (layer.running_var.double() + layer.eps).rsqrt().cpu()
        shift = -layer.running_mean.double().cpu() * gain
        if layer.affine:
            weight, bias = (part.detach().double().cpu() for part in (layer.weight, layer.bias))
            gain, shift = gain * weight, shift * weight + bias
        return self._scale(x, gain, shift, name)

    def activate(self, x: Value, activation: Activation, name: str) -> Value:
        if activation in SMOOTH_ACTIVATIONS:
            node = ActivationNode(name, x.name, cast(SmoothActivation, activation))
            return replace(x, name=self._add(node, "affine", self.shapes[x.name]), sole=True)
        if activation == "sigmoid":
            return replace(x, name=self._add(SigmoidNode(name, x.name), "sigmoid", self.shapes[x.name]), sole=True)
        if activation == "relu" and self.kinds[x.name] in ("relu", "relu6"):
            return x
        channels = self.shapes[x.name].channels
        if activation == "hsigmoid":
            x = self._scale(x, torch.full((channels,), 1 / 6).double(), torch.full((channels,), 0.5).double(), name)
        elif not (self._changeable(x) and isinstance(self._producer(x), FloatConv | AddNode)):
            x = self.rescale(x, name)
        self.kinds[x.name] = cast(GridKind, activation)
        return x

    def pool(self, x: Value, name: str) -> Value:
        self._expect(x, "map")
        shape = self.shapes[x.name]
        if shape[1:] == (1, 1):
            return x
        return Value(self._add(PoolNode(name, x.name), "affine", Shape(shape.channels, 1, 1)))

    def max_pool(self, x: Value, kernel_size: int, stride: int, padding: int, name: str) -> Value:
        self._expect(x, "map")
        channels, *size = self.shapes[x.name]
        height, width = ((length + 2 * padding - kernel_size) // stride + 1 for length in size)
        node = MaxPoolNode(name, x.name, kernel_size, stride, padding)
        return Value(self._add(node, self.kinds[x.name], Shape(channels, height, width)))

    def add(self, x: Value, other: Value, name: str) -> Value:
        if self.shapes[x.name] != self.shapes[other.name]:
            raise UnsupportedError("its terms have different sizes")
        return replace(x, name=self._add(AddNode(name, x.name, other.name), "affine", self.shapes[x.name]), sole=True)

    def multiply(self, x: Value, other: Value, name: str) -> Value:
        shape, gate = self.shapes[x.name], self.shapes[other.name]
        if shape[1:] == (1, 1) != gate[1:]:
            return self.multiply(other, x, name)
        if gate not in (shape, Shape(shape.channels, 1, 1)):
            raise UnsupportedError("neither factor is a 1×1 map, and their sizes differ")
        return replace(x, name=self._add(GateNode(name, x.name, other.name), "affine", shape), sole=True)

    def concatenate(self, values: Sequence[Value], name: str) -> Value:
        """All inputs share one grid; where rectifiers are only some of their ends, these get another one first."""
        kinds = {self.kinds[value.name] for value in values}
        if len(kinds) > 1 or not kinds <= set(FREE_KINDS):
            values = [
                value if self.kinds[value.name] == "affine" else self.rescale(value, f"{name}_{index}")
                for index, value in enumerate(values)
            ]
        shapes = [self.shapes[value.name] for value in values]
        if len({shape[1:] for shape in shapes}) > 1:
            raise UnsupportedError("its maps have different sizes")
        shape = Shape(sum(shape.channels for shape in shapes), *shapes[0][1:])
        node = ConcatNode(name, tuple(value.name for value in values))
        return replace(values[0], name=self._add(node, self.kinds[node.inputs[0]], shape), sole=True)

    def slice(self, x: Value, start: int, stop: int, name: str) -> Value:
        self._expect(x, "map")
        shape = Shape(stop - start, *self.shapes[x.name][1:])
        return Value(self._add(SliceNode(name, x.name, start, stop), self.kinds[x.name], shape))

    def reshape(self, x: Value, size: Sequence[int], name: str) -> Value:
        """Flattening of 1×1 maps and its reverse, and the two halves of a channel shuffle."""
        channels, height, width = self.shapes[x.name]
        size = _resolved(size, self.batch * channels * height * width)
        if size == self.size(x):
            return x
        if x.form == "columns" and size == (self.batch, channels, height, width):
            node = ShuffleNode(name, x.name, x.groups)
            return Value(self._add(node, self.kinds[x.name], self.shapes[x.name]))
        if x.form == "map" and len(size) == 5 and size == (self.batch, size[1], channels // size[1], height, width):
            return replace(x, form="rows", groups=size[1])
        if (height, width) == (1, 1) and size in ((self.batch, channels), (self.batch, channels, 1, 1)):
            return replace(x, form="flat" if len(size) == 2 else "map")
        raise UnsupportedError("it reshapes more than a 1×1 map; only channel shuffles may")

    def transpose(self, x: Value, first: int, second: int) -> Value:
        if x.form != "rows" or {first, second} != {1, 2}:
            raise UnsupportedError("it is no part of a channel shuffle")
        return replace(x, form="columns")

    def rescale(self, x: Value, name: str) -> Value:
        """The same values on a grid of their own."""
        channels = self.shapes[x.name].channels
        return self._depthwise(x, torch.ones(channels).double(), torch.zeros(channels).double(), name)

    def _scale(self, x: Value, gain: Tensor, shift: Tensor, name: str) -> Value:
        """gain · x + shift, by channel: in the convolution that makes `x`, or else by one of its own."""
        conv = self._producer(x)
        if not (self._changeable(x) and isinstance(conv, FloatConv)):
            return self._depthwise(x, gain, shift, name)
        folded = replace(conv, weight=conv.weight * gain[:, None, None, None], bias=conv.bias * gain + shift)
        self.nodes[self.nodes.index(conv)] = folded
        return x

    def _depthwise(self, x: Value, gain: Tensor, shift: Tensor, name: str) -> Value:
        conv = self._conv(name, x, gain[:, None, None, None], shift, groups=len(gain))
        return replace(x, name=conv.name, sole=True)

    def _conv(self, name: str, x: Value, weight: Tensor, bias: Tensor, stride: int = 1, groups: int = 1) -> Value:
        _, height, width = self.shapes[x.name]
        shape = Shape(len(weight), (height - 1) // stride + 1, (width - 1) // stride + 1)
        return Value(self._add(FloatConv(name, x.name, weight, bias, stride, groups), "affine", shape))

    def _add(self, node: FloatNode, kind: GridKind, shape: Shape) -> str:
        self.nodes.append(node)
        self.kinds[node.output] = kind
        self.shapes[node.output] = shape
        return node.output

    def _producer(self, x: Value) -> FloatNode | None:
        return next((node for node in self.nodes if node.output == x.name), None)

    def _changeable(self, x: Value) -> bool:
        return x.sole and self.kinds[x.name] == "affine"

    def _expect(self, x: Value, form: str) -> None:
        if x.form != form:
            raise UnsupportedError(f"it reads {self.size(x)}, which is no {form} of channels")


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """float64 [out_channels]; zeros where there is none."""
    if layer.bias is None:
        return torch.zeros(len(layer.weight), dtype=torch.float64)
    return layer.bias.detach().double().cpu()


def _resolved(size: Sequence[int], elements: int) -> tuple[int, ...]:
    """A size with −1 replaced by what is left of the elements."""
    known = 1
    for length in size:
        known *= length if length != -1 else 1
    return tuple(elements // known if length == -1 else length for length in size)
