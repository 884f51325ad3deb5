"""Splits on disk: arrays as safetensors, folders of pictures as Parquet manifests, and one way to read both.

Each split file states its classes and normalisation beside the items, so the file alone defines a network's input.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from spaceevo.artifacts import Record, read_table, read_tensors, write_bytes, write_table, write_tensors
from spaceevo.data.names import ARRAY_SUFFIX, MANIFEST_SUFFIX
from spaceevo.data.transforms import Box, Floats, centre_box, crop_resized, random_box
from spaceevo.errors import DataError

_ARRAY_KIND = "split"
_MANIFEST_KIND = "manifest"

COPY_QUALITY = 95  # of JPEG
SAME_TIME_S = 1.0  # a copy has its original's time of modification, which some file systems keep in whole seconds

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SplitInfo:
    """What a split file says beside its items.

    Attributes:
        classes: class names; a label is an index of them.
        mean, std: of each channel, of pixels in [0, 1].
        root: where a manifest's pictures are; empty for arrays.
        unreadable: pictures of the whole dataset that were left out because they do not open.
        copies: folder of resized copies of the pictures under `root`; empty where there are none.
        copy_side: their shorter side, pixels.
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    root: str = ""
    unreadable: int = 0
    copies: str = ""
    copy_side: int = 0

    @staticmethod
    def from_content(content: Mapping[str, Any]) -> SplitInfo:
        """The inverse of `asdict` after a trip through JSON."""
        return SplitInfo(
            classes=tuple(content["classes"]),
            mean=tuple(content["mean"]),
            std=tuple(content["std"]),
            root=content["root"],
            unreadable=content["unreadable"],
            copies=content["copies"],
            copy_side=content["copy_side"],
        )


class Split(ABC):
    """Labelled pictures, fetched in batches.

    Attributes:
        info: classes and normalisation.
        labels: int64 [N].
        image_size: side of the stored pictures in pixels; None where pictures have sizes of their own.
    """

    def __init__(self, info: SplitInfo, labels: Labels, image_size: int | None) -> None:
        self.info = info
        self.labels = labels
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index of them."""
        return self.info.classes

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, of pixels in [0, 1]."""
        return self.info.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, of pixels in [0, 1]."""
        return self.info.std

    def digest(self) -> str:
        """SHA-256 of what the split holds: labels, classes, and pictures or their paths."""
        content = hashlib.sha256(repr(self.info).encode() + np.ascontiguousarray(self.labels).tobytes())
        content.update(self._content())
        return content.hexdigest()

    @abstractmethod
    def _content(self) -> bytes | memoryview:
        """The pictures, or where they are."""

    @abstractmethod
    def fetch(
        self,
        indices: npt.ArrayLike,
        resolution: int,
        crop_scale: tuple[float, float] | None = None,
        draws: Floats | None = None,
    ) -> Tensor:
        """Pictures as uint8 [B, 3, H, W].

        Args:
            indices: which, [B].
            resolution: H and W of pictures that have no common size; stored arrays keep their own size, because
                `resize` brings a batch to any resolution later.
            crop_scale: crop at random by `draws`, as in `Augment`; without it, stored arrays are taken whole and
                pictures are cropped to their centre square.
            draws: float64 [B, DRAWS_PER_IMAGE] in [0, 1), needed with `crop_scale`.

        Raises:
            DataError: a picture cannot be read.
        """


class ArraySplit(Split):
    """Pictures of one size, held in memory."""

    def __init__(self, info: SplitInfo, images: npt.NDArray[np.uint8], labels: Labels) -> None:
        super().__init__(info, labels, image_size=images.shape[1])
        self._images = images

    def _content(self) -> bytes | memoryview:
        return np.ascontiguousarray(self._images).data

    def fetch(
        self,
        indices: npt.ArrayLike,
        resolution: int,
        crop_scale: tuple[float, float] | None = None,
        draws: Floats | None = None,
    ) -> Tensor:
        """See `Split.fetch`."""
        images = self._images[np.asarray(indices)]
        if crop_scale is not None and draws is not None:
            size = images.shape[1]
            boxes = [random_box(size, size, crop_scale, draw) for draw in draws]
            images = np.stack(
                [crop_resized(Image.fromarray(image), box, size) for image, box in zip(images, boxes, strict=True)]
            )
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


class FolderSplit(Split):
    """Pictures of any size, read from their files when they are fetched."""

    def __init__(self, info: SplitInfo, paths: Sequence[str], labels: Labels) -> None:
        super().__init__(info, labels, image_size=None)
        self._paths = tuple(paths)

    def _content(self) -> bytes | memoryview:
        return "\n".join(self._paths).encode()

    def fetch(
        self,
        indices: npt.ArrayLike,
        resolution: int,
        crop_scale: tuple[float, float] | None = None,
        draws: Floats | None = None,
    ) -> Tensor:
        """See `Split.fetch`."""
        images = []
        for position, index in enumerate(np.asarray(indices)):
            picture = self._picture(self._paths[index])
            box: Box = centre_box(*picture.size)
            if crop_scale is not None and draws is not None:
                box = random_box(*picture.size, crop_scale, draws[position])
            images.append(crop_resized(picture, box, resolution))
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def _picture(self, path: str) -> Image.Image:
        """The picture, or its smaller copy, made when the picture is first asked for and anew where it has changed."""
        original = Path(self.info.root) / path
        if not self.info.copies:
            return read_picture(original)
        copy = Path(self.info.copies) / f"{path}.jpg"
        modified, copied = _modified(original), _modified(copy)
        if modified is None or copied is None or abs(modified - copied) > SAME_TIME_S:
            write_bytes(copy, _smaller(read_picture(original), self.info.copy_side))
            if modified is not None:
                os.utime(copy, (modified, modified))
        return read_picture(copy)


def _modified(path: Path) -> float | None:
    """When a file was last modified, in seconds since 1970; None where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _smaller(picture: Image.Image, side: int) -> bytes:
    """JPEG of a picture whose shorter side is `side` at most, with antialiasing."""
    factor = min(side / min(picture.size), 1.0)
    width, height = (max(round(length * factor), 1) for length in picture.size)
    stream = io.BytesIO()
    picture.resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=COPY_QUALITY)
    return stream.getvalue()


