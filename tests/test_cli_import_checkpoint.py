"""`spaceevo import-checkpoint`: from a published file to a supernet that exports, and one sentence for a wrong one."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from made import GRID, randomise
from PIL import Image
from published import published_state, save
from typer.testing import CliRunner

from spaceevo import api
from spaceevo.artifacts import read_header
from spaceevo.cli import app
from spaceevo.nn.store import load_supernet, read_origin
from spaceevo.nn.supernet import Supernet
from spaceevo.space import parse_space

SPACE = parse_space("tiny-1313-0000")
CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    supernet = Supernet(SPACE, len(CLASSES), GRID)
    randomise(supernet, 0)
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return save(published_state(supernet, x), tmp_path_factory.mktemp("checkpoint") / "lsq.pth")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir()
        for index in range(8):
            Image.fromarray(rng.integers(0, 255, (40, 36, 3), dtype=np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: object):
    return CliRunner().invoke(app, ["import-checkpoint", *map(str, arguments)])


def test_with_pictures_it_is_ready_to_export(checkpoint: Path, images: Path) -> None:
    result = run(checkpoint, "--space", SPACE.code, "--images", images, "--batches", 1, "--batch-size", 16, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["output"] == "results/imported/supernet.safetensors"
    assert (found["space"], found["classes"], found["quantized"]) == (SPACE.code, 3, True)
    assert found["mean"] == [0.485, 0.456, 0.406]
    assert {"converted", "calibrated"} <= set(found["grids"]["activations"].values())
    for kind, grids in found["grids"].items():
        assert sum(found["counts"][kind].values()) == len(grids)
    supernet, spec = load_supernet(found["output"])
    assert spec.classes == CLASSES and api.is_quantized(supernet)
    assert read_origin(found["output"]) == {"checkpoint": "lsq.pth", "grids": found["grids"]}
    assert read_header(found["output"])["params"]["space"] == SPACE.code
    network = api.extract(supernet, SPACE.smallest, torch.randn(8, 3, 32, 32))
    assert api.to_onnx(api.to_int8_graph(network, spec))


def test_without_pictures_it_stays_in_fp32(checkpoint: Path) -> None:
    Path("names.txt").write_text("\n".join(CLASSES))
    options = ("--classes", "names.txt", "--mean", 0.5, 0.5, 0.5, "--std", 0.25, 0.25, 0.25)
    result = run(checkpoint, "--space", SPACE.code, *options)
    assert result.exit_code == 0, result.stderr
    assert "FP32" in result.stdout and "mean 0.5, 0.5, 0.5" in result.stdout
    supernet, spec = load_supernet("results/imported/supernet_fp32.safetensors")
    assert not api.is_quantized(supernet)
    assert (spec.classes, spec.mean, spec.std) == (CLASSES, (0.5,) * 3, (0.25,) * 3)
    assert read_origin("results/imported/supernet_fp32.safetensors") == {"checkpoint": "lsq.pth", "grids": None}


def test_it_says_how_many_grids_were_converted(checkpoint: Path, images: Path) -> None:
    options = ("--images", images, "--batches", 1, "--batch-size", 16, "--output", "own.safetensors")
    result = run(checkpoint, "--space", SPACE.code, *options)
    assert result.exit_code == 0, result.stderr
    header, weights, activations = result.stdout.strip().splitlines()[-3:]
    assert header.split()[-4:] == ["converted", "replaced", "calibrated", "unseen"]
    assert weights.startswith("weights") and activations.startswith("activations")
    assert Path("own.safetensors").is_file()


def damage(checkpoint: Path, kind: str) -> Path:
    path = Path("damaged.pth")
    state = torch.load(checkpoint, weights_only=True)
    if kind == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:5000])
        return path
    if kind == "code":
        state["args"] = RunsCode()
    if kind == "missing":
        del state["state_dict"]["module.stages.logits.blocks.0.linear.weight"]
    if kind == "unexpected":
        state["state_dict"]["module.extra"] = torch.ones(1)
    if kind == "misshaped":
        state["state_dict"]["module.stages.logits.blocks.0.linear.bias"] = torch.ones(7)
    torch.save(state, path)
    return path


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code-has-run",)


@pytest.mark.parametrize(
    ("kind", "mentions"),
    [
        ("truncated", ("truncated",)),
        ("code", ("was not read", "would run", "mkdir")),
        ("missing", ("no published supernet",)),
        ("unexpected", ("1 unexpected (extra)",)),
        ("misshaped", ("1 of another shape", "linear.bias [7] in the place of [3]")),
    ],
)
def test_a_wrong_checkpoint_is_one_sentence(checkpoint: Path, kind: str, mentions: tuple[str, ...]) -> None:
    result = run(damage(checkpoint, kind), "--space", SPACE.code)
    assert_one_sentence(result, "damaged.pth", *mentions)
    assert not Path("code-has-run").exists()


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (("--space", "tiny-0313-0000"), (f"a checkpoint of {SPACE.code}, not of tiny-0313-0000",)),
        (("--space", "spaceevo@pixel4"), (f"a checkpoint of {SPACE.code}",)),
        (("--space", "spaceevo@pixel5"), ("no name 'spaceevo@pixel5'", "spaceevo@pixel4")),
        (("--space", SPACE.code, "--images", "lost"), ("lost",)),
        (("--space", SPACE.code, "--classes", "lost.txt"), ("lost.txt",)),
    ],
)
def test_wrong_options_are_one_sentence(checkpoint: Path, options: tuple[str, ...], mentions: tuple[str, ...]) -> None:
    assert_one_sentence(run(checkpoint, *options), *mentions)


def test_pictures_of_other_classes_are_refused(checkpoint: Path, images: Path) -> None:
    for name in ("train/ant", "train/bee"):
        Path(name).mkdir(parents=True)
        Path(name, "0.png").write_bytes((images / "ant" / "0.png").read_bytes())
    assert_one_sentence(run(checkpoint, "--space", SPACE.code, "--images", "."), "3 classes", "has 2")


def assert_one_sentence(result, *mentions: str) -> None:
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(".")
    assert all(mention in line for mention in mentions), line
    assert not Path("results").exists()
