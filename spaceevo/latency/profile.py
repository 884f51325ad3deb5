"""Profiling a device: random blocks and whole random networks of a hyperspace, exported, run and timed there.

Blocks show each kind of kernel in many sizes; whole networks show what kernels cost in company, where a runtime's
overhead is shared and no layout is changed between them. Some networks are kept apart to test the predictor on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from spaceevo.export import runners
from spaceevo.latency.devices import Device, check_runtime
from spaceevo.latency.measure import measure
from spaceevo.nn.blocks import block_plan
from spaceevo.nn.network import IMAGE_CHANNELS, head_choices, subnet_plan
from spaceevo.nn.plan import Plan
from spaceevo.quant.graph import Int8Graph, random_graph
from spaceevo.space import BlockChoice, BlockType, Hyperspace, Space, Stage, Subnet, sample_space, sample_subnet

PROFILE_KIND = "latency_profile"

Split = Literal["fit", "test"]

_PREPARATION_SHARE = 0.6  # of the time budget: exporting and loading; the rest is for measuring


@dataclass(frozen=True)
class ProfiledBlock:
    """One block of one stage, on the map that arrives there."""

    stage: str
    block_type: BlockType
    in_channels: int
    choice: BlockChoice
    stride: int
    height: int
    resolution: int

    def plan(self) -> Plan:
        return block_plan(self.block_type.block, self.block_type.activation, self.in_channels, self.choice, self.stride)

    def row(self) -> dict[str, Any]:
        return {
            "role": "block",
            "split": "fit",
            "stage": self.stage,
            "block": self.block_type.block,
            "activation": self.block_type.activation,
            "in_channels": self.in_channels,
            **self.choice._asdict(),
            "stride": self.stride,
            "height": self.height,
            "resolution": self.resolution,
        }


@dataclass(frozen=True)
class ProfiledNet:
    """A whole network."""

    space: Space
    subnet: Subnet
    num_classes: int
    split: Split

    @property
    def height(self) -> int:
        return self.subnet.resolution

    def plan(self) -> Plan:
        return subnet_plan(self.space, self.subnet, self.num_classes)

    def row(self) -> dict[str, Any]:
        return {
            "role": "net",
            "split": self.split,
            "space": self.space.code,
            "subnet": self.subnet.code,
            "num_classes": self.num_classes,
            "height": self.height,
            "resolution": self.subnet.resolution,
        }


Profiled = ProfiledBlock | ProfiledNet


@dataclass(frozen=True)
class ProfileCounts:
    """How many models to profile.

    Attributes:
        blocks_per_type: blocks of each block type in each searched stage; the fixed stages get as many each.
        nets: whole networks to fit on.
        test_nets: whole networks kept to test on.
    """

    blocks_per_type: int = 3
    nets: int = 150
    test_nets: int = 50


def profile(
    device: Device,
    hyperspace: Hyperspace,
    num_classes: int,
    *,
    counts: ProfileCounts,
    budget_s: float,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Time random blocks and networks of a hyperspace on a device.

    Args:
        num_classes: outputs of the whole networks.
        budget_s: wall seconds to spend, roughly: where it is short, fewer models are profiled, in fewer rounds.
        progress: called with what is being done, how much of it is done, and of how much.

    Returns:
        One row per model: role (block or net), split (fit or test), what it is, latency_ms, spread_ms (interquartile
        range over rounds), rounds.

    Raises:
        DeviceError: nothing can be run on the device, or its runtime is not installed.
    """
    check_runtime(device)
    started = time.perf_counter()
    wanted = sample_models(hyperspace, num_classes, counts, seed)
    rng = np.random.default_rng([seed, 1])
    profiled: list[Profiled] = []
    loaded: list[runners.Runner] = []
    with tempfile.TemporaryDirectory(prefix="spaceevo-profile-") as folder:
        for model in wanted:
            if loaded and time.perf_counter() - started > _PREPARATION_SHARE * budget_s:
                break
            graph = random_graph(model.plan(), model.height, rng)
            loaded.append(load_graph(graph, device, Path(folder)))
            profiled.append(model)
            if progress is not None:
                progress("exporting", len(loaded), len(wanted))
        remaining = budget_s - (time.perf_counter() - started)
        timings = measure(
            loaded,
            device.measure,
            threads=device.threads,
            budget_s=remaining,
            progress=None if progress is None else lambda done, total: progress("measuring", done, total),
        )
    rows = [model.row() | vars(timing) for model, timing in zip(profiled, timings, strict=True)]
    return pd.DataFrame(rows).astype({key: "Int64" for key in _INTEGERS if any(key in row for row in rows)})


