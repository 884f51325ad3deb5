import numpy as np
import pytest
from sklearn.datasets import load_digits

from spaceevo.data.strokes import _WAYS, CLASSES, FULL_INK, Pen, Scans, _curves, _distance, _way

LINES = [line for line in _WAYS.split("\n") if line]


def test_scans_are_those_of_the_pool_and_of_the_classes_asked_for() -> None:
    digits = load_digits()
    pool = np.arange(0, 1797, 7)
    labels = np.arange(40) % 10
    written = Scans(pool).write(labels, np.random.PCG64(0))
    assert written.shape == (40, 8, 8)
    known = {digits.images[index].tobytes(): digits.target[index] for index in pool}
    assert [known[ink.tobytes()] for ink in written] == labels.tolist()
    assert {ink.tobytes() for ink in Scans(pool).write_any(300, np.random.PCG64(0))} <= set(known)


def test_pen_writes_each_digit_in_all_its_ways_and_no_other() -> None:
    """With a hand that does not shake, strokes are those of the ways of its class, narrower, slanted and thicker."""
    pen = Pen(shake=0.0)
    labels = np.arange(600) % 10
    written = pen.write(labels, np.random.PCG64(1)).reshape(600, -1)
    assert written.min() == 0
    assert written.max() == FULL_INK
    upright = np.stack([_distance(_curves(points[None], bends[None], 5), 16)[0] for points, bends in _centred()])
    template = np.clip((0.07 - upright) / 0.06 + 0.5, 0, 1).reshape(len(LINES), -1)
    template /= np.linalg.norm(template, axis=1, keepdims=True)
    nearest = (written @ template.T).argmax(1)
    classes = np.array([int(line[0]) for line in LINES])
    assert (classes[nearest] == labels).mean() > 0.9
    for digit in range(len(CLASSES)):
        assert set(nearest[labels == digit]) >= set(np.flatnonzero(classes == digit))


def _centred() -> list[tuple[np.ndarray, np.ndarray]]:
    ways = [_way(line) for line in LINES]
    return [((points - 0.5) * np.array([0.825, 1.0]), bends) for _, points, bends in ways]


def test_a_hand_that_shakes_more_strays_further() -> None:
    labels = np.arange(200) % 10
    still, little, much = (Pen(shake).write(labels, np.random.PCG64(2)) for shake in (0.0, 0.03, 0.1))
    assert 0 < np.abs(little - still).mean() < np.abs(much - still).mean() / 2


def test_none_is_written_twice() -> None:
    written = Pen(shake=0.1).write(np.zeros(500, dtype=np.int64), np.random.PCG64(3))
    assert len({ink.tobytes() for ink in written}) == 500


def test_any_digits_are_of_all_classes() -> None:
    pen = Pen(shake=0.0)
    chosen, words = np.random.PCG64(4), np.random.PCG64(4)
    written = pen.write_any(100, chosen)
    labels = np.floor(words.random_raw(100) / 2**64 * 10).astype(np.int64)
    np.testing.assert_array_equal(written, pen.write(labels, words))
    assert set(labels) == set(range(10))


@pytest.mark.parametrize("line", LINES)
def test_strokes_are_smooth_from_the_first_point_to_the_last(line: str) -> None:
    _, points, bends = _way(line)
    curves = _curves(points[None], bends[None], 8)[0]
    strokes = [stroke.split() for stroke in line.split(": ")[1].split(" | ")]
    at = 0
    for stroke in strokes:
        ends = [np.array([float(value) / 10 for value in stroke[end].split(",")]) for end in (0, -1)]
        own = curves[at : at + max(len(stroke) - 2, 1)]
        np.testing.assert_allclose(own[0, 0], ends[0])
        np.testing.assert_allclose(own[-1, -1], ends[1])
        np.testing.assert_allclose(own[1:, 0], own[:-1, -1])
        before, after = own[:-1, -1] - own[:-1, -2], own[1:, 1] - own[1:, 0]
        cosine = (before * after).sum(-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(after, axis=-1)
        assert (cosine > 0.5).all()
        at += len(own)
    assert at == len(curves)


def test_distance_to_a_line_is_that_of_geometry() -> None:
    line = np.array([[-0.25, 0.0], [0.25, 0.0]])[None, None]
    distance = _distance(line, 8)[0]
    centre = (np.arange(8) + 0.5) / 8 - 0.5
    beyond = np.maximum(np.abs(centre) - 0.25, 0.0)
    np.testing.assert_allclose(distance, np.hypot(beyond[None, :], centre[:, None]), rtol=1e-12)
