import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spaceevo.artifacts import Record
from spaceevo.config import Augment
from spaceevo.data import clutter
from spaceevo.data.loader import batches, materialise, steps_per_epoch
from spaceevo.data.splits import ArraySplit, Split, SplitInfo, load_split, save_array_split, save_manifest
from spaceevo.errors import DataError

SIZE = 23
BATCH_SIZE = 5
AUGMENT = Augment(horizontal_flip=True, shift=2, crop_scale=(0.5, 1.0), colour_jitter=0.2)
INFO = SplitInfo(clutter.CLASSES, clutter.MEAN, clutter.STD)
LABELS = np.arange(SIZE, dtype=np.int64) % 4


@pytest.fixture(params=["arrays", "folder"])
def split(request: pytest.FixtureRequest, tmp_path: Path) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (SIZE, 16, 16, 3), dtype=np.uint8)
    if request.param == "arrays":
        path = tmp_path / "train.safetensors"
        save_array_split(path, images, LABELS, INFO, Record(params={}, seed=0))
        return load_split(path)
    names = [f"{index}.png" for index in range(SIZE)]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    path = tmp_path / "train.parquet"
    info = SplitInfo(INFO.classes, INFO.mean, INFO.std, root=str(tmp_path))
    save_manifest(path, names, LABELS, info, Record(params={}, seed=0))
    return load_split(path)


def run(split: Split, **options: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
    settings = {"batch_size": BATCH_SIZE, "resolution": 12, "seed": 0, "epoch": 0, "shuffle": True, "augment": AUGMENT}
    return list(batches(split, **{**settings, **options}))


def assert_same(
    first: list[tuple[torch.Tensor, torch.Tensor]], second: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    assert len(first) == len(second)
    for (x, y), (other_x, other_y) in zip(first, second, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def test_batches_have_the_promised_shapes(split: Split) -> None:
    epoch = run(split)
    assert [len(y) for _, y in epoch] == [5, 5, 5, 5, 3]
    assert len(run(split, drop_last=True)) == 4 == steps_per_epoch(split, BATCH_SIZE, drop_last=True)
    for x, y in epoch:
        assert x.shape == (len(y), 3, 12, 12)
        assert x.dtype == torch.float32 and y.dtype == torch.int64
    assert sorted(torch.cat([y for _, y in epoch]).tolist()) == sorted(LABELS.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_epoch_equals_uninterrupted_one(split: Split, workers: int) -> None:
    whole = run(split, epoch=3)
    torch.manual_seed(99)  # neither the global generator nor the number of workers plays a part
    assert_same(run(split, epoch=3, start_step=2, workers=workers), whole[2:])
    assert run(split, start_step=5, workers=workers) == []


def test_global_generator_is_left_alone(split: Split) -> None:
    before = torch.random.get_rng_state()
    run(split)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_order_and_augmentation_change_with_seed_and_epoch(split: Split, other: dict[str, int]) -> None:
    labels = [y.tolist() for _, y in run(split)]
    assert [y.tolist() for _, y in run(split, **other)] != labels
    unshuffled, changed = run(split, shuffle=False), run(split, shuffle=False, **other)
    assert torch.equal(unshuffled[0][1], changed[0][1])
    assert not torch.equal(unshuffled[0][0], changed[0][0])


def test_unshuffled_batches_without_augmentation_are_the_split_in_order(split: Split) -> None:
    x = torch.cat([x for x, _ in run(split, shuffle=False, augment=None)])
    y = torch.cat([y for _, y in run(split, shuffle=False, augment=None)])
    all_x, all_y = materialise(split, 12)
    assert torch.equal(x, all_x)
    assert torch.equal(y, all_y)
    np.testing.assert_array_equal(y.numpy(), LABELS)


def test_arrays_at_their_own_size_stay_on_the_8_bit_grid(split: Split) -> None:
    x, _ = materialise(split, 16)
    on_grid = x * 64 + 128
    assert torch.equal(on_grid, on_grid.round())
    assert torch.equal(on_grid.to(torch.uint8), split.fetch(np.arange(SIZE), 16))


def test_materialised_subset_is_balanced_and_seeded(split: Split) -> None:
    x, y = materialise(split, 8, limit=8, seed=1)
    assert x.shape == (8, 3, 8, 8)
    assert torch.bincount(y).tolist() == [2, 2, 2, 2]
    assert torch.equal(x, materialise(split, 8, limit=8, seed=1)[0])
    assert not torch.equal(x, materialise(split, 8, limit=8, seed=2)[0])
    assert len(materialise(split, 8, limit=1000)[1]) == SIZE


def test_unreadable_picture_in_a_worker_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"not a picture")
    path = tmp_path / "val.parquet"
    info = SplitInfo(INFO.classes, INFO.mean, INFO.std, root=str(tmp_path))
    save_manifest(path, ["0.png"], np.zeros(1, dtype=np.int64), info, Record(params={}))
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^Picture .*0\.png cannot be read .*\.$"):
            run(load_split(path), workers=workers)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 24, "drop_last": True}])
def test_impossible_batch_size(split: Split, options: dict[str, int]) -> None:
    with pytest.raises(DataError, match="batch"):
        run(split, **options)


def test_impossible_limit(split: Split) -> None:
    with pytest.raises(DataError, match="limit"):
        materialise(split, 8, limit=0)


@pytest.mark.parametrize("processes", [2, 5])
def test_shares_of_processes_make_up_the_batches(split: Split, processes: int) -> None:
    whole = run(split, drop_last=True)
    shares = [run(split, drop_last=True, share=(index, processes)) for index in range(processes)]
    for number, (x, y) in enumerate(whole):
        for index, share in enumerate(shares):
            assert torch.equal(share[number][0], x[index::processes])
            assert torch.equal(share[number][1], y[index::processes])


class Dying(ArraySplit):
    """Ends the process that fetches its pictures."""

    def fetch(self, *args: object, **options: object) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_worker_that_dies_is_a_data_error() -> None:
    split = Dying(INFO, np.zeros((SIZE, 16, 16, 3), dtype=np.uint8), LABELS)
    with pytest.raises(DataError, match=r"^A process that prepares pictures died \(.*lower workers; run again.*\.$"):
        run(split, workers=1)
