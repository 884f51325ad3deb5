"""Tests compute on one thread each: they run beside one another, the longest files first."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where a kernel is defined, and some are in Triton itself


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the workflow, so that no process is left alone with it in the end."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)
