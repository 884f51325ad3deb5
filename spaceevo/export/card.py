"""The card of a finished SEQnet: what it is, how fast and how accurate its files are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceevo.artifacts import file_digest
from spaceevo.export import runners
from spaceevo.latency.bench import measure_files
from spaceevo.latency.devices import Device, at_hand
from spaceevo.latency.measure import Timing
from spaceevo.latency.predictor import Predictor
from spaceevo.nn.footprint import activation_bytes
from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import plan_cost
from spaceevo.space import Space, Subnet


@dataclass(frozen=True)
class TestSplit:
    """The test split at a network's resolution.

    Attributes:
        batches: goes through its pictures in batches, float32 [B, 3, r, r].
        labels: int64 [N].
    """

    batches: Callable[[], Iterable[npt.NDArray[np.float32]]]
    labels: npt.NDArray[np.int64]


def make_card(
    name: str,
    space: Space,
    subnet: Subnet,
    files: Mapping[str, Path],
    test: TestSplit,
    simulated: npt.NDArray[np.float32],
    fp32_accuracy: float,
    predictor: Predictor,
    device: Device,
    budget_ms: float,
) -> dict[str, Any]:
    """Run the exported files on the test split in their own runtimes, and time the device's file where it is at hand.

    Args:
        files: by suffix, `.tflite` and `.onnx`.
        simulated: logits of the simulation in torch on `test`, [N, classes].
        fp32_accuracy: on `test`, of the same weights without quantizers.

    Returns:
        JSON-serialisable; latencies in ms, accuracies 0 to 1, sizes in bytes.
    """
    num_classes = simulated.shape[1]
    plan = subnet_plan(space, subnet, num_classes)
    cost = plan_cost(plan, subnet.resolution)
    prediction = predictor.predict_subnet(space, subnet, num_classes)
    timing = _timing(files, device)
    top = {"simulation": simulated.argmax(1)}
    entries = {}
    for suffix, path in files.items():
        runner = runners.load(path, threads=1)
        top[suffix] = np.concatenate([runner.run(batch).argmax(1) for batch in test.batches()])
        entries[suffix.removeprefix(".")] = {
            "file": path.name,
            "size_bytes": path.stat().st_size,
            "sha256": file_digest(path),
            "int8_accuracy": _share(top[suffix] == test.labels),
            "agreement_with_simulation": _share(top[suffix] == top["simulation"]),
        }
    return {
        "name": name,
        "space": space.code,
        "subnet": subnet.code,
        "resolution": subnet.resolution,
        "macs": cost.macs,
        "params": cost.params,
        "activation_bytes": activation_bytes(plan, subnet.resolution),
        "latency": {
            "device": device.name,
            "budget_ms": budget_ms,
            "predicted_ms": prediction.latency_ms,
            "predicted_error": round(prediction.error, 4),  # relative half-width, for 95 % of the cases
            "predicted_beyond_fitted_range": prediction.extrapolated,
            "measured_ms": timing and timing.latency_ms,
            "measured_interval_ms": timing and [timing.low_ms, timing.high_ms],  # holds the median in 95 % of cases
        },
        "fp32_accuracy": fp32_accuracy,
        "int8_accuracy": entries[(device.suffix if device.measured else ".tflite").removeprefix(".")]["int8_accuracy"],
        "simulated_int8_accuracy": _share(top["simulation"] == test.labels),
        "agreement_of_files": _share(top[".tflite"] == top[".onnx"]),
        "test_images": len(test.labels),
        "files": entries,
    }


def _share(hits: npt.NDArray[np.bool_]) -> float:
    return round(float(np.mean(hits)), 6)


def _timing(files: Mapping[str, Path], device: Device) -> Timing | None:
    """What the device's file takes there, or None where the device is not at hand."""
    return measure_files(device, [files[device.suffix]]).timings[0] if at_hand(device) else None
