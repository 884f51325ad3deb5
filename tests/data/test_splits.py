from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spaceevo.artifacts import Record, write_json
from spaceevo.data.splits import SplitInfo, load_split, read_picture, save_array_split, save_manifest
from spaceevo.errors import ArtifactError, DataError

INFO = SplitInfo(classes=("ant", "bee"), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
LABELS = np.array([0, 1, 1, 0], dtype=np.int64)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)


@pytest.fixture
def array_file(tmp_path: Path, images: np.ndarray) -> Path:
    path = tmp_path / "train.safetensors"
    save_array_split(path, images, LABELS, INFO, Record(params={}, seed=0))
    return path


@pytest.fixture
def manifest_file(tmp_path: Path) -> Path:
    """Four pictures of different sizes and modes, each of one colour (of the palette of 256 that "P" has)."""
    root = tmp_path / "pictures"
    root.mkdir()
    names = []
    for index, (mode, size) in enumerate([("RGB", (30, 20)), ("L", (20, 30)), ("RGBA", (8, 8)), ("P", (16, 16))]):
        names.append(f"{index}.png")
        Image.new("RGB", size, (51 * index,) * 3).convert(mode).save(root / names[-1])
    path = tmp_path / "train.parquet"
    info = SplitInfo(INFO.classes, INFO.mean, INFO.std, root=str(root), unreadable=2)
    save_manifest(path, names, LABELS, info, Record(params={}, seed=0))
    return path


def test_array_split_comes_back(array_file: Path, images: np.ndarray) -> None:
    split = load_split(array_file)
    assert len(split) == 4
    assert split.image_size == 9
    assert split.info == INFO
    assert (split.classes, split.mean, split.std) == (INFO.classes, INFO.mean, INFO.std)
    np.testing.assert_array_equal(split.labels, LABELS)
    fetched = split.fetch([2, 0], resolution=5)
    assert fetched.dtype == torch.uint8
    np.testing.assert_array_equal(fetched.permute(0, 2, 3, 1).numpy(), images[[2, 0]])


def test_pictures_are_read_at_the_resolution_asked_for(manifest_file: Path) -> None:
    split = load_split(manifest_file)
    assert len(split) == 4
    assert split.image_size is None
    assert split.info.unreadable == 2
    assert split.labels.dtype == np.int64
    fetched = split.fetch([3, 1, 0], resolution=14)
    assert fetched.shape == (3, 3, 14, 14)
    for image, index in zip(fetched, [3, 1, 0], strict=True):
        assert torch.equal(image, torch.full_like(image, 51 * index))


def test_picture_turned_by_its_camera_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").size == (20, 30)


def test_truncated_picture_is_named(tmp_path: Path, manifest_file: Path) -> None:
    picture = tmp_path / "pictures" / "1.png"
    picture.write_bytes(picture.read_bytes()[:40])
    with pytest.raises(DataError, match=r"1\.png"):
        load_split(manifest_file).fetch([0, 1], resolution=8)


def test_pictures_moved_away(tmp_path: Path, manifest_file: Path) -> None:
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="pictures"):
        load_split(manifest_file)


@pytest.mark.parametrize("fixture", ["array_file", "manifest_file"])
def test_corrupt_split_file(fixture: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(fixture)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ArtifactError, match="corrupt"):
        load_split(path)


@pytest.mark.parametrize("name", ["val.safetensors", "val.parquet"])
def test_missing_split_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        load_split(tmp_path / name)


def test_file_of_another_format(tmp_path: Path) -> None:
    write_json(tmp_path / "val.json", "split", {}, Record(params={}))
    with pytest.raises(DataError, match=r"val\.json is no split"):
        load_split(tmp_path / "val.json")
