"""The one door to torchvision, which also opens where its compiled operators do not load.

torchvision registers Python kernels for `torchvision::nms` and `torchvision::qnms` as it is imported, and takes for
granted that its compiled library has declared both operators. Where that library does not load, such as a CUDA build of
torchvision beside a CPU build of torch, the import ends in "operator torchvision::nms does not exist", although the
datasets, transforms and models, all that is used here, are plain Python. Declaring the two schemas is all the
import needs. Where the compiled library loads, nothing is declared.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch


@cache
def import_torchvision() -> Any:
    """The `torchvision` module, with `datasets`, `models` and `transforms.v2` imported.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        torchvision = importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare_schemas()
        torchvision = importlib.import_module("torchvision")
    for name in ("datasets", "models", "transforms.v2"):
        importlib.import_module(f"torchvision.{name}")
    return torchvision


def _declare_schemas() -> None:
    """Declare what the compiled library would have declared; calling these operators stays an error."""
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
