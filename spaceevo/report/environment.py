"""What this machine offers: packages, accelerator, CPU features, free space, usable devices, valid parameters."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from spaceevo.config import load_params
from spaceevo.errors import ParamsError, SpaceEvoError
from spaceevo.latency.devices import check_runtime, known_devices, load_device, table_predictor
from spaceevo.latency.machine import inspect_cpu, proc_fields
from spaceevo.space import load_hyperspace

# What each is for, and the distributions that provide it, the usual one first.
PACKAGES = {
    "torch": ("training", ("torch",)),
    "torchvision": ("CIFAR datasets and published teachers", ("torchvision",)),
    "tensorflow": ("exporting TFLite files", ("tensorflow-cpu", "tensorflow")),
    "onnx": ("exporting ONNX files", ("onnx",)),
    "onnxruntime": ("running ONNX files", ("onnxruntime", "onnxruntime-gpu")),
    "ai-edge-litert": ("running TFLite files", ("ai-edge-litert",)),
    "snakemake": ("the workflow", ("snakemake",)),
}
GIB = 2**30


def inspect_environment(params: Path | None = None) -> dict[str, Any]:
    """Look at this machine and Python environment.

    Args:
        params: the parameter file to check; None for params.yaml, which may then be absent.

    Returns:
        JSON-serialisable; `problems` lists what should be put right, one sentence each.
    """
    packages = {name: package_version(name) for name in PACKAGES}
    torch = inspect_torch()
    checked = check_params(params)
    problems = [
        f"{name} is not installed, {PACKAGES[name][0]} will fail: pip install {PACKAGES[name][1][0]}."
        for name, version in packages.items()
        if version is None
    ]
    problems += [torch[key] for key in ("torch_error", "torchvision_error") if torch[key] is not None]
    if checked["valid"] is False:
        problems.append(checked["error"])
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": packages,
        **torch,
        "cpu": inspect_cpu(),
        "memory_available_gib": available_memory_gib(),
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / GIB, 1),
        "devices": [inspect_device(name) for name in known_devices()],
        "params": checked,
        "problems": problems,
    }


def package_version(name: str) -> str | None:
    """Version of the installed distribution that provides one of `PACKAGES`, or None."""
    for distribution in PACKAGES[name][1]:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def inspect_torch() -> dict[str, Any]:
    """CUDA devices that torch sees, why their kernels are the slower ones, if so, and whether torch and torchvision can
    be imported at all."""
    found: dict[str, Any] = {
        "cuda": None,
        "cuda_devices": [],
        "slower_kernels": None,
        "torch_error": None,
        "torchvision_error": None,
    }
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library does not load
        return found | {"torch_error": f"torch cannot be imported: {_first_line(error)}"}
    if torch.cuda.is_available():
        from spaceevo.gpu import lacking_for_triton

        found["cuda"] = torch.version.cuda
        found["cuda_devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["slower_kernels"] = lacking_for_triton()
    try:
        from spaceevo.vision_ops import import_torchvision

        import_torchvision()
    except (ImportError, OSError, RuntimeError) as error:
        found["torchvision_error"] = f"torchvision cannot be imported: {_first_line(error)}"
    return found


def available_memory_gib() -> float | None:
    """Memory that can be taken without swapping, the limit of a container respected; None where Linux does not say."""
    fields = proc_fields(Path("/proc/meminfo"))
    if "MemAvailable" not in fields:
        return None
    available = 1024 * int(fields["MemAvailable"].split()[0])
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        available = min(available, limit - used)
    return round(available / GIB, 1)


def inspect_device(name: str) -> dict[str, Any]:
    """Whether networks can be measured, or only predicted, on a shipped device here; if neither, why."""
    use, reason = "no", None
    try:
        device = load_device(name)
        if device.measured:
            check_runtime(device)
            use = "measure"
        else:
            table_predictor(device)
            use, reason = "predict", "not at hand: latency is predicted by the table that comes with it"
    except SpaceEvoError as error:
        return {"device": name, "usable": use, "reason": str(error), "description": ""}
    return {"device": name, "usable": use, "reason": reason, "description": device.description}


def check_params(path: Path | None) -> dict[str, Any]:
    """Whether a parameter file, its hyperspace and its devices are valid; `valid` is None where there is no file."""
    if path is None and not Path("params.yaml").exists():
        return {"path": "params.yaml", "valid": None, "error": "there is none in this folder"}
    path = path or Path("params.yaml")
    try:
        params = load_params(path)
        load_hyperspace(params.hyperspace)
        for name in params.devices:
            load_device(name)
    except SpaceEvoError as error:
        prefix = "" if isinstance(error, ParamsError) and str(path) in str(error) else f"{path}: "
        return {"path": str(path), "valid": False, "error": f"{prefix}{error}"}
    return {"path": str(path), "valid": True, "error": None}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None
