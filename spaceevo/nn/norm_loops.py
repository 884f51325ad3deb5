"""Loops of `norm` over pictures on CPUs, channels last.

Values lie in memory pixel by pixel, and are gone through in rows of a few pixels: arrays of a row's length hold what
belongs to each value's channel, repeated for every pixel. The last row may be shorter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaceevo.loops import compiled
from spaceevo.quant.codes import Codes
from spaceevo.quant.loops import Floats

Doubles = NDArray[np.float64]

_SUMMED = 64  # rows whose sums are kept in float32


@compiled("void(f4[::1], f4[::1], f8[:,::1], i8, i8)", reorder=True)
def add_moments(x: Floats, shift: Floats, sums: Doubles, start: int, stop: int) -> None:
    """Add x − shift and its square to `sums` [2, row]."""
    length = len(shift)
    first, second = np.zeros(length, np.float32), np.zeros(length, np.float32)
    for row in range(start, stop):
        values = x[row * length : (row + 1) * length]
        for i in range(len(values)):
            first[i] += values[i] - shift[i]
        for i in range(len(values)):
            second[i] += (values[i] - shift[i]) * (values[i] - shift[i])
        if (row - start) % _SUMMED == _SUMMED - 1 or row == stop - 1:
            sums[0] += first
            sums[1] += second
            first[:] = 0
            second[:] = 0


@compiled("void(f4[::1], f4[:,::1], f4, f4, f4[::1], i8, i8)", reorder=True)
def clip_rows(x: Floats, rows: Floats, low: Any, high: Any, y: Floats, start: int, stop: int) -> None:
    """Write gain · x + offset, in low … high, to `y`; `rows` has gain and offset first."""
    gain, offset = rows[0], rows[1]
    length = len(gain)
    for row in range(start, stop):
        values, out = x[row * length : (row + 1) * length], y[row * length : (row + 1) * length]
        for i in range(len(values)):
            value = gain[i] * values[i] + offset[i]
            if value < low:  # written so that what is not a number stays so
                value = low
            if value > high:
                value = high
            out[i] = value


@compiled("void(f4[::1], f4[:,::1], f4, f4, f4, f4[::1], u1[::1], i8, i8)", reorder=True)
def round_rows(
    x: Floats, rows: Floats, scale: Any, low: Any, high: Any, y: Floats, codes: Codes, start: int, stop: int
) -> None:
    """Write gain · x + offset, rounded and in low … high, to `codes` as steps from low, and times `scale` to `y`."""
    gain, offset = rows[0], rows[1]
    length = len(gain)
    for row in range(start, stop):
        here = slice(row * length, (row + 1) * length)
        values, out, kept = x[here], y[here], codes[here]
        for i in range(len(values)):
            level = np.rint(gain[i] * values[i] + offset[i])
            if level < low:
                level = low
            if level > high:
                level = high
            out[i] = level * scale
            kept[i] = np.uint8(np.int32(level - low))


@compiled("void(f4[::1], f4[::1], f4[:,::1], f4, f4, f4, f4, f8[:,::1], f8[::1], i8, i8)", reorder=True)
def add_gradients(
    x: Floats,
    grad: Floats,
    rows: Floats,
    low: Any,
    high: Any,
    above: Any,
    most: Any,
    of_channels: Doubles,
    of_grid: Doubles,
    start: int,
    stop: int,
) -> None:
    """Add the gradient that passes, and that times x − mean, to `of_channels` [2, row], those of the grid to `of_grid`.

    It passes where `above` < gain · x + offset ≤ `most`; `rows` is gain, offset and mean. The grid's are those of its
    scale and its zero point [2], both over the scale's part in them.
    """
    gain, offset, mean = rows[0], rows[1], rows[2]
    length = len(gain)
    passed, first, second = np.zeros(length, np.float32), np.zeros(length, np.float32), np.zeros(length, np.float32)
    for row in range(start, stop):
        here = slice(row * length, (row + 1) * length)
        values, upstream = x[here], grad[here]
        products, missed = np.float32(0), np.float32(0)
        for i in range(len(values)):
            exact, g = gain[i] * values[i] + offset[i], upstream[i]
            level = np.rint(exact)
            if level < low:
                level = low
            if level > high:
                level = high
            p = g if (exact > above) & (exact <= most) else np.float32(0)
            passed[i] = p
            products += g * level - p * exact
            missed += p - g
        of_grid[0] += products
        of_grid[1] += missed
        for i in range(len(values)):
            first[i] += passed[i]
        for i in range(len(values)):
            second[i] += passed[i] * (values[i] - mean[i])
        if (row - start) % _SUMMED == _SUMMED - 1 or row == stop - 1:
            of_channels[0] += first
            of_channels[1] += second
            first[:] = 0
            second[:] = 0


@compiled("void(f4[::1], f4[::1], f4[:,::1], f4, f4, f4[:,::1], f4[::1], i8, i8)", reorder=True)
def gradient_rows(
    x: Floats, grad: Floats, rows: Floats, above: Any, most: Any, factors: Floats, out: Floats, start: int, stop: int
) -> None:
    """Write the gradient of x to `out`: what passes, x − mean and 1, times `factors` [3, row]."""
    gain, offset, mean = rows[0], rows[1], rows[2]
    by_passed, by_centred, constant = factors[0], factors[1], factors[2]
    length = len(gain)
    passed = np.zeros(length, np.float32)
    for row in range(start, stop):
        here = slice(row * length, (row + 1) * length)
        values, upstream, grad_x = x[here], grad[here], out[here]
        for i in range(len(values)):
            exact = gain[i] * values[i] + offset[i]
            passed[i] = upstream[i] if (exact > above) & (exact <= most) else np.float32(0)
        for i in range(len(values)):
            grad_x[i] = by_passed[i] * passed[i] + by_centred[i] * (values[i] - mean[i]) + constant[i]
