"""Running a plan on torch tensors: shared by elastic blocks and by the plain blocks extracted from them."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from spaceevo.nn.plan import Add, Conv, Gate, Linear, Plan, Pool
from spaceevo.quant.grids import RECTIFIERS, SMOOTH_ACTIVATIONS, before
from spaceevo.quant.quantizers import HSIGMOID_QUANTIZER, SIGMOID_QUANTIZER, Precision, int8


class Layers(Protocol):
    """What a block offers to run its plan: its layers with parameters, and a quantizer for each tensor."""

    quantizers: nn.ModuleDict

    def convolve(self, op: Conv, x: Tensor, precision: Precision) -> Tensor:
        """Convolution and BatchNorm, without the activation."""
        ...

    def linear(self, op: Linear, x: Tensor, precision: Precision) -> Tensor:
        """Fully connected layer on [N, in_channels]."""
        ...


def execute(plan: Plan, layers: Layers, x: Tensor, precision: Precision) -> Tensor:
    """Run `plan` on `x` [N, C, H, W]; returns its output, [N, C', H', W'] or, after a linear layer, [N, classes]."""
    tensors = {plan.input: x}
    for op in plan.ops:
        source = tensors[op.input]
        match op:
            case Conv():
                y = layers.convolve(op, source, precision)
            case Linear():
                y = layers.linear(op, source.flatten(1), precision)
            case Pool() if source.shape[2:] == (1, 1):
                tensors[op.output] = source  # nothing to compute, so no grid of its own either
                continue
            case Pool():
                y = source.mean((2, 3), keepdim=True)
            case Add():
                y = source + tensors[op.other]
            case Gate():
                y = source * tensors[op.gate]
        if isinstance(op, Conv | Add):
            if op.activation in SMOOTH_ACTIVATIONS:
                y = precision(layers.quantizers[before(op.output)], y)
            if precision is not int8 or op.activation not in RECTIFIERS:  # whose grid computes them
                y = activate(y, op.activation, precision)
        tensors[op.output] = precision(layers.quantizers[op.output], y)
    return tensors[plan.output]


def activate(x: Tensor, activation: str | None, precision: Precision) -> Tensor:
    """An activation in the arithmetic of the int8 graph: swish and hard swish multiply by a quantized gate."""
    match activation:
        case None:
            return x
        case "relu":
            return F.relu(x)
        case "relu6":
            return F.relu6(x)
        case "hsigmoid":
            return F.hardsigmoid(x)
        case "hswish":
            return x * precision(HSIGMOID_QUANTIZER, F.hardsigmoid(x))
        case "swish":
            return x * precision(SIGMOID_QUANTIZER, x.sigmoid())
    raise ValueError(f"unknown activation {activation!r}")
