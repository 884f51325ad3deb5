"""Pictures to evaluate on, however many: in batches at any resolution, kept in memory as far as a limit allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from spaceevo.data.splits import Split
from spaceevo.data.stratify import balanced_subset
from spaceevo.data.transforms import normalise, resize
from spaceevo.errors import DataError

KEPT_BYTES = 2 << 30  # of one set of pictures
_STORED = 0  # in the place of a resolution: as they came, before they are normalised


def batch_count(pictures: int, most: int) -> int:
    """How many batches of at most so many pictures, all of which are as large as one another but for one picture.

    The last of full ones could be of a single picture, which BatchNorm has no statistics of.
    """
    return -(-pictures // most)


class Pictures:
    """Batches of pictures that can be gone through again and again, always in the same order.

    What was decoded (uint8), and then what was normalised and resized (float32, per resolution), stays in memory while
    it takes no more than `KEPT_BYTES`; the rest is made anew on every pass.

    Args:
        fetch: the batch of a number: uint8, which is normalised and resized to `resolution` first, or float32 as it is.
        count: how many batches there are.
        labels: classes, int64 [N], or None.
    """

    def __init__(
        self,
        fetch: Callable[[int], Tensor],
        count: int,
        labels: Tensor | None,
        prepare: Callable[[Tensor], Tensor],
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.labels = labels
        self._fetch = fetch
        self._count = count
        self._prepare = prepare
        self._free = kept_bytes
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._lock = Lock()  # several threads may go through them at a time

    @staticmethod
    def of_split(
        split: Split,
        resolution: int,
        batch_size: int,
        limit: int | None = None,
        seed: int = 0,
        kept_bytes: int = KEPT_BYTES,
    ) -> Pictures:
        """All pictures of a split, or a seeded, class-balanced `limit` of them, in its order.

        Args:
            batch_size: at most.
            resolution: at which pictures without a common size are read, in pixels.

        Raises:
            DataError: the limit is below one.
        """
        if limit is not None and limit < 1:
            raise DataError(f"The limit of images is {limit}: it must be 1 or more.")
        chosen = balanced_subset(split.labels, len(split) if limit is None else limit, seed)
        parts = np.array_split(chosen, batch_count(len(chosen), batch_size))
        return Pictures(
            lambda number: split.fetch(parts[number], resolution),
            len(parts),
            torch.from_numpy(split.labels[chosen]),
            lambda pixels: resize(normalise(pixels, split.mean, split.std), resolution),
            kept_bytes,
        )

    @staticmethod
    def of_tensor(images: Tensor, batch_size: int, labels: Tensor | None = None) -> Pictures:
        """Normalised images, float32 [N, 3, H, W], that are in memory already."""
        parts = images.tensor_split(batch_count(len(images), batch_size))
        return Pictures(lambda number: parts[number], len(parts), labels, lambda x: x)

    def batches(self, resolution: int) -> Iterator[Tensor]:
        """Normalised images, float32 [B, 3, resolution, resolution], channels last."""
        for number in range(self._count):
            yield self._kept_or(resolution, number, self._made)

    def _made(self, resolution: int, number: int) -> Tensor:
        stored = self._kept_or(_STORED, number, lambda _, index: self._fetch(index))
        return resize(self._prepare(stored), resolution).contiguous(memory_format=torch.channels_last)

    def _kept_or(self, resolution: int, number: int, make: Callable[[int, int], Tensor]) -> Tensor:
        key = resolution, number
        if key in self._kept:
            return self._kept[key]
        made = make(resolution, number)
        with self._lock:
            # Decoding costs most: room for what is still to be decoded is not given to what is resized.
            stored = [kept.nbytes for (kind, _), kept in self._kept.items() if kind == _STORED]
            reserved = 0 if resolution == _STORED else (self._count - len(stored)) * max(stored, default=0)
            if key not in self._kept and made.nbytes <= self._free - reserved:
                self._free -= made.nbytes
                self._kept[key] = made
        return made
