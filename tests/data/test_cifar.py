"""On files made here in CIFAR's format: torchvision checks MD5 sums, which are set to those of the made files."""

import hashlib
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from spaceevo.data.cifar import read_cifar
from spaceevo.errors import DataError
from spaceevo.vision_ops import import_torchvision

PER_BATCH = 40


def dump(path: Path, content: dict) -> str:
    data = pickle.dumps(content)
    path.write_bytes(data)
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    dataset_class = import_torchvision().datasets.CIFAR10
    folder = tmp_path / dataset_class.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)

    def batch(name: str) -> list[str]:
        pixels = rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8)
        return [name, dump(folder / name, {"data": pixels, "labels": [i % 10 for i in range(PER_BATCH)]})]

    names = [f"class{label}" for label in range(10)]
    meta = {**dataset_class.meta, "md5": dump(folder / "batches.meta", {"label_names": names})}
    monkeypatch.setattr(dataset_class, "train_list", [batch(f"data_batch_{i}") for i in range(1, 6)])
    monkeypatch.setattr(dataset_class, "test_list", [batch("test_batch")])
    monkeypatch.setattr(dataset_class, "meta", meta)
    return tmp_path


def read(root: Path, seed: int = 0, download: bool = False) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return read_cifar("cifar10", root, download=download, val_fraction=0.1, seed=seed).splits


def test_three_splits(cifar10: Path) -> None:
    dataset = read_cifar("cifar10", cifar10, download=False, val_fraction=0.1, seed=0)
    assert dataset.classes == tuple(f"class{label}" for label in range(10))
    for split, each in {"train": 18, "val": 2, "test": 4}.items():
        images, labels = dataset.splits[split]
        assert images.dtype == np.uint8 and labels.dtype == np.int64
        assert images.shape == (10 * each, 32, 32, 3)
        assert np.bincount(labels).tolist() == [each] * 10


def test_val_is_carved_out_of_train_by_the_seed(cifar10: Path) -> None:
    train, val = (read(cifar10)[split][0] for split in ("train", "val"))
    assert len({image.tobytes() for image in (*train, *val)}) == 5 * PER_BATCH
    np.testing.assert_array_equal(val, read(cifar10)["val"][0])
    assert not np.array_equal(val, read(cifar10, seed=1)["val"][0])
    np.testing.assert_array_equal(read(cifar10)["test"][0], read(cifar10, seed=1)["test"][0])


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="allow the download"):
        read(tmp_path)


def test_damaged_file(cifar10: Path) -> None:
    (cifar10 / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged"):
        read(cifar10)


def test_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(import_torchvision().datasets.cifar, "download_and_extract_archive", refuse)
    with pytest.raises(DataError, match=r"no route to host.*check the network"):
        read(tmp_path, download=True)
