"""The embedded dataset: a handwritten digit on a larger canvas, among fragments of others, or to the left of others.

The digits are scans or drawn (`spaceevo.data.strokes`), so nothing is downloaded. Each split has digits of its own. The
bytes of an image are a pure function of the seed and the options: random words come straight from PCG64, and all
arithmetic is addition, multiplication, division and square root of float64, which IEEE 754 defines to the last bit, or
of integers.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from spaceevo.config import ClutterOptions
from spaceevo.data.randoms import Floats, Integers, below, between, uniform
from spaceevo.data.stratify import stratified_parts
from spaceevo.data.strokes import CLASSES, FULL_INK, Digits, Pen, Scans

SPLITS = ("train", "val", "test")

# One scale and zero point for all channels, so that a pixel p becomes x = (p - 128) / 64: the 8-bit grid of scale 1/64
# and zero point 128 holds every input exactly.
MEAN = (128 / 255,) * 3
STD = (64 / 255,) * 3

_FRAGMENT = 5 / 8  # of a digit's side: a piece of a stroke, never a whole digit
_VAL_FRACTION = _TEST_FRACTION = 0.15
_CHUNK = 250  # images made at once, each chunk from its own random stream: small enough to stay in cache


def source_digits(seed: int) -> dict[str, Integers]:
    """Which of the 1,797 digits each split draws from: disjoint, stratified, 70/15/15 %."""
    labels = load_digits().target
    return dict(zip(SPLITS, stratified_parts(labels, (_VAL_FRACTION, _TEST_FRACTION), seed), strict=True))


def make_split(split: str, options: ClutterOptions, seed: int) -> tuple[npt.NDArray[np.uint8], Integers]:
    """The images, uint8 [N, H, W, 3], and labels, int64 [N], of a split ("train", "val" or "test").

    The classes take turns, so any run of ten images holds each once.
    """
    digits = Pen(options.shake) if options.strokes == "drawn" else Scans(source_digits(seed)[split])
    size = getattr(options, f"{split}_images")
    images = np.empty((size, options.image_size, options.image_size, 3), dtype=np.uint8)
    labels = np.arange(size, dtype=np.int64) % len(CLASSES)
    for chunk, start in enumerate(range(0, size, _CHUNK)):
        words = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), chunk)))
        chosen = slice(start, start + _CHUNK)
        images[chosen] = _draw_chunk(digits, labels[chosen], options, words)
    return images, labels


def _draw_chunk(
    digits: Digits, labels: Integers, options: ClutterOptions, words: np.random.PCG64
) -> npt.NDArray[np.uint8]:
    """Images, uint8 [B, H, W, 3], of the classes `labels` [B]."""
    count, side = len(labels), options.image_size
    light = uniform(words, count) < 0.5  # light strokes on a dark ground, or the reverse
    canvas = _ground(words, count, side, light)
    for _ in range(options.fragments):
        _draw_fragments(canvas, digits, options, words, light)
    for place in reversed(range(options.digits)):
        strokes = digits.write_any(count, words) if place else digits.write(labels, words)
        _draw_digits(canvas, strokes, place, options, words, light)
    if options.noise:
        canvas += _triangular_noise(words, canvas.shape, options.noise)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _draw_digits(
    canvas: npt.NDArray[np.int32],
    strokes: Floats,
    place: int,
    options: ClutterOptions,
    words: np.random.PCG64,
    light: npt.NDArray[np.bool_],
) -> None:
    """Draw one whole digit, `strokes` [B, S, S], on each canvas, inside its place among those side by side."""
    count, side = canvas.shape[0], options.image_size
    place_width = side / options.digits
    frame = side * between(uniform(words, count), options.min_scale, options.max_scale)
    # Rounded because the last bit of a tangent is the C library's choice.
    limit = round(math.tan(math.radians(options.max_rotation_deg) / 2), 9)
    rotation = _rotation(between(uniform(words, count), -limit, limit))
    room = np.stack((side - frame, place_width - frame))  # down and across
    centre = frame / 2 + uniform(words, 2, count) * room
    centre[1] += place * place_width
    reach = math.ceil(side * options.max_scale * math.sqrt(2)) + 2
    _paint(canvas, strokes, centre, frame / strokes.shape[1], rotation, reach, _stroke_colours(words, light))


def _draw_fragments(
    canvas: npt.NDArray[np.int32],
    digits: Digits,
    options: ClutterOptions,
    words: np.random.PCG64,
    light: npt.NDArray[np.bool_],
) -> None:
    """Draw a piece of any digit on each canvas, anywhere, turned in any direction."""
    count, side = canvas.shape[0], options.image_size
    strokes = digits.write_any(count, words)
    source_side = strokes.shape[1]
    piece_side = round(source_side * _FRAGMENT)
    corner = below(words, source_side - piece_side + 1, 2, count)
    rows, columns = corner[:, :, None] + np.arange(piece_side)
    pieces = strokes[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    scale = side / source_side * between(uniform(words, count), options.min_scale, options.max_scale)
    # Up to 45 degrees either way, then a number of quarter turns: every direction without trigonometry.
    rotation = _rotation(between(uniform(words, count), 1 - math.sqrt(2), math.sqrt(2) - 1))
    quarter = below(words, 4, count)
    rotation = np.where(quarter % 2 == 0, rotation, np.stack((-rotation[1], rotation[0])))
    rotation = np.where(quarter < 2, rotation, -rotation)
    centre = uniform(words, 2, count) * side
    reach = math.ceil(side * options.max_scale * math.sqrt(2) * _FRAGMENT) + 2
    _paint(canvas, pieces, centre, scale, rotation, reach, _stroke_colours(words, light))


def _paint(
    canvas: npt.NDArray[np.int32],
    strokes: Floats,
    centre: Floats,
    scale: Floats,
    rotation: Floats,
    reach: int,
    colours: npt.NDArray[np.int32],
) -> None:
    """Blend one scaled and rotated stroke picture into each canvas.

    Args:
        canvas: int32 [B, H, W, 3], changed in place.
        strokes: ink of each source picture, [B, S, S], 0 to 16.
        centre: where its centre goes on the canvas, (row, column) in pixels, [2, B].
        scale: canvas pixels per source pixel, [B].
        rotation: cosine and sine of the angle, [2, B].
        reach: side of the window of the canvas that is touched, in pixels.
        colours: int32 [B, 3].
    """
    count, side = canvas.shape[:2]
    corner = np.floor(centre - reach / 2).astype(np.int64)
    offsets = np.arange(reach)
    row = (corner[0][:, None] + offsets + 0.5 - centre[0][:, None])[:, :, None]
    column = (corner[1][:, None] + offsets + 0.5 - centre[1][:, None])[:, None, :]
    cosine, sine = (rotation / scale)[:, :, None, None]
    alpha = _ink(strokes, cosine * row + sine * column, cosine * column - sine * row)
    for index in range(count):
        top, left = (int(value) for value in corner[:, index])
        rows = slice(max(top, 0), min(top + reach, side))
        columns = slice(max(left, 0), min(left + reach, side))
        window = canvas[index, rows, columns]
        opacity = alpha[index, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left, None]
        window += ((colours[index] - window) * opacity) >> 8


def _ink(strokes: Floats, row: Floats, column: Floats) -> npt.NDArray[np.int32]:
    """Opacity, 0 to 256, of the pictures `strokes` [B, S, S] at points [B, P, P] relative to their centres.

    Bilinear, no ink outside the picture, and then a steep ramp: it gives the upsampled strokes an edge.
    """
    count, side = strokes.shape[:2]
    padded = np.zeros((count, side + 3, side + 3))
    padded[:, 1 : side + 1, 1 : side + 1] = strokes
    row = np.clip(row + (side + 1) / 2, 0.0, side + 1.0)
    column = np.clip(column + (side + 1) / 2, 0.0, side + 1.0)
    top, left = row.astype(np.int64), column.astype(np.int64)
    down, right = row - top, column - left
    flat = padded.reshape(-1)
    corner = np.arange(count)[:, None, None] * (side + 3) ** 2 + top * (side + 3) + left
    upper = flat[corner] * (1 - right) + flat[corner + 1] * right
    lower = flat[corner + side + 3] * (1 - right) + flat[corner + side + 4] * right
    ink = (upper * (1 - down) + lower * down) / FULL_INK
    ramp: npt.NDArray[np.int32] = np.rint(np.clip((ink - 0.2) / 0.4, 0.0, 1.0) * 256).astype(np.int32)
    return ramp


def _ground(words: np.random.PCG64, count: int, side: int, light: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Backgrounds, int32 [B, side, side, 3]: a soft gradient between two colours, dark where strokes are light."""
    start, end = (_tint(words, count, low=20.0, high=95.0) for _ in range(2))
    direction = between(uniform(words, 2, count), -0.5, 0.5)
    position = (np.arange(side) + 0.5) / side - 0.5
    mix = 0.5 + direction[0][:, None, None] * position[:, None] + direction[1][:, None, None] * position
    colour = start[:, None, None, :] + (end - start)[:, None, None, :] * mix[..., None]
    return _toned(colour, light[:, None, None, None])


