"""What happens to pixels between a split and a network: augmentation, normalisation, resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from spaceevo.config import Augment

Floats = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels, as Pillow takes it

# Evaluation crops the centre square of this share of the shorter side: 224 of 256, as is usual for ImageNet.
CENTRE_CROP_SHARE = 0.875

# The aspect ratios of random crops, as in torchvision's RandomResizedCrop.
_MIN_ASPECT_RATIO, _MAX_ASPECT_RATIO = 3 / 4, 4 / 3

# Uniform draws of one image, by column: every image takes all of them, so that switching one augmentation on or off
# leaves the others as they were.
_CROP, _FLIP, _SHIFT, _JITTER = slice(0, 4), 4, slice(5, 7), slice(7, 10)
DRAWS_PER_IMAGE = 10


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Float32 [B, 3, H, W]: (images / 255 - mean) / std per channel, of uint8 images [B, 3, H, W].

    Computed as (p - 255·mean) / (255·std): where both constants are integers, as for `clutter`, the result is exact.
    """
    shift = 255 * torch.tensor(mean, dtype=torch.float64, device=images.device)
    scale = 255 * torch.tensor(std, dtype=torch.float64, device=images.device)
    return (images.float() - shift.float().view(-1, 1, 1)) / scale.float().view(-1, 1, 1)


def resize(x: Tensor, resolution: int) -> Tensor:
    """Bicubic to [B, C, resolution, resolution]; `x` itself where it has that size already.

    The one resizing of network inputs, so that a resolution means the same pixels in training, search and export.
    """
    if x.shape[-2:] == (resolution, resolution):
        return x
    return F.interpolate(x, size=(resolution, resolution), mode="bicubic", align_corners=False, antialias=False)


def augment_batch(images: Tensor, augment: Augment, draws: Floats) -> Tensor:
    """Flip, shift and jitter uint8 images [B, 3, H, W] by uniform draws, float64 [B, DRAWS_PER_IMAGE] in [0, 1).

    Random crops are made earlier, where the pictures are read: see `random_box`.
    """
    if augment.horizontal_flip:
        mirrored = torch.from_numpy(draws[:, _FLIP] < 0.5).view(-1, 1, 1, 1)
        images = torch.where(mirrored, images.flip(-1), images)
    if augment.shift:
        offsets = (draws[:, _SHIFT] * (2 * augment.shift + 1)).astype(np.int64) - augment.shift
        images = _shifted(images, torch.from_numpy(offsets))
    if augment.colour_jitter:
        factors = 1 + augment.colour_jitter * (2 * draws[:, _JITTER] - 1)
        images = _jittered(images, torch.from_numpy(factors).float())
    return images


def random_box(width: int, height: int, crop_scale: tuple[float, float], draws: Floats) -> Box:
    """A random crop of a picture of this size, from the draws [DRAWS_PER_IMAGE] of one image.

    A side that would be longer than the picture's is cut to it, which stands in for RandomResizedCrop's retries.
    """
    area_draw, aspect_draw, left_draw, top_draw = (float(draw) for draw in draws[_CROP])
    area = width * height * (crop_scale[0] + (crop_scale[1] - crop_scale[0]) * area_draw)
    low, high = math.log(_MIN_ASPECT_RATIO), math.log(_MAX_ASPECT_RATIO)
    aspect_ratio = math.exp(low + (high - low) * aspect_draw)
    box_width = min(math.sqrt(area * aspect_ratio), width)
    box_height = min(math.sqrt(area / aspect_ratio), height)
    left, top = left_draw * (width - box_width), top_draw * (height - box_height)
    return left, top, min(left + box_width, width), min(top + box_height, height)


def centre_box(width: int, height: int) -> Box:
    """The centre square that evaluation looks at, of a picture of this size."""
    side = CENTRE_CROP_SHARE * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def crop_resized(picture: Image.Image, box: Box, size: int) -> npt.NDArray[np.uint8]:
    """The box of an RGB picture as uint8 [size, size, 3]: bicubic, with antialiasing when it shrinks."""
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))


def _shifted(images: Tensor, offsets: Tensor) -> Tensor:
    """Move each of [B, C, H, W] by its (row, column) offset, int64 [B, 2], repeating the border."""
    count, channels, height, width = images.shape
    rows = (torch.arange(height) + offsets[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width) + offsets[:, 1:]).clamp(0, width - 1)
    batch = torch.arange(count).view(-1, 1, 1, 1)
    channel = torch.arange(channels).view(1, -1, 1, 1)
    return images[batch, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _jittered(images: Tensor, factors: Tensor) -> Tensor:
    """Scale brightness, contrast (about the mean grey) and saturation of uint8 images by factors [B, 3], in order."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors.unbind(1))
    x = (images.float() * brightness).clamp(0, 255)
    mean_grey = _grey(x).mean((2, 3), keepdim=True)
    x = (mean_grey + (x - mean_grey) * contrast).clamp(0, 255)
    grey = _grey(x)
    return (grey + (x - grey) * saturation).clamp(0, 255).round().to(torch.uint8)


def _grey(x: Tensor) -> Tensor:
    """Luma of [B, 3, H, W] by ITU-R BT.601, [B, 1, H, W]."""
    return (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
