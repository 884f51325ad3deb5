"""Running a plan on torch tensors: shared by elastic blocks and by the plain blocks extracted from them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from spaceevo.nn.kept import kept_as_codes
from spaceevo.nn.plan import Add, Conv, Gate, Linear, Plan, Pool
from spaceevo.quant.grids import RECTIFIERS, SMOOTH_ACTIVATIONS, before
from spaceevo.quant.quantizers import HSIGMOID_QUANTIZER, SIGMOID_QUANTIZER, Precision, fp32, int8


class Layers(Protocol):
    """What a block offers to run its plan: its layers with parameters, and a quantizer for each tensor."""

    quantizers: nn.ModuleDict

    def convolve(self, op: Conv, x: Tensor, precision: Precision, then: Then) -> Tensor:
        """Convolution and BatchNorm, and what is to be done `then`."""
        ...

    def linear(self, op: Linear, x: Tensor, precision: Precision) -> Tensor:
        """Fully connected layer on [N, in_channels]."""
        ...


class Then(NamedTuple):
    """What is done at once with the result of a convolution or sum: a rectifier or none, and a quantizer or none."""

    rectifier: str | None
    quantizer: nn.Module | None

    def __call__(self, x: Tensor, precision: Precision) -> Tensor:
        if precision is not int8:  # where the grid of a rectifier's output computes it
            x = activate(x, self.rectifier, precision)
        return x if self.quantizer is None else precision(self.quantizer, x)


def execute(plan: Plan, layers: Layers, x: Tensor, precision: Precision) -> Tensor:
    """Run `plan` on `x` [N, C, H, W]; returns its output, [N, C', H', W'] or, after a linear layer, [N, classes]."""
    tensors = {plan.input: x}
    for op in plan.ops:
        source, quantizer = tensors[op.input], layers.quantizers[op.output]
        match op:
            case Conv():
                with kept_as_codes(source):
                    y = layers.convolve(op, source, precision, _then(op, layers))
                y = _finished(op, y, precision, quantizer)
            case Linear():
                y = precision(quantizer, layers.linear(op, source.flatten(1), precision))
            case Pool() if source.shape[2:] == (1, 1):
                y = source  # nothing to compute, so no grid of its own either
            case Pool():
                y = precision(quantizer, source.mean((2, 3), keepdim=True))
            case Add():
                y = _then(op, layers)(source + tensors[op.other], precision)
                y = _finished(op, y, precision, quantizer)
            case Gate():
                with kept_as_codes(source):
                    y = source * tensors[op.gate]
                y = precision(quantizer, y)
        tensors[op.output] = y
    return tensors[plan.output]


def _then(op: Conv | Add, layers: Layers) -> Then:
    if op.activation in SMOOTH_ACTIVATIONS:
        return Then(None, layers.quantizers[before(op.output)])
    return Then(op.activation, layers.quantizers[op.output]) if _is_at_once(op) else Then(None, None)


def _finished(op: Conv | Add, y: Tensor, precision: Precision, quantizer: nn.Module) -> Tensor:
    """`y`, of which `_then` is done, after an activation that is no rectifier."""
    return y if _is_at_once(op) else precision(quantizer, activate(y, op.activation, precision))


def _is_at_once(op: Conv | Add) -> bool:
    return op.activation is None or op.activation in RECTIFIERS


def activate(x: Tensor, activation: str | None, precision: Precision) -> Tensor:
    """An activation; but for FP32, swish and hard swish multiply by a gate that has a grid, as the int8 graph does."""
    match activation:
        case None:
            return x
        case "relu":
            return F.relu(x)
        case "relu6":
            return F.relu6(x)
        case "hsigmoid":
            return F.hardsigmoid(x)
        case "hswish" if precision is fp32:
            return F.hardswish(x)
        case "swish" if precision is fp32:
            return F.silu(x)
        case "hswish":
            with kept_as_codes(x):
                gate = F.hardsigmoid(x)
            return _gated(x, precision(HSIGMOID_QUANTIZER, gate))
        case "swish":
            return _gated(x, precision(SIGMOID_QUANTIZER, x.sigmoid()))
    raise ValueError(f"unknown activation {activation!r}")


def _gated(x: Tensor, gate: Tensor) -> Tensor:
    with kept_as_codes(x, gate):
        return x * gate