def _stroke_colours(words: np.random.PCG64, light: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """One colour of ink per image, int32 [B, 3], light or dark."""
    colour = _tint(words, len(light), low=150.0, high=255.0)
    return _toned(colour, light[:, None])


def _toned(colour: Floats, light: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """The colours as they are where strokes are light, and their negatives elsewhere."""
    toned: npt.NDArray[np.int32] = np.rint(np.where(light, colour, 255.0 - colour)).astype(np.int32)
    return toned


def _tint(words: np.random.PCG64, count: int, low: float, high: float) -> Floats:
    """Random hues [count, 3] whose channels lie between `low` and `high` (the hue circle of HSV)."""
    hue = uniform(words, count)[:, None] * 6
    distance = np.abs((hue - np.array([0.0, 2.0, 4.0]) + 3) % 6 - 3)
    tint: Floats = low + (high - low) * np.clip(2 - distance, 0.0, 1.0)
    return tint


def _triangular_noise(words: np.random.PCG64, shape: tuple[int, ...], amplitude: int) -> npt.NDArray[np.int32]:
    """Integers in [-amplitude, amplitude], the sum of two random bytes each."""
    size = math.prod(shape)
    octets = words.random_raw(math.ceil(size / 4)).astype("<u8").view(np.uint8)[: 2 * size].astype(np.int32)
    noise: npt.NDArray[np.int32] = ((octets[0::2] + octets[1::2] - 255) * amplitude // 255).reshape(shape)
    return noise


def _rotation(half_tangent: Floats) -> Floats:
    """Cosine and sine [2, ...] of the angle with this tangent of its half: exact operations only."""
    square = half_tangent * half_tangent
    return np.stack(((1 - square) / (1 + square), 2 * half_tangent / (1 + square)))
