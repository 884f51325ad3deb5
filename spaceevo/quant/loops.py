"""Fake quantization on CPUs: one trip through memory forward and one back.

Values lie in rows of `length`, of which each has its own grid: a whole tensor of activations is one row, a weight has
one per output channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaceevo.loops import compiled, spread

Floats = NDArray[np.float32]

LEAST = 1 << 16  # values per thread: fewer are done before another thread has begun
_SUMMED = 2048  # products whose sum is kept in float32


@compiled("void(f4[::1], f4[::1], f4[::1], f4[::1], i8, f4, f4, i8, i8)")
def _round(
    x: Floats, y: Floats, scale: Floats, inverse: Floats, length: int, low: Any, high: Any, start: int, stop: int
) -> None:
    while start < stop:
        row = start // length
        end = min((row + 1) * length, stop)
        x_row, y_row = x[start:end], y[start:end]
        times, step = inverse[row], scale[row]
        for i in range(end - start):
            value = np.rint(x_row[i] * times)
            if value < low:  # written so that what is not a number stays so
                value = low
            if value > high:
                value = high
            y_row[i] = value * step
        start = end


@compiled(f"f8({'f4[::1], ' * 7}i8, f4, f4, i8, i8, f8[::1])", reorder=True)
def _back(
    x: Floats,
    grad: Floats,
    out: Floats,
    scale: Floats,
    inverse: Floats,
    below: Floats,
    highest: Floats,
    length: int,
    low: Any,
    high: Any,
    start: int,
    stop: int,
    of_scale: NDArray[np.float64],
) -> float:
    outside = 0.0
    while start < stop:
        row = start // length
        end = min((row + 1) * length, stop, start + _SUMMED)
        x_row, grad_row, out_row = x[start:end], grad[start:end], out[start:end]
        times, step, bottom, top = inverse[row], scale[row], below[row], highest[row]
        products, missed = np.float32(0), np.float32(0)
        for i in range(end - start):
            passed = grad_row[i] if (x_row[i] > bottom) & (x_row[i] <= top) else np.float32(0)
            out_row[i] = passed
            value = np.rint(x_row[i] * times)
            if value < low:
                value = low
            if value > high:
                value = high
            products += grad_row[i] * (value * step) - passed * x_row[i]
            missed += passed - grad_row[i]
        of_scale[row] += products
        outside += float(missed)
        start = end
    return outside


def round_rows(x: Floats, scale: Floats, inverse: Floats, low: float, high: float, y: Floats) -> None:
    """Write scale · clamp(round(x · inverse), low, high) to `y`.

    Args:
        x, y: [values], in as many rows as there are scales.
        scale, inverse: [rows].
    """
    length = max(len(x) // len(scale), 1)
    spread(lambda start, stop: _round(x, y, scale, inverse, length, low, high, start, stop), len(x), LEAST)


def gradients_of_rows(
    x: Floats,
    grad: Floats,
    scale: Floats,
    inverse: Floats,
    low: float,
    high: float,
    below: Floats,
    highest: Floats,
    out: Floats,
) -> tuple[NDArray[np.float64], float]:
    """Write `grad` where below < x ≤ highest, else zero, to `out`, and sum what is not passed on.

    Args:
        x, grad, out: [values]; input of `round_rows`, gradient of its output, gradient of its input.
        scale, inverse, low, high: of `round_rows`, whose output y is computed anew.
        below, highest: [rows].

    Returns:
        For each row the sum of grad · y − out · x, and the sum of out − grad over all.
    """
    length = max(len(x) // len(below), 1)

    def loop(start: int, stop: int) -> tuple[NDArray[np.float64], float]:
        of_scale = np.zeros(len(below))
        missed = _back(x, grad, out, scale, inverse, below, highest, length, low, high, start, stop, of_scale)
        return of_scale, missed

    sums = spread(loop, len(x), LEAST)
    return sum((of_scale for of_scale, _ in sums), np.zeros(len(below))), sum(outside for _, outside in sums)
