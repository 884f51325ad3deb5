"""Devices: YAML files that say where a network runs and how it is timed there."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from spaceevo.errors import DeviceError
from spaceevo.latency.machine import check_same_machine
from spaceevo.latency.predictor import Predictor, read_predictor
from spaceevo.latency.runtimes import RUNTIMES, Runtime

SHIPPED = Path(__file__).parent / "devices"
PROJECT = Path("devices")  # in the working directory: a project's own
TABLE = "table"
X86 = ("x86_64", "AMD64", "i386", "i686")  # as `platform.machine()` says


class MeasureOptions(BaseModel):
    """How a device's latency is measured.

    Attributes:
        warm_up: invocations before the first timing.
        rounds: times that every model is timed, all models in turn.
        round_s: seconds that a round spends on one model, at least.
        interval: relative half-width that latencies must be known to (of its 95 % interval, nine models of ten): rounds
            go on until then, and a machine that is too noisy for it is an error; None to take what `rounds` give.
        max_rounds: rounds after which a wanted interval is given up.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    warm_up: int = Field(default=5, ge=1)
    rounds: int = Field(default=7, ge=1)
    round_s: float = Field(default=0.01, gt=0)
    interval: float | None = Field(default=None, gt=0, lt=1)
    max_rounds: int = Field(default=61, ge=1)


class Device(BaseModel):
    """Where networks run.

    Attributes:
        name: the name of its file.
        runtime: a name in `RUNTIMES`: onnxruntime or tflite on this machine, adb for a phone; or table: a fitted
            predictor, nothing is run.
        threads: threads of the runtime.
        options: of the runtime, as its class declares them.
        predictor: JSON file of a table's predictor; absolute once loaded.
        format: of the files that a table's latencies are of; None for those it was measured with, or TFLite's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    runtime: str
    threads: int = Field(default=1, ge=1)
    options: dict[str, Any] = {}
    measure: MeasureOptions = MeasureOptions()
    predictor: Path | None = None
    format: Literal["tflite", "onnx"] | None = None

    @field_validator("runtime")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (*RUNTIMES, TABLE):
            raise ValueError(f"there is no runtime {value!r}, use one of {', '.join((*RUNTIMES, TABLE))}")
        return value

    @property
    def measured(self) -> bool:
        """Whether networks are timed on it, at the least when it was profiled."""
        return self.runtime != TABLE

    @property
    def how(self) -> Runtime:
        """Its runtime.

        Raises:
            DeviceError: the device is a table.
        """
        if not self.measured:
            raise DeviceError(
                f"Nothing can be run on {self.name}, which is a table of published latencies: measure on a device "
                f"with runtime {', '.join(RUNTIMES)}."
            )
        return RUNTIMES[self.runtime]

    @property
    def suffix(self) -> str:
        """Suffix of the files that its runtime loads, with the dot; `DeviceError` where it is a table."""
        return self.how.suffix


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
        raise DeviceError(_wrong_key(path, error)) from error
    if "name" in declared:
        raise DeviceError(f"The device file {path} has the key name: a device is called as its file, {path.stem}.")
    if device.measured != (device.predictor is None):
        need = "names no predictor, which a table needs" if device.predictor is None else "has a predictor"
        raise DeviceError(f"The device file {path} {need}: predictor goes with runtime: table, and only with it.")
    if device.measured and device.format is not None:
        raise DeviceError(
            f"The device file {path} has a format, which its runtime {device.runtime} settles: remove it."
        )
    if device.predictor is not None:
        return device.model_copy(update={"predictor": (path.parent / device.predictor).resolve()})
    try:
        device.how.options.model_validate(device.options)
    except ValidationError as error:
        raise DeviceError(_wrong_key(path, error, "options")) from error
    return device


def _wrong_key(path: Path, error: ValidationError, *section: str) -> str:
    first = error.errors()[0]
    key = ".".join((*section, *map(str, first["loc"])))
    return f"The device file {path} has a wrong key {key}: {first['msg'].removeprefix('Value error, ')}."


def check_runtime(device: Device) -> None:
    """Raise a `DeviceError` with the way out where a device's runtime is not installed, or no phone is attached."""
    if device.measured:
        device.how.check(device)


def at_hand(device: Device) -> bool:
    """Whether networks can be timed on it now; a runtime that is not installed is an error, a lacking phone is not.

    Raises:
        DeviceError: what the device runs in is not installed.
    """
    if not device.measured:
        return False
    try:
        device.how.check(device)
    except DeviceError:
        if device.how.removable:
            return False
        raise
    return True


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


def own_suffix(device: Device) -> str:
    """Suffix of the files that run on a device, a table too: of those that its latencies were measured with."""
    if device.measured:
        return device.suffix
    if device.format is not None:
        return f".{device.format}"
    return ".onnx" if table_predictor(device).machine.get("runtime", "").startswith("onnxruntime ") else ".tflite"


def is_x86(device: Device) -> bool:
    """Whether a device is an x86 CPU: this machine, or what the predictor of a table was measured on."""
    if device.measured:
        return not device.how.removable and platform.machine() in X86
    _, _, processor = table_predictor(device).machine.get("system", "").partition(" ")
    return processor in X86


def device_predictor(device: str | Path) -> Predictor:
    """The predictor of a device with a table, by its name or the path of its YAML; or a latency_predictor.json.

    Raises:
        DeviceError: there is no such device, or it is to be measured and its predictor is an artifact of its own.
        ArtifactError: the file is no predictor.
    """
    if Path(device).suffix == ".json":
        return read_predictor(device)
    return table_predictor(load_device(device))


def read_own_predictor(path: str | Path) -> Predictor:
    """The predictor of one of the devices here, by the path of its artifact.

    Raises:
        ArtifactError: the file is no predictor; or its device is measured, and it was made on another machine.
    """
    predictor = read_predictor(path)
    check_machine(load_device(predictor.device), predictor.machine, path)
    return predictor


def check_machine(device: Device, stated: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a profile or a predictor of a device at hand that was measured on another machine.

    Raises:
        ArtifactError: the fingerprint it states is another one than the device has now.
    """
    if device.measured and (not device.how.removable or at_hand(device)):
        check_same_machine(stated, device.how.machine(device), path, device.name)


def fingerprint(device: Device) -> dict[str, Any]:
    """What latencies on a device depend on beside the network, as it is now; empty for a table and for a phone.

    A phone is asked when it is used, not whenever a workflow is planned.
    """
    return device.how.machine(device) if device.measured and not device.how.removable else {}
