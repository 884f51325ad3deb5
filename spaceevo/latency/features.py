"""Kernels and their features: what a runtime executes for a plan, and the sizes that its time grows with.

A plan splits into *kernels*, one per integer operation that a runtime executes: a rectifier is the end of a grid and
costs nothing, swish and hard swish are kernels of their own. Kernels of one kind (the operation, with its kernel size
and stride) share coefficients. Every feature is a ramp, times · (clip(size, low, high) − low), of sizes that grow, or
stay, with channels and map size, so that with non-negative coefficients a bigger kernel is never predicted faster:

    a size itself            bytes read and written, weights, multiply-accumulates, also padded to a runtime's tiles
    ramps between knots      together any rising piecewise linear function of a size, which follows caches that overflow
                             and loops too short to be efficient; the last ramp is unbounded
    steps                    ramps of width 1 up to a knot, as sizes are whole numbers

Sizes in bytes count elements, as activations and weights are 8 bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
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
    plan = plan.without_unit_pools(height)
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


SIZES = (
    "one",
    "in_channels",
    "out_channels",
    "in_pixels",
    "out_pixels",
    "in_bytes",
    "out_bytes",
    "out_bytes_8",  # with output channels padded to a multiple of 8
    "out_bytes_16",
    "patch_bytes",  # all inputs of all outputs, as a matrix product reads them
    "weights",
    "weights_16",  # with output channels padded to a multiple of 16
    "macs",
    "macs_4x8",  # multiply-accumulates of a matrix product that computes tiles of 4 pixels × 8 channels
    "macs_8x8",
    "macs_16x16",
    "sqrt_in_bytes",
    "sqrt_weights",
    "sqrt_macs",
)


def kernel_sizes(many: Sequence[Kernel]) -> Array:
    """float64 [kernels, sizes]: `SIZES` of each kernel; weights and multiply-accumulates as if it were dense."""
    cin, cout, height, k, stride = np.array([kernel[1:] for kernel in many], dtype=np.float64).reshape(-1, 5).T
    in_pixels, out_pixels, taps = height**2, ((height - 1) // stride + 1) ** 2, k**2
    cout_8, cout_16 = _padded(cout, 8), _padded(cout, 16)
    depth = cin * taps
    weights, in_bytes = depth * cout, cin * in_pixels
    macs = weights * out_pixels
    columns = (
        np.ones_like(cin),
        cin,
        cout,
        in_pixels,
        out_pixels,
        in_bytes,
        cout * out_pixels,
        cout_8 * out_pixels,
        cout_16 * out_pixels,
        depth * out_pixels,
        weights,
        depth * cout_16,
        macs,
        depth * cout_8 * _padded(out_pixels, 4),
        depth * cout_8 * _padded(out_pixels, 8),
        depth * cout_16 * _padded(out_pixels, 16),
        np.sqrt(in_bytes),
        np.sqrt(weights),
        np.sqrt(macs),
    )
    return np.stack(columns, axis=1)


def _padded(x: Array, multiple: int) -> Array:
    return np.ceil(x / multiple) * multiple


class Feature(NamedTuple):
    """The ramp times · (clip(size, low, high) − low) of two of `SIZES`."""

    size: str
    low: float = 0.0
    high: float = float("inf")
    times: str = "one"

    @property
    def name(self) -> str:
        """`size`, `size[low,high]` or `times*size[low,high]`."""
        whole = (self.low, self.high) == (0.0, float("inf"))
        ramp = self.size if whole else f"{self.size}[{self.low:.0f},{self.high:.0f}]"
        return ramp if self.times == "one" else f"{self.times}*{ramp}"


def _plain(*names: str) -> list[Feature]:
    return [Feature(name) for name in names]


def _ramps(size: str, knots: Sequence[int], times: str = "one") -> list[Feature]:
    """A size between consecutive knots, from 0 and to infinity."""
    edges = (0.0, *knots, float("inf"))
    return [Feature(size, low, high, times) for low, high in pairwise(edges)]


def _steps(size: str, knots: Sequence[int]) -> list[Feature]:
    """1 where a size has reached a knot."""
    return [Feature(size, knot - 1, knot) for knot in knots]


def _powers_of_2(first: int, last: int, step: float) -> tuple[int, ...]:
    """Whole numbers near 2^first, 2^(first + step), … 2^last."""
    return tuple(round(2**exponent) for exponent in np.arange(first, last + step / 2, step))


PIXEL_KNOTS = (16, 49, 100, 196, 400, 784)
CHANNEL_KNOTS = _powers_of_2(4, 10, 1)
BYTE_KNOTS = _powers_of_2(11, 19, 2)
WEIGHT_KNOTS = _powers_of_2(10, 20, 2)
MAC_KNOTS = _powers_of_2(14, 28, 2)

_CONV = [
    *_plain("one", "in_channels", "out_channels", "out_pixels", "out_bytes_16", "patch_bytes", "sqrt_macs"),
    *_plain("macs_4x8", "macs_8x8", "macs_16x16"),
    *_ramps("macs", MAC_KNOTS),
    *_ramps("weights", WEIGHT_KNOTS),
    *_ramps("in_bytes", BYTE_KNOTS),
    *_ramps("out_bytes", BYTE_KNOTS),
    *_ramps("weights", WEIGHT_KNOTS, times="out_pixels"),
    *_ramps("out_pixels", PIXEL_KNOTS, times="weights"),
    *_ramps("in_channels", CHANNEL_KNOTS, times="out_bytes"),
    *_ramps("out_channels", CHANNEL_KNOTS, times="in_bytes"),
]

_MAP = [
    *_plain("one", "in_channels", "out_pixels", "out_bytes_8", "out_bytes_16", "sqrt_in_bytes"),
    *_ramps("in_bytes", BYTE_KNOTS),
    *_ramps("out_bytes", BYTE_KNOTS),
    *_ramps("out_pixels", PIXEL_KNOTS, times="in_channels"),
    *_ramps("in_channels", CHANNEL_KNOTS, times="out_pixels"),
]

_DENSE = [
    *_plain("one", "in_channels", "out_channels", "weights_16", "sqrt_weights"),
    *_ramps("weights", _powers_of_2(8, 20, 1)),
    *_steps("weights", _powers_of_2(17, 21, 0.5)),
]

_BOUNDARY = [feature for feature in _MAP if feature.size != "one"]  # once per model: that is the model's overhead

_FAMILIES = {
    "conv": _CONV,
    "stem": _CONV,
    "dense": _DENSE,
    "se": _DENSE,
    "input": _BOUNDARY,
    "output": _BOUNDARY,
}


@lru_cache(maxsize=64)
def family_features(family: str) -> Mapping[str, Feature]:
    """The features of a family by name; families that only pass over a map share theirs with depthwise."""
    return {feature.name: feature for feature in _FAMILIES.get(family, _MAP)}


class Terms:
    """Features as arrays, to be evaluated at once."""

    def __init__(self, features: Iterable[Feature]) -> None:
        features = tuple(features)
        self._sizes = [SIZES.index(feature.size) for feature in features]
        self._times = [SIZES.index(feature.times) for feature in features]
        self._low = np.array([feature.low for feature in features])
        self._high = np.array([feature.high for feature in features])

    def __call__(self, many: Sequence[Kernel]) -> Array:
        """float64 [kernels, features]."""
        s = kernel_sizes(many)
        ramps = np.minimum(np.maximum(s[:, self._sizes], self._low), self._high) - self._low
        return np.asarray(s[:, self._times] * ramps)
