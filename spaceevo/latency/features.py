"""Kernels and their features: what a runtime executes for a plan, and the sizes that its time grows with.

A plan splits into *kernels*, one per integer operation that a runtime executes: a rectifier is the end of a grid and
costs nothing, swish and hard swish are kernels of their own. Kernels of one kind (the operation, with its kernel size
and stride) share coefficients. Every feature grows, or stays, with channels and map size, so that with non-negative
coefficients a bigger kernel is never predicted to be faster:

    sizes    bytes read and written, weights, multiply-accumulates, and these padded to a runtime's tiles
    ramps    x between two knots, clip(x, a, b) − a: together any rising piecewise linear function of x, which follows
             caches that overflow and loops too short to be efficient; the last ramp is unbounded
    steps    1 from a knot on

Sizes in bytes count elements, as activations and weights are 8 bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spaceevo.nn.plan import Add, Conv, Gate, Linear, Plan, Pool

Array = npt.NDArray[np.float64]

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
            case Pool():
                found.append(Kernel("pool", channels, channels, size))
            case Add():
                found.append(Kernel("add", channels, channels, size))
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


@dataclass(frozen=True)
class Sizes:
    """The sizes of many kernels of one kind: float64 arrays with one entry per kernel."""

    in_channels: Array
    out_channels: Array
    in_pixels: Array
    out_pixels: Array
    taps: Array  # kernel_size²
    in_bytes: Array
    out_bytes: Array
    weights: Array  # of a dense convolution
    macs: Array  # of a dense convolution


def sizes(many: Sequence[Kernel]) -> Sizes:
    """The sizes of kernels of one kind."""
    rows = np.array([kernel[1:] for kernel in many], dtype=np.float64).reshape(len(many), 5)
    cin, cout, height, k, stride = rows.T
    in_pixels, out_pixels, taps = height**2, ((height - 1) // stride + 1) ** 2, k**2
    weights = cin * cout * taps
    return Sizes(
        in_channels=cin,
        out_channels=cout,
        in_pixels=in_pixels,
        out_pixels=out_pixels,
        taps=taps,
        in_bytes=cin * in_pixels,
        out_bytes=cout * out_pixels,
        weights=weights,
        macs=weights * out_pixels,
    )


Feature = Callable[[Sizes], Array]


def _one(s: Sizes) -> Array:
    return np.ones_like(s.macs)


def _size(name: str) -> Feature:
    return lambda s: np.asarray(getattr(s, name), dtype=np.float64)


def _of(*names: str) -> dict[str, Feature]:
    """The sizes called so, as they are."""
    return {name: _size(name) for name in names}


def _root(name: str) -> dict[str, Feature]:
    return {f"sqrt({name})": lambda s: np.sqrt(_size(name)(s))}


def _ramps(name: str, knots: Sequence[float], times: str | None = None) -> dict[str, Feature]:
    """A size between consecutive knots (from 0, and to infinity), each ramp times another size where given."""
    size, factor = _size(name), _one if times is None else _size(times)
    prefix = name if times is None else f"{times}*{name}"

    def ramp(low: float, high: float) -> Feature:
        return lambda s: factor(s) * (np.clip(size(s), low, high) - low)

    edges = (0.0, *knots, np.inf)
    return {f"{prefix}[{a:g},{b:g}]": ramp(a, b) for a, b in pairwise(edges)}


def _steps(name: str, knots: Sequence[float]) -> dict[str, Feature]:
    """1 where a size has reached a knot."""
    size = _size(name)

    def step(knot: float) -> Feature:
        return lambda s: (size(s) >= knot).astype(np.float64)

    return {f"{name}>={knot:g}": step(knot) for knot in knots}


def _tiles(pixels: int, channels: int) -> dict[str, Feature]:
    """Multiply-accumulates of a matrix product that computes tiles of `pixels` × `channels` outputs at a time."""

    def tiled(s: Sizes) -> Array:
        return _padded(s.out_pixels, pixels) * _padded(s.out_channels, channels) * s.in_channels * s.taps

    return {f"macs/{pixels}x{channels}": tiled}


def _padded(x: Array, multiple: int) -> Array:
    return np.ceil(x / multiple) * multiple


def _powers_of_2(first: int, last: int, step: float) -> tuple[float, ...]:
    """Whole numbers near 2^first, 2^(first + step), … 2^last."""
    return tuple(float(round(2**exponent)) for exponent in np.arange(first, last + step / 2, step))


PIXEL_KNOTS = (16.0, 49.0, 100.0, 196.0, 400.0, 784.0)
CHANNEL_KNOTS = _powers_of_2(4, 10, 1)
BYTE_KNOTS = _powers_of_2(11, 19, 2)
WEIGHT_KNOTS = _powers_of_2(10, 20, 2)
MAC_KNOTS = _powers_of_2(14, 28, 2)

_CONV: dict[str, Feature] = {
    "1": _one,
    **_of("in_channels", "out_channels", "out_pixels"),
    **_root("macs"),
    **_tiles(4, 8),
    **_tiles(8, 8),
    **_tiles(16, 16),
    "out_bytes/16": lambda s: s.out_pixels * _padded(s.out_channels, 16),
    "patch_bytes": lambda s: s.out_pixels * s.taps * s.in_channels,
    **_ramps("macs", MAC_KNOTS),
    **_ramps("weights", WEIGHT_KNOTS),
    **_ramps("in_bytes", BYTE_KNOTS),
    **_ramps("out_bytes", BYTE_KNOTS),
    **_ramps("weights", WEIGHT_KNOTS, times="out_pixels"),
    **_ramps("out_pixels", PIXEL_KNOTS, times="weights"),
    **_ramps("in_channels", CHANNEL_KNOTS, times="out_bytes"),
    **_ramps("out_channels", CHANNEL_KNOTS, times="in_bytes"),
}

_MAP: dict[str, Feature] = {
    "1": _one,
    **_of("in_channels", "out_pixels"),
    **_root("in_bytes"),
    "out_bytes/8": lambda s: s.out_pixels * _padded(s.in_channels, 8),
    "out_bytes/16": lambda s: s.out_pixels * _padded(s.in_channels, 16),
    **_ramps("in_bytes", BYTE_KNOTS),
    **_ramps("out_bytes", BYTE_KNOTS),
    **_ramps("out_pixels", PIXEL_KNOTS, times="in_channels"),
    **_ramps("in_channels", CHANNEL_KNOTS, times="out_pixels"),
}

_DENSE: dict[str, Feature] = {
    "1": _one,
    **_of("in_channels", "out_channels"),
    **_root("weights"),
    "weights/16": lambda s: s.in_channels * _padded(s.out_channels, 16),
    **_ramps("weights", _powers_of_2(8, 20, 1)),
    **_steps("weights", _powers_of_2(17, 21, 0.5)),
}

_FEATURES: dict[str, dict[str, Feature]] = {"conv": _CONV, "stem": _CONV, "dense": _DENSE, "se": _DENSE}


def family_features(family: str) -> Mapping[str, Feature]:
    """Feature functions of a family by name; families that only pass over a map share theirs with depthwise."""
    return _FEATURES.get(family, _MAP)


def feature_matrix(many: Sequence[Kernel]) -> Array:
    """float64 [kernels, features]: the features of kernels of one kind, in the order of `family_features`."""
    s = sizes(many)
    return np.stack([feature(s) for feature in family_features(many[0].family).values()], axis=1)


def kernel_ms(kernel: Kernel, family: str, coefficients: Mapping[str, float]) -> float:
    """Sum of the features of one kernel, those of `family`, times their coefficients, by feature name."""
    s = sizes([kernel])
    features = family_features(family)
    return float(sum(value * features[name](s)[0] for name, value in coefficients.items()))
