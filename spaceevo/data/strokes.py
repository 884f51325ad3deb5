"""Where the digits of the embedded dataset come from: a fixed number of scans, or a pen that never writes one twice.

Both give pictures of ink, float64 [B, S, S] from 0 to 16, whose bytes are a pure function of the random words.

The scans are the 1,797 of scikit-learn's `load_digits`, 8x8 pixels. They are handwriting, but few: how well a network
reads a split hangs on which it holds. The pen has a few ways of writing each digit, as points that its strokes bend
towards, and moves every point a little, each time anew, so that a split is as rich as it is large.
"""

from __future__ import annotations

import itertools
from typing import Protocol

import numpy as np
from sklearn.datasets import load_digits

from spaceevo.data.randoms import Floats, Integers, below, between, uniform

CLASSES = tuple(str(digit) for digit in range(10))
FULL_INK = 16.0


class Digits(Protocol):
    """A source of pictures of digits."""

    def write(self, labels: Integers, words: np.random.PCG64) -> Floats:
        """A digit of each class of `labels` [B], as ink [B, S, S]."""
        ...

    def write_any(self, count: int, words: np.random.PCG64) -> Floats:
        """As many digits of whatever class, as ink [B, S, S]."""
        ...


class Scans:
    """Some of scikit-learn's handwritten digits.

    Args:
        pool: indices of those to draw from, [N].
    """

    def __init__(self, pool: Integers) -> None:
        digits = load_digits()
        self._ink: Floats = digits.images[pool]
        classes = digits.target[pool].astype(np.int64)
        self._by_class = np.argsort(classes, kind="stable")
        self._sorted = classes[self._by_class]

    def write(self, labels: Integers, words: np.random.PCG64) -> Floats:
        first = np.searchsorted(self._sorted, labels)
        members = np.searchsorted(self._sorted, labels, side="right") - first
        ink: Floats = self._ink[self._by_class[first + below(words, members, len(labels))]]
        return ink

    def write_any(self, count: int, words: np.random.PCG64) -> Floats:
        ink: Floats = self._ink[below(words, len(self._ink), count)]
        return ink


# Each line is a way of writing a digit: strokes by the points, (x, y) in tenths of the side, which they start at, bend
# towards and end at. Strokes meet where they name the same point.
_WAYS = """
0: 5,1 2,1 2,9 8,9 8,1 5,1
0: 5,1 2,1 2,9 8,9 8,1 5,1 | 7,2.5 3,7.5
1: 5,1 5,9
1: 3,3.5 5.5,1 | 5.5,1 5.5,9
1: 3,3 5.5,1 | 5.5,1 5.5,9 | 3,9 8,9
2: 2,3.2 2.5,0.6 8,0.6 8.2,4 2,9 | 2,9 8.2,9
2: 2,3 3,0.6 8,0.8 8,4.5 1.5,10 1.5,6.6 5,8.8 8.4,9
3: 2,2 3.5,0.4 8,0.8 8,4.6 4.4,4.7 | 4.4,4.7 8.6,4.8 8.4,9.4 3.6,9.6 2,8
3: 2,1 8,1 | 8,1 4.4,4.4 | 4.4,4.4 8.8,4.4 8.6,9.4 3.6,9.6 2,8
4: 3,1 2,6 | 2,6 8.5,6 | 6.6,2.5 6.4,9.2
4: 6,1 1.8,6.2 | 1.8,6.2 8.6,6.2 | 6,1 6,9.2
5: 3,1 8,1 | 3,1 2.6,4.6 | 2.6,4.6 5,3.2 8.8,4 8.4,9.2 4,9.8 2,8.2
5: 8,1.2 3,0.8 1.6,4.4 8.8,3.6 8.6,9.4 4,9.8 2,8.2
6: 7.4,1.2 4,1 1.6,5 2,9.4 8.2,9.4 8.2,4.8 3.5,4.6 2.4,7
6: 6.4,1 2,5.6 1.8,9.4 8.4,9.4 8,5 3,5 2.4,7.2
7: 2,1 8,1 | 8,1 5,5 4.2,9
7: 2,1 8,1 | 8,1 5,5 4.2,9 | 3.4,5 7.6,5
8: 7.4,2.4 6.5,0.6 2,0.6 2,4 8.6,5.6 8,9.4 2,9.4 1.4,5.8 8,4.2 7.4,2.4
8: 5,1 2.4,1 2.4,4.9 7.6,4.9 7.6,1 5,1 | 5,4.9 1.7,4.9 1.7,9.2 8.3,9.2 8.3,4.9 5,4.9
9: 7.5,3 7,0.8 1.8,0.6 1.8,5.6 7,5.6 7.5,3 | 7.5,3 7,9.2
9: 7.5,3 7,0.8 1.8,0.6 1.8,5.6 7,5.6 7.5,3 | 7.5,3 8,8.4 6,9.8 2.8,8.8
"""


