"""Runtimes: how a file is loaded and timed on a device. A new one is a class here and its name in `RUNTIMES`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict

from spaceevo.errors import DeviceError
from spaceevo.latency.adb import AdbRuntime
from spaceevo.latency.machine import this_machine

if TYPE_CHECKING:
    from spaceevo.latency.devices import Device
    from spaceevo.latency.measure import Timeable


class NoOptions(BaseModel):
    """A runtime that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Runtime(Protocol):
    """A way to run networks.

    Attributes:
        suffix: of the files it loads, with the dot.
        options: the keys under `options` in the device's file.
        removable: whether it goes on without the device once that was profiled: a phone that is not attached.
    """

    @property
    def suffix(self) -> str: ...

    @property
    def options(self) -> type[BaseModel]: ...

    @property
    def removable(self) -> bool: ...

    def check(self, device: Device) -> None:
        """Raise a `DeviceError` where the device cannot be used now, with the way out."""
        ...

    def load(self, path: Path, device: Device) -> AbstractContextManager[Timeable]:
        """A file made ready to be timed, with the device's threads, until the context ends."""
        ...

    def machine(self, device: Device) -> dict[str, Any]:
        """What latencies on the device depend on beside the network."""
        ...


class InProcessRuntime:
    """A runtime that is a Python package: files run in this process, on this machine's CPU."""

    options: type[BaseModel] = NoOptions
    removable = False

    def __init__(self, suffix: str, module: str, package: str) -> None:
        self.suffix, self._module, self._package = suffix, module, package

    def check(self, device: Device) -> None:
        if importlib.util.find_spec(self._module) is None:
            raise DeviceError(
                f"The device {device.name} needs {device.runtime}, which is not installed: pip install {self._package}."
            )

    def load(self, path: Path, device: Device) -> AbstractContextManager[Timeable]:
        from spaceevo.export import runners

        return nullcontext(runners.load(path, device.threads))

    def machine(self, device: Device) -> dict[str, Any]:
        return this_machine(self._package, device.threads)


RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": InProcessRuntime(".onnx", "onnxruntime", "onnxruntime"),
    "tflite": InProcessRuntime(".tflite", "ai_edge_litert", "ai-edge-litert"),
    "adb": AdbRuntime(),
}
