"""Files for timing: networks with arbitrary weights, on which latency does not depend, for a device's runtime.

TensorFlow takes seconds to convert a network, longer than timing it takes. Where a file is made through it, several
processes write files at once (`FileWriter`), and are still while something is timed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from spaceevo.errors import DeviceError
from spaceevo.latency.devices import Device, is_x86
from spaceevo.latency.machine import usable_cores
from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import Conv, Linear, Plan
from spaceevo.quant.graph import Int8Graph, random_graph
from spaceevo.space import parse_space

REFERENCE = "tiny-4664-1222"  # its largest subnet is timed beside everything else: the same work on every device
MOST_PROCESSES = 4  # of a `FileWriter`; each holds TensorFlow and a network, most of a GiB


def write_reference(device: Device, folder: Path) -> Path:
    """Write the reference model for a device into a folder."""
    return write_sketch(reference_sketch(), device, folder / "reference")


def suited_graph(graph: Int8Graph, device: Device) -> Int8Graph:
    """The graph as TFLite computes it fastest on a device: another one where that is an x86 CPU."""
    from spaceevo.export.tflite import for_x86

    return for_x86(graph) if is_x86(device) else graph


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


class Sketch(NamedTuple):
    """A network but for its weights, which are drawn with a seed.

    Attributes:
        height: side of the square map that arrives, pixels.
        fp32: whether it is to compute in FP32 in place of INT8.
    """

    plan: Plan
    height: int
    seed: int | Sequence[int]
    fp32: bool = False


class FileWriter(AbstractContextManager["FileWriter"]):
    """Writes files for timing on a device; several at once where TensorFlow converts them.

    Args:
        processes: at most; as many as there are cores to use, up to `MOST_PROCESSES`, where not given.
    """

    def __init__(self, device: Device, processes: int | None = None) -> None:
        self._device = device
        self._processes = min(usable_cores(), MOST_PROCESSES) if processes is None else processes
        self._pool: ProcessPoolExecutor | None = None
        if device.suffix == ".tflite" and self._processes > 1:
            context = multiprocessing.get_context("spawn")  # a fork would share the threads of numpy and torch
            self._pool = ProcessPoolExecutor(self._processes, mp_context=context, initializer=_follow_parent)

    def write(self, orders: Iterable[tuple[Sketch, Path]]) -> Generator[Path, None, None]:
        """Files of networks at stems that are given with them, in this order.

        Closed early, it waits for the few that are being written, so that what is timed next is timed alone.

        Raises:
            DeviceError: a process that converts was killed.
        """
        if self._pool is None:
            for sketch, stem in orders:
                yield write_sketch(sketch, self._device, stem)
            return
        waiting: deque[Future[Path]] = deque()  # no more than are taken up at once: none is ever cancelled
        try:
            for sketch, stem in orders:
                waiting.append(self._pool.submit(write_sketch, sketch, self._device, stem))
                if len(waiting) > self._processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DeviceError(
                f"A process that converts networks for {self._device.name} was killed, for want of memory most likely: "
                f"each of {self._processes} needs about a GiB; give the job more memory or fewer cores and run it "
                "again, and it goes on from what was measured."
            ) from error
        finally:
            wait(waiting)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def write_sketch(sketch: Sketch, device: Device, stem: Path) -> Path:
    """Draw a network's weights and export it for timing, to `stem` with the suffix of the device's runtime."""
    rng = np.random.default_rng(sketch.seed)
    if sketch.fp32:
        return write_fp32_file(sketch.plan, sketch.height, device, stem, rng)
    return write_file(random_graph(sketch.plan, sketch.height, rng), device, stem)


def reference_sketch() -> Sketch:
    """The reference model."""
    space = parse_space(REFERENCE)
    return Sketch(subnet_plan(space, space.largest, 10), space.largest.resolution, 0)


def _follow_parent() -> None:
    """End when the process that started this one has ended, however that was; Ctrl-C is for that one to see."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