class Pen:
    """Writes digits, none twice.

    Args:
        shake: how far each point of a stroke is off at most, along either axis; share of the picture's side.
    """

    _SIDE = 16  # of a picture of ink
    _PIECES = 5  # straight ones that a bend is drawn as
    _NARROWEST = 0.65  # width of a digit, of what it is drawn up as
    _SLANT = 0.25  # largest, either way: tangent of the angle
    _RADIUS = (0.05, 0.085)  # of the pen, share of the side
    _EDGE = 0.06  # over which ink thins out, share of the side

    def __init__(self, shake: float) -> None:
        self._shake = shake
        labels, points, bends = zip(*(_way(line) for line in _WAYS.split("\n") if line), strict=True)
        self._first = np.searchsorted(labels, np.arange(len(CLASSES)))
        self._ways = np.bincount(labels)
        # Padded with points that nothing bends towards, and with bends that are drawn already.
        self._points = np.stack([np.resize(each, (max(map(len, points)), 2)) for each in points])
        self._bends = np.stack([np.resize(each, (max(map(len, bends)), 3, 2)) for each in bends])

    def write(self, labels: Integers, words: np.random.PCG64) -> Floats:
        count = len(labels)
        way = self._first[labels] + below(words, self._ways[labels], count)
        points = self._points[way]
        points = points + between(uniform(words, *points.shape), -self._shake, self._shake)
        width = between(uniform(words, count), self._NARROWEST, 1.0)[:, None]
        slant = between(uniform(words, count), -self._SLANT, self._SLANT)[:, None]
        radius = between(uniform(words, count), *self._RADIUS)[:, None, None]
        across, down = points[..., 0] - 0.5, points[..., 1] - 0.5
        points = np.stack((across * width - down * slant, down), -1)
        distance = _distance(_curves(points, self._bends[way], self._PIECES), self._SIDE)
        ink: Floats = FULL_INK * np.clip((radius - distance) / self._EDGE + 0.5, 0.0, 1.0)
        return ink

    def write_any(self, count: int, words: np.random.PCG64) -> Floats:
        return self.write(below(words, len(CLASSES), count), words)


def _way(line: str) -> tuple[int, Floats, Integers]:
    """The digit that a line of `_WAYS` writes, its points as shares of the side [P, 2], and its bends [N, 3, 2].

    A bend is a quadratic Bézier curve whose three points are each the middle of two of the way's. All but the ends of a
    stroke lie in the middle of two points that it bends towards, which makes it smooth.
    """
    label, drawn = line.split(": ")
    strokes = [stroke.split() for stroke in drawn.split(" | ")]
    points = list(dict.fromkeys(point for stroke in strokes for point in stroke))
    bends = []
    for stroke in strokes:
        at = [points.index(point) for point in stroke]
        if len(at) == 2:
            at.insert(1, at[0])  # a straight line
        ends = [(at[0], at[0]), *itertools.pairwise(at[1:-1]), (at[-1], at[-1])]
        bends += [[start, (here, here), end] for start, here, end in zip(ends[:-1], at[1:-1], ends[1:], strict=True)]
    shares = np.array([[float(value) / 10 for value in point.split(",")] for point in points])
    return int(label), shares, np.array(bends)


def _curves(points: Floats, bends: Integers, pieces: int) -> Floats:
    """Points of the curves, [B, N, pieces + 1, 2], that `bends` [B, N, 3, 2] make of `points` [B, P, 2]."""
    index = np.arange(len(points))[:, None, None]
    start, towards, end = (
        ((points[index, bends[:, :, at]][:, :, 0] + points[index, bends[:, :, at]][:, :, 1]) / 2)[:, :, None]
        for at in range(3)
    )
    way = (np.arange(pieces + 1) / pieces)[:, None]
    curves: Floats = start * ((1 - way) * (1 - way)) + towards * (2 * way * (1 - way)) + end * (way * way)
    return curves


def _distance(curves: Floats, side: int) -> Floats:
    """From each pixel of a picture to the nearest of `curves` [B, N, T, 2], as shares of its side, [B, side, side].

    The picture's centre is (0, 0).
    """
    pixels = (np.arange(side) + 0.5) / side - 0.5
    nearest = np.full((len(curves), side, side), np.inf)
    for start, end in zip(
        curves[:, :, :-1].reshape(len(curves), -1, 2).swapaxes(0, 1),
        curves[:, :, 1:].reshape(len(curves), -1, 2).swapaxes(0, 1),
        strict=True,
    ):
        (x, y), (along_x, along_y) = start.T[..., None], (end - start).T[..., None]
        length = along_x * along_x + along_y * along_y
        across, down = pixels - x, pixels - y
        foot = (across * along_x)[:, None, :] + (down * along_y)[:, :, None]
        foot = np.clip(foot / np.maximum(length, 1e-12)[..., None], 0.0, 1.0)
        off_x = across[:, None, :] - foot * along_x[..., None]
        off_y = down[:, :, None] - foot * along_y[..., None]
        np.minimum(nearest, off_x * off_x + off_y * off_y, out=nearest)
    distance: Floats = np.sqrt(nearest)
    return distance
