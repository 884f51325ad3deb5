"""Latency of INT8 files: this project's against FP32 and against the post-training quantization of each runtime.

The ten published SEQnets and eight networks of torchvision, all with random weights and pictures, which take the same
time as any. Three files of each network for each runtime, timed in turns on one thread:

    FP32            torch.onnx.export after its constant folding; TensorFlow Lite's converter
    post-training   onnxruntime.quantization: QDQ, uint8 activations, int8 weights per channel, after quant_pre_process;
                    TensorFlow Lite's converter with a representative data set
    ours            spaceevo.export, of the same weights
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import Check, print_checks, print_table, time_interleaved, write_result

from spaceevo.artifacts import Record
from spaceevo.export.runners import load
from spaceevo.quant.graph import Int8Graph, read_graph, write_graph
from spaceevo.scripting import run

SEQNETS = tuple(f"SEQnet@{device}-A{index}" for device in ("pixel4", "vnni") for index in range(5))
MODELS = (
    "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0",
    "shufflenet_v2_x0_5", "mnasnet1_0", "regnet_y_400mf", "resnet18",
)  # fmt: skip
TFLITE_NETWORKS = ("SEQnet@pixel4-A0", "SEQnet@pixel4-A2", "SEQnet@vnni-A0", "SEQnet@vnni-A2", *MODELS[:3])
FILES = ("fp32", "post-training", "ours")
RESOLUTION = 224  # of torchvision's networks
NOISE = 1.03  # by which a file may be slower without being called slower
MEAN_RATIO = 0.9  # of ours to the post-training file, over the SEQnets on onnxruntime
SPEEDUP = 2.0  # of ours over FP32, for the SEQnets of vnni


@dataclass(frozen=True)
class Result:
    """Milliseconds of the three files of one network in one runtime."""

    network: str
    runtime: str
    fp32_ms: float
    post_training_ms: float
    ours_ms: float

    @property
    def ratio(self) -> float:
        return self.ours_ms / self.post_training_ms

    @property
    def speedup(self) -> float:
        return self.fp32_ms / self.ours_ms


def main(
    networks: str = "all",
    tflite: str = ",".join(TFLITE_NETWORKS),
    images: int = 4,
    rounds: int = 15,
    round_s: float = 0.08,
) -> None:
    """Compare on both runtimes.

    Args:
        networks: some of them, separated by commas, or all.
        tflite: those compared in TFLite too, whose conversion takes most of the time: likewise, or none.
        images: random pictures that grids are fitted to, by every method.
        rounds: times that every file has its turn.
        round_s: seconds of a turn.
    """
    names = [*SEQNETS, *MODELS] if networks == "all" else networks.split(",")
    converted = [name for name in names if tflite == "all" or name in tflite.split(",")]
    results = []
    with tempfile.TemporaryDirectory(prefix="spaceevo-") as temporary:
        folder, start = Path(temporary), time.perf_counter()
        for name in names:
            make_onnx(name, images, folder)
        if converted:
            _convert(converted, folder)
        print(f"{len(names)} networks, files made in {time.perf_counter() - start:.0f} s", flush=True)
        for suffix, some in ((".onnx", names), (".tflite", converted)):
            for name in some:
                runners = {kind: load(folder / f"{name}.{kind}{suffix}", threads=1) for kind in FILES}
                times = time_interleaved({kind: runner.invoke for kind, runner in runners.items()}, rounds, round_s)
                results.append(Result(name, suffix[1:], *(times[kind] for kind in FILES)))
    for runtime in dict.fromkeys(r.runtime for r in results):
        print_table(
            f"Latency on one thread in {'onnxruntime' if runtime == 'onnx' else 'TFLite'}, ms",
            ("network", "FP32", "post-training", "ours", "ours / post-training", "FP32 / ours"),
            [
                (r.network, *(f"{ms:.3f}" for ms in (r.fp32_ms, r.post_training_ms, r.ours_ms)), f"{r.ratio:.3f}",
                 f"{r.speedup:.2f}")
                for r in results if r.runtime == runtime
            ],
        )  # fmt: skip
    checks = list(_checks(results))
    print_checks(checks)
    rows = [asdict(r) | {"ratio": r.ratio, "speedup": r.speedup} for r in results]
    write_result("int8_latency", {"threads": 1, "rounds": rounds, "round_s": round_s, "results": rows}, checks)


def _checks(results: list[Result]) -> Iterator[Check]:
    for runtime in dict.fromkeys(r.runtime for r in results):
        worst = max((r for r in results if r.runtime == runtime), key=lambda r: r.ratio)
        yield Check(
            f"{runtime}: ours never slower than the post-training file by more than {NOISE - 1:.0%}",
            f"at most {worst.ratio:.3f} times, {worst.network}",
            worst.ratio <= NOISE,
        )
    seqnets = [r for r in results if r.runtime == "onnx" and r.network in SEQNETS]
    if seqnets:
        mean = math.exp(sum(math.log(r.ratio) for r in seqnets) / len(seqnets))
        yield Check(
            f"onnx: geometric mean of ours / post-training over the SEQnets at most {MEAN_RATIO:g}",
            f"{mean:.3f}",
            mean <= MEAN_RATIO,
        )
    vnni = [r for r in seqnets if "@vnni" in r.network]
    if vnni:
        least = min(vnni, key=lambda r: r.speedup)
        yield Check(
            f"onnx: at least {SPEEDUP:g} times as fast as FP32, SEQnets of vnni",
            f"{least.speedup:.2f}, {least.network}",
            least.speedup >= SPEEDUP,
        )


def make_onnx(name: str, images: int, folder: Path) -> None:
    """Write the three ONNX files of a network, its int8 graph and the kinds of its grids."""
    import torch

    torch.set_num_threads(1)
    network, graph, kinds, x = _seqnet(name, images) if name in SEQNETS else _torchvision(name, images)
    write_graph(folder / f"{name}.safetensors", graph, Record({}))
    (folder / f"{name}.json").write_text(json.dumps(kinds))
    np.save(folder / f"{name}.npy", x.numpy())

    from spaceevo.export.onnx import to_onnx

    fp32, prepared = folder / f"{name}.fp32.onnx", folder / f"{name}.prepared.onnx"
    (folder / f"{name}.ours.onnx").write_bytes(to_onnx(graph))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, which would rather use an exporter that needs another package
        torch.onnx.export(
            network, (x[:1],), str(fp32), input_names=["input"], output_names=["output"], opset_version=17, dynamo=False
        )
    logging.disable(logging.WARNING)
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.pictures = iter(x.numpy()[:, None])

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            picture = next(self.pictures, None)
            return None if picture is None else {"input": picture}

    quant_pre_process(str(fp32), str(prepared))
    quantize_static(
        str(prepared),
        str(folder / f"{name}.post-training.onnx"),
        Pictures(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    logging.disable(logging.NOTSET)


def _convert(names: Sequence[str], folder: Path) -> None:
    """Make the TFLite files in a process of its own: TensorFlow and torch fight over threads."""
    code = "import sys, int8_latency\nfor name in sys.argv[2:]: int8_latency.make_tflite(name, sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), *names],
        cwd=Path(__file__).parent,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"TFLite files were not made: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")


def _pictures(count: int, resolution: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    return (0.4 * torch.randn(count, 3, resolution, resolution, generator=generator)).clamp(-1, 1)


def _seqnet(name: str, images: int) -> tuple[Any, Int8Graph, dict[str, str], Any]:
    """A network in FP32, its int8 graph, the kinds of its grids, and pictures."""
    from torch import nn

    from spaceevo import api
    from spaceevo.nn.network import subnet_plan
    from spaceevo.quant.grids import grid_kinds

    class InFp32(nn.Module):
        def __init__(self, network: api.Network) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any) -> Any:
            return self.network(x, api.fp32)

    spec = api.image_spec(1000)
    space, subnet = api.parse_network(name)
    x = _pictures(images, subnet.resolution)
    network = api.calibrated(api.extract(api.build_supernet(space, spec), subnet, x), x)
    kinds = grid_kinds(subnet_plan(space, subnet, len(spec.classes)))
    return InFp32(network).eval(), api.to_int8_graph(network, spec), dict(kinds), x


def _torchvision(name: str, images: int) -> tuple[Any, Int8Graph, dict[str, str], Any]:
    import torch

    from spaceevo import api
    from spaceevo.nn.models import build_model
    from spaceevo.quant.trace import trace

    x = _pictures(images, RESOLUTION)
    model = build_model(name)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # so that activations have ranges as in trained networks
    with torch.no_grad():
        model.train()(x)
    model.eval()
    return model, api.model_to_int8_graph(model, x), dict(trace(model, x[:2]).kinds), x


def make_tflite(name: str, folder: str) -> None:
    """Write the three TFLite files of a network from what `make_onnx` wrote; to be run in a process without torch."""
    import tensorflow as tf

    from spaceevo.export.fp32 import fp32_converter
    from spaceevo.export.tflite import for_x86, to_tflite

    prefix = str(Path(folder) / name)
    graph = read_graph(f"{prefix}.safetensors")
    kinds = json.loads(Path(f"{prefix}.json").read_text())
    Path(f"{prefix}.ours.tflite").write_bytes(to_tflite(for_x86(graph)))
    pictures = np.load(f"{prefix}.npy").transpose(0, 2, 3, 1)
    for kind in FILES[:2]:
        converter = fp32_converter(tf, graph, kinds)
        if kind == "post-training":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([picture[None]] for picture in pictures)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        Path(f"{prefix}.{kind}.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    run(main)
