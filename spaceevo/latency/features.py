"""Features of kernels: the sizes that their time grows with.

Kernels of one kind (the operation, with its kernel size and stride) share coefficients. Every feature is a ramp,
times · (clip(size, low, high) − low), of sizes that grow, or stay, with channels and map size, so that with
non-negative coefficients a bigger kernel is never predicted faster:

    a size itself            bytes read and written, weights, multiply-accumulates, also padded to a runtime's tiles
    ramps between knots      together any rising piecewise linear function of a size, which follows caches that overflow
                             and loops too short to be efficient; the last ramp is unbounded
    steps                    ramps of width 1 up to a knot, as sizes are whole numbers

There are two sets of them for every family: a coarse one for the some hundred measurements of a profile, and a fine
one, with a knot at each usual map size and width, for tables of a hundred thousand. A feature's name says all that it
is, so that a predictor file does not depend on the sets of the version that reads it.

Sizes in bytes count elements, as activations and weights are 8 bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spaceevo.latency.kernels import BOUNDARIES, Kernel

Array = npt.NDArray[np.float64]

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
    "patch_bytes_16",  # with input channels padded to a multiple of 16
    "macs_16_16",  # with input and output channels padded to a multiple of 16
    "macs_6x16_16",  # the same in tiles of 6 pixels, as matrix products on wide vectors have them
    "macs_16x64",  # in tiles of 16 pixels × 64 channels, as a matrix unit has them (Intel AMX)
    "macs_16x64_64",  # the same with input channels padded to a multiple of 64, which is as deep as its tiles are
)


def kernel_sizes(many: Sequence[Kernel]) -> Array:
    """float64 [kernels, sizes]: `SIZES` of each kernel; weights and multiply-accumulates as if it were dense."""
    cin, cout, height, k, stride = np.array([kernel[1:] for kernel in many], dtype=np.float64).reshape(-1, 5).T
    in_pixels, out_pixels, taps = height**2, ((height - 1) // stride + 1) ** 2, k**2
    cout_8, cout_16 = _padded(cout, 8), _padded(cout, 16)
    depth = cin * taps
    weights, in_bytes = depth * cout, cin * in_pixels
    depth_16 = _padded(cin, 16) * taps
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
        depth_16 * out_pixels,
        depth_16 * cout_16 * out_pixels,
        depth_16 * cout_16 * _padded(out_pixels, 6),
        depth * _padded(cout, 64) * _padded(out_pixels, 16),
        _padded(cin, 64) * taps * _padded(cout, 64) * _padded(out_pixels, 16),
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


def parse_feature(name: str) -> Feature:
    """The feature that has this name.

    Raises:
        ValueError: no feature has it.
    """
    match = re.fullmatch(r"(?:(\w+)\*)?(\w+?)(?:\[(\d+),(\d+|inf)\])?", name)
    times, size = (match[1] or "one", match[2]) if match is not None else ("", "")
    if match is None or times not in SIZES or size not in SIZES:
        raise ValueError(f"there is no feature {name!r}")
    return Feature(size, float(match[3] or 0.0), float(match[4] or "inf"), times)


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

FINE_PIXEL_KNOTS = tuple(side**2 for side in (3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 28, 34, 40, 48, 56))
FINE_CHANNEL_KNOTS = (*range(24, 64, 8), *range(64, 160, 16), *range(160, 320, 32), *range(320, 512, 64), 512, 640, 768)
FINE_CHANNEL_KNOTS += (1024, 1280, 1536)

_CONV = [
    *_plain("one", "in_channels", "out_channels", "out_pixels", "out_bytes_16", "patch_bytes", "sqrt_macs"),
    *_plain("macs_4x8", "macs_8x8", "macs_16x16"),
    *_ramps("macs", MAC_KNOTS),
    *_ramps("weights", WEIGHT_KNOTS),
    *_ramps("in_bytes", BYTE_KNOTS),
    *_ramps("out_bytes", BYTE_KNOTS),
    *_ramps("weights", WEIGHT_KNOTS, times="out_pixels"),
]

_MAP = [
    *_plain("one", "in_channels", "out_pixels", "out_bytes_8", "out_bytes_16", "sqrt_in_bytes"),
    *_ramps("in_bytes", BYTE_KNOTS),
    *_ramps("out_bytes", BYTE_KNOTS),
]


def _conv(pixel_knots: Sequence[int], channel_knots: Sequence[int]) -> list[Feature]:
    return [
        *_CONV,
        *_ramps("out_pixels", pixel_knots, times="weights"),
        *_ramps("in_channels", channel_knots, times="out_bytes"),
        *_ramps("out_channels", channel_knots, times="in_bytes"),
    ]


def _map(pixel_knots: Sequence[int], channel_knots: Sequence[int]) -> list[Feature]:
    return [
        *_MAP,
        *_ramps("out_pixels", pixel_knots, times="in_channels"),
        *_ramps("in_channels", channel_knots, times="out_pixels"),
    ]


_DENSE = [
    *_plain("one", "in_channels", "out_channels", "weights_16", "sqrt_weights"),
    *_ramps("weights", _powers_of_2(8, 20, 1)),
    *_steps("weights", _powers_of_2(17, 21, 0.5)),
]

_COARSE_CONV = [*_conv(PIXEL_KNOTS, CHANNEL_KNOTS), *_plain("macs_16x64", "macs_16x64_64")]
_COARSE_MAP = _map(PIXEL_KNOTS, CHANNEL_KNOTS)
_FINE_CONV = [
    *_conv(FINE_PIXEL_KNOTS, FINE_CHANNEL_KNOTS),
    *_plain("patch_bytes_16", "macs_16_16", "macs_6x16_16"),
]
_FINE_MAP = [
    *_map(FINE_PIXEL_KNOTS, FINE_CHANNEL_KNOTS),
    *_ramps("in_pixels", FINE_PIXEL_KNOTS, times="in_channels"),
]


@lru_cache(maxsize=64)
def family_features(family: str, fine: bool = False) -> Mapping[str, Feature]:
    """The features of a family by name; families that only pass over a map share theirs with depthwise."""
    if family in ("dense", "se"):
        features = _DENSE
    elif family in ("conv", "stem"):
        features = _FINE_CONV if fine else _COARSE_CONV
    else:
        features = _FINE_MAP if fine else _COARSE_MAP
    if family in BOUNDARIES:  # once per model: that is the model's overhead
        features = [feature for feature in features if feature.size != "one"]
    return {feature.name: feature for feature in features}


def fitted_features(many: Sequence[Kernel], fine: bool = False) -> Mapping[str, Feature]:
    """The features of a family by name, as kernels of one kind can determine them.

    Of every row of ramps the last that these kernels reach for a factor of 2 goes on to infinity, and those after it
    are left out: a ramp beyond all data would get no coefficient, and a larger kernel would cost no more.
    """
    largest = dict(zip(SIZES, kernel_sizes(many).max(axis=0), strict=True))
    kept = {}
    for feature in family_features(many[0].family, fine).values():
        reach = largest[feature.size] / 2
        if feature.high - feature.low > 1 and feature.low > max(reach, 0.0):
            continue
        if feature.high - feature.low > 1 and feature.high > reach:
            feature = feature._replace(high=float("inf"))
        kept[feature.name] = feature
    return kept


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
