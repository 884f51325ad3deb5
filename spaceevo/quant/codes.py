"""Tensors on a grid of at most 256 levels as a byte per value, on CPUs."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spaceevo.loops import compiled, spread
from spaceevo.quant.fake_quantize import flat
from spaceevo.quant.loops import LEAST, Floats

Codes = NDArray[np.uint8]

_WASTE = 1.5  # times as much memory as is asked for is taken at most


@dataclass(frozen=True)
class Coded:
    """Values scale · (low + code), uint8 codes in the order of a dense tensor's memory."""

    codes: Codes
    scale: float
    low: float

    def tensor(self, shape: Sequence[int], strides: Sequence[int]) -> Tensor:
        """The float32 tensor of this shape and dense layout."""
        y = torch.empty_strided(shape, strides)
        values = flat(y)
        spread(lambda *part: _decode(self.codes, self.scale, self.low, values, *part), len(values), LEAST)
        return y


def encode(y: Tensor, scale: float, low: float) -> Coded:
    """`y`, dense, whose values are scale · (low + i), i from 0 to at most 255; they come back to the last bit."""
    values = flat(y)
    codes = new_codes(len(values))
    spread(lambda *part: _encode(values, 1 / scale, low, codes, *part), len(values), LEAST)
    return Coded(codes, scale, low)


class _Pages:
    """Memory for codes, apart from that of tensors, among which small pieces that live long would leave gaps.

    What is given back is used again: new pages cost a fault each.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._taking = Lock()

    def take(self, count: int) -> Codes:
        """uint8 [count], whose memory comes back when nothing refers to it any more."""
        with self._taking:
            fitting = [pages for pages in self._free if count <= len(pages) <= _WASTE * count]
            if fitting:
                pages = min(fitting, key=len)
                self._free.remove(pages)
            else:
                if self._free:  # of another size: as many are kept as were once in use together
                    self._free.pop(0)
                pages = mmap.mmap(-1, count)
        codes = np.frombuffer(pages, np.uint8, count)
        finalize(codes, self._free.append, pages).atexit = False
        return codes


_PAGES = _Pages()


def new_codes(count: int) -> Codes:
    """uint8 [count], with any content."""
    return _PAGES.take(count)


@compiled("void(f4[::1], f4, f4, u1[::1], i8, i8)")
def _encode(y: Floats, inverse: Any, low: Any, codes: Codes, start: int, stop: int) -> None:
    for i in range(start, stop):
        codes[i] = np.uint8(np.int32(np.rint(y[i] * inverse) - low))


@compiled("void(u1[::1], f4, f4, f4[::1], i8, i8)")
def _decode(codes: Codes, scale: Any, low: Any, y: Floats, start: int, stop: int) -> None:
    for i in range(start, stop):
        y[i] = (np.float32(codes[i]) + low) * scale
