"""Devices: YAML files that say where a network runs and how it is timed there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spaceevo.errors import DeviceError
from spaceevo.latency.predictor import Predictor, read_predictor

SHIPPED = Path(__file__).parent / "devices"
PROJECT = Path("devices")  # in the working directory: a project's own

_RUNTIMES = {"onnxruntime": ("onnxruntime", "onnxruntime"), "tflite": ("ai_edge_litert", "ai-edge-litert")}
_SUFFIXES = {"onnxruntime": ".onnx", "tflite": ".tflite"}


class MeasureOptions(BaseModel):
    """How a device's latency is measured.

    Attributes:
        warm_up: invocations before the first timing.
        rounds: times that every model is timed, all models in turn.
        round_s: seconds that a round spends on one model, at least.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    warm_up: int = Field(default=5, ge=1)
    rounds: int = Field(default=7, ge=1)
    round_s: float = Field(default=0.01, gt=0)


class Device(BaseModel):
    """Where networks run.

    Attributes:
        name: the name of its file.
        runtime: onnxruntime or tflite on this machine, or table: a fitted predictor, nothing is run.
        threads: threads of the runtime.
        predictor: JSON file of a table's predictor; absolute once loaded.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    runtime: Literal["onnxruntime", "tflite", "table"]
    threads: int = Field(default=1, ge=1)
    measure: MeasureOptions = MeasureOptions()
    predictor: Path | None = None

    @property
    def measured(self) -> bool:
        """Whether networks can be timed on it from here."""
        return self.runtime != "table"

    @property
    def suffix(self) -> str:
        """Suffix of the files that its runtime loads, with the dot.

        Raises:
            DeviceError: the device is a table.
        """
        if self.runtime not in _SUFFIXES:
            raise DeviceError(
                f"Nothing can be run on {self.name}, which is a table of published latencies: measure on a device "
                "with runtime onnxruntime or tflite."
            )
        return _SUFFIXES[self.runtime]


def shipped_devices() -> tuple[str, ...]:
    """Names of the devices that come with the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.yaml")))


def known_devices() -> tuple[str, ...]:
    """Names of the shipped devices and of those in `devices/` of the working directory."""
    return tuple(sorted({*shipped_devices(), *(path.stem for path in PROJECT.glob("*.yaml"))}))


def load_device(name_or_path: str | Path) -> Device:
    """The device called so: shipped, or `devices/<name>.yaml` in the working directory; or the YAML file at this path.

    Raises:
        DeviceError: there is no such device, or a key of its file is unknown, missing or out of range.
    """
    text = str(name_or_path)
    candidates = [SHIPPED / f"{text}.yaml", PROJECT / f"{text}.yaml"]
    if text.endswith((".yaml", ".yml")):
        candidates = [Path(text)]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        known = ", ".join(known_devices())
        raise DeviceError(f"There is no device {text!r}: use one of {known}, or add {PROJECT}/{text}.yaml.")
    try:
        declared = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise DeviceError(f"The device file {path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(declared, dict):
        raise DeviceError(f"The device file {path} must hold keys and values, such as 'runtime: onnxruntime'.")
    try:
        device = Device.model_validate({**declared, "name": path.stem})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DeviceError(f"The device file {path} has a wrong key {key}: {first['msg']}.") from error
    if "name" in declared:
        raise DeviceError(f"The device file {path} has the key name: a device is called as its file, {path.stem}.")
    if device.measured != (device.predictor is None):
        need = "names no predictor, which a table needs" if device.predictor is None else "has a predictor"
        raise DeviceError(f"The device file {path} {need}: predictor goes with runtime: table, and only with it.")
    if device.predictor is not None:
        device = device.model_copy(update={"predictor": (path.parent / device.predictor).resolve()})
    return device


def check_runtime(device: Device) -> None:
    """Raise a `DeviceError` that says what to install where the device's runtime cannot be imported."""
    if device.runtime in _RUNTIMES:
        module, package = _RUNTIMES[device.runtime]
        if importlib.util.find_spec(module) is None:
            raise DeviceError(
                f"The device {device.name} needs {device.runtime}, which is not installed: pip install {package}."
            )


def table_predictor(device: Device) -> Predictor:
    """The predictor of a device whose runtime is `table`.

    Raises:
        DeviceError: the device is measured; its predictor is an artifact of the workflow.
    """
    if device.predictor is None:
        raise DeviceError(
            f"The device {device.name} has no shipped predictor: run snakemake, which profiles it and fits one."
        )
    return read_predictor(device.predictor)


def device_predictor(device: str | Path) -> Predictor:
    """The predictor of a device with a table, by its name or the path of its YAML; or a latency_predictor.json.

    Raises:
        DeviceError: there is no such device, or it is to be measured and its predictor is an artifact of its own.
        ArtifactError: the file is no predictor.
    """
    if Path(device).suffix == ".json":
        return read_predictor(device)
    return table_predictor(load_device(device))
