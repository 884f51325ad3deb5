"""Files and networks timed on a device: exported, loaded, kept on the same cores, with the reference beside them."""

from __future__ import annotations

import importlib.util
import platform
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from spaceevo.errors import ExportError
from spaceevo.latency.devices import Device, MeasureOptions
from spaceevo.latency.measure import Measurement, measure_with_reference
from spaceevo.latency.pinning import pinned
from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import Conv, Linear, Plan
from spaceevo.quant.graph import Int8Graph, random_graph
from spaceevo.space import Space, Subnet, parse_space

X86 = ("x86_64", "AMD64", "i386", "i686")  # as `platform.machine()` says
CAREFUL_ROUNDS = 21
REFERENCE = "tiny-4664-1222"  # its largest subnet is timed beside everything else: the same work on every device


def measure_files(
    device: Device,
    paths: Sequence[Path],
    *,
    options: MeasureOptions | None = None,
    reference: Path | None = None,
    budget_s: float = float("inf"),
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Time files on a device, in interleaved rounds.

    Args:
        paths: files with the suffix that the device's runtime loads.
        options: those of the device, where not given.
        reference: file of the reference model (`write_reference`), to see the machine drift.
        budget_s, progress: as of `spaceevo.latency.measure`.

    Raises:
        DeviceError: nothing can be run on the device, its runtime is not installed, or it is too noisy.
        ExportError: the runtime cannot load a file.
    """
    device.how.check(device)
    with ExitStack() as stack:
        stack.enter_context(pinned(device.threads))  # before files are loaded: a runtime's threads start there
        models = [stack.enter_context(device.how.load(path, device)) for path in paths]
        beside = None if reference is None else stack.enter_context(device.how.load(reference, device))
        return measure_with_reference(
            models,
            beside,
            device.measure if options is None else options,
            threads=device.threads,
            budget_s=budget_s,
            progress=progress,
        )


def measure_subnet(
    device: Device, space: Space, subnet: Subnet, num_classes: int, options: MeasureOptions | None = None
) -> Measurement:
    """Time a subnet with arbitrary weights, which its latency does not depend on, beside the reference model."""
    return measure_subnets(device, space, [subnet], num_classes, options)


def measure_subnets(
    device: Device, space: Space, subnets: Sequence[Subnet], num_classes: int, options: MeasureOptions | None = None
) -> Measurement:
    """Time subnets in interleaved rounds, with arbitrary weights, beside the reference model."""
    with tempfile.TemporaryDirectory(prefix="spaceevo-") as name:
        folder, rng = Path(name), np.random.default_rng(0)
        paths = []
        for index, subnet in enumerate(subnets):
            graph = random_graph(subnet_plan(space, subnet, num_classes), subnet.resolution, rng)
            paths.append(write_file(graph, device, folder / f"model{index}"))
        return measure_files(device, paths, options=options, reference=write_reference(device, folder))


def careful(device: Device, interval: float | None = None) -> MeasureOptions:
    """How to measure a few models: with time for more rounds than each of a profile's hundreds gets."""
    return device.measure.model_copy(
        update={"rounds": max(CAREFUL_ROUNDS, device.measure.rounds), "interval": interval}
    )


def check_picture(device: Device, path: Path) -> None:
    """Refuse a file that does not read one picture of a fixed size, or cannot be run on one.

    Raises:
        ExportError: the file cannot be read or run, or what it reads is no picture. Files for a phone are checked where
            TFLite is installed here too.
    """
    from spaceevo.export import runners

    if device.how.removable and importlib.util.find_spec("ai_edge_litert") is None:
        return
    runner = runners.load(path, threads=1)
    shape = runner.input_shape
    shown = " × ".join("?" if size is None else str(size) for size in shape) or "a single value"
    if len(shape) != 4 or shape[0] not in (1, None) or shape[1] not in (1, 3, 4):
        raise ExportError(
            f"{path} does not read a picture: its input is {shown}, where one picture with channels is 1 × 3 × height "
            "× width; name a file that classifies pictures."
        )
    if shape[2] is None or shape[3] is None:
        raise ExportError(
            f"{path} leaves the size of its picture open ({shown}), on which its latency depends: export it with a "
            "fixed height and width."
        )
    try:
        runner.invoke()
    except Exception as error:  # runtimes have no common one
        raise ExportError(
            f"{path} cannot be run on a picture of numbers ({' '.join(str(error).split())}): export it again."
        ) from error


def write_reference(device: Device, folder: Path) -> Path:
    """Write the reference model for a device into a folder."""
    space = parse_space(REFERENCE)
    plan, height = subnet_plan(space, space.largest, 10), space.largest.resolution
    graph = random_graph(plan, height, np.random.default_rng(0))
    return write_file(graph, device, folder / "reference")


def suited_graph(graph: Int8Graph, device: Device) -> Int8Graph:
    """The graph as TFLite computes it fastest on a device: another one where that is this machine, and it is x86."""
    from spaceevo.export.tflite import for_x86

    here = device.measured and not device.how.removable
    return for_x86(graph) if here and platform.machine() in X86 else graph


def can_be_written(plan: Plan, device: Device) -> bool:
    """Whether `write_file` can export a network of this plan for a device: TFLite's converter refuses large layers."""
    if device.suffix != ".tflite":
        return True
    from spaceevo.export.tflite import takes_layer

    for op in plan.ops:
        if isinstance(op, Conv):
            weights = op.out_channels * (op.in_channels // op.groups) * op.kernel_size**2
        elif isinstance(op, Linear):
            weights = op.out_channels * op.in_channels
        else:
            continue
        if not takes_layer(op.out_channels, weights):
            return False
    return True


def write_file(graph: Int8Graph, device: Device, stem: Path) -> Path:
    """Export a graph for timing in the format of the device's runtime, to `stem` with its suffix."""
    path = stem.with_name(stem.name + device.suffix)
    if device.suffix == ".tflite":
        from spaceevo.export.tflite import to_tflite

        path.write_bytes(to_tflite(suited_graph(graph, device), signature=False))
    else:
        from spaceevo.export.onnx import to_onnx

        path.write_bytes(to_onnx(graph))
    return path


def write_fp32_file(plan: Plan, height: int, device: Device, stem: Path, rng: np.random.Generator) -> Path:
    """Export a plan in FP32 with random weights, to `stem` with the suffix of the device's runtime."""
    from spaceevo.export.fp32 import fp32_onnx, fp32_tflite

    path = stem.with_name(stem.name + device.suffix)
    path.write_bytes((fp32_tflite if device.suffix == ".tflite" else fp32_onnx)(plan, height, rng))
    return path
