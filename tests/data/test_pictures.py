"""Pictures to evaluate on: the same whether they are kept or made anew, and no more memory than allowed."""

import numpy as np
import pytest
import torch
from made import made_split

from spaceevo.data.loader import materialise
from spaceevo.data.pictures import Pictures
from spaceevo.data.transforms import resize
from spaceevo.errors import DataError


class Counting:
    """A split that counts the pictures that are fetched."""

    def __init__(self) -> None:
        self.split, self.fetched = made_split(), 0
        self.labels, self.mean, self.std = self.split.labels, self.split.mean, self.split.std

    def __len__(self) -> int:
        return len(self.split)

    def fetch(self, indices: np.ndarray, resolution: int) -> torch.Tensor:
        self.fetched += len(indices)
        return self.split.fetch(indices, resolution)


PIXELS = 3 * 12 * 12  # bytes of a picture
RESIZED = 4 * 3 * 8 * 8


@pytest.mark.parametrize(
    ("kept_bytes", "fetched"),
    [(0, 4 * 30), (1 << 20, 30), (20 * PIXELS, 30 + 3 * 10), (30 * PIXELS, 30), (30 * PIXELS + 10 * RESIZED, 30)],
)
def test_what_is_not_kept_is_made_anew(kept_bytes: int, fetched: int) -> None:
    split = Counting()
    pictures = Pictures.of_split(split, 12, 10, limit=30, seed=1, kept_bytes=kept_bytes)
    x, y = materialise(made_split(), 12, 30, seed=1)
    for resolution in (8, 12, 8, 12):
        batches = list(pictures.batches(resolution))
        assert [len(batch) for batch in batches] == [10, 10, 10]
        assert torch.equal(torch.cat(batches), resize(x, resolution))
        assert batches[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pictures.labels, y)
    assert split.fetched == fetched


def test_tensors_are_batches_too() -> None:
    x, y = materialise(made_split(), 12)
    pictures = Pictures.of_tensor(x, 50, y)
    assert [len(batch) for batch in pictures.batches(12)] == [32, 32]
    assert torch.equal(torch.cat(list(pictures.batches(8))), resize(x, 8))
    assert pictures.labels is y


@pytest.mark.parametrize(("count", "sizes"), [(21, [11, 10]), (20, [20]), (41, [14, 14, 13]), (1, [1])])
def test_no_batch_is_left_with_a_single_picture(count: int, sizes: list[int]) -> None:
    """BatchNorm has no statistics of one value per channel."""
    x, y = materialise(made_split(), 12, count, seed=0)
    for pictures in (Pictures.of_split(made_split(), 12, 20, limit=count, seed=0), Pictures.of_tensor(x, 20, y)):
        batches = list(pictures.batches(12))
        assert [len(batch) for batch in batches] == sizes
        assert torch.equal(torch.cat(batches), x)


def test_an_impossible_limit() -> None:
    with pytest.raises(DataError, match="limit"):
        Pictures.of_split(made_split(), 12, 10, limit=0)
