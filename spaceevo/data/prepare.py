"""Making the three split files of a dataset, by its name."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from spaceevo.artifacts import Record
from spaceevo.config import ClutterOptions
from spaceevo.data import cifar, clutter, imagefolder
from spaceevo.data.names import split_suffix
from spaceevo.data.splits import SplitInfo, save_array_split, save_manifest
from spaceevo.data.strokes import CLASSES
from spaceevo.errors import DataError


def prepare_dataset(
    name: str,
    outputs: Mapping[str, Path | str],
    *,
    seed: int,
    clutter_options: ClutterOptions | None = None,
    root: Path | str | None = None,
    download: bool = False,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    skip_unreadable: bool = False,
    copy_side: int | None = None,
) -> None:
    """Write the splits of a dataset.

    Args:
        name: "clutter", "cifar10", "cifar100" or "imagefolder".
        outputs: the paths of "train", "val" and "test", ending in `split_suffix(name)`.
        seed: of the pictures of clutter, and of the choice of val and test elsewhere.
        clutter_options: clutter only; its defaults where absent.
        root: CIFAR and imagefolder only: where the dataset is. A manifest keeps it as given, so a relative one stays
            valid in another checkout.
        download: CIFAR only: fetch missing files.
        val_fraction: CIFAR and imagefolder: share of val, where the dataset has none of its own.
        test_fraction: imagefolder only: share of test, where the folder has none of its own.
        skip_unreadable: imagefolder only: leave out pictures that do not open, instead of raising an error; how many is
            printed to standard error and kept in the splits.
        copy_side: imagefolder only: read copies of this shorter side in pixels, which are made beside the splits when
            pictures are first read.

    Raises:
        DataError: the dataset is unknown, absent, or not usable for training.
    """
    suffix = split_suffix(name)
    for split in clutter.SPLITS:
        if Path(outputs[split]).suffix != suffix:
            raise DataError(f"Dataset {name} is stored in {suffix} files, not as {outputs[split]}: rename the output.")
    if name == "clutter":
        _prepare_clutter(outputs, clutter_options or ClutterOptions(), seed)
        return
    if root is None:
        raise DataError(f"Dataset {name} needs a root: the folder where its files are.")
    if name == "imagefolder":
        _prepare_image_folder(outputs, root, val_fraction, test_fraction, seed, skip_unreadable, copy_side)
    else:
        _prepare_cifar(name, outputs, root, download, val_fraction, seed)


def _prepare_clutter(outputs: Mapping[str, Path | str], options: ClutterOptions, seed: int) -> None:
    info = SplitInfo(CLASSES, clutter.MEAN, clutter.STD)
    for split in clutter.SPLITS:
        record = Record(params={"name": "clutter", **options.model_dump()}, seed=seed)
        images, labels = clutter.make_split(split, options, seed)
        save_array_split(outputs[split], images, labels, info, record)


def _prepare_cifar(
    name: str, outputs: Mapping[str, Path | str], root: Path | str, download: bool, val_fraction: float, seed: int
) -> None:
    record = Record(params={"name": name, "val_fraction": val_fraction}, seed=seed)
    dataset = cifar.read_cifar(name, root, download=download, val_fraction=val_fraction, seed=seed)
    info = SplitInfo(dataset.classes, *cifar.NORMALISATION[name])
    for split, (images, labels) in dataset.splits.items():
        save_array_split(outputs[split], images, labels, info, record)


def _prepare_image_folder(
    outputs: Mapping[str, Path | str],
    root: Path | str,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    skip_unreadable: bool,
    copy_side: int | None,
) -> None:
    params: dict[str, Any] = {
        "name": "imagefolder",
        "root": str(root),
        "val_fraction": val_fraction,
        "test_fraction": test_fraction,
        "skip_unreadable": skip_unreadable,
        "copy_side": copy_side,
    }
    record = Record(params=params, seed=seed)
    folder = imagefolder.scan_image_folder(
        root, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed, skip_unreadable=skip_unreadable
    )
    info = SplitInfo(folder.classes, imagefolder.MEAN, imagefolder.STD)
    info = replace(info, root=str(root), unreadable=folder.unreadable)
    if folder.unreadable:
        print(f"{folder.unreadable} pictures under {root} do not open and were left out.", file=sys.stderr)
    if copy_side is not None:
        of_root = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        copies = Path(outputs["train"]).parent / f"copies_{copy_side}_{of_root}"
        info = replace(info, copies=copies.as_posix(), copy_side=copy_side)
    for split, listing in folder.splits.items():
        save_manifest(outputs[split], listing.paths, listing.labels, info, record)
