"""A file is made for where it runs: large depthwise kernels in blocks on x86 alone, never for a phone."""

import platform

import numpy as np
import pytest

from spaceevo.latency.bench import suited_graph
from spaceevo.latency.devices import load_device
from spaceevo.nn.plan import INPUT, Conv, Plan
from spaceevo.quant.graph import random_graph

PLAN = Plan(16, (Conv("deep", INPUT, "deep", None, 16, 16, 7, 1, 16, True, None),))


@pytest.mark.parametrize(
    ("device", "machine", "groups"),
    [
        ("cpu-tflite", "x86_64", 1),
        ("cpu-tflite", "aarch64", 16),
        ("pixel4-adb", "x86_64", 16),
        ("pixel4", "x86_64", 16),
    ],
)
def test_large_depthwise_kernels_depend_on_the_device(monkeypatch, device, machine, groups):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    graph = random_graph(PLAN, 9, np.random.default_rng(0))
    assert suited_graph(graph, load_device(device)).nodes[0].groups == groups
