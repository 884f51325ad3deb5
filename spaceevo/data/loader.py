"""Batches whose content is a pure function of the split, the seed, the epoch and the step.

A run that resumes in the middle of an epoch therefore sees what an uninterrupted run would have seen, whatever the
number of worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spaceevo.config import Augment
from spaceevo.data.splits import Split
from spaceevo.data.stratify import balanced_subset, shuffled_order
from spaceevo.data.transforms import DRAWS_PER_IMAGE, augment_batch, normalise, resize
from spaceevo.errors import DataError

Batch = tuple[Tensor, Tensor]

# Branches of one seed, so that order, augmentation and subset are drawn independently.
_ORDER_STREAM, _AUGMENT_STREAM = 0, 1

_MATERIALISE_BATCH = 256


def steps_per_epoch(split: Split, batch_size: int, *, drop_last: bool) -> int:
    """How many batches one epoch has.

    Raises:
        DataError: the batch size is below one, or there is no full batch where the last, partial one is dropped.
    """
    if batch_size < 1:
        raise DataError(f"The batch size is {batch_size}: it must be 1 or more.")
    if drop_last and batch_size > len(split):
        raise DataError(f"A batch of {batch_size} is more than the {len(split)} images of the split: lower batch_size.")
    return len(split) // batch_size if drop_last else -(-len(split) // batch_size)


def batches(
    split: Split,
    *,
    batch_size: int,
    resolution: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    augment: Augment | None = None,
    workers: int = 0,
    start_step: int = 0,
    drop_last: bool = False,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """The batches of one epoch from `start_step` on: normalised images, float32 [B, 3, r, r], and labels, int64 [B].

    Args:
        split: where the images come from.
        batch_size: B; the last batch may be smaller unless `drop_last`.
        resolution: r, in pixels.
        seed, epoch: determine the order; with the step, they determine the augmentation.
        shuffle: without it, the order is that of the split.
        augment: None leaves the images as they are, as evaluation needs.
        workers: processes that prepare batches; 0 prepares them in this one. The batches are the same.
        start_step: how many batches of this epoch were consumed already.
        drop_last: leave out the last batch if it is not full.
        share: (i, n) gives every n-th image of each batch from its i-th on, as process i of n needs.

    Raises:
        DataError: an image cannot be read, a worker dies, or no batch can be formed.
    """
    steps = range(start_step, steps_per_epoch(split, batch_size, drop_last=drop_last))
    order = shuffled_order(len(split), seed, _ORDER_STREAM, epoch) if shuffle else np.arange(len(split))
    loader = DataLoader(
        _EpochBatches(split, order, batch_size, resolution, augment, (seed, epoch), share),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        # DataLoader draws a seed for its workers; from the global generator, that would make resuming visible there.
        generator=torch.Generator().manual_seed(seed),
    )
    return _raising(loader)


def materialise(split: Split, resolution: int, limit: int | None = None, seed: int = 0) -> Batch:
    """All images of a split, or a seeded, class-balanced `limit` of them, in memory: x float32 [N, 3, r, r], y [N].

    Raises:
        DataError: an image cannot be read, or the limit is below one.
    """
    if limit is not None and limit < 1:
        raise DataError(f"The limit of images is {limit}: it must be 1 or more.")
    chosen = balanced_subset(split.labels, len(split) if limit is None else limit, seed)
    parts = [
        resize(normalise(split.fetch(part, resolution), split.mean, split.std), resolution)
        for part in np.split(chosen, range(_MATERIALISE_BATCH, len(chosen), _MATERIALISE_BATCH))
    ]
    return torch.cat(parts), torch.from_numpy(split.labels[chosen])


def _raising(loader: DataLoader[Batch | DataError]) -> Iterator[Batch]:
    """The batches of a loader, raising the errors among them."""
    stream = iter(loader)
    while True:
        try:
            batch = next(stream, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = str(error).splitlines()[0].rstrip(". ")
            raise DataError(
                f"A process that prepares pictures died ({reason}): most often memory ran out, then lower workers; "
                "run again to go on from the last checkpoint."
            ) from None
        if batch is None:
            return
        if isinstance(batch, DataError):
            raise batch
        yield batch


class _EpochBatches(Dataset[Batch | DataError]):
    """The batches of one epoch by their step, which is all that a worker process is told.

    An error is returned in place of its batch, because DataLoader would wrap one that is raised in a worker into the
    text of a traceback.
    """

    def __init__(
        self,
        split: Split,
        order: npt.NDArray[np.int64],
        batch_size: int,
        resolution: int,
        augment: Augment | None,
        seeds: tuple[int, int],
        share: tuple[int, int],
    ) -> None:
        self._split = split
        self._order = order
        self._batch_size = batch_size
        self._resolution = resolution
        self._augment = augment
        self._seed, self._epoch = seeds
        self._share = slice(share[0], None, share[1])

    def __getitem__(self, step: int) -> Batch | DataError:
        try:
            return self._batch(step)
        except DataError as error:
            return error

    def _batch(self, step: int) -> Batch:
        indices = self._order[step * self._batch_size : (step + 1) * self._batch_size]
        size, indices = len(indices), indices[self._share]
        if self._augment is None:
            images = self._split.fetch(indices, self._resolution)
        else:
            stream = np.random.SeedSequence(self._seed, spawn_key=(_AUGMENT_STREAM, self._epoch, step))
            draws = np.random.Generator(np.random.PCG64(stream)).random((size, DRAWS_PER_IMAGE))[self._share]
            images = self._split.fetch(indices, self._resolution, self._augment.crop_scale, draws)
            images = augment_batch(images, self._augment, draws)
        x = resize(normalise(images, self._split.mean, self._split.std), self._resolution)
        return x, torch.from_numpy(self._split.labels[indices])
