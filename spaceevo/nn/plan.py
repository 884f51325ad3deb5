"""Plans: what a network computes, as a flat list of operations on named tensors.

A plan is the one description of a network: the elastic supernet and the extracted subnet execute it, the int8 graph
is built along it, MACs and parameters are counted on it, and latency is predicted from it. It needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

INPUT = "input"


class Shape(NamedTuple):
    """Channels, height and width of one tensor of a batch."""

    channels: int
    height: int
    width: int

    @property
    def numel(self) -> int:
        return self.channels * self.height * self.width


@dataclass(frozen=True, slots=True)
class Conv:
    """Convolution with padding `kernel_size // 2`, then BatchNorm where `norm` is named, then the activation.

    Attributes:
        weight: name of the parameter that holds its weight (and its bias, where `bias`).
        norm: name of its BatchNorm, or None.
        activation: relu, relu6, swish, hswish, hsigmoid or None.
    """

    output: str
    input: str
    weight: str
    norm: str | None
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    groups: int
    bias: bool
    activation: str | None


@dataclass(frozen=True, slots=True)
class Pool:
    """Global average pooling to a 1×1 map."""

    output: str
    input: str


@dataclass(frozen=True, slots=True)
class Add:
    """Sum of two tensors of one shape, then the activation."""

    output: str
    input: str
    other: str
    activation: str | None


@dataclass(frozen=True, slots=True)
class Gate:
    """Product of a tensor and a 1×1 map with as many channels."""

    output: str
    input: str
    gate: str


@dataclass(frozen=True, slots=True)
class Linear:
    """Fully connected layer with bias on the flattened 1×1 map."""

    output: str
    input: str
    weight: str
    in_channels: int
    out_channels: int


Op = Conv | Pool | Add | Gate | Linear


@dataclass(frozen=True)
class Plan:
    """Operations in execution order; the network's input is `input`, its output that of the last operation."""

    in_channels: int
    ops: tuple[Op, ...]
    input: str = INPUT

    @property
    def output(self) -> str:
        return self.ops[-1].output if self.ops else self.input

    def shapes(self, height: int, width: int | None = None) -> dict[str, Shape]:
        """Shape of every tensor for an input map of `height` × `width` (square by default)."""
        shapes = {self.input: Shape(self.in_channels, height, width or height)}
        for op in self.ops:
            shape = shapes[op.input]
            match op:
                case Conv():
                    if shape.channels != op.in_channels:
                        raise ValueError(f"{op.output} expects {op.in_channels} channels, gets {shape.channels}")
                    shape = Shape(op.out_channels, _out_size(shape.height, op), _out_size(shape.width, op))
                case Pool():
                    shape = Shape(shape.channels, 1, 1)
                case Linear():
                    shape = Shape(op.out_channels, 1, 1)
            shapes[op.output] = shape
        return shapes

    def without_unit_pools(self, height: int) -> Plan:
        """This plan for a square input map, without the poolings that would read a 1×1 map and so do nothing."""
        shapes = self.shapes(height)
        renamed: dict[str, str] = {}
        ops: list[Op] = []
        for op in self.ops:
            if isinstance(op, Pool) and shapes[op.input][1:] == (1, 1):
                renamed[op.output] = renamed.get(op.input, op.input)
                continue
            source = renamed.get(op.input, op.input)
            match op:
                case Add():
                    ops.append(replace(op, input=source, other=renamed.get(op.other, op.other)))
                case Gate():
                    ops.append(replace(op, input=source, gate=renamed.get(op.gate, op.gate)))
                case _:
                    ops.append(replace(op, input=source))
        return Plan(self.in_channels, tuple(ops), self.input)

    def prefixed(self, prefix: str, input: str) -> Plan:
        """This plan with `prefix` before every name of its own, reading the tensor `input`."""
        rename = {self.input: input}

        def tensor(name: str) -> str:
            return rename.get(name, prefix + name)

        ops: list[Op] = []
        for op in self.ops:
            match op:
                case Conv():
                    norm = None if op.norm is None else prefix + op.norm
                    moved: Op = replace(
                        op, output=tensor(op.output), input=tensor(op.input), weight=prefix + op.weight, norm=norm
                    )
                case Pool():
                    moved = Pool(tensor(op.output), tensor(op.input))
                case Add():
                    moved = Add(tensor(op.output), tensor(op.input), tensor(op.other), op.activation)
                case Gate():
                    moved = Gate(tensor(op.output), tensor(op.input), tensor(op.gate))
                case Linear():
                    moved = replace(op, output=tensor(op.output), input=tensor(op.input), weight=prefix + op.weight)
            ops.append(moved)
        return Plan(self.in_channels, tuple(ops), input)


def join(in_channels: int, parts: Sequence[tuple[str, Plan]], input: str = INPUT) -> Plan:
    """One plan out of several, each reading the output of the one before, its names prefixed with its label."""
    ops: list[Op] = []
    tensor = input
    for prefix, part in parts:
        moved = part.prefixed(prefix, tensor)
        ops += moved.ops
        tensor = moved.output
    return Plan(in_channels, tuple(ops), input)


def _out_size(size: int, conv: Conv) -> int:
    return (size + 2 * (conv.kernel_size // 2) - conv.kernel_size) // conv.stride + 1


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulate operations for one input, and trainable parameters."""

    macs: int
    params: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.params + other.params)


def op_cost(op: Op, shapes: Mapping[str, Shape]) -> Cost:
    """Cost of one operation: convolutions and fully connected layers; BatchNorm counts as two parameters a channel."""
    match op:
        case Conv():
            weights = op.out_channels * (op.in_channels // op.groups) * op.kernel_size**2
            out = shapes[op.output]
            extra = (2 * op.out_channels if op.norm else 0) + (op.out_channels if op.bias else 0)
            return Cost(weights * out.height * out.width, weights + extra)
        case Linear():
            weights = op.in_channels * op.out_channels
            return Cost(weights, weights + op.out_channels)
    return Cost(0, 0)


@lru_cache(maxsize=4096)
def plan_cost(plan: Plan, resolution: int) -> Cost:
    """MACs and parameters of a plan for a square input map of `resolution` pixels."""
    shapes = plan.shapes(resolution)
    total = Cost(0, 0)
    for op in plan.ops:
        total += op_cost(op, shapes)
    return total
