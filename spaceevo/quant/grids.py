"""Which 8-bit grid each tensor of a plan lives on.

A grid is (scale, zero_point) with integers 0 … 255: real = scale · (q − zero_point). Runtimes with signed integers
shift q and the zero point by 128. A tensor's kind says what its producer guarantees, and so what is learned:

    affine    scale and zero point learned
    relu      zero point 0, scale learned: the grid's lower end is the rectifier
    relu6     as relu, and the grid ends at 6 at the latest: its upper end is the clip
    hsigmoid  fixed on [0, 1]: its ends are the clips of the hard sigmoid, x / 6 + 0.5
    image     fixed by the input normalisation
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from spaceevo.nn.plan import Add, Conv, Plan

LEVELS = 255  # of activations: integers 0 … 255
WEIGHT_LEVELS = 127  # of weights: integers −127 … 127, symmetric

GridKind = Literal["affine", "relu", "relu6", "hsigmoid", "sigmoid", "image"]


@dataclass(frozen=True)
class Grid:
    """Real value = scale · (q − zero_point), q and zero_point in 0 … 255."""

    scale: float
    zero_point: int


class Levels(NamedTuple):
    """What of a grid is not learned; see `spaceevo.quant.fake_quantize.fake_quantize`."""

    low: float
    high: float
    gradient_scale: float = 1.0
    rectified: bool = False


HSIGMOID_GRID = Grid(1.0 / LEVELS, 0)
SIGMOID_GRID = Grid(1.0 / 256, 0)  # fixed by TFLite's LOGISTIC kernel
RELU6_MAX_SCALE = 6.0 / LEVELS

SMOOTH_ACTIVATIONS = ("swish", "hswish")
RECTIFIERS = ("relu", "relu6")  # activations that the ends of their grid compute


def before(tensor: str) -> str:
    """Name of the tensor that a smooth activation reads to make `tensor`."""
    return f"{tensor}_pre"


def grid_kinds(plan: Plan) -> dict[str, GridKind]:
    """The kind of grid of every tensor of a plan but its input, in execution order.

    Swish and hard swish have a grid before them too (`before(tensor)`).
    """
    kinds: dict[str, GridKind] = {}
    for op in plan.ops:
        activation = op.activation if isinstance(op, Conv | Add) else None
        match activation:
            case None:
                kinds[op.output] = "affine"
            case "relu":
                kinds[op.output] = "relu"
            case "relu6":
                kinds[op.output] = "relu6"
            case "hsigmoid":
                kinds[op.output] = "hsigmoid"
            case "swish" | "hswish":
                kinds[before(op.output)] = "affine"
                kinds[op.output] = "affine"
            case _:
                raise ValueError(f"{op.output} has an unknown activation {activation!r}")
    return kinds


def image_grid(mean: npt.ArrayLike, std: npt.ArrayLike) -> Grid:
    """The grid of a picture normalised as (pixel / 255 − mean) / std.

    Exact, one level per pixel value, where mean and std are the same for all channels and 255 · mean is whole;
    else the smallest grid that covers all channels.
    """
    low = float(np.min((0.0 - np.asarray(mean)) / np.asarray(std)))
    high = float(np.max((1.0 - np.asarray(mean)) / np.asarray(std)))
    scale = (high - low) / LEVELS
    return Grid(scale, round(-low / scale))
