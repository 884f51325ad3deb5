"""A torch module as a float graph: torch.fx finds its layers, which are translated one by one.

BatchNorm folds into the convolution before it, rectifiers become the end of its grid, and a hard sigmoid scales it by
1/6 and adds 1/2. Where what comes before is no convolution, or is read elsewhere too, a depthwise 1×1 convolution takes
its place.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from spaceevo.errors import ExportError
from spaceevo.nn.plan import INPUT
from spaceevo.quant.draft import Activation, Draft, UnsupportedError, Value
from spaceevo.quant.float_graph import FloatGraph, run

TOLERANCE = 1e-3  # between the module and its float graph, relative to the largest value

ACTIVATIONS: dict[object, Activation] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hswish",
    nn.SiLU: "swish",
    nn.Hardsigmoid: "hsigmoid",
    nn.Sigmoid: "sigmoid",
    "relu": "relu",
    "relu_": "relu",
    "relu6": "relu6",
    "hardswish": "hswish",
    "silu": "swish",
    "hardsigmoid": "hsigmoid",
    "sigmoid": "sigmoid",
}
IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d)
IDENTITY_NAMES = ("StochasticDepth", "DropPath")  # of torchvision and timm; identities in eval mode


@torch.no_grad()
def trace(module: nn.Module, images: Tensor) -> FloatGraph:
    """The float graph of a module in eval mode, for inputs of the size of `images`.

    Args:
        module: takes pictures, float32 [N, C, H, W], and returns logits [N, classes] or a map.
        images: a few normalised pictures, on which the graph is compared with the module.

    Raises:
        ExportError: torch.fx cannot trace the module; a layer is not supported, which the sentence names; or the graph
            computes something else.
    """
    module = module.eval()
    name = type(module).__name__
    try:
        traced = _Tracer().trace(module)
    except Exception as error:  # whatever the module's code makes of torch.fx's symbols
        said = str(error).partition("\n")[0]
        raise ExportError(
            f"{name} cannot be traced by torch.fx: {said}; its forward must not depend on values."
        ) from error
    graph = _Translation(module, images).translate(traced)
    expected, actual = module(images).flatten(1), run(graph, images).flatten(1)
    if not torch.allclose(actual, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max())):
        raise ExportError(
            f"{name} computes something that its trace does not show, such as a tensor changed in place: "
            "write its forward without."
        )
    return graph


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__name__ in IDENTITY_NAMES or super().is_leaf_module(m, module_qualified_name)


class _Translation:
    """Walks a traced graph, with a value for each of its nodes: a tensor of the draft, or a plain Python object."""

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        self.module = module
        self.draft = Draft(INPUT, images)
        self.values: dict[fx.Node, Any] = {}

    def translate(self, graph: fx.Graph) -> FloatGraph:
        *body, end = graph.nodes
        for node in (node for node in body if node.users):
            try:
                self.values[node] = self.evaluate(node)
            except UnsupportedError as error:
                raise ExportError(f"{self.described(node)} cannot be exported: {error}.") from None
        result = self.load(end.args[0])
        if not isinstance(result, Value) or not self.draft.nodes:
            raise ExportError("The module does not return one tensor that it computes: wrap it in one that does.")
        return self.draft.graph(result)

    def load(self, argument: Any) -> Any:
        """An argument with values in place of nodes."""

        def value(node: fx.Node) -> Any:
            found = self.values[node]
            if isinstance(found, Value) and len(node.users) > 1:
                return Value(found.name, False, found.form, found.groups)
            return found

        return fx.node.map_arg(argument, value)

    def described(self, node: fx.Node) -> str:
        """What people find a node by: the name and type of a layer, or a function."""
        if node.op != "call_module":
            return f"The operation {_function(node)} ({node.name})"
        kind = type(self.module.get_submodule(str(node.target)))
        return f"The layer {node.target} ({kind.__module__}.{kind.__qualname__})"

    def evaluate(self, node: fx.Node) -> Any:
        args, kwargs = _tensors_first(self.load(node.args), self.load(node.kwargs))
        match node.op:
            case "placeholder" if not self.values:
                return Value(INPUT)
            case "placeholder" | "get_attr":
                raise UnsupportedError("only layers and one input are supported, no further tensors")
            case "call_module":
                target = str(node.target)
                name = node.name if target in self.draft.shapes else target
                if kwargs or len(args) != 1 or not isinstance(args[0], Value):
                    raise UnsupportedError("it is given something else than one tensor")
                return self.layer(self.module.get_submodule(target), args[0], name)
        if not args or not _has_value(args) or (node.target is operator.getitem and not isinstance(args[0], Value)):
            if callable(node.target):  # arithmetic on sizes, or one of several tensors
                return node.target(*args, **kwargs)
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return self.function(_function(node), node.name, args, kwargs)

    def layer(self, layer: nn.Module, x: Value, name: str) -> Value:
        """What a module makes of `x`."""
        draft = self.draft
        if isinstance(layer, IDENTITIES) or type(layer).__name__ in IDENTITY_NAMES:
            return x
        if type(layer) in ACTIVATIONS:
            return draft.activate(x, ACTIVATIONS[type(layer)], name)
        match layer:
            case nn.Conv2d():
                return draft.convolve(x, layer, name)
            case nn.BatchNorm2d():
                return draft.normalise(x, layer, name)
            case nn.Linear():
                return draft.connect(x, layer, name)
            case nn.AdaptiveAvgPool2d():
                return self.pool(x, layer.output_size, name)
            case nn.MaxPool2d():
                return self.max_pool(
                    name, x, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
                )
            case nn.Flatten():
                return self.flatten(x, layer.start_dim, layer.end_dim, name)
        raise UnsupportedError("it is none of the supported layers")

    def function(self, function: str, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What a function or method of a tensor makes of its arguments."""
        draft, (x, *rest) = self.draft, args
        tensors = x if function in ("cat", "concat") else [x]
        if not (isinstance(tensors, tuple | list) and all(isinstance(tensor, Value) for tensor in tensors)):
            raise UnsupportedError("its first argument is none that it takes")
        if function in ACTIVATIONS:
            return draft.activate(x, ACTIVATIONS[function], name)
        match function, rest:
            case "getattr", ["shape"]:
                return draft.size(x)
            case "size", [*dims]:
                return draft.size(x)[dims[0]] if dims else draft.size(x)
            case "dropout" | "contiguous" | "stochastic_depth", _:
                return x
            case "add" | "iadd", [Value() as other] if not kwargs:
                return draft.add(x, other, name)
            case "mul" | "imul", [Value() as other]:
                return draft.multiply(x, other, name)
            case "cat" | "concat", [*dim] if (dim or [kwargs.get("dim", 0)])[0] in (1, -3):
                return draft.concatenate(x, name)
            case "chunk", [int(count), *dim] if (dim or [kwargs.get("dim", 0)])[0] in (1, -3):
                channels = draft.size(x)[1]
                return self.split(x, -(-channels // count), name)
            case "split", [int(width), *dim] if (dim or [kwargs.get("dim", 0)])[0] in (1, -3):
                return self.split(x, width, name)
            case "mean", [*given] if _is_of_maps(given[0] if given else kwargs.get("dim")):
                pooled = draft.pool(x, name)
                keepdim = given[1] if given[1:] else kwargs.get("keepdim", False)
                return pooled if keepdim else self.flatten(pooled, 1, -1, name)
            case "adaptive_avg_pool2d", [size]:
                return self.pool(x, size, name)
            case "max_pool2d", _:
                return self.max_pool(name, x, *rest, **kwargs)
            case "flatten", [*dims]:
                start = dims[0] if dims else kwargs.get("start_dim", 0)
                return self.flatten(x, start, dims[1] if dims[1:] else kwargs.get("end_dim", -1), name)
            case "view" | "reshape", [*size]:
                return draft.reshape(x, size[0] if isinstance(size[0], tuple | list) else size, name)
            case "transpose", [int(first), int(second)]:
                return draft.transpose(x, first, second)
        raise UnsupportedError("it, or what it is given, is none of the supported operations")

    def pool(self, x: Value, size: Any, name: str) -> Value:
        if size not in (1, (1, 1), [1, 1]):
            raise UnsupportedError(f"only pooling to a 1×1 map is supported, not to {size}")
        return self.draft.pool(x, name)

    def max_pool(
        self,
        name: str,
        x: Value,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Value:
        sizes = [_single(value) for value in (kernel_size, stride or kernel_size, padding, dilation)]
        if None in sizes or sizes[3] != 1 or ceil_mode or return_indices:
            raise UnsupportedError("its window or stride is not square, or it is dilated, rounds up or returns indices")
        kernel, step, pad = cast(list[int], sizes[:3])
        return self.draft.max_pool(x, kernel, step, pad, name)

    def flatten(self, x: Value, start: int, end: int, name: str) -> Value:
        if start != 1 or end not in (-1, 3):
            raise UnsupportedError("only all but the first dimension can be flattened")
        return self.draft.reshape(x, (self.draft.batch, -1), name)

    def split(self, x: Value, width: int, name: str) -> tuple[Value, ...]:
        channels = self.draft.size(x)[1]
        starts = range(0, channels, width)
        return tuple(
            self.draft.slice(x, start, min(start + width, channels), f"{name}_{index}")
            for index, start in enumerate(starts)
        )


def _function(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))


def _tensors_first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with that first which comes first in torch, though it may be given by its name."""
    rest = dict(kwargs)
    named = [rest.pop(name) for name in ("input", "tensors") if name in rest]
    return (*named, *args), rest


def _is_of_maps(dims: Any) -> bool:
    """Whether these are the dimensions of a map, height and width."""
    return isinstance(dims, tuple | list) and sorted(dim % 4 for dim in dims) == [2, 3]


def _has_value(arguments: Any) -> bool:
    return isinstance(arguments, Value) or (
        isinstance(arguments, tuple | list) and any(_has_value(argument) for argument in arguments)
    )


def _single(value: Any) -> int | None:
    """The one value of a number, or of a pair of equal ones."""
    values = set(value) if isinstance(value, tuple | list) else {value}
    return int(values.pop()) if len(values) == 1 else None
