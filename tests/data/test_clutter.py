import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from spaceevo.config import ClutterOptions
from spaceevo.data.clutter import SPLITS, make_split, source_digits
from spaceevo.data.strokes import CLASSES

SCANNED_SHA256 = "80b36cd1bd52f6f81726836d0c0334ab0a61b51aa83e5519fd43d0bb74c41c6a"
DRAWN_SHA256 = "a373e7086cd7805d43ac788ea8f21140a8abd152588c9ae1bddd77cde7daa98d"
PINNED = ClutterOptions(
    image_size=48, test_images=40, fragments=3, min_scale=0.6, max_scale=0.85, max_rotation_deg=15, noise=16
)
SMALL = ClutterOptions(image_size=32, train_images=300, val_images=40, test_images=37)


def sha256(split: str, options: ClutterOptions, seed: int) -> str:
    return hashlib.sha256(make_split(split, options, seed)[0].tobytes()).hexdigest()


@pytest.mark.parametrize("split", SPLITS)
def test_same_seed_same_bytes_and_another_seed_others(split: str) -> None:
    assert sha256(split, SMALL, 3) == sha256(split, SMALL, 3)
    assert sha256(split, SMALL, 3) != sha256(split, SMALL, 4)


@pytest.mark.parametrize(("strokes", "expected"), [("scanned", SCANNED_SHA256), ("drawn", DRAWN_SHA256)])
def test_bytes_are_those_of_every_other_machine(strokes: str, expected: str) -> None:
    assert sha256("test", PINNED.model_copy(update={"strokes": strokes}), 0) == expected


def test_more_images_leave_the_first_ones_as_they_are() -> None:
    longer, _ = make_split("train", SMALL.model_copy(update={"train_images": 600}), 0)
    shorter, _ = make_split("train", SMALL.model_copy(update={"train_images": 500}), 0)
    np.testing.assert_array_equal(longer[:500], shorter)


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_share_no_source_digit(seed: int) -> None:
    pools = source_digits(seed)
    together = np.concatenate([pools[split] for split in SPLITS])
    assert len(together) == 1797
    np.testing.assert_array_equal(np.sort(together), np.arange(1797))
    assert 0.68 < len(pools["train"]) / 1797 < 0.72


@pytest.mark.parametrize("split", SPLITS)
def test_shape_and_class_balance(split: str) -> None:
    images, labels = make_split(split, SMALL, 0)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert images.shape == (len(labels), 32, 32, 3)
    assert len(labels) == getattr(SMALL, f"{split}_images")
    counts = np.bincount(labels, minlength=len(CLASSES))
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("strokes", ["scanned", "drawn"])
def test_images_differ_from_one_another(strokes: str) -> None:
    images, _ = make_split("train", SMALL.model_copy(update={"strokes": strokes}), 0)
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize("strokes", ["scanned", "drawn"])
def test_digit_alone_is_legible_by_its_own_class_mean(strokes: str) -> None:
    """Without clutter, noise, rotation or change of scale, nearest class means recognise digits never seen."""
    easiest = {"fragments": 0, "noise": 0, "max_rotation_deg": 0, "min_scale": 1, "max_scale": 1}
    plain = SMALL.model_copy(update={"strokes": strokes, "train_images": 500, "test_images": 100, **easiest})

    def inked(split: str) -> tuple[np.ndarray, np.ndarray]:
        images, labels = make_split(split, plain, 0)
        contrast = np.abs(images.astype(float) - images[:, :1, :1]).sum(-1).reshape(len(images), -1)
        return contrast / np.linalg.norm(contrast, axis=1, keepdims=True), labels

    train, train_labels = inked("train")
    test, test_labels = inked("test")
    means = np.stack([train[train_labels == label].mean(0) for label in range(10)])
    assert ((test @ means.T).argmax(1) == test_labels).mean() > 0.75


def test_of_digits_side_by_side_the_first_from_the_left_is_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """With digits of which all but the class 3 have no ink."""
    known = load_digits()
    known.images = np.where(known.target[:, None, None] == 3, 16.0, np.zeros_like(known.images))
    monkeypatch.setattr("spaceevo.data.strokes.load_digits", lambda: known)
    bare = {"digits": 2, "fragments": 0, "noise": 0, "max_rotation_deg": 0, "min_scale": 0.4, "max_scale": 0.5}
    images, labels = make_split("train", SMALL.model_copy(update=bare), 0)
    inked = np.abs(images.astype(int) - np.roll(images, 1, axis=1)).max((1, 3)) > 40  # [N, columns]
    left, right = inked[:, :16].any(1), inked[:, 16:].any(1)
    np.testing.assert_array_equal(left, labels == 3)
    assert 0.05 < right.mean() < 0.2
    assert right[labels == 3].any() and not right[labels == 3].all()


@pytest.mark.parametrize(("field", "value"), [("fragments", 0), ("noise", 0), ("max_rotation_deg", 0.0)])
def test_knobs_can_be_switched_off_and_matter(field: str, value: float) -> None:
    assert sha256("val", SMALL.model_copy(update=dict(**{field: value})), 0) != sha256("val", SMALL, 0)
