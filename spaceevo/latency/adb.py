"""A phone over adb: files are pushed there and timed by TFLite's own tool, `benchmark_model`.

The phone's clock times, the tool warms up, and adb only carries the files over and the words back. A phone that
disconnects ends with a sentence; what was measured until then is kept by the profile's checkpoint.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from spaceevo.errors import DeviceError

if TYPE_CHECKING:
    from spaceevo.latency.devices import Device

ADB_TIMEOUT_S = 30  # to list the phones
MIN_RUNS = 10  # invocations that a round has at least
DELEGATES = {"cpu": "--use_xnnpack=true", "gpu": "--use_gpu=true", "nnapi": "--use_nnapi=true"}
_AVERAGE = re.compile(r"Inference timings in us: .*Inference \(avg\): ([\d.]+(?:e[+-]?\d+)?)")
_MEDIAN = re.compile(r"^.*\bcount=\d+ .*\bmedian=([\d.]+(?:e[+-]?\d+)?)", re.MULTILINE)


class PhoneOptions(BaseModel):
    """Where and how files run on a phone.

    Attributes:
        benchmark_model: path of the tool on the phone.
        folder: on the phone, for the files while they are measured.
        cores: mask of the cores to run on, hexadecimal, as `taskset` takes it: 80 is core 7; None for any.
        delegate: what executes the network.
        serial: of the phone, as `adb devices` lists it; None where only one is attached.
        timeout_s: seconds after which one run of the tool is given up.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    benchmark_model: str = "/data/local/tmp/benchmark_model"
    folder: str = "/data/local/tmp"
    cores: Annotated[str, Field(pattern=r"^[0-9a-fA-F]+$")] | None = None
    delegate: Literal["cpu", "gpu", "nnapi"] = "cpu"
    serial: str | None = None
    timeout_s: float = Field(default=300.0, gt=0)


class AdbRuntime:
    """TFLite on a phone."""

    suffix = ".tflite"
    options: type[BaseModel] = PhoneOptions
    removable = True

    def check(self, device: Device) -> None:
        _Phone(device).check()

    def load(self, path: Path, device: Device) -> AbstractContextManager[PhoneModel]:
        return _pushed(path, device)

    def machine(self, device: Device) -> dict[str, Any]:
        phone = _Phone(device)
        tool = phone.shell("md5sum", phone.options.benchmark_model).split()[0]
        return {
            "phone": phone.shell("getprop", "ro.product.model").strip(),
            "android": phone.shell("getprop", "ro.build.fingerprint").strip(),
            "runtime": f"benchmark_model {tool}",
            "threads": device.threads,
            "cores": phone.options.cores,
            "delegate": phone.options.delegate,
        }


class PhoneModel:
    """A file on the phone."""

    def __init__(self, phone: _Phone, remote: str) -> None:
        self._phone, self._remote = phone, remote

    def round_ms(self, round_s: float) -> float:
        """Milliseconds of one invocation, by one run of the tool: the median where it states one, else the average.

        Raises:
            DeviceError: the phone has disconnected, or the tool failed.
        """
        device, options = self._phone.device, self._phone.options
        words = [
            *(() if options.cores is None else ("taskset", options.cores)),
            options.benchmark_model,
            f"--graph={self._remote}",
            f"--num_threads={device.threads}",
            f"--num_runs={MIN_RUNS}",
            f"--min_secs={round_s:g}",
            f"--warmup_runs={device.measure.warm_up}",
            DELEGATES[options.delegate],
        ]
        return parse_latency_ms(self._phone.shell(*words), options.delegate)


def parse_latency_ms(said: str, delegate: str) -> float:
    """Milliseconds of one invocation, from all that `benchmark_model` printed.

    Raises:
        DeviceError: it states no latency, or its delegate left the network to the CPU.
    """
    if delegate != "cpu" and "will not be executed by the delegate" in said:
        raise DeviceError(
            f"The phone's {delegate} delegate does not take the network and left it to the CPU: set options.delegate "
            "to cpu in the device's file, or measure on a phone whose delegate does."
        )
    average, medians = _AVERAGE.search(said), _MEDIAN.findall(said)
    if average is None:
        raise DeviceError(f"benchmark_model stated no latency but said: {_last_line(said)}.")
    return float(medians[-1] if medians else average[1]) / 1000.0


