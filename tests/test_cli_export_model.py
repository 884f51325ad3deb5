"""`spaceevo export-model`: an INT8 file of someone else's network, and one sentence where something is wrong."""

import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from layers import shaken
from PIL import Image
from typer.testing import CliRunner

from spaceevo.cli import app
from spaceevo.export.runners import load
from spaceevo.nn.models import build_model

CLASSES = ("ant", "bee", "cat")
OWN = """
import torch
from torch import nn

def small():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

def nothing():
    return 7
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir()
        for index in range(4):
            coarse = rng.integers(0, 255, (5, 5, 3)).repeat(8, 0).repeat(8, 1)
            Image.fromarray(coarse.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own_network.py").write_text(OWN)


def run(*arguments):
    return CliRunner().invoke(app, ["export-model", *map(str, arguments)])


def test_a_network_of_torchvision_with_trained_weights(images):
    model = shaken(build_model("mobilenet_v3_small", 3), 0, torch.randn(8, 3, 64, 64))
    torch.save(model.state_dict(), "weights.pt")
    options = ("--images", images, "--output", "out/net.onnx", "--classes", 3, "--resolution", 64, "--json")
    result = run("mobilenet_v3_small", *options, "--weights", "weights.pt", "--min-agreement", 0.5)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["output"], found["classes"], found["random_weights"]) == ("out/net.onnx", 3, False)
    assert found["size_bytes"] == Path("out/net.onnx").stat().st_size
    properties = {prop.key: json.loads(prop.value) for prop in onnx.load("out/net.onnx").metadata_props}
    assert (properties["class_names"], properties["resolution"]) == (list(CLASSES), 64)
    x = torch.randn(2, 3, 64, 64).clamp(-2, 2)
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.corrcoef(load("out/net.onnx", threads=1).run(x.numpy()).ravel(), expected.ravel())[0, 1] > 0.9


def test_a_network_of_ones_own_as_tflite(images):
    result = run("own_network:small", "--images", images, "--output", "own.tflite", "--resolution", 32)
    assert result.exit_code == 0, result.stderr
    assert "the same class for 100.0% of 12 pictures" in result.stdout
    assert "random weights" not in result.stdout
    about = json.loads(zipfile.ZipFile("own.tflite").read("metadata.json"))
    assert (about["name"], about["class_names"]) == ("own_network:small", list(CLASSES))


def test_random_weights_are_said_to_be_random(images):
    options = ("--images", images, "--output", "net.onnx", "--resolution", 32)
    result = run("mnasnet0_5", *options)
    assert result.exit_code == 0, result.stderr
    assert "1,000 classes" in result.stdout
    assert "random weights" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mobilenet_v2", "--output", "net.onnx"), "name a folder of class folders with --images"),
        (("mobilenet_v2", "--output", "net.pb", "--images", "IMAGES"), "neither a .onnx nor a .tflite"),
        (("mobilenet_v9", "--output", "net.onnx", "--images", "IMAGES"), "no classifier 'mobilenet_v9'"),
        (("mobilenet_v2", "--output", "net.onnx", "--images", "nowhere"), "nowhere"),
        (("own_network:nothing", "--output", "net.onnx", "--images", "IMAGES"), "returns a int"),
        (("own_network:absent", "--output", "net.onnx", "--images", "IMAGES"), "AttributeError"),
        (("no_such:small", "--output", "net.onnx", "--images", "IMAGES"), "No module named 'no_such'"),
        (("own_network:small", "--output", "net.onnx", "--images", "IMAGES", "--classes", 3), "leave out --classes"),
        (("resnet18", "--output", "net.onnx", "--images", "IMAGES", "--weights", "no.pt"), "no.pt does not exist"),
        (("resnet18", "--output", "net.onnx", "--images", "IMAGES", "--weights", "other.pt"), "not those of resnet18"),
        (
            ("convnext_tiny", "--output", "net.onnx", "--images", "IMAGES"),
            "features.0.0 (torch.nn.modules.conv.Conv2d)",
        ),
    ],
)
def test_mistakes_are_one_sentence(images, arguments, said):
    torch.save({"weight": torch.zeros(3)}, "other.pt")
    result = run(*(images if argument == "IMAGES" else argument for argument in arguments), "--resolution", 32)
    assert result.exit_code != 0
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not Path("net.onnx").exists()
