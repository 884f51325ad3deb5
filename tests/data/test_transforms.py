import numpy as np
import pytest
import torch
from PIL import Image

from spaceevo.config import Augment
from spaceevo.data import clutter
from spaceevo.data.transforms import (
    DRAWS_PER_IMAGE,
    augment_batch,
    centre_box,
    crop_resized,
    normalise,
    random_box,
    resize,
)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (6, 3, 12, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture
def draws() -> np.ndarray:
    return np.random.default_rng(0).random((6, DRAWS_PER_IMAGE))


def test_normalised_clutter_lies_exactly_on_the_8_bit_grid() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    x = normalise(pixels, clutter.MEAN, clutter.STD)
    assert x.dtype == torch.float32
    scale, zero_point = 1 / 64, 128
    assert torch.equal(x / scale + zero_point, pixels.float())
    assert x.min() == -2 and x.max() == 127 / 64


def test_normalise_is_per_channel() -> None:
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    images = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    expected = (torch.tensor([0.2, 0.2, 0.2]) - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(normalise(images, mean, std)[0, :, 0, 0], expected)


def test_resize_to_the_same_size_is_the_tensor_itself(images: torch.Tensor) -> None:
    x = images.float()
    assert resize(x, 12) is x
    assert resize(x, 7).shape == (6, 3, 7, 7)


def test_resize_keeps_a_constant_constant() -> None:
    torch.testing.assert_close(resize(torch.full((1, 3, 10, 10), 0.7), 13), torch.full((1, 3, 13, 13), 0.7))


def test_no_augmentation_leaves_the_images(images: torch.Tensor, draws: np.ndarray) -> None:
    assert torch.equal(augment_batch(images, Augment(), draws), images)


def test_flip_mirrors_the_images_drawn_and_only_those(images: torch.Tensor, draws: np.ndarray) -> None:
    flipped = augment_batch(images, Augment(horizontal_flip=True), draws)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert any(mirrored) and any(kept)


def test_shift_moves_by_whole_pixels_and_repeats_the_border(images: torch.Tensor, draws: np.ndarray) -> None:
    moved = augment_batch(images, Augment(shift=2), draws)
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    for index, image in enumerate(moved):
        windows = {(r, c): padded[index, :, r : r + 12, c : c + 12] for r in range(5) for c in range(5)}
        assert sum(torch.equal(image, window) for window in windows.values()) == 1
    assert not torch.equal(moved, images)


def test_jitter_keeps_type_and_changes_pixels(images: torch.Tensor, draws: np.ndarray) -> None:
    jittered = augment_batch(images, Augment(colour_jitter=0.4), draws)
    assert jittered.dtype == torch.uint8 and jittered.shape == images.shape
    assert not torch.equal(jittered, images)


def test_jitter_in_the_middle_of_its_range_is_identity(images: torch.Tensor) -> None:
    middle = np.full((6, DRAWS_PER_IMAGE), 0.5)
    assert torch.equal(augment_batch(images, Augment(colour_jitter=0.4), middle), images)


@pytest.mark.parametrize(("width", "height"), [(40, 30), (7, 90), (300, 10)])
@pytest.mark.parametrize("crop_scale", [(0.08, 1.0), (1.0, 1.0)])
def test_random_box_lies_within_the_picture(width: int, height: int, crop_scale: tuple[float, float]) -> None:
    for draw in np.random.default_rng(1).random((200, DRAWS_PER_IMAGE)):
        left, top, right, bottom = random_box(width, height, crop_scale, draw)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert (right - left) * (bottom - top) <= width * height * crop_scale[1] * (1 + 1e-9)


def test_centre_box_is_the_centre_square() -> None:
    assert centre_box(100, 64) == (22.0, 4.0, 78.0, 60.0)


def test_crop_resized_reads_the_box() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    inside = crop_resized(Image.fromarray(pixels), (7, 5, 17, 15), 10)
    np.testing.assert_array_equal(inside, pixels[5:15, 7:17])
    assert crop_resized(Image.fromarray(pixels), (7, 5, 17, 15), 4).shape == (4, 4, 3)
