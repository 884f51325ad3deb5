"""Graphs and their exported files, made once for all tests of this folder.

TensorFlow and torch must not share a process, so that all TFLite conversions run in one process of their own.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from interpreter import calibrated_graph, pictures
from layers import Layers, shaken

from spaceevo.artifacts import Record
from spaceevo.export.onnx import to_onnx
from spaceevo.nn.blocks import BLOCKS, block_plan
from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import Op, Plan
from spaceevo.quant.fit import fit
from spaceevo.quant.graph import Int8Graph, write_graph
from spaceevo.quant.grids import SMOOTH_ACTIVATIONS, Grid
from spaceevo.quant.trace import trace
from spaceevo.space import BlockChoice, load_hyperspace, sample_space, sample_subnet

WIDTH = 16  # channels that arrive at the blocks
ACTIVATIONS = {"relu": 14, "relu6": 13, "swish": 14, "hswish": 13}  # with the size of the map: even and odd
SUBNETS = ("tiny_0", "tiny_1")
LAYERS = {"layers_even": 32, "layers_odd": 27}  # every kind of layer of other people's networks, by size of the picture
DESCRIPTION = {"class_names": [f"class {i}" for i in range(10)], "subnet": "d1", "mean": [0.5, 0.5, 0.5]}

CONVERT = """
import sys
from pathlib import Path
from spaceevo.export.tflite import to_tflite
from spaceevo.quant.graph import read_graph

for path in Path(sys.argv[1]).glob("*.safetensors"):
    graph = read_graph(path)
    tensors = [node.output for node in graph.nodes]
    path.with_suffix(".debug.tflite").write_bytes(to_tflite(graph, tensors))
    if path.stem.startswith(("tiny", "layers_even")):
        path.with_suffix(".tflite").write_bytes(to_tflite(graph))
        path.with_suffix(".unnamed.tflite").write_bytes(to_tflite(graph, signature=False))
"""


class Exported(NamedTuple):
    """A graph with inputs for it; its files are `<name>.onnx` and `.tflite`, and `<name>.debug.…` with all tensors."""

    folder: Path
    name: str
    graph: Int8Graph
    inputs: np.ndarray

    def file(self, suffix: str) -> Path:
        return self.folder / (self.name + suffix)


def all_blocks(activation: str) -> Plan:
    """Every block type side by side: with its input as shortcut, and with another width and stride 2.

    ResNet blocks end in a sum with the activation, which is a rectifier.
    """
    ops: list[Op] = []
    for block in BLOCKS:
        if block == "linear":
            continue
        expand = 0.5 if block.startswith("resnet") else 2.0
        largest = 7 if block.startswith("mobilenet") else 5
        for variant, stride, width, kernel_size in (
            ("same", 1, WIDTH, 3),
            ("wide", 1, 24, 5),
            ("down", 2, 24, largest),
        ):
            choice = BlockChoice(kernel_size, width, expand)
            own = "relu" if block.startswith("resnet") and activation in SMOOTH_ACTIVATIONS else activation
            ops += block_plan(block, own, WIDTH, choice, stride).prefixed(f"{block}_{variant}.", "input").ops
    classifier = block_plan("linear", None, 24, BlockChoice(1, 10, 0.0), 1)
    ops += classifier.prefixed("linear_same.", "pool_conv_bn_act_down.conv").ops
    return Plan(WIDTH, tuple(ops))


def random_subnet(seed: int) -> tuple[Plan, int]:
    """A subnet of a random space of the tiny hyperspace, with its resolution."""
    rng = np.random.default_rng(seed)
    space = sample_space(load_hyperspace("tiny"), rng)
    subnet = sample_subnet(space, rng)
    return subnet_plan(space, subnet, 10), subnet.resolution


def traced_graph(x: np.ndarray, seed: int) -> Int8Graph:
    """The network of `layers`, with grids fitted to `x`."""
    images = torch.from_numpy(x)
    graph = trace(shaken(Layers(), seed, images), images[:2])
    scale = float(np.abs(x).max()) / 127
    return fit(graph, [images], Grid(scale, 128), torch.Generator().manual_seed(seed), DESCRIPTION)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    folder = tmp_path_factory.mktemp("exported")
    rng = np.random.default_rng(0)
    cases = {}
    for activation, size in ACTIVATIONS.items():
        x = pictures(2, WIDTH, size, rng)
        cases[activation] = Exported(folder, activation, calibrated_graph(all_blocks(activation), x, rng), x)
    for seed, name in enumerate(SUBNETS):
        plan, resolution = random_subnet(seed)
        x = pictures(32, 3, resolution, rng)
        graph = replace(calibrated_graph(plan, x, rng), description=DESCRIPTION)
        cases[name] = Exported(folder, name, graph, x)
    for seed, (name, size) in enumerate(LAYERS.items()):
        x = pictures(8, 3, size, rng)
        cases[name] = Exported(folder, name, traced_graph(x, seed), x)
    for case in cases.values():
        write_graph(case.file(".safetensors"), case.graph, Record({}))
        case.file(".onnx").write_bytes(to_onnx(case.graph))
        case.file(".debug.onnx").write_bytes(to_onnx(case.graph, [node.output for node in case.graph.nodes]))
    subprocess.run([sys.executable, "-c", CONVERT, str(folder)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return cases