@contextmanager
def _pushed(path: Path, device: Device) -> Iterator[PhoneModel]:
    phone = _Phone(device)
    name = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    remote = f"{phone.options.folder}/spaceevo-{name}.tflite"
    phone.adb("push", str(path), remote)
    try:
        yield PhoneModel(phone, remote)
    finally:
        with suppress(DeviceError):  # a phone that is gone keeps it
            phone.shell("rm", "-f", remote)


class _Phone:
    """The phone of a device, spoken to through adb."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.options = PhoneOptions.model_validate(device.options)

    def check(self) -> None:
        """Raise a `DeviceError` where there is no adb, no phone, or no tool on it."""
        name = self.device.name
        if shutil.which("adb") is None:
            raise DeviceError(
                f"The device {name} needs adb, which is not on the path: install Android's platform-tools."
            )
        attached = _attached()
        serial = self.options.serial
        if serial is None and len(attached) > 1:
            raise DeviceError(
                f"Several phones are attached ({', '.join(attached)}): name one as options.serial in the file of "
                f"the device {name}."
            )
        which = "No phone" if serial is None else f"No phone {serial}"
        state = attached.get(serial) if serial is not None else next(iter(attached.values()), None)
        if state is None:
            raise DeviceError(
                f"{which} is attached for the device {name}: connect it by USB and allow USB debugging on it, until "
                "`adb devices` lists it."
            )
        if state != "device":
            raise DeviceError(
                f"The phone for the device {name} is {state}: unlock it and allow USB debugging, until `adb devices` "
                "lists it as device."
            )
        if self._run("shell", shlex.join(("test", "-x", self.options.benchmark_model))).returncode != 0:
            raise DeviceError(
                f"The phone has no executable {self.options.benchmark_model}: push TFLite's benchmark_model there and "
                f"chmod it, or name its path as options.benchmark_model in the file of the device {name}."
            )

    def shell(self, *words: str) -> str:
        """What a command on the phone prints, on either stream."""
        return self.adb("shell", f"{shlex.join(words)} 2>&1")

    def adb(self, *words: str) -> str:
        """What adb prints.

        Raises:
            DeviceError: the phone has disconnected, the command failed on it, or took longer than `timeout_s`.
        """
        done = self._run(*words)
        if done.returncode == 0:
            return done.stdout
        said = done.stdout + done.stderr
        state = self._run("get-state")
        if state.returncode != 0 or state.stdout.strip() != "device":
            raise DeviceError(
                f"The phone of the device {self.device.name} has disconnected ({_last_line(state.stderr or said)}): "
                "connect it and run the same command again, a profile goes on where it stopped."
            )
        raise DeviceError(f"The phone failed to run {shlex.split(words[-1])[0]}, which said: {_last_line(said)}.")

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        which = () if self.options.serial is None else ("-s", self.options.serial)
        command = ["adb", *which, *words]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=self.options.timeout_s)
        except FileNotFoundError:
            raise DeviceError(
                f"The device {self.device.name} needs adb, which is not on the path: install Android's platform-tools."
            ) from None
        except subprocess.TimeoutExpired:
            raise DeviceError(
                f"The phone of the device {self.device.name} did not answer within {self.options.timeout_s:g} s: "
                "restart it, or raise options.timeout_s in the device's file."
            ) from None


def _attached() -> dict[str, str]:
    """State by serial number of what `adb devices` lists."""
    try:
        done = subprocess.run(["adb", "devices"], capture_output=True, text=True, timeout=ADB_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"adb did not list its phones within {ADB_TIMEOUT_S} s: stop its server with `adb kill-server`, and try "
            "again."
        ) from None
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    return {serial: state.strip() for serial, state in lines}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "nothing"
