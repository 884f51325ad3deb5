import re
from pathlib import Path

import torch

import spaceevo
from spaceevo.vision_ops import import_torchvision

PACKAGE = Path(spaceevo.__file__).parent


def test_torchvision_opens_with_or_without_its_compiled_operators() -> None:
    torchvision = import_torchvision()
    assert import_torchvision() is torchvision
    assert hasattr(torchvision.datasets, "CIFAR10")
    assert hasattr(torchvision.transforms.v2, "Resize")
    network = torchvision.models.mobilenet_v3_small(weights=None).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


def test_no_other_module_imports_torchvision() -> None:
    direct = re.compile(r"^\s*(import|from) torchvision", re.MULTILINE)
    assert [path.name for path in PACKAGE.rglob("*.py") if direct.search(path.read_text())] == []
