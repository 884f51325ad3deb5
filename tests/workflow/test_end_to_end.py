"""The whole workflow on a micro configuration: every rule runs, for both devices and both formats."""

import json
import zipfile
from pathlib import Path

import onnx
import pytest
from workflow.team import run

from spaceevo.artifacts import read_header, read_json, read_table

DEVICES = ("pixel4", "cpu")
NAMES = tuple(f"A{k}" for k in range(5))


@pytest.fixture
def results(finished: Path) -> Path:
    return finished / "results"


def test_a_second_run_does_nothing(results: Path) -> None:
    assert "Nothing to be done" in run(results.parent, "snakemake", "--cores", "2")


def test_budgets_are_met_and_rise(results: Path) -> None:
    for device in DEVICES:
        seqnets = read_json(results / device / "seqnets.json", "seqnets")["seqnets"]
        assert list(seqnets) == list(NAMES)
        assert all(entry["latency_ms"] <= entry["budget_ms"] for entry in seqnets.values())
        accuracies = [entry["val_accuracy"] for entry in seqnets.values()]
        assert accuracies == sorted(accuracies)
        table = read_table(results / device / "subnets.parquet", "subnets")
        assert table["code"].is_unique
        assert table["on_front"].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_cards_hold_what_was_measured(results: Path, device: str, name: str) -> None:
    card = read_json(results / device / f"seqnet_{name}.json", "card")
    assert card["name"] == f"SEQnet@{device}-{name}"
    chosen = read_json(results / device / "seqnets.json", "seqnets")["seqnets"][name]
    assert (card["latency"]["measured_ms"] is None) == (device == "pixel4")
    assert all(card["latency"][key] == chosen[key] for key in ("measured_ms", "measured_interval_ms"))
    assert 0 <= card["files"]["onnx"]["int8_accuracy"] <= 1
    assert card["files"]["tflite"]["agreement_with_simulation"] >= 0.7
    assert card["files"]["tflite"]["size_bytes"] == (results / device / f"seqnet_{name}.tflite").stat().st_size


def test_files_say_what_they_are(results: Path) -> None:
    with zipfile.ZipFile(results / "pixel4" / "seqnet_A1.tflite") as archive:
        inside = json.loads(archive.read("metadata.json"))
    model = onnx.load(results / "pixel4" / "seqnet_A1.onnx")
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    for metadata in (inside, properties):
        assert metadata["name"] == "SEQnet@pixel4-A1"
        assert metadata["class_names"] == [str(digit) for digit in range(10)]
        assert {"mean", "std", "resolution", "space", "subnet", "spaceevo_version"} <= set(metadata)


def test_every_artifact_states_its_origin(results: Path) -> None:
    artifacts = [
        path
        for suffix in (".json", ".parquet", ".safetensors")
        for path in results.rglob(f"*{suffix}")
        if "checkpoints" not in path.parts
    ]
    assert len(artifacts) > 60
    for path in artifacts:
        header = read_header(path)
        assert header["params"]
        assert header["cost"]["wall_s"] >= 0


def test_no_checkpoint_is_left_behind(results: Path) -> None:
    assert not list((results / "checkpoints").glob("*"))
