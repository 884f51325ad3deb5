"""Kernels: what a runtime executes for a plan.

A plan splits into *kernels*, one per integer operation that a runtime executes: a rectifier is the end of a grid and
costs nothing, swish and hard swish are kernels of their own.
"""

from __future__ import annotations

from typing import NamedTuple

from spaceevo.nn.plan import Add, Conv, Gate, Linear, Plan, Pool

IMAGE_CHANNELS = 4  # a convolution of at most so many channels reads a picture, for which runtimes have other loops
SMOOTH_ACTIVATIONS = ("swish", "hswish")
BOUNDARIES = ("input", "output")  # what a model pays once for the tensors it exchanges with its caller


class Kernel(NamedTuple):
    """One operation a runtime executes, on square maps.

    Attributes:
        family: conv, stem, depthwise, dense, se, pool, add, gate, swish, hswish, input or output.
        height: of the map that is read, in pixels.
    """

    family: str
    in_channels: int
    out_channels: int
    height: int
    kernel_size: int = 1
    stride: int = 1

    @property
    def kind(self) -> str:
        """The family, with kernel size and stride where it has them: `depthwise5_s2`."""
        if self.family in ("conv", "stem", "depthwise"):
            return f"{self.family}{self.kernel_size}_s{self.stride}"
        return self.family


def kernels(plan: Plan, height: int) -> tuple[Kernel, ...]:
    """The kernels of a plan that reads a `height` × `height` map, in execution order."""
    shapes = plan.shapes(height)
    found: list[Kernel] = []
    for op in plan.ops:
        channels, size, _ = shapes[op.input]
        match op:
            case Conv():
                found.append(_conv_kernel(op, size))
                if op.activation in SMOOTH_ACTIVATIONS:
                    out = shapes[op.output]
                    found.append(Kernel(op.activation, out.channels, out.channels, out.height))
            case Linear():
                found.append(Kernel("dense", op.in_channels, op.out_channels, 1))
            case Pool() if size > 1:  # of a 1×1 map it does nothing, and is left out
                found.append(Kernel("pool", channels, channels, size))
            case Add():
                found.append(Kernel("add", channels, channels, size))
                if op.activation in SMOOTH_ACTIVATIONS:
                    found.append(Kernel(op.activation, channels, channels, size))
            case Gate():
                found.append(Kernel("gate", channels, channels, size))
    return tuple(found)


def _conv_kernel(conv: Conv, height: int) -> Kernel:
    if conv.groups > 1:
        family = "depthwise"
    elif conv.bias and height == 1:
        family = "se"  # squeeze-and-excitation: the only convolutions with a bias
    elif height == 1:
        return Kernel("dense", conv.in_channels, conv.out_channels, 1)
    else:
        family = "stem" if conv.in_channels <= IMAGE_CHANNELS else "conv"
    return Kernel(family, conv.in_channels, conv.out_channels, height, conv.kernel_size, conv.stride)


def boundary_kernels(plan: Plan, height: int) -> tuple[Kernel, ...]:
    """The input and the output of a plan that is run as a model of its own."""
    out = plan.shapes(height)[plan.output]
    return Kernel("input", plan.in_channels, plan.in_channels, height), Kernel(
        "output", out.channels, out.channels, out.height
    )
