"""The study of a device: made by name alone, for any device that can be measured."""

from pathlib import Path

import pytest
from workflow.micro import make_project, micro_params, snakemake

from spaceevo.artifacts import read_table
from spaceevo.latency.study.measuring import STUDY_KIND

FILES = {"summary.md", "measurements.parquet"} | {
    f"{name}.{suffix}" for name in ("operators", "widths") for suffix in ("png", "svg")
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    params = micro_params()
    params["study"] = {"channels": 16, "height": 7, "steps": {8: [16, 32], 16: [16, 48]}, "time_limit_s": 200}
    return make_project(tmp_path_factory.mktemp("project"), params)


def test_it_is_made_by_name_alone(project: Path) -> None:
    done = snakemake(project, "results/cpu/study/summary.md")
    assert done.returncode == 0, done.stderr[-5000:]
    folder = project / "results" / "cpu" / "study"
    assert {path.name for path in folder.iterdir()} == FILES
    assert not list((project / "results" / "checkpoints").glob("*"))
    table = read_table(folder / "measurements.parquet", STUDY_KIND)
    assert set(table["precision"]) == {"int8", "fp32"} and (table["latency_ms"] > 0).all()
    text = (folder / "summary.md").read_text()
    assert "**Operators**" in text and "mobilenetv3_res" in text
    assert "study_device" not in snakemake(project, "-n").stdout


def test_a_device_needs_no_budgets(project: Path) -> None:
    planned = snakemake(project, "-n", "results/cpu-tflite/study/summary.md")
    assert planned.returncode == 0 and "study_device" in planned.stdout


def test_a_table_cannot_be_studied(project: Path) -> None:
    done = snakemake(project, "results/pixel4/study/summary.md")
    assert done.returncode != 0
    log = (project / "results" / "logs" / "study_device_pixel4.log").read_text()
    assert log.startswith("error: Nothing can be run on pixel4") and log.count("\n") == 1
