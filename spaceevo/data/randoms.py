"""Random numbers that are the same to the last bit on every machine.

Random words come straight from PCG64, whose stream NumPy never changes (NEP 19), and all that is done to them is
addition, multiplication and division of float64, which IEEE 754 defines exactly.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def uniform(words: np.random.PCG64, *shape: int) -> Floats:
    """Float64 in [0, 1) from the upper 53 bits of random words."""
    raw: Any = words.random_raw(math.prod(shape))
    values: Floats = (raw >> np.uint64(11)).astype(np.float64).reshape(shape) / 2**53
    return values


def between(unit: Floats, low: float, high: float) -> Floats:
    """Numbers in [0, 1) as ones in [`low`, `high`)."""
    return low + (high - low) * unit


def below(words: np.random.PCG64, limit: int | Integers, *shape: int) -> Integers:
    """Integers from 0 to below `limit`, as many as `shape` says."""
    return (uniform(words, *shape) * limit).astype(np.int64)
