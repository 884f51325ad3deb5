"""The committed settings of ImageNet and CIFAR-10 from pictures to a file, on a few made pictures of their shape."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from workflow.micro import ROOT, make_project, micro_params, snakemake

from spaceevo.artifacts import Record, read_header, read_json
from spaceevo.data.cifar import NORMALISATION
from spaceevo.data.splits import SplitInfo, load_split, save_array_split

TARGET = "results/pixel4/seqnet_A1.tflite"
QUICK = {"epochs": 1, "batch_size": 16, "learning_rate": 0.003}


def quick() -> dict[str, Any]:
    """What makes any settings quick: the micro hyperspace and the smallest numbers of everything."""
    params = micro_params()
    kept = {name: params[name] for name in ("hyperspace", "lut", "profile", "space")}
    device = params["devices"]["pixel4"]
    return kept | {
        "threads": 1,
        "teacher": {"model": "micro-11-10", "pretrained": False, "recipe": QUICK},
        "blocks": {"random_choices": 1, "calibration_batches": 1, "fp32": QUICK, "int8": QUICK},
        "supernet": {"calibration_batches": 1, "fp32": QUICK | {"ema": 0.9}, "int8": QUICK},
        "search": {
            "settings": {"evaluations": 8, "initial": 6, "parents": 2},
            "recalibration_images": 16,
            "val_images": 16,
            "remeasure": False,
        },
        "export": {"recalibration_images": 16, "verify_images": 16, "agreement": 0.5},
        "devices": {"pixel4": device, "vnni": device, "cpu": device},
    }


def run(folder: Path, settings: str, changes: dict[str, Any]) -> Path:
    """Make one file with committed settings that `changes` are laid over; returns results/."""
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    shutil.copytree(ROOT / "params", folder / "params")
    (folder / "quick.yaml").write_text(yaml.safe_dump(quick() | changes))
    done = snakemake(folder, "--configfile", f"params/{settings}.yaml", "quick.yaml", "--", TARGET)
    assert done.returncode == 0, done.stderr[-5000:]
    assert ("--nproc-per-node 2" in done.stderr) == (changes.get("processes") == 2)
    assert (folder / TARGET).stat().st_size > 1000
    return folder / "results"


def draw(path: Path, rng: np.random.Generator, label: int) -> None:
    """A photograph of sorts: a coloured noise with the class as its tint, of a size of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = rng.integers(40, 80, 2)
    pixels = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    pixels[..., label % 3] += 100
    Image.fromarray(pixels).save(path, quality=90)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return make_project(tmp_path / "project", micro_params())


@pytest.mark.slow
def test_imagenet(project: Path) -> None:
    """In two processes, with subnets near the budgets, resized copies, workers, and a picture that does not open."""
    rng = np.random.default_rng(0)
    for split, each in {"train": 24, "val": 8}.items():
        for label, name in enumerate(("n01", "n02", "n03")):
            for index in range(each):
                draw(project / "pictures" / split / name / f"{index}.JPEG", rng, label)
    torn = project / "pictures" / "train" / "n02" / "3.JPEG"
    torn.write_bytes(torn.read_bytes()[:200])
    changes = quick()["supernet"] | {"sandwich": {"sampling": "budgets", "candidates": 3}}
    dataset = {"root": "pictures", "val_fraction": 0.25, "copy_side": 32}
    results = run(project, "imagenet", {"dataset": dataset, "supernet": changes, "workers": 1, "processes": 2})
    train = load_split_in(project, results / "data" / "imagefolder" / "train.parquet")
    assert train.info.unreadable == 1 and train.info.copy_side == 32
    copies = list((project / train.info.copies).rglob("*.jpg"))
    assert copies and all(min(Image.open(path).size) == 32 for path in copies)
    header = read_header(results / "pixel4" / "supernet_fp32.safetensors")
    assert header["params"]["sandwich"]["sampling"] == "budgets"
    assert header["params"]["subnet_budgets"] == quick()["devices"]["pixel4"]["subnet_budgets"]
    seqnet = read_json(results / "pixel4" / "seqnets.json", "seqnets")["seqnets"]["A1"]
    assert seqnet["latency_ms"] <= seqnet["budget_ms"]
    assert not list((results / "checkpoints").glob("*"))


def load_split_in(project: Path, path: Path):
    """A split whose folders are relative to the project."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        return load_split(path)


@pytest.mark.slow
def test_cifar10(project: Path) -> None:
    """torchvision checks sums of the files, so the splits are made here, as `prepare_data` leaves them."""
    rng = np.random.default_rng(0)
    info = SplitInfo(tuple(f"class {i}" for i in range(10)), *NORMALISATION["cifar10"])
    for split, count in {"train": 160, "val": 40, "test": 40}.items():
        labels = np.arange(count, dtype=np.int64) % 10
        images = rng.integers(0, 200, (count, 32, 32, 3), dtype=np.uint8)
        images += (5 * labels)[:, None, None, None].astype(np.uint8)
        path = project / "results" / "data" / "cifar10" / f"{split}.safetensors"
        save_array_split(path, images, labels, info, Record({}, 0))
    results = run(project, "cifar10", {})
    header = read_header(results / "pixel4" / "supernet.safetensors")
    assert header["params"]["augment"]["shift"] == 4
    assert header["params"]["sandwich"]["dropout"] == 0.1
