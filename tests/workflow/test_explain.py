"""`spaceevo explain` and `spaceevo stages` in a project whose first artifacts are made."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from workflow.team import append, call, copied, make_team_project, run, set_param

from spaceevo.workflow.values import Value, changed_values, recorded_values

TARGET = "results/pixel4/latency_predictor.json"
DATA = "results/data/clutter/train.safetensors"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its data and a predictor."""
    project = make_team_project(tmp_path_factory.mktemp("explain") / "project")
    run(project, "snakemake", "--cores", "1", TARGET, DATA)
    return project


@pytest.fixture
def project(begun: Path, tmp_path: Path) -> Path:
    return copied(begun, tmp_path / "project")


def reasons(project: Path, *targets: str) -> dict[str, list[str]]:
    """Why artifacts are not current, by path."""
    found: dict[str, Any] = json.loads(run(project, "spaceevo", "explain", "--json", *targets))
    return {one["path"]: one["reasons"] for one in found["artifacts"]}


def test_what_is_made_is_current(project: Path) -> None:
    assert set(map(tuple, reasons(project, TARGET, DATA).values())) == {()}
    assert "4 of 4 artifacts are current." in run(project, "spaceevo", "explain", TARGET, DATA)


def test_a_parameter_is_named_with_its_old_and_new_value(project: Path) -> None:
    set_param(project, "dataset.clutter.noise", 3)
    set_param(project, "seed", 7)
    assert reasons(project, DATA)[DATA] == ["dataset.clutter.noise 8 → 3", "seed 0 → 7"]


def test_what_follows_is_told_apart_from_what_has_changed(project: Path) -> None:
    set_param(project, "seed", 7)
    teacher = reasons(project, "results/teacher.safetensors")["results/teacher.safetensors"]
    assert teacher == ["it is missing"]


def test_a_module_is_named(project: Path) -> None:
    append(project / "spaceevo/data/clutter.py", "\nADDED = 1\n")
    assert reasons(project, DATA)[DATA] == ["code has changed: spaceevo.data.clutter"]


def test_a_device_file_is_named(project: Path) -> None:
    path = project / "spaceevo/latency/devices/pixel4.yaml"
    path.write_text(path.read_text() + "threads: 3\n")
    assert reasons(project, TARGET)[TARGET] == ["device file: threads 1 → 3"]


def test_a_deleted_file_is_missing_and_its_siblings_follow(project: Path) -> None:
    (project / DATA).unlink()
    found = reasons(project, DATA)
    assert found[DATA] == ["it is missing"]
    assert found["results/data/clutter/val.safetensors"] == [f"its job is to make {DATA}, too"]


def test_a_command_that_changed_is_told(project: Path) -> None:
    rules = project / "workflow/rules/data.smk"
    rules.write_text(rules.read_text().replace("--seed {params.seed} ", "--seed  {params.seed} "))
    assert reasons(project, DATA)[DATA] == ["the command of its rule has changed"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("explain", "results/cpu/seqnet_A9.onnx"), "results/cpu/seqnet_A9.onnx"),
        (("sync",), "dvc.lock"),
    ],
)
def test_what_cannot_be_explained(words: tuple[str, ...], said: str, project: Path) -> None:
    done = call(project, "spaceevo", *words)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and said in done.stderr
    assert "Traceback" not in done.stderr


def test_outside_a_project_it_says_so(tmp_path: Path) -> None:
    done = call(tmp_path, "spaceevo", "explain")
    assert done.returncode == 1
    assert "workflow/Snakefile does not exist: run in the project's folder." in done.stderr


def test_a_wrong_key_is_snakemakes_sentence(project: Path) -> None:
    append(project / "params.yaml", "sed: 1\n")
    done = call(project, "spaceevo", "explain")
    assert done.returncode == 1 and "sed" in done.stderr and "Traceback" not in done.stderr


# dvc.yaml


def test_stages_mirror_the_rules(project: Path) -> None:
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    assert set(stages["search_subnets-cpu"]["deps"]) == {
        "results/cpu/latency_predictor.json", "results/cpu/supernet.safetensors",
        DATA, "results/data/clutter/val.safetensors",
    }  # fmt: skip
    assert set(stages["search_subnets-cpu"]["outs"]) == {"results/cpu/seqnets.json", "results/cpu/subnets.parquet"}
    keys = stages["search_subnets-cpu"]["params"]
    assert {"search", "devices.cpu.subnet_budgets", "devices.cpu.limits", "seed"} <= {k for k in keys if type(k) is str}
    assert {"results/facts.json": ["code.search_subnets", "devices.cpu"]} in keys
    assert {"results/machine.json": ["cpu"]} in stages["profile_latency-cpu"]["params"]
    assert "results/machine.json" not in {path for stage in stages.values() for path in stage.get("outs", ())}


def test_imported_artifacts_have_stages_of_their_own(project: Path) -> None:
    (project / "published.pth").write_bytes(b"made up")
    set_param(project, "supernet.checkpoints", {"cpu": {"file": "published.pth", "space": "micro-01-00"}})
    run(project, "spaceevo", "stages")
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    assert "published.pth" in stages["import_checkpoint-cpu"]["deps"]
    assert "supernet.checkpoints.cpu.space" in stages["import_checkpoint-cpu"]["params"]
    assert "evolve_space-cpu" not in stages and "evolve_space-pixel4" in stages


# Values


def test_a_value_is_its_text_and_tells_its_name() -> None:
    value = Value("devices.cpu.limits", {"file_kib": None})
    assert value == '{"file_kib": null}'
    assert repr(value) == 'devices.cpu.limits={"file_kib": null}'
    assert recorded_values([repr(value), "'of before'", repr(Value("hyperspace", "tiny"))]) == {
        "devices.cpu.limits": {"file_kib": None},
        "hyperspace": "tiny",
    }


def test_changed_values_are_the_leaves() -> None:
    old, new = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": 2, "c": [1]}, "e": {"f": 3}}
    assert changed_values(old, new) == [("a.b", 1, 2), ("d", 1, None), ("e", None, {"f": 3})]
    assert changed_values(1, 2) == [("", 1, 2)]