def read_picture(path: Path) -> Image.Image:
    """The decoded RGB picture, upright (cameras may store it turned, with a note in EXIF).

    Raises:
        DataError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            upright: Image.Image = ImageOps.exif_transpose(picture)
            return upright.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"Picture {path} cannot be read ({error}): restore or remove it and make the dataset again."
        ) from error


def save_array_split(
    path: Path | str, images: npt.NDArray[np.uint8], labels: Labels, info: SplitInfo, record: Record
) -> None:
    """Write images, uint8 [N, H, W, 3], and labels, int64 [N], as safetensors."""
    write_tensors(path, _ARRAY_KIND, {"images": images, "labels": labels}, record, asdict(info))


def save_manifest(path: Path | str, paths: Sequence[str], labels: Labels, info: SplitInfo, record: Record) -> None:
    """Write the paths of pictures (relative to `info.root`, with forward slashes) and their labels as Parquet.

    What describes the whole split is the same JSON text in every row, of which Parquet keeps one copy.
    """
    table = pd.DataFrame({"path": list(paths), "label": labels})
    table["info"] = json.dumps(asdict(info))
    write_table(path, _MANIFEST_KIND, table, record)


def load_split(path: Path | str) -> Split:
    """The split stored at `path`.

    Raises:
        ArtifactError: the file is missing, corrupt, or no split.
        DataError: its suffix is unknown, or the folder of pictures it refers to is not there.
    """
    path = Path(path)
    if path.suffix == ARRAY_SUFFIX:
        arrays, content = read_tensors(path, _ARRAY_KIND)
        return ArraySplit(SplitInfo.from_content(content), arrays["images"], arrays["labels"])
    if path.suffix == MANIFEST_SUFFIX:
        table = read_table(path, _MANIFEST_KIND)
        info = SplitInfo.from_content(json.loads(table["info"].iloc[0]))
        if not Path(info.root).is_dir():
            raise DataError(f"{path} lists pictures under {info.root}, which is no folder here: restore or re-make it.")
        return FolderSplit(info, table["path"].tolist(), table["label"].to_numpy(np.int64))
    raise DataError(f"{path} is no split: its name must end in {ARRAY_SUFFIX} or {MANIFEST_SUFFIX}.")
