"""Artifacts measured on another machine are refused, in one sentence that says what differs."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from spaceevo.artifacts import Record, write_table
from spaceevo.errors import ArtifactError
from spaceevo.latency.devices import check_machine, load_device, read_own_predictor
from spaceevo.latency.machine import this_machine
from spaceevo.latency.predictor import read_predictor, write_predictor
from spaceevo.latency.profile import PROFILE_KIND

ROOT = Path(__file__).parents[2]


def test_the_fingerprint_names_what_latency_depends_on():
    machine = this_machine("onnxruntime", 3)
    assert set(machine) == {"cpu", "instructions", "system", "governor", "threads", "runtime"}
    assert machine["threads"] == 3 and machine["runtime"].startswith("onnxruntime ")
    assert machine == load_device("cpu").model_copy(update={"threads": 3}).how.machine(
        load_device("cpu").model_copy(update={"threads": 3})
    )


def test_a_predictor_keeps_its_machine(tmp_path, truth):
    machine = load_device("cpu").how.machine(load_device("cpu"))
    write_predictor(tmp_path / "p.json", replace(truth, device="cpu", machine=machine), Record({}))
    assert read_own_predictor(tmp_path / "p.json").machine == machine


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cpu": "Pentium II"}, "cpu: Pentium II there, "),
        ({"instructions": []}, "instructions: none there, "),
        ({"runtime": "onnxruntime 0.1"}, "runtime: onnxruntime 0.1 there, onnxruntime "),
        ({"threads": 2}, "threads: 2 there, 1 here"),
        ({"governor": "powersave"}, "governor: powersave there"),
    ],
)
def test_a_predictor_of_another_machine_is_refused(tmp_path, truth, change, said):
    path = tmp_path / "latency_predictor.json"
    machine = load_device("cpu").how.machine(load_device("cpu")) | {"governor": "performance"} | change
    write_predictor(path, replace(truth, device="cpu", machine=machine), Record({}))
    with pytest.raises(ArtifactError) as caught:
        read_own_predictor(path)
    sentence = str(caught.value)
    assert str(path) in sentence and said in sentence and "runtime: table" in sentence and "\n" not in sentence
    read_predictor(path)  # as a file of its own it may be read


def test_a_predictor_that_names_no_machine_is_refused_for_a_device_here_only(tmp_path, truth):
    for device in ("cpu", "pixel4"):
        write_predictor(tmp_path / f"{device}.json", replace(truth, device=device), Record({}))
    with pytest.raises(ArtifactError, match="does not say on which machine"):
        read_own_predictor(tmp_path / "cpu.json")
    assert read_own_predictor(tmp_path / "pixel4.json").device == "pixel4"


def test_a_phone_that_is_not_attached_cannot_be_compared_with(monkeypatch):
    monkeypatch.setenv("PATH", "")
    check_machine(load_device("pixel4-adb"), {"phone": "Pixel 4"}, "p.json")


def test_the_fit_refuses_a_profile_of_another_machine(tmp_path, true_profile):
    machine = load_device("cpu").how.machine(load_device("cpu")) | {"cpu": "Pentium II"}
    write_table(tmp_path / "profile.parquet", PROFILE_KIND, true_profile, Record({"machine": machine}))
    words = ["--profile", tmp_path / "profile.parquet", "--device", "cpu", "--hyperspace", "tiny"]
    words += ["--output", tmp_path / "predictor.json"]
    script = ROOT / "workflow" / "scripts" / "fit_latency_predictor.py"
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and not (tmp_path / "predictor.json").exists()
    (line,) = done.stderr.splitlines()
    assert "Pentium II there" in line
