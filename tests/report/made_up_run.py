"""A finished run of two devices, made up: every artifact that the report reads, small."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from spaceevo.artifacts import Record, write_json, write_table, write_tensors
from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.predictor import write_predictor
from spaceevo.latency.profile import PROFILE_KIND
from spaceevo.latency.regression import error_figures
from spaceevo.latency.samples import ProfileCounts, sample_models
from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import plan_cost
from spaceevo.search.limits import footprint
from spaceevo.search.lut import LUT_KIND
from spaceevo.space import Space, load_hyperspace, parse_space, sample_space, sample_subnet

CLASSES = 10
SPACES = {"pixel4": "tiny-4664-1222", "cpu": "tiny-0350-1020"}
SEED = 3


class Run(NamedTuple):
    """A folder of results, and its artifacts that state a cost."""

    results: Path
    artifacts: list[Path]


class Costing(Record):
    """A record of a known cost."""

    def cost(self) -> dict[str, float]:
        return {"wall_s": self.earlier_wall_s, "cpu_s": self.earlier_cpu_s, "gpu_s": self.earlier_gpu_s}


def costing(wall_s: float, cpu_s: float) -> Record:
    return Costing({}, 0, wall_s, cpu_s)


def write_run(results: Path) -> Run:
    rng = np.random.default_rng(SEED)
    artifacts = list(_write_shared(results, rng))
    for device, code in SPACES.items():
        artifacts += _write_device(results / device, device, parse_space(code), rng)
    return Run(results, artifacts)


def _write_shared(results: Path, rng: np.random.Generator) -> Iterator[Path]:
    hyperspace = load_hyperspace("tiny")
    for stage in hyperspace.searched_stages:
        for index in range(3):  # one job writes all of a stage, one after the other
            path = results / "blocks" / f"{stage.name}_{index}.safetensors"
            write_tensors(path, "distilled_stage", {"w": np.zeros(1)}, costing(10 + index, 20 + index))
            yield path
    rows = [
        {"stage": stage.name, "block_type": index, "window": 0, "loss": float(loss)}
        for number, stage in enumerate(hyperspace.searched_stages)
        for index in range(len(hyperspace.block_types))
        for loss in rng.gamma(6 + index, 0.01 * (1 + number), 60)
    ]
    path = results / "blocks" / "lut.parquet"
    write_table(path, LUT_KIND, pd.DataFrame(rows), costing(1.5, 1.0))
    yield path


def _write_device(folder: Path, name: str, space: Space, rng: np.random.Generator) -> Iterator[Path]:
    predictor = replace(table_predictor(load_device("pixel4")), device=name)
    if name == "cpu":
        profile = _profile(space, predictor, rng)
        write_table(folder / "latency_profile.parquet", PROFILE_KIND, profile, costing(60, 60))
        yield folder / "latency_profile.parquet"
        test = profile[profile["split"] == "test"]["latency_ms"].to_numpy()
        predictor = replace(predictor, errors={"unseen_networks": error_figures(1.1 * test, test)}, notes="Made up.")
    write_predictor(folder / "latency_predictor.json", predictor, costing(0.5, 0.5))
    yield folder / "latency_predictor.json"

    scores = 2.0 + np.cumsum(rng.exponential(0.004, 200)) + rng.normal(0, 0.2, 200)
    codes = [sample_space(space.hyperspace, rng).code for _ in scores]
    history = {"evaluation": range(200), "code": codes, "score": scores, "best_score": np.maximum.accumulate(scores)}
    write_table(folder / "space_history.parquet", "space_history", pd.DataFrame(history), costing(30, 30))
    evolved = {"space": space.code, "score": scores.max(), "budgets_ms": [0.2, 0.3], "shares": [0.25, 0.5]}
    write_json(folder / "space.json", "space", evolved, costing(30, 31))
    yield from (folder / "space_history.parquet", folder / "space.json")

    subnets = [sample_subnet(space, rng) for _ in range(60)]
    latency = np.array([predictor.predict_subnet(space, subnet, CLASSES).latency_ms for subnet in subnets])
    accuracy = 0.97 - 0.02 / latency - rng.exponential(0.02, 60)
    order = np.argsort(latency)
    on_front = np.zeros(60, bool)
    on_front[order] = np.diff(np.maximum.accumulate(accuracy[order]), prepend=-1) > 0
    table = {"code": [s.code for s in subnets], "latency_ms": latency, "accuracy": accuracy, "on_front": on_front}
    sizes = np.array([footprint(space, subnet, CLASSES) for subnet in subnets])
    measured = np.where(on_front & (name == "cpu"), 1.05 * latency, np.nan)
    table |= {"file_kib": sizes[:, 0], "activation_kib": sizes[:, 1], "measured_ms": measured}
    write_table(folder / "subnets.parquet", "subnets", pd.DataFrame(table), costing(100, 150))
    yield folder / "subnets.parquet"

    front = [int(i) for i in order if on_front[i]]
    chosen = [front[round(number * (len(front) - 1) / 4)] for number in range(5)]
    replaced = {"cpu": {1: 1, 3: 2}}.get(name, {})  # how many better ones, by number
    winners = {
        f"A{number}": {"subnet": subnets[index].code, "replaced": ["code"] * replaced.get(number, 0)}
        for number, index in enumerate(chosen)
    }
    write_json(folder / "seqnets.json", "seqnets", {"seqnets": winners}, costing(100, 150))
    yield folder / "seqnets.json"
    for number, index in enumerate(chosen):
        path = folder / f"seqnet_A{number}.json"
        card = _card(f"SEQnet@{name}-A{number}", space, subnets[index], float(latency[index]), name == "cpu")
        write_json(path, "card", card, costing(2, 2))
        yield path


def _profile(space, predictor, rng):
    models = sample_models(space.hyperspace, CLASSES, ProfileCounts(1, 5, 30), seed=SEED)
    latency = [predictor.predict(m.plan(), m.height).latency_ms * rng.normal(1, 0.07) for m in models]
    return pd.DataFrame([m.row() | {"latency_ms": ms} for m, ms in zip(models, latency, strict=True)])


def _card(name: str, space: Space, subnet, latency_ms: float, measured: bool) -> dict:
    cost = plan_cost(subnet_plan(space, subnet, CLASSES), subnet.resolution)
    file = {"size_bytes": 204_800, "int8_accuracy": 0.9312, "agreement_with_simulation": 0.9987}
    return {
        "name": name,
        "space": space.code,
        "subnet": subnet.code,
        "resolution": subnet.resolution,
        "macs": cost.macs,
        "params": cost.params,
        "activation_bytes": 51_200,
        "latency": {
            "device": name,
            "budget_ms": 1.02 * latency_ms,
            "predicted_ms": latency_ms,
            "predicted_error": 0.043,
            "predicted_beyond_fitted_range": not measured,
            "measured_ms": 0.987 if measured else None,
        },
        "fp32_accuracy": 0.9456,
        "test_images": 1500,
        "files": {"tflite": file, "onnx": file | {"size_bytes": 307_200, "int8_accuracy": 0.9318}},
    }
