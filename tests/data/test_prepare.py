import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaceevo.artifacts import read_header
from spaceevo.config import ClutterOptions
from spaceevo.data import cifar, clutter, imagefolder
from spaceevo.data.cifar import Cifar
from spaceevo.data.clutter import SPLITS
from spaceevo.data.names import SUFFIXES, split_suffix
from spaceevo.data.prepare import prepare_dataset
from spaceevo.data.splits import load_split
from spaceevo.errors import DataError

SMALL = ClutterOptions(image_size=32, train_images=60, val_images=20, test_images=30)


def outputs(folder: Path, name: str) -> dict[str, Path]:
    return {split: folder / f"{split}{split_suffix(name)}" for split in SPLITS}


def test_clutter(tmp_path: Path) -> None:
    paths = outputs(tmp_path, "clutter")
    prepare_dataset("clutter", paths, seed=5, clutter_options=SMALL)
    for name, path in paths.items():
        split = load_split(path)
        images, labels = clutter.make_split(name, SMALL, 5)
        np.testing.assert_array_equal(split.fetch(np.arange(len(split)), 32).permute(0, 2, 3, 1).numpy(), images)
        np.testing.assert_array_equal(split.labels, labels)
        assert split.classes == clutter.CLASSES
        assert (split.mean, split.std) == (clutter.MEAN, clutter.STD)
        header = read_header(path)
        assert header["seed"] == 5
        assert header["params"]["fragments"] == SMALL.fragments


def test_copies_of_an_image_folder(tmp_path: Path) -> None:
    """Made once, when a picture is first read; the original is not opened again while it stays as it is."""
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "root" / name).mkdir(parents=True)
        for index in range(10):
            pixels = rng.integers(0, 256, (3 + index % 2, 6, 3), dtype=np.uint8)
            smooth = Image.fromarray(pixels).resize((90, 60), Image.Resampling.BICUBIC)
            smooth.save(tmp_path / "root" / name / f"{index}.jpg")
    plain, copied = outputs(tmp_path / "plain", "imagefolder"), outputs(tmp_path / "copied", "imagefolder")
    prepare_dataset("imagefolder", plain, seed=0, root=tmp_path / "root")
    prepare_dataset("imagefolder", copied, seed=0, root=tmp_path / "root", copy_side=24)
    split, original = load_split(copied["train"]), load_split(plain["train"])
    assert split.digest() != original.digest()
    assert [path.name for path in (tmp_path / "copied").iterdir() if path.is_dir()] == []
    first, pixels = split.fetch(range(4), 16), original.fetch(range(4), 16)
    assert 0 < float((first.float() - pixels.float()).abs().mean()) < 10
    made = sorted((tmp_path / "copied").glob("copies_24_*/**/*.jpg"))
    assert len(made) == 4
    assert all(min(Image.open(path).size) == 24 for path in made)
    for path in (tmp_path / "root").rglob("*.jpg"):
        times = path.stat()
        path.write_bytes(b"not opened")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert np.array_equal(load_split(copied["train"]).fetch(range(4), 16), first)


def grey_pictures(root: Path, value: int) -> None:
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(10):
            Image.new("RGB", (40, 30), (value,) * 3).save(root / name / f"{index}.png")


def test_copies_are_of_the_pictures_there_now(tmp_path: Path) -> None:
    """Of another root with files of the same names, and of pictures that have been replaced, copies are made anew."""
    grey_pictures(tmp_path / "first", 10)
    grey_pictures(tmp_path / "second", 240)
    for path in tmp_path.rglob("*.png"):  # nothing but the root tells these files apart
        os.utime(path, (0, 0))
    paths = outputs(tmp_path / "splits", "imagefolder")

    def fetched(root: str) -> float:
        prepare_dataset("imagefolder", paths, seed=0, root=tmp_path / root, copy_side=24)
        return float(load_split(paths["train"]).fetch(range(4), 16).float().mean())

    assert fetched("first") == 10
    assert fetched("second") == 240
    grey_pictures(tmp_path / "second", 99)
    for path in (tmp_path / "second").rglob("*.png"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 60))
    assert fetched("second") == 99


def test_a_picture_that_is_gone_is_named_in_spite_of_its_copy(tmp_path: Path) -> None:
    grey_pictures(tmp_path / "root", 10)
    paths = outputs(tmp_path / "splits", "imagefolder")
    prepare_dataset("imagefolder", paths, seed=0, root=tmp_path / "root", copy_side=24)
    split = load_split(paths["val"])
    split.fetch([0], 16)
    for path in (tmp_path / "root").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"root.*\.png cannot be read"):
        split.fetch([0], 16)


def test_image_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "root" / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (9, 9), (index, 0, 0)).save(tmp_path / "root" / name / f"{index}.png")
    (tmp_path / "root" / "ant" / "broken.png").write_bytes(b"")
    paths = outputs(tmp_path, "imagefolder")
    prepare_dataset("imagefolder", paths, seed=0, root=tmp_path / "root", skip_unreadable=True)
    assert capsys.readouterr().err == f"1 pictures under {tmp_path / 'root'} do not open and were left out.\n"
    splits = {name: load_split(path) for name, path in paths.items()}
    assert {name: len(split) for name, split in splits.items()} == {"train": 16, "val": 2, "test": 2}
    for split in splits.values():
        assert split.classes == ("ant", "bee")
        assert (split.mean, split.std) == (imagefolder.MEAN, imagefolder.STD)
        assert split.info.unreadable == 1
        assert split.fetch([0], 8).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(6, dtype=np.int64) % 2
    made = Cifar(("a", "b"), dict.fromkeys(SPLITS, (images, labels)))
    monkeypatch.setattr(cifar, "read_cifar", lambda *_, **__: made)
    paths = outputs(tmp_path, name)
    prepare_dataset(name, paths, seed=0, root=tmp_path)
    split = load_split(paths["val"])
    assert split.classes == ("a", "b")
    assert (split.mean, split.std) == cifar.NORMALISATION[name]
    np.testing.assert_array_equal(split.fetch([3], 32)[0].permute(1, 2, 0).numpy(), images[3])


@pytest.mark.parametrize("name", [name for name in SUFFIXES if name != "clutter"])
def test_root_is_needed(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="needs a root"):
        prepare_dataset(name, outputs(tmp_path, name), seed=0)


def test_wrong_suffix_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.parquet"):
        prepare_dataset("clutter", outputs(tmp_path, "imagefolder"), seed=0)


def test_unknown_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset mnist"):
        split_suffix("mnist")
