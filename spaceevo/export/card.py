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
from spaceevo.latency.bench import careful, measure_files
from spaceevo.latency.devices import Device, at_hand, own_suffix
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
    chosen: Mapping[str, Any],
) -> dict[str, Any]:
    """Run the exported files on the test split in their own runtimes.

    Latency is what the search measured of its winners, alone and in one go. Where it did not, the device's file is
    timed, if that is at hand.

    Args:
        files: by suffix, `.tflite` and `.onnx`.
        simulated: logits of the simulation in torch on `test`, [N, classes].
        fp32_accuracy: on `test`, of the same weights without quantizers.
        chosen: what seqnets.json has of this one.

    Returns:
        JSON-serialisable; latencies in ms, accuracies 0 to 1, sizes in bytes.
    """
    num_classes = simulated.shape[1]
    plan = subnet_plan(space, subnet, num_classes)
    cost = plan_cost(plan, subnet.resolution)
    prediction = predictor.predict_subnet(space, subnet, num_classes)
    measured_ms, interval_ms = _measured(chosen, files, device)
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
            "budget_ms": chosen["budget_ms"],
            "predicted_ms": prediction.latency_ms,
            "predicted_error": round(prediction.error, 4),  # relative half-width, for 95 % of the cases
            "predicted_beyond_fitted_range": prediction.extrapolated,
            "measured_ms": measured_ms,
            "measured_interval_ms": interval_ms,  # holds the median in 95 % of cases
        },
        "fp32_accuracy": fp32_accuracy,
        "int8_accuracy": entries[own_suffix(device).removeprefix(".")]["int8_accuracy"],
        "simulated_int8_accuracy": _share(top["simulation"] == test.labels),
        "agreement_of_files": _share(top[".tflite"] == top[".onnx"]),
        "test_images": len(test.labels),
        "files": entries,
    }


def _share(hits: npt.NDArray[np.bool_]) -> float:
    return round(float(np.mean(hits)), 6)


def _measured(
    chosen: Mapping[str, Any], files: Mapping[str, Path], device: Device
) -> tuple[float | None, list[float] | None]:
    """Milliseconds on the device and their interval; None where it was not at hand and is not now."""
    if chosen["measured_ms"] is not None or not at_hand(device):
        return chosen["measured_ms"], chosen["measured_interval_ms"]
    (timing,) = measure_files(device, [files[device.suffix]], options=careful(device)).timings
    return timing.latency_ms, [timing.low_ms, timing.high_ms]
