"""A copy of the project with the smallest configuration that still runs every rule."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]

HYPERSPACE = {
    "resolutions": [16, 24],
    "block_kd_resolutions": [16, 24],
    "stages": [
        {"name": "first_conv", "block": "conv_bn_act", "kernels": [3], "activation": "relu", "widths": [8, 16],
         "depths": [1], "stride": 2},
        {"name": "stage0", "block": "conv_bn_act", "kernels": [3], "activation": "relu", "widths": [8], "depths": [1],
         "stride": 1},
        {"name": "stage1", "search": True, "widths": [8, 16, 24], "depths": [1, 2], "stride": 2, "window": 2},
        {"name": "stage2", "search": True, "widths": [16, 24], "depths": [1], "stride": 2, "window": 1},
        {"name": "feature_mix", "block": "pool_conv_bn_act", "kernels": [1], "activation": "hswish", "widths": [32],
         "depths": [1], "stride": 1},
        {"name": "logits", "block": "linear", "depths": [1], "stride": 1},
    ],
    "block_types": [
        {"block": "mobilenetv3_res", "kernels": [3, 5], "expands": [2], "activation": "swish"},
        {"block": "resnet", "kernels": [3], "expands": [1.0], "activation": "relu"},
    ],
}  # fmt: skip

RECIPE = MappingProxyType({"epochs": 0.5, "batch_size": 32, "learning_rate": 0.003})


def micro_params() -> dict[str, Any]:
    """The committed parameters with everything made small."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["hyperspace"] = "micro"
    params["dataset"]["clutter"] |= {"image_size": 24, "train_images": 200, "val_images": 60, "test_images": 60}
    params["teacher"] |= {"model": "micro-11-10", "recipe": dict(RECIPE)}
    params["blocks"] |= {"fp32": dict(RECIPE), "int8": dict(RECIPE)}
    params["lut"] = {"samples": 3, "train_images": 32, "val_images": 32}
    params["profile"] = {"blocks_per_type": 2, "nets": 20, "test_nets": 5, "time_limit_s": 10}
    params["space"] = {
        "score": params["space"]["score"] | {"samples": 200, "top": 10},
        "evolution": {"population": 4, "parent_sample": 2, "evaluations": 8},
    }
    params["supernet"] |= {"fp32": dict(RECIPE), "int8": dict(RECIPE)}
    params["search"]["settings"] = {"evaluations": 12, "initial": 6, "parents": 3, "mutation_probability": 0.3}
    params["search"] |= {"recalibration_images": 32, "val_images": 40, "shortlist": {"subnets": 2, "val_images": 60}}
    params["export"] = {"recalibration_images": 64, "verify_images": 40, "agreement": 0.7}
    for device in params["devices"].values():
        device |= {"space_budgets": ["60%"], "subnet_budgets": ["70%", "75%", "80%", "85%", "90%"]}
    return params


def make_project(folder: Path, params: dict[str, Any]) -> Path:
    """Copy what the workflow needs into `folder`, with these parameters."""
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "hyperspaces").mkdir()
    (folder / "hyperspaces" / "micro.yaml").write_text(yaml.safe_dump(HYPERSPACE))
    return folder


def copy_benchmarks(folder: Path) -> None:
    """Put the benchmarks into a project, where they write their results."""
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("results"))


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a project."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
