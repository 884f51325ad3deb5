"""The snippets of docs/using-the-files.md, run as they stand on files of a random network."""

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from docs.pages import ROOT, blocks
from PIL import Image

from spaceevo import api
from spaceevo.export.description import file_description

PAGE = "docs/using-the-files.md"
TFLITE, ONNX = blocks(PAGE, "python")
SNIPPETS = {".tflite": TFLITE, ".onnx": ONNX}
NEEDED = {".tflite": {"ai_edge_litert", "zipfile"}, ".onnx": {"onnxruntime"}}
EVERYWHERE = {"json", "sys", "numpy", "PIL"}

CLASSES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"]
SPEC = api.image_spec(CLASSES, mean=(0.45, 0.5, 0.3), std=(0.25, 0.3, 0.2))


class Made(NamedTuple):
    folder: Path
    resolution: int

    def model(self, suffix: str) -> Path:
        return self.folder / f"net{suffix}"


def normalised(pixels: np.ndarray, mean: Sequence[float] = SPEC.mean, std: Sequence[float] = SPEC.std) -> np.ndarray:
    """Float32 [N, 3, H, W] of uint8 [N, H, W, 3]."""
    x = (pixels / 255 - np.array(mean)) / np.array(std)
    return x.astype(np.float32).transpose(0, 3, 1, 2)


def mistakes(pixels: np.ndarray) -> list[np.ndarray]:
    """What a snippet would give the network if it left out a step or swapped the channels."""
    none, one = (0.0,) * 3, (1.0,) * 3
    x = normalised(pixels)
    return [normalised(pixels[..., ::-1]), normalised(pixels, mean=none), normalised(pixels, std=one), x - 0.5, x + 0.5]


def random_pictures(count: int, width: int, height: int, resolution: int) -> tuple[list[Image.Image], np.ndarray]:
    """Pictures of random pixels over a random tint, and their pixels at `resolution`."""
    rng = np.random.default_rng(0)
    tints = rng.uniform(0, 200, (count, 1, 1, 3))
    pixels = (tints + rng.uniform(0, 55, (count, height, width, 3))).astype(np.uint8)
    pictures = [Image.fromarray(values) for values in pixels]
    size = (resolution, resolution)
    return pictures, np.stack([np.asarray(picture.resize(size, Image.Resampling.BICUBIC)) for picture in pictures])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The smallest subnet of a tiny space as two files, its last layer made large so that classes differ."""
    folder = tmp_path_factory.mktemp("files")
    supernet = api.build_supernet("tiny-1313-0000", SPEC, seed=1)
    smallest = supernet.space.smallest
    _, pixels = random_pictures(64, 40, 48, smallest.resolution)
    images = torch.from_numpy(normalised(pixels))
    network = api.extract(supernet, smallest, images)
    with torch.no_grad():
        network.stages["logits"][0].convs["linear"].weight.mul_(100)
    graph = api.to_int8_graph(api.calibrated(network, images), SPEC)
    made = Made(folder, smallest.resolution)
    made.model(".onnx").write_bytes(api.to_onnx(graph))
    made.model(".tflite").write_bytes(api.to_tflite(graph))
    return made


@pytest.mark.parametrize("suffix", SNIPPETS)
def test_snippets_are_short_and_need_little(suffix: str) -> None:
    lines = [line for line in SNIPPETS[suffix].splitlines() if line.strip()]
    assert len(lines) <= 10
    imported = set()
    for node in ast.walk(ast.parse(SNIPPETS[suffix])):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported == EVERYWHERE | NEEDED[suffix]


@pytest.mark.parametrize("suffix", SNIPPETS)
def test_snippets_name_the_class_that_the_runner_does(made: Made, tmp_path: Path, suffix: str) -> None:
    pictures, pixels = random_pictures(64, 40, 48, made.resolution)
    runner = api.load_file(made.model(suffix), threads=1)
    classes = runner.run(normalised(pixels)).argmax(1)
    wrong = np.stack([runner.run(x).argmax(1) for x in mistakes(pixels)])
    (telling, *_) = np.flatnonzero((classes != wrong).all(0))
    script, picture = tmp_path / "classify.py", tmp_path / "picture.png"
    script.write_text(SNIPPETS[suffix])
    pictures[telling].save(picture)
    arguments = [sys.executable, script, made.model(suffix), picture]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == CLASSES[classes[telling]]


def test_the_page_lists_all_metadata() -> None:
    supernet = api.build_supernet("tiny-1313-0000", SPEC)
    written = file_description(api.extract(supernet, supernet.space.smallest), SPEC, "SEQnet@pixel4-A1")
    rows = [line for line in (ROOT / PAGE).read_text().splitlines() if line.startswith("| `")]
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])} == set(written)
