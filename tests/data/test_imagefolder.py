from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaceevo.data.imagefolder import ImageFolder, scan_image_folder
from spaceevo.errors import DataError

SPLITS = ("train", "val", "test")


def draw(folder: Path, count: int, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (12, 10), (index, 20, 30)).save(folder / f"{index:03d}{suffix}")


def scan(root: Path, seed: int = 0, **options: bool) -> ImageFolder:
    return scan_image_folder(root, val_fraction=0.2, test_fraction=0.1, seed=seed, **options)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for name, suffix in {"ant": ".png", "bee": ".JPG", "cat": ".webp"}.items():
        draw(tmp_path / "flat" / name, 10, suffix)
    (tmp_path / "flat" / ".cache").mkdir()
    (tmp_path / "flat" / "ant" / "notes.txt").write_text("no picture")
    return tmp_path / "flat"


def test_folder_of_classes_is_split_in_three(flat: Path) -> None:
    dataset = scan(flat)
    assert dataset.classes == ("ant", "bee", "cat")
    assert dataset.unreadable == 0
    for split, each in zip(SPLITS, (7, 2, 1), strict=True):
        listing = dataset.splits[split]
        assert np.bincount(listing.labels).tolist() == [each] * 3
        assert [path.split("/")[0] for path in listing.paths] == [dataset.classes[y] for y in listing.labels]
    together = [path for split in SPLITS for path in dataset.splits[split].paths]
    assert len(together) == len(set(together)) == 30
    assert all((flat / path).is_file() for path in together)


def test_split_is_a_function_of_the_seed(flat: Path) -> None:
    assert scan(flat, 1).splits["train"].paths == scan(flat, 1).splits["train"].paths
    assert scan(flat, 1).splits["train"].paths != scan(flat, 2).splits["train"].paths


def test_folder_with_three_splits_is_taken_as_it_is(tmp_path: Path) -> None:
    for split, count in zip(SPLITS, (6, 2, 3), strict=True):
        for name in ("ant", "bee"):
            draw(tmp_path / split / name, count)
    dataset = scan(tmp_path)
    for split, count in zip(SPLITS, (6, 2, 3), strict=True):
        assert np.bincount(dataset.splits[split].labels).tolist() == [count] * 2
        assert all(path.startswith(f"{split}/") for path in dataset.splits[split].paths)


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_the_one_held_out_folder_is_test_and_val_comes_from_train(tmp_path: Path, held_out: str) -> None:
    for name in ("ant", "bee"):
        draw(tmp_path / "train" / name, 10)
        draw(tmp_path / held_out / name, 4)
    dataset = scan(tmp_path)
    assert {split: len(dataset.splits[split].paths) for split in SPLITS} == {"train": 16, "val": 4, "test": 8}
    assert all(path.startswith(f"{held_out}/") for path in dataset.splits["test"].paths)
    assert all(path.startswith("train/") for path in dataset.splits["val"].paths)
    assert not set(dataset.splits["val"].paths) & set(dataset.splits["train"].paths)


def test_a_train_folder_alone_is_split_in_three(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        draw(tmp_path / "train" / name, 10)
    dataset = scan(tmp_path)
    assert dataset.classes == ("ant", "bee")
    assert {split: len(dataset.splits[split].paths) for split in SPLITS} == {"train": 14, "val": 4, "test": 2}
    assert all((tmp_path / path).is_file() for split in SPLITS for path in dataset.splits[split].paths)


def test_unreadable_picture_is_named_or_counted(flat: Path) -> None:
    (flat / "bee" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        scan(flat)
    dataset = scan(flat, skip_unreadable=True)
    assert dataset.unreadable == 1
    assert sum(len(listing.paths) for listing in dataset.splits.values()) == 30


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*absent"):
        scan(tmp_path / "absent")


def test_no_class_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class folders"):
        scan(tmp_path)


def test_one_class(tmp_path: Path) -> None:
    draw(tmp_path / "ant", 10)
    with pytest.raises(DataError, match="one class only, ant"):
        scan(tmp_path)


def test_no_images(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="No images in"):
        scan(tmp_path)


def test_class_without_images(flat: Path) -> None:
    (flat / "dog").mkdir()
    with pytest.raises(DataError, match="class dog"):
        scan(flat)


def test_class_too_small_to_split(flat: Path) -> None:
    draw(flat / "dog", 2)
    with pytest.raises(DataError, match="Class dog has 2 images"):
        scan(flat)


def test_classes_of_the_splits_must_agree(tmp_path: Path) -> None:
    for split in SPLITS:
        for name in ("ant", "bee"):
            draw(tmp_path / split / name, 2)
    draw(tmp_path / "val" / "wasp", 2)
    with pytest.raises(DataError, match="wasp"):
        scan(tmp_path)
