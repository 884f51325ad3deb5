"""What a latency was measured with: the fingerprint of a machine, which profiles and predictors carry."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from spaceevo.errors import ArtifactError

# Instructions that INT8 kernels profit from, as Linux calls them on x86 and on Arm.
CPU_FEATURES = ("avx2", "avx512bw", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def inspect_cpu() -> dict[str, Any]:
    """Model, cores this process may use, and which of `CPU_FEATURES` there are (None where Linux does not say)."""
    fields = proc_fields(Path("/proc/cpuinfo"))
    flags = fields.get("flags", fields.get("Features"))
    features = None if flags is None else [name for name in CPU_FEATURES if name in flags.split()]
    return {"model": fields.get("model name", platform.machine()), "cores": usable_cores(), "int8_features": features}


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def proc_fields(path: Path) -> dict[str, str]:
    """`key: value` lines of a file of Linux's /proc, the first of each key; empty elsewhere."""
    if not path.is_file():
        return {}
    fields: dict[str, str] = {}
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def this_machine(package: str, threads: int) -> dict[str, Any]:
    """The fingerprint of this machine with a runtime: all that a latency depends on beside the network.

    Args:
        package: distribution of the runtime.
        threads: of the runtime.
    """
    cpu = inspect_cpu()
    return {
        "cpu": cpu["model"],
        "instructions": cpu["int8_features"],
        "system": f"{platform.system()} {platform.machine()}",
        "governor": GOVERNOR.read_text().strip() if GOVERNOR.is_file() else None,
        "threads": threads,
        "runtime": f"{package} {_version(package)}",
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "is not installed"


def check_same_machine(stated: Mapping[str, Any], here: Mapping[str, Any], path: Path | str, device: str) -> None:
    """Refuse an artifact that was measured elsewhere.

    Args:
        stated: the fingerprint in the artifact at `path`; empty where it has none.
        here: the fingerprint of the device as it is now.

    Raises:
        ArtifactError: they differ; the sentence says in what.
    """
    way_out = (
        f"delete it to measure {device} here, or keep it as a device of its own: a YAML file with runtime: table and "
        "this predictor"
    )
    if not stated:
        raise ArtifactError(f"{path} does not say on which machine it was measured: {way_out}.")
    differing = [key for key in here if stated.get(key) != here[key]]
    if differing:
        said = "; ".join(f"{key}: {_shown(stated.get(key))} there, {_shown(here[key])} here" for key in differing)
        raise ArtifactError(f"{path} was measured on another machine ({said}): {way_out}.")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