_INTEGERS = ("in_channels", "kernel_size", "width", "stride", "height", "resolution", "num_classes", "rounds")


def load_graph(graph: Int8Graph, device: Device, folder: Path) -> runners.Runner:
    """Export a graph in the format of the device's runtime and load it, with the device's threads."""
    path = folder / f"model{device.suffix}"
    if device.runtime == "tflite":
        from spaceevo.export.tflite import to_tflite

        path.write_bytes(to_tflite(graph))
    else:
        from spaceevo.export.onnx import to_onnx

        path.write_bytes(to_onnx(graph))
    return runners.load(path, device.threads)


def sample_models(hyperspace: Hyperspace, num_classes: int, counts: ProfileCounts, seed: int) -> list[Profiled]:
    """The models to profile, drawn at random; any beginning of the list holds all sorts in proportion."""
    rng = np.random.default_rng(seed)
    codes: set[str] = set()
    nets: list[ProfiledNet] = []
    while len(nets) < counts.test_nets + counts.nets:
        space = sample_space(hyperspace, rng)
        subnet = sample_subnet(space, rng)
        if subnet.code not in codes:  # so that no network to test on is also fitted on
            codes.add(subnet.code)
            nets.append(ProfiledNet(space, subnet, num_classes, "test" if len(nets) < counts.test_nets else "fit"))
    blocks = list(sample_blocks(hyperspace, num_classes, counts.blocks_per_type, rng))
    blocks = [blocks[i] for i in rng.permutation(len(blocks))]
    sorts: tuple[Sequence[Profiled], ...] = (nets[counts.test_nets :], blocks, nets[: counts.test_nets])
    placed = [((i + 0.5) / len(models), model) for models in sorts for i, model in enumerate(models)]
    return [model for _, model in sorted(placed, key=lambda pair: pair[0])]


def sample_blocks(
    hyperspace: Hyperspace, num_classes: int, per_type: int, rng: np.random.Generator
) -> Iterator[ProfiledBlock]:
    """Random blocks: `per_type` of each block type in each stage, with any width that can arrive."""
    for stage in hyperspace.body:
        for block_type in (stage.block_type,) if stage.block_type is not None else hyperspace.block_types:
            for _ in range(per_type):
                yield _sample_block(hyperspace, stage, block_type, rng)
    for name, block_type, choices, stride in head_choices(hyperspace, num_classes):
        arriving = hyperspace.in_widths(name)
        for _ in range(per_type):
            resolution = _choose(hyperspace.resolutions, rng)
            height = _arriving_height(hyperspace, name, resolution)
            yield ProfiledBlock(name, block_type, _choose(arriving, rng), choices[0], stride, height, resolution)


def _sample_block(
    hyperspace: Hyperspace, stage: Stage, block_type: BlockType, rng: np.random.Generator
) -> ProfiledBlock:
    resolution = _choose(hyperspace.resolutions, rng)
    height = _arriving_height(hyperspace, stage.name, resolution)
    arriving, stride = hyperspace.in_widths(stage.name) or (IMAGE_CHANNELS,), stage.stride
    if max(stage.depths) > 1 and rng.random() < 0.5:  # a later block of the stage
        height, arriving, stride = (height - 1) // stride + 1, stage.widths, 1
    choice = BlockChoice(_choose(block_type.kernels, rng), _choose(stage.widths, rng), _choose(block_type.expands, rng))
    return ProfiledBlock(stage.name, block_type, _choose(arriving, rng), choice, stride, height, resolution)


def _arriving_height(hyperspace: Hyperspace, name: str, resolution: int) -> int:
    height = resolution
    for stage in hyperspace.stages:
        if stage.name == name:
            return height
        pooled = stage.block_type is not None and stage.block_type.block == "pool_conv_bn_act"
        height = 1 if pooled else (height - 1) // stage.stride + 1
    raise KeyError(name)


def _choose(values: Sequence[Any], rng: np.random.Generator) -> Any:
    return values[int(rng.integers(len(values)))]
