"""Any folder of class folders as a dataset: pictures stay where they are, and each split is a manifest of paths.

Two layouts are understood: ROOT/<class>/*.png is split in three, and so is ROOT/train/<class> where there is nothing
else; ROOT/train, ROOT/val and ROOT/test, each with class folders, is taken as it is. With only one of val and test
beside train, as ImageNet has it, that one is the test set, and val is carved out of train.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from spaceevo.data.stratify import stratified_parts
from spaceevo.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
_NO_IMAGES = (
    f"No images in the class folders of {{}}: they must be readable files ending in {', '.join(sorted(SUFFIXES))}."
)
MAX_READERS = 16  # threads that decode pictures to see whether they are whole
DRAFT_SIDE = 64  # pixels; the least size at which JPEG pictures are decoded to see whether they are whole

# Of ImageNet, as published with torchvision's models.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Listing:
    """Pictures of some class folders: paths relative to the dataset's root, and labels, int64 [N]."""

    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def take(self, indices: npt.NDArray[np.int64]) -> Listing:
        """The listing of these pictures alone."""
        return Listing(tuple(self.paths[index] for index in indices), self.labels[indices])


@dataclass(frozen=True)
class ImageFolder:
    """The three splits of a folder.

    Attributes:
        classes: names of the class folders, sorted.
        splits: "train", "val" and "test".
        unreadable: pictures left out because they do not open.
    """

    classes: tuple[str, ...]
    splits: dict[str, Listing]
    unreadable: int


def scan_image_folder(
    root: Path | str, *, val_fraction: float, test_fraction: float, seed: int, skip_unreadable: bool = False
) -> ImageFolder:
    """List the pictures under `root` in three splits, a pure function of the file names and the seed.

    Args:
        root: the folder, in either layout.
        val_fraction: share of val, where the folder does not hold both val and test.
        test_fraction: share of test, where the folder is not split at all.
        seed: of the split.
        skip_unreadable: leave out pictures that do not open, and count them, instead of raising an error.

    Raises:
        DataError: there is no such folder, or no picture, or one class only; a class is missing from a split or too
            small to split; a picture does not open.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"There is no folder {root}: set the dataset's root to a folder of class folders.")
    held = [name for name in ("val", "test") if (root / name).is_dir()]
    if not (root / "train").is_dir() or not held:
        whole = root / "train" if _subfolders(root) == ["train"] else root
        classes = _class_names(whole)
        listing, unreadable = _list_pictures(root, whole, classes, skip_unreadable)
        parts = stratified_parts(listing.labels, (val_fraction, test_fraction), seed, classes)
        train, val, test = (listing.take(part) for part in parts)
        return ImageFolder(classes, {"train": train, "val": val, "test": test}, unreadable)

    classes = _class_names(root / "train")
    listings = {}
    unreadable = 0
    for name in ("train", *held):
        listings[name], skipped = _list_pictures(root, root / name, classes, skip_unreadable)
        unreadable += skipped
    if len(held) == 1:
        listings["test"] = listings.pop(held[0])
        rest, carved = stratified_parts(listings["train"].labels, (val_fraction,), seed, classes)
        listings["train"], listings["val"] = listings["train"].take(rest), listings["train"].take(carved)
    return ImageFolder(classes, {name: listings[name] for name in ("train", "val", "test")}, unreadable)


def list_image_folder(root: Path | str) -> tuple[tuple[str, ...], Listing]:
    """Classes and pictures of a folder of class folders, of its `train` where it has one; no picture is opened.

    Raises:
        DataError: there is no such folder, one class only, or no picture.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"There is no folder {root}: name a folder of class folders.")
    folder = root / "train" if (root / "train").is_dir() else root
    classes = _class_names(folder)
    found = [(path, label) for label, name in enumerate(classes) for path in _pictures(folder / name)]
    if not found:
        raise DataError(_NO_IMAGES.format(folder))
    paths = tuple(path.relative_to(root).as_posix() for path, _ in found)
    return classes, Listing(paths, np.array([label for _, label in found], dtype=np.int64))


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, but for hidden ones."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_names(folder: Path) -> tuple[str, ...]:
    """The class folders in `folder`, sorted."""
    names = _subfolders(folder)
    if not names:
        raise DataError(f"{folder} holds no class folders: put the pictures of each class in a folder of its own.")
    if len(names) == 1:
        raise DataError(f"{folder} holds one class only, {names[0]}: classification needs two or more class folders.")
    return tuple(names)


def _list_pictures(root: Path, folder: Path, classes: tuple[str, ...], skip_unreadable: bool) -> tuple[Listing, int]:
    """The readable pictures of the class folders in `folder`, and how many do not open."""
    unknown = sorted(set(_class_names(folder)) - set(classes))
    if unknown:
        raise DataError(f"{folder} holds a class {unknown[0]} that {root / 'train'} lacks: remove it or add it there.")
    paths: list[str] = []
    labels: list[int] = []
    unreadable = 0
    empty: list[str] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_READERS)) as readers:
        for label, name in enumerate(classes):
            found = len(paths)
            pictures = _pictures(folder / name)
            for path, problem in zip(pictures, readers.map(_problem, pictures), strict=True):
                if problem is None:
                    paths.append(path.relative_to(root).as_posix())
                    labels.append(label)
                elif skip_unreadable:
                    unreadable += 1
                else:
                    raise DataError(
                        f"Picture {path} does not open ({problem}): repair or remove it, or set skip_unreadable."
                    )
            if len(paths) == found:
                empty.append(name)
    if not paths:
        raise DataError(_NO_IMAGES.format(folder))
    if empty:
        raise DataError(f"No images of class {empty[0]} in {folder}: add some, or remove the class everywhere.")
    return Listing(tuple(paths), np.array(labels, dtype=np.int64)), unreadable


def _pictures(folder: Path) -> list[Path]:
    """The picture files of one class, sorted, so that the order of the file system does not matter."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _problem(path: Path) -> str | None:
    """Why Pillow cannot decode the picture, or None. Decodes it, small where the format can: a torn file may open."""
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (DRAFT_SIDE, DRAFT_SIDE))
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error)
    return None
