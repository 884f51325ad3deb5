"""CIFAR-10 and CIFAR-100 through torchvision: the official test set is `test`, and `val` is carved out of train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceevo.data.stratify import stratified_parts
from spaceevo.errors import DataError
from spaceevo.vision_ops import import_torchvision

# Mean and standard deviation of each channel over the training set, as is usual in the literature.
NORMALISATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}

_TORCHVISION_CLASS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Cifar:
    """Class names, and images, uint8 [N, 32, 32, 3], with labels, int64 [N], of "train", "val" and "test"."""

    classes: tuple[str, ...]
    splits: dict[str, Arrays]


def read_cifar(name: str, root: Path | str, *, download: bool, val_fraction: float, seed: int) -> Cifar:
    """Read "cifar10" or "cifar100".

    Args:
        name: which of the two.
        root: folder that holds (or will hold) `cifar-10-batches-py` or `cifar-100-python`.
        download: fetch the files where they are missing.
        val_fraction: share of the 50,000 training images that becomes `val`, each class alike.
        seed: of that choice.

    Raises:
        DataError: the files are missing or damaged, or cannot be downloaded.
    """
    dataset_class = getattr(import_torchvision().datasets, _TORCHVISION_CLASS[name])
    try:
        train = dataset_class(root, train=True, download=download)
        test = dataset_class(root, train=False, download=False)
    except (RuntimeError, OSError) as error:
        way_out = "check the network or put them there" if download else "put them there or allow the download"
        raise DataError(f"The files of {name} are not under {root} or are damaged ({error}): {way_out}.") from error
    labels = np.array(train.targets, dtype=np.int64)
    rest, carved = stratified_parts(labels, (val_fraction,), seed, train.classes)
    splits = {
        "train": (train.data[rest], labels[rest]),
        "val": (train.data[carved], labels[carved]),
        "test": (test.data, np.array(test.targets, dtype=np.int64)),
    }
    return Cifar(tuple(train.classes), splits)
